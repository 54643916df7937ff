"""Questions that experts or types were chosen by, and that lie elsewhere under another Record ID.

The labels of a card go by Record IDs: under another one a question would look unseen.
"""

from collections.abc import Iterable
from pathlib import Path

from chats.questions import QUESTION_SEED, load_questions
from files.safe_files import InputError


def renamed_breaks(files: Iterable[Path], seen: set[str]) -> list[InputError]:
    """No question that experts or types were chosen by has another id elsewhere.

    files: the question files of a release, in GPQA's columns; seen: the Record IDs of these questions.
    """
    questions = [(path, load_questions(path, QUESTION_SEED)) for path in files] if seen else []
    chose = {one.words_digest: one.record_id for _, those in questions for one in those if one.record_id in seen}
    return [
        InputError(
            path,
            f"the id {chose[one.words_digest]} of a question that experts or types were chosen by",
            f"it again as {one.record_id}",
            "give it that id, so that its score counts as in-sample; then run `make eval` and `make quality` again",
        )
        for path, those in questions
        for one in those
        if one.record_id not in seen and one.words_digest in chose
    ]
