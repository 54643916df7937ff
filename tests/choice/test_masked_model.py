"""Experts that are masked instead of dropped, by which bench/ compares choices: what dropping none costs."""

import sys

from chats.chat_sequences import Sequence
from conftest import REPO
from makers.tiny_models import family_config

import numpy as np
import pytest
import torch
import transformers

sys.path.insert(0, str(REPO / "bench"))

from masked_model import MaskedModel

WORDS = 49_152  # of the language test bed: summed over them in fp32, the loss of no drop at all was 0.002 nats


@pytest.fixture(scope="module")
def masked(tmp_path_factory) -> MaskedModel:
    """A random Mixtral of many words, and three chats of different lengths."""
    folder = tmp_path_factory.mktemp("masked") / "model"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(family_config("mixtral", WORDS))
    torch.nn.init.normal_(model.lm_head.weight, std=0.6)
    model.save_pretrained(folder)
    draw = np.random.default_rng(0)
    return MaskedModel(folder, [Sequence(draw.integers(WORDS, size=size).tolist(), 4, False) for size in (9, 20, 14)])


def test_no_drop_costs_nothing_and_a_drop_does(masked):
    every = [np.ones(masked.experts, bool) for _ in masked.layers]
    found = masked.losses(every)
    assert found[:, [0, 2]].tolist() == [[8, 5], [19, 16], [13, 10]]
    np.testing.assert_allclose(found[:, [1, 3]], 0, atol=1e-6)
    fewer = [np.arange(masked.experts) >= masked.experts // 2 for _ in masked.layers]
    assert (masked.losses(fewer)[:, 3] > 0.1).all()
