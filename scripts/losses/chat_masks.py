"""Teacher-forced chats of a measurement: which of their tokens count."""

from dataclasses import dataclass

from chats.chat_sequences import Sequence, sequences_digest
from chats.question_words import held_texts
from chats.questions import Question

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Chats:
    """Chats as the models read them, and which of their scored positions count: `all`, or `reply` alone.

    Position i of a text predicts token i + 1, so the last position scores nothing. Masks run over the scored positions
    of all chats, one chat after the other.
    """

    texts: list[list[int]]
    masks: dict[str, np.ndarray]  # [tokens] bool
    counts: dict[str, np.ndarray]  # [chats] int64
    digest: str | None  # the sequences_digest; None of chats whose counts alone are known


def unseen_questions(questions: list[Question], calibration: str, chose: set[str]) -> list[Question]:
    """Return the questions whose text the calibration text does not hold and whose id is not among those that chose."""
    # The calibration text has no Record IDs, so its questions are known by their words.
    held = held_texts([question.text for question in questions], calibration)
    return [one for one, is_held in zip(questions, held) if one.record_id not in chose and not is_held]


def chats_of(sequences: list[Sequence]) -> Chats:
    """Return the chats of teacher-forced sequences that count their answers."""
    reply = [np.arange(1, len(sequence.ids)) >= sequence.start for sequence in sequences]
    masks = {"reply": reply, "all": [np.ones_like(mask) for mask in reply]}
    return Chats(
        [sequence.ids for sequence in sequences],
        {name: np.concatenate(parts) for name, parts in masks.items()},
        {name: np.array([int(mask.sum()) for mask in parts]) for name, parts in masks.items()},
        sequences_digest(sequences),
    )


def masks_of(counts: Arrays) -> Arrays:
    """Return the masks of chats by their counts: a reply is the end of its chat."""
    reply = [np.arange(every) >= every - own for every, own in zip(counts["all"], counts["reply"])]
    return {"reply": np.concatenate(reply), "all": np.ones(int(counts["all"].sum()), bool)}
