"""Questions that experts or types were chosen by, and that lie elsewhere under another Record ID.

The labels of a card go by Record IDs: under another one a question would look unseen.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from chats.questions import QUESTION_SEED, load_questions
from files.safe_files import InputError


def renamed_breaks(files: Iterable[Path], seen: Sequence[set[str]]) -> list[InputError]:
    """No question that experts or types were chosen by has another id elsewhere, by which it has another label.

    files: the question files of a release, in GPQA's columns; seen: the Record IDs of the questions by what saw them.
    """
    questions = [(path, load_questions(path, QUESTION_SEED)) for path in files] if any(seen) else []
    of_any: set[str] = set().union(*seen)
    first: dict[str, str] = {}
    for one in (one for _, those in questions for one in those if one.record_id in of_any):
        first.setdefault(one.words_digest, one.record_id)

    def seen_by(record_id: str) -> list[bool]:
        return [record_id in ids for ids in seen]

    return [
        InputError(
            path,
            f"the id {first[one.words_digest]} of a question that experts or types were chosen by",
            f"it again as {one.record_id}",
            "give it that id, so that its score counts as in-sample; then run `make eval` and `make quality` again",
        )
        for path, those in questions
        for one in those
        if one.words_digest in first and seen_by(one.record_id) != seen_by(first[one.words_digest])
    ]
