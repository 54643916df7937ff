"""Questions that run together: their tokens, padding, and which tokens count."""

from dataclasses import dataclass

from chats.chat_sequences import Sequence

import torch


@dataclass(frozen=True)
class Batch:
    """Questions that run together: number of the first, and their sequences."""

    first: int
    sequences: list[Sequence]

    @property
    def tokens(self) -> int:
        """Tokens of all questions, padding left out."""
        return sum(len(sequence.ids) for sequence in self.sequences)

    @property
    def longest(self) -> int:
        """Tokens of the longest question, to which the others are padded."""
        return max(len(sequence.ids) for sequence in self.sequences)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First counted token and end of each question."""
        return [(sequence.start, len(sequence.ids)) for sequence in self.sequences]

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ids [questions, longest] int64, padded on the right, and the mask of real tokens (None if all are)."""
        ids = torch.zeros(len(self.sequences), self.longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(self.sequences):
            # On the right, so that a causal model's real tokens never see padding and keep their positions.
            ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
            mask[row, : len(sequence.ids)] = 1
        return ids, None if mask.all() else mask


def batches_of(sequences: list[Sequence], size: int) -> list[Batch]:
    """Return the questions in file order, `size` at a time."""
    # Not sorted by length: the statistics have the order of the file, and a state's files are named by it.
    return [Batch(first, sequences[first : first + size]) for first in range(0, len(sequences), size)]
