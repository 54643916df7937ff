"""What went into a release beside its records: question files and the calibration text, as the manifest keeps them.

`questions`: sha256 by file name, of the second file of one name as NAME (2). `alike`: how many questions of a file are
another one again, and how many it has. `roles`: the names of those that chose the
experts, and of those that were asked, by the setting of make that gives them. `ranked`: the Record IDs of the
statistics by which CD files have their types. `estimated`: those by whose losses AUTO files have them. `measured`:
those on whose chats losses were measured. `plain`: the scored files that were made without an imatrix.
`by_hand`: what was done otherwise than make does it, in words.
`conversion`: what it changed, of the F16 file that the quants were made from; `full_conversion`: of the full model's.
`calibration`: of the imatrix record its text's name and digest and the imatrix's; and `held`, the Record IDs of the
questions whose words the calibration text holds. `fetched`: of those files that a command of ours has fetched, by name,
from where. `licence`: what the base's own card, if it is the one of the drop, or config names. None where they are not
known. `tasks`: sha256 of the question files of each further task. The gates make them again from the same files.
`benchmarks`: by further task the dataset that its questions are known to be of; `held`: how many of its questions the
calibration text holds; `repeated`: how many of them are another one again, by letters and digits; `shown`: how many
stand in its few shots, with their answers.
"""

from collections.abc import Mapping, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chats.question_words import Words, held_texts, known_by
from chats.questions import QUESTION_SEED, load_questions, read_domains, read_ids, read_rows
from checkpoints.licence import DIGEST, Licence, recorded_licence
from choice.drop_map import is_by_chance
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.fetched_files import fetched_from
from files.input_errors import InputError, read_words, sha256_file
from files.json_records import read_record
from ggufs.imatrix import ImatrixRecord
from quants.quant_record import ConversionRecord
from release.by_hand import by_hand
from release.make_settings import ASKED, CHOSE
from release.question_roles import measured_elsewhere, roles_of, unused_questions
from release.seen_ids import estimated_ids, measured_ids, method_of, ranked_ids
from release.task_files import task_copies, task_sources
from release.used_quants import by_imatrix, used_quants
from scoring.eval_protocol import DEFAULT_TASK
from scoring.eval_tasks import MMLU_PRO_SHOTS, task_of
from scoring.frozen_questions import SHOT
from scoring.lm_eval_samples import read_frozen, read_shots
from scoring.run_files import TASK_FOLDER
from scoring.score_records import SCORES_NAME, Scores


def named_digests(paths: list[Path]) -> dict[str, str]:
    """Return the sha256 of files by name; two of one name are two."""
    found: dict[str, str] = {}
    for number, path in enumerate(paths):
        count = sum(other.name == path.name for other in paths[:number])
        found[f"{path.name} ({count + 1})" if count else path.name] = sha256_file(path)
    return found


def fetched_files(paths: list[Path]) -> dict[str, str]:
    """Return where files came from that a command of ours has fetched, by name; a name that stands for two is none."""
    names = [path.name for path in paths]
    return {path.name: url for path in paths if names.count(path.name) == 1 and (url := fetched_from(path))}


def held_questions(text: str, files: list[Path]) -> list[str]:
    """Return the Record IDs of the questions of some files whose text another text holds, sorted."""
    # A calibration text has no Record IDs: its questions are known by their text alone.
    rows = [row for path in files for row in read_rows(path)]
    held = held_texts([row["Question"] for row in rows], text)
    return sorted({row["Record ID"] for row, is_held in zip(rows, held) if is_held})


def alike_questions(files: Mapping[str, Path], counted: Mapping[str, Set[str]]) -> dict[str, list[int]]:
    """Return of each question file that asks a question again how often it does so, and its number of questions.

    counted: by file the Record IDs of the questions that chose or were scored; others count nowhere.
    """
    found = {}
    for name, path in files.items():
        ids = counted.get(name, ())
        words = [question.words for question in load_questions(path, QUESTION_SEED) if question.record_id in ids]
        if again := len(words) - len({*words}):
            found[name] = [again, len(words)]
    return found


def calibration_facts(record: Path, text: Path | None, questions: list[Path]) -> dict[str, Any]:
    """Return what is known of the text that an imatrix was measured on; raise InputError when it is another text now.

    record: beside the imatrix. `held` is None without the text or without questions to look for.
    """
    known = read_record(record, ImatrixRecord, "run `make imatrix`")
    facts = {key: known[key] for key in ("calibration", "calibration_sha256")} | {"imatrix_sha256": known["sha256"]}
    if text is None or not questions:
        return facts | {"held": None}
    if (digest := sha256_file(text)) != known["calibration_sha256"]:
        expected = f"the text of the imatrix, sha256 {known['calibration_sha256'][:12]}"
        raise InputError(text, expected, digest[:12], "run `make imatrix REPLACE=imatrix`")
    return facts | {"held": held_questions(read_words(text), questions)}


def frozen_of_tasks(sources: dict[str, dict[str, Path]]) -> dict[str, list[dict]]:
    """Return the documents that each further task asked, as they were frozen."""
    names = task_copies(sources.get("copies", {}))
    return {name: read_frozen(task_sources(sources, name)["run"][0].parent / TASK_FOLDER) for name in names}


def facts_of_tasks(sources: dict[str, dict[str, Path]], digests: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return what is known of the questions of further tasks; digests: sha256 of the files of each, by name."""
    asked, held, path = frozen_of_tasks(sources), {}, sources["origins"].get("calibration")
    if path and by_imatrix(sources):
        text = read_words(path)
        held = {name: sum(held_texts(list(map(question_of, those)), text)) for name, those in asked.items()}
    repeated = {name: len(those) - len({*map(words_of_document, those)}) for name, those in asked.items()}
    shown = {name: len(shown_questions(sources, name, those)) for name, those in asked.items()}
    known = {"tasks": digests, "benchmarks": benchmarks(sources), "held": held}
    known |= {"repeated": repeated} if any(repeated.values()) else {}
    return known | ({"shown": shown} if any(shown.values()) else {})


def shown_questions(sources: dict[str, dict[str, Path]], name: str, asked: list[dict]) -> list[str]:
    """Return the questions of a further task that stand in its few shots, with their answers."""
    shots = read_shots(task_sources(sources, name)["run"][0].parent / TASK_FOLDER)[:MMLU_PRO_SHOTS]
    texts = list(map(question_of, asked))
    said = "\n".join(f"{shot['prompt']}\n{shot.get(SHOT, '')}" for shot in shots)  # and answered
    return [text for text, held in zip(texts, held_texts(texts, said)) if held]


def words_of_document(document: dict) -> tuple[Words | str, ...]:
    """Return what a reader tells questions apart by: letters and digits of the question and of the right answer."""
    options, letter = document.get("options") or document.get("choices") or [], str(document.get("answer")).strip("()")
    place = ord(letter) - ord("A") if len(letter) == 1 else len(options)
    if place in range(len(options)):
        return known_by(question_of(document)), known_by(options[place])
    # IFEval's target counts its instructions.
    return known_by(question_of(document)), known_by(str(document["target"])) if document.get("question") else ""


def question_of(document: dict) -> str:
    """Return the text of a frozen question. Where a task has no column of it, as IFEval, that is the prompt itself."""
    return document.get("Question") or document.get("question") or document["prompt"]


def benchmarks(sources: dict[str, dict[str, Path]]) -> dict[str, str]:
    """Return the dataset of each further task whose questions, and few shots, a command fetched from where they belong.

    A task is a form of questions, a benchmark those of its authors. Of several files any may be the one that was asked.
    """
    found = {}
    for name, path in task_copies(sources.get("copies", {})).items():
        task = task_of(read_record(path, Scores)["protocol"].get("task", DEFAULT_TASK))
        files = task_sources(sources, name)
        if all(list(map(fetched_from, files[kind])) == [place] for kind, place in task.sources.items()):
            found[name] = task.dataset
    return found


def task_files(sources: dict[str, Path]) -> dict[str, list[Path]]:
    """Return the files of each further task, questions before few shots; sources: paths by "KIND TASK NUMBER"."""
    found: dict[str, list[Path]] = {}
    for key, path in sorted(sources.items(), key=lambda source: source[0].startswith("examples")):
        kind, name, _ = key.split(" ")
        if kind != "run":
            found.setdefault(name, []).append(path)
    return found


def base_licence(sources: dict[str, dict[str, Path]]) -> Licence | None:
    """Return the licence that the base names by the card that it was dropped with, None where that is not known."""
    if "source" not in sources["origins"]:
        return None
    metadata = read_metadata(sources["copies"][METADATA_NAME])
    return recorded_licence(sources["origins"]["source"], metadata["source"].get(DIGEST))


def weightless_ids(method: dict, files: Mapping[str, Path], chose: Path) -> set[str]:
    """Return the Record IDs of the questions of a file that had no part in a choice, by weights of their domains.

    files: those of a release by name; a domain is a name in the file's column, or one of these.
    """
    found = {one["name"] for one in method.get("domains", []) if not (one["weight"] or one["floor"])}
    labels = read_domains(chose) if found else {}
    ids = [record_id for record_id, name in labels.items() if name in found]
    return {*ids, *(record_id for name in found & files.keys() for record_id in read_ids(files[name]))}


def counted_ids(
    sources: dict[str, dict[str, Path]], files: Mapping[str, Path], roles: Mapping[str, list[str]]
) -> dict[str, set[str]]:
    """Return of each question file that chose or was scored the Record IDs of those of its questions that did so."""
    method, copies = method_of(sources), sources["copies"]
    scored = read_record(copies[SCORES_NAME], Scores)["question_ids"] if SCORES_NAME in copies else []
    found: dict[str, set[str]] = {}
    for name in [] if is_by_chance(method) else roles.get(CHOSE, []):
        found[name] = {*method.get("question_ids", [])} - weightless_ids(method, files, files[name])
    for name in roles.get(ASKED, []):
        found.setdefault(name, set()).update(scored)
    return found


def converted(record: Path | None) -> dict[str, Any] | None:
    """Return what a conversion changed by its record, None where that is not known."""
    return read_record(record, ConversionRecord).get("against_transformers") if record else None


def plain_files(sources: dict[str, dict[str, Path]]) -> list[str]:
    """Return the names of this model's scored files that were made without an imatrix, released or not."""
    if SCORES_NAME not in sources["copies"]:
        return []
    plain = {record["sha256"] for _, record in used_quants(sources) if not record["imatrix_sha256"]}
    rows = read_record(sources["copies"][SCORES_NAME], Scores)["rows"]
    return sorted({row["gguf"] for row in rows if row["gguf_sha256"] in plain})


def input_facts(sources: dict[str, dict[str, Path]]) -> dict[str, Any]:
    """Return the facts of a release's sources (paths by kind and name): of questions, calibration and licence."""
    questions = list(sources["questions"].values())
    origins = sources["origins"]
    licence = base_licence(sources)
    tasks = {name: named_digests(paths) for name, paths in task_files(sources.get("tasks", {})).items()}
    named = named_digests(questions)
    files = dict(zip(named, questions))
    roles = roles_of(sources, files)
    left = unused_questions(sources, files, roles)
    elsewhere = measured_elsewhere(sources, files, roles)
    fetched = fetched_files(questions + [origins[name] for name in ("calibration",) if name in origins])
    return {
        # A release without any is as it was.
        **(facts_of_tasks(sources, tasks) if tasks else {}),
        **({"fetched": fetched} if fetched else {}),
        "questions": named,
        **({"alike": alike} if (alike := alike_questions(files, counted_ids(sources, files, roles))) else {}),
        "roles": roles,
        **({"ranked": ids} if (ids := ranked_ids(sources)) else {}),
        **({"estimated": ids} if (ids := estimated_ids(sources, questions)) else {}),
        **({"measured": ids} if (ids := measured_ids(sources, questions)) else {}),
        **({"plain": names} if (names := plain_files(sources)) else {}),
        **({"by_hand": words} if (words := by_hand(sources, elsewhere, left)) else {}),
        "conversion": converted(origins["f16"]),
        **({"full_conversion": full} if (full := converted(origins.get("full f16"))) else {}),
        "calibration": calibration_facts(origins["imatrix"], origins.get("calibration"), questions)
        if by_imatrix(sources)
        else None,
        "licence": asdict(licence) if licence else None,
    }
