"""The KL divergence by which bench/ compares choices of experts, on a vocabulary as large as a real one."""

import sys

from conftest import REPO

import numpy as np
import torch

sys.path.insert(0, str(REPO / "bench"))

from masked_model import BLOCK_VALUES, divergence

WORDS = 49_152  # of the language test bed: a sum of so many products in fp32 is thousandths of a nat off


def by_hand(full: np.ndarray, other: np.ndarray) -> float:
    """KL(full || other) of one position's logits."""
    p, q = np.exp(full.astype(np.float64)), np.exp(other.astype(np.float64))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def test_divergence_over_a_large_vocabulary():
    positions = BLOCK_VALUES // WORDS + 3  # more than a block
    drawn = torch.Generator().manual_seed(1)
    full = torch.randn(positions, WORDS, generator=drawn) * 5
    other = full + torch.randn(positions, WORDS, generator=drawn) / 20
    assert divergence(full, full.clone()).abs().max() <= 1e-6, "nothing was dropped"
    expected = [by_hand(one, two) for one, two in zip(full.numpy(), other.numpy())]
    np.testing.assert_allclose(divergence(full, other).numpy(), expected, rtol=1e-8)
