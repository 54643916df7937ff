"""How one model's logits differ from another's over teacher-forced chats, and the options of what measures that."""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS
from files.option_types import positive
from losses.chat_masks import Arrays
from losses.kld_statistics import MEASURES, logit_differences
from losses.stored_logits import StoredLogits

import numpy as np


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
