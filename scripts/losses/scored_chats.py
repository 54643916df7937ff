"""Teacher-forced chats: which of their tokens count, and how one model's logits differ from another's over them."""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS, Sequence
from chats.questions import Question
from files.option_types import positive
from losses.kld_statistics import MEASURES, logit_differences
from losses.stored_logits import StoredLogits

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


def unseen_questions(questions: list[Question], calibration: str, chose: set[str]) -> list[Question]:
    """Return the questions whose text the calibration text does not hold and whose id is not among those that chose."""
    # The calibration text has no Record IDs, so its questions are known by their text.
    return [
        question
        for question in questions
        if question.record_id not in chose and question.text.strip() not in calibration
    ]


def chats_of(sequences: list[Sequence]) -> Chats:
    """Return the chats of teacher-forced sequences that count their answers."""
    reply = [np.arange(1, len(sequence.ids)) >= sequence.start for sequence in sequences]
    masks = {"reply": reply, "all": [np.ones_like(mask) for mask in reply]}
    return Chats(
        [sequence.ids for sequence in sequences],
        {name: np.concatenate(parts) for name, parts in masks.items()},
        {name: np.array([int(mask.sum()) for mask in parts]) for name, parts in masks.items()},
    )


def masks_of(counts: Arrays) -> Arrays:
    """Return the masks of chats by their counts: a reply is the end of its chat."""
    reply = [np.arange(every) >= every - own for every, own in zip(counts["all"], counts["reply"])]
    return {"reply": np.concatenate(reply), "all": np.ones(int(counts["all"].sum()), bool)}


def against(
    references: dict[str, StoredLogits], chunks_of: Callable[[int], Iterator[np.ndarray]], texts: list[list[int]]
) -> Arrays:
    """Return arrays named REFERENCE_MEASURE over all scored tokens, each fp64 [tokens].

    chunks_of(i): the compared model's logits of text i, in the same pieces as those of the references.
    """
    # One pass for all references: running the compared model is what costs. Pieces, for a whole text's logits would
    # take gigabytes in a real vocabulary.
    parts: dict[str, list[np.ndarray]] = {f"{name}_{measure}": [] for name in references for measure in MEASURES}
    for number, ids in enumerate(texts):
        first = 0
        stored = (reference.chunks(number) for reference in references.values())
        for piece, *theirs in zip(chunks_of(number), *stored, strict=True):
            following = ids[first + 1 : first + 1 + len(piece)]  # one token short in the text's last piece
            count = len(following)
            if count == 0:  # the last piece is a single position, which predicts nothing
                continue
            for name, reference in zip(references, theirs):
                found = logit_differences(reference[:count], piece[:count], following)
                for measure, values in found.items():
                    parts[f"{name}_{measure}"].append(values)
            first += len(piece)
    return {name: np.concatenate(values) for name, values in parts.items()}


def add_chat_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the groups of options of a command that runs models over chats."""
    add = parser.add_argument_group("chats that are measured").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory (tokenizer, chat template)")
    add("--questions", type=Path, required=True, help="questions to measure on, in GPQA's columns")
    add("--limit", type=positive, metavar="N", help="measure on the first N questions only")
    add("--max-tokens", type=positive, default=MAX_TOKENS, help="cut longer chats")
    add = parser.add_argument_group("how the models run").add_argument
    threads = "threads of llama.cpp (default: all processors; the results do not depend on it)"
    add("--threads", type=positive, default=len(os.sched_getaffinity(0)), help=threads)
    add("--gpu-layers", type=int, default=0, help="layers on the GPU")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
