"""Questions that experts or types were chosen by, under another Record ID, or another question under theirs.

The labels of a card go by Record IDs: in-sample, held out, seen by the types of a file.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from chats.questions import QUESTION_SEED, Question, load_questions
from files.safe_files import InputError

ONE_ID = "give it that id, so that its score counts as in-sample; then run `make eval` and `make quality` again"
OWN_ID = "give it an id of its own, by which it does not count as the other one; then run `make eval` again"


def renamed_breaks(files: Iterable[Path], seen: Sequence[set[str]]) -> list[InputError]:
    """No question that was seen has another id elsewhere, by which it has another label, and no other one has its id.

    files: the question files of a release, in GPQA's columns; seen: the Record IDs of the questions by what saw them.
    """
    if not any(seen):
        return []
    questions = [(path, one) for path in files for one in load_questions(path, QUESTION_SEED)]
    of_any: set[str] = set().union(*seen)
    ids: dict[str, str] = {}  # of what was seen, by the words
    first: dict[str, tuple[Path, Question]] = {}  # of each id that was seen
    for path, one in questions:
        if one.record_id in of_any:
            ids.setdefault(one.words_digest, one.record_id)
            first.setdefault(one.record_id, (path, one))

    def seen_by(record_id: str) -> list[bool]:
        return [record_id in of_one for of_one in seen]

    found = []
    for path, one in questions:
        record_id = ids.get(one.words_digest, one.record_id)
        if seen_by(record_id) != seen_by(one.record_id):
            expected = f"the id {record_id} of a question that experts or types were chosen by"
            found.append(InputError(path, expected, f"it again as {one.record_id}", ONE_ID))
        elif one.record_id in first and one.words_digest != first[one.record_id][1].words_digest:
            expected = f"under the id {one.record_id}, which chose experts or types, the question that it has in"
            found.append(InputError(path, f"{expected} {first[one.record_id][0].name}", "another one", OWN_ID))
    return found
