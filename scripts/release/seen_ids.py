"""Which questions the files and measurements of a release have seen, by their Record IDs.

Experts are chosen by questions, layers of CD files ranked by statistics over questions, types of AUTO files chosen by
losses on chats, and losses measured on others. A card says of scored and measured questions which of these they are.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest
from choice.drop_map import question_ids_of
from choice.drop_metadata import METADATA_NAME, read_metadata
from choice.expert_stats import analysed_ids
from files.input_errors import read_words, sha256_file
from files.json_records import read_json, read_record
from losses.chat_masks import unseen_questions
from losses.quality_record import QUALITY_NAME, Quality
from release.used_quants import SourcePaths, used_quants


def method_of(sources: SourcePaths) -> dict:
    """Return how the experts of a release were chosen, as its metadata say."""
    copies = sources["copies"]
    return read_metadata(copies[METADATA_NAME])["method"] if METADATA_NAME in copies else {}


def ranked_ids(sources: SourcePaths) -> list[str]:
    """Return the Record IDs of the statistics that rank the layers of a release's CD files, sorted; [] without any."""
    of_cd = any(record.get("cd_rule") for _, record in used_quants(sources))
    return sorted(analysed_ids(sources["origins"].get("statistics"))) if of_cd else []


def estimated_on(sources: SourcePaths, questions: Path) -> list[Question]:
    """Return the first questions of a file by whose losses AUTO files, released or measured, have their types."""
    known = [on for _, record in used_quants(sources) if (on := record.get("auto_measured_on"))]
    measured = sources["origins"].get("sensitivity") if known else None
    if measured and not is_file_of(read_json(measured), questions):
        return []
    all_of_it = load_questions(questions, QUESTION_SEED) if known else []
    counts = [on["chats"] for on in known]
    digests = {on["questions_sha256"] for on in known}
    return all_of_it[: max((count for count in counts if question_set_digest(all_of_it[:count]) in digests), default=0)]


def estimated_ids(sources: SourcePaths, files: Iterable[Path]) -> list[str]:
    """Return the Record IDs of the questions by whose losses AUTO files have their types, sorted."""
    return sorted({one.record_id for path in files for one in estimated_on(sources, path)})


def is_file_of(record: Mapping, questions: Path) -> bool:
    """Tell whether a record is of a question file as it is now; one of an older version does not say of which."""
    return record.get("question_file_sha256") == sha256_file(questions)


def quality_chats(sources: SourcePaths, method: dict, questions: Path) -> list[Question]:
    """Return the questions of a file whose chats losses were measured on, [] where it is another file.

    They are the first ones that calibration and choice have not seen.
    """
    copies = sources["copies"]
    if QUALITY_NAME not in copies or "calibration" not in sources["origins"]:
        return []
    quality = read_record(copies[QUALITY_NAME], Quality)
    if not is_file_of(quality, questions):
        return []
    text = read_words(sources["origins"]["calibration"])
    all_of_it = load_questions(questions, QUESTION_SEED)
    chats = unseen_questions(all_of_it, text, set(method.get("question_ids") or []))[: quality["chats"]]
    return chats if question_set_digest(chats) == quality["inputs"]["questions_sha256"] else []


def measured_ids(sources: SourcePaths, files: Iterable[Path]) -> list[str]:
    """Return the Record IDs of the questions on whose chats losses were measured, sorted."""
    method = method_of(sources)
    return sorted({one.record_id for path in files for one in quality_chats(sources, method, path)})


def seen_ids(sources: SourcePaths) -> list[set[str]]:
    """Return the Record IDs of the questions that chose the experts, of the statistics, and of AUTO's losses.

    Statistics have seen held-out questions, too, and rank the layers of CD files.
    """
    analysed = analysed_ids(sources["origins"].get("statistics"))
    estimated = estimated_ids(sources, sources["questions"].values())
    return [{*question_ids_of(method_of(sources))}, analysed, {*estimated}]
