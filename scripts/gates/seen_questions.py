"""Questions that experts or types were chosen by: under another Record ID, or in the reasoning of another question.

The labels of a card go by Record IDs: in-sample, held out, seen by the types of a file, held by the calibration text.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chats.question_words import Words, held_texts, words_of
from chats.questions import QUESTION_SEED, Question, load_questions
from chats.rendered_text import WRITE_AGAIN, is_named_after, rendered_from
from files.input_errors import InputError, sha256_file
from files.json_records import Record, read_record
from losses.quality_record import QUALITY_NAME, Quality
from quants.sensitivity_record import Sensitivity
from release.manifest import DIGITS
from release.used_quants import used_quants
from scoring.run_files import RUN, RunRecord
from speed.active_experts import ACTIVE_NAME, ActiveExperts
from speed.draft_results import DRAFT_NAME, DraftResults

MEASURED_ON_FILES: dict[str, type[Record]] = {
    QUALITY_NAME: Quality,
    DRAFT_NAME: DraftResults,
    ACTIVE_NAME: ActiveExperts,
}
OF_FILE = "the question file that it is of, as it was"
OF_FILES = {
    "question_file_sha256": OF_FILE,
    "examples_file_sha256": "the few shots that it was asked with, as they were",
}
MADE_AGAIN = "make it of the file as it is now (REPLACE=eval, tasks, quality, draft or auto)"
Rows = list[tuple[Path, Question]]  # the questions of several files
Known = tuple[Words | str, ...]  # by which a question is known
ONE_ID = "give it that id, so that its score counts as in-sample; then run `make eval` and `make quality` again"
OWN_ID = "give it an id of its own, by which it does not count as the other one; then run `make eval` again"
WHOLE_LETTERS = 24  # so many of a question stand in no other one by chance
NO_REASONING = "take it out of that question or its reasoning, and analyse again (REPLACE=statistics)"


def seen_breaks(files: Iterable[Path], seen: Sequence[set[str]]) -> list[InputError]:
    """Each Record ID is one question, and none that was seen looks unseen.

    files: the question files of a release, in GPQA's columns; seen: the Record IDs of the questions that chose the
    experts, and by what else saw them.
    """
    rows = [(path, one) for path in files for one in load_questions(path, QUESTION_SEED)]
    return id_breaks(rows) or renamed_breaks(rows, seen) or reasoning_breaks(rows, seen)


def read_breaks(sources: Mapping[str, Mapping[str, Path]]) -> list[InputError]:
    """A question file is as it was when it was asked, or losses, speeds and sensitivities were measured on it."""
    of_auto = any(record.get("auto_measured_on") for _, record in used_quants(sources))
    places = [(sources["copies"].get(name), kind) for name, kind in MEASURED_ON_FILES.items()]
    places.append((sources["origins"].get("sensitivity") if of_auto else None, Sensitivity))
    places += [(run.parent / RUN, RunRecord) for run in sources.get("runs", {}).values()]
    files = [*sources["questions"].values()]
    found = file_breaks([(path, kind) for path, kind in places if path], files)
    return found + chats_breaks(sources["origins"].get("calibration"), files)


def chats_breaks(text: Path | None, files: Iterable[Path]) -> list[InputError]:
    """A calibration text that is named after a question file is of that file as it is: the card calls it its chats."""
    named = [path for path in files if text and is_named_after(text, path)]
    known = rendered_from(text) if text and named else None
    if known is None or known in map(sha256_file, named):
        return []
    return [InputError(text, f"{OF_FILE}, sha256 {known[:DIGITS]}", "another one", WRITE_AGAIN)]


def file_breaks(
    records: Iterable[tuple[Path, type[Record]]], files: Iterable[Path], key: str = "question_file_sha256"
) -> list[InputError]:
    """Each record is of one of these files as it is: else the digest of what nothing read would stand beside it.

    key: of the record, under which it has the digest of its file.
    """
    digests = {sha256_file(path) for path in files}
    read = {path: read_record(path, kind).get(key) for path, kind in records}
    found = [
        InputError(path, f"{OF_FILES[key]}, sha256 {known[:DIGITS]}", "another one", MADE_AGAIN)
        for path, known in read.items()
        if known and known not in digests
    ]
    # A record of an older version names none: an exchanged file would look read.
    unnamed = [path for path, known in read.items() if digests and not known]
    return found + [InputError(path, f"the sha256 of {OF_FILES[key]}", "none", MADE_AGAIN) for path in unnamed]


def id_breaks(rows: Rows) -> list[InputError]:
    """No Record ID is that of two questions: files that number theirs would share labels."""
    first: dict[str, tuple[Path, Known]] = {}
    found = []
    for path, one in rows:
        other, words = first.setdefault(one.record_id, (path, one.words))
        if words != one.words:
            expected = f"under the id {one.record_id} the question that it has in {other.name}"
            found.append(InputError(path, expected, "another one", OWN_ID))
    return found


def renamed_breaks(rows: Rows, seen: Sequence[set[str]]) -> list[InputError]:
    """No question that was seen has another id elsewhere, by which it has another label."""
    ids: dict[Known, str] = {}  # of what was seen, by the words
    for _, one in rows:
        if any(one.record_id in of_one for of_one in seen):
            ids.setdefault(one.words, one.record_id)

    def seen_by(record_id: str) -> list[bool]:
        return [record_id in of_one for of_one in seen]

    found = []
    for path, one in rows:
        record_id = ids.get(one.words, one.record_id)
        if seen_by(record_id) != seen_by(one.record_id):
            expected = f"the id {record_id} of a question that experts or types were chosen by"
            found.append(InputError(path, expected, f"it again as {one.record_id}", ONE_ID))
    return found


def reasoning_breaks(rows: Rows, seen: Sequence[set[str]]) -> list[InputError]:
    """No question that was not seen stands in one that was, or in its reasoning: the model has read it there."""
    found = {}
    for of_one in seen:  # one by one: a question that a choice held out is among those of the statistics
        read = [one for _, one in rows if one.record_id in of_one]  # of each file: one may have another reasoning
        others = {one.record_id: (path, one) for path, one in rows if one.record_id not in of_one}
        texts = [one.text for _, one in others.values()]
        in_reasoning = held_texts(texts, "\n".join(one.explanation for one in read))
        in_question = held_texts(texts, "\n".join(one.prompt for one in read))
        for (path, one), reasoned, asked in zip(others.values(), in_reasoning, in_question):
            # A short question can be the beginning of another one.
            if reasoned or asked and len(words_of(one.text).letters) >= WHOLE_LETTERS:
                found[one.record_id] = (path, one)
    expected = "a question that stands in none of those that were seen"
    return [InputError(path, expected, one.record_id, NO_REASONING) for path, one in found.values()]
