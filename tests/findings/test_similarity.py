"""Cosines and norms in bf16, by hand and against naive recomputations."""

from types import SimpleNamespace

import findings.similarity as similarity
from analysis.decoder import load_resident
from analysis.expert_observer import expert_modules
from files.input_errors import InputError
from findings.bf16_norms import protected_differ
from findings.findings_observer import added_in_bf16, sampled_positions
from findings.similarity import output_cosines, output_figures, weight_figures
from makers.naive_experts import expert_output

import numpy as np
import pytest
import torch


def test_the_cosines_of_weights_by_hand():
    weights = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]], [[-4.0, 3.0]], [[0.0, 0.0]]])
    found = weight_figures(2, "down_proj", weights)
    # 24/25 of 0 and 1, 0 of 0 and 2, -7/25 of 1 and 2; no pair with the expert of zeros.
    assert found["pairs"] == 3 and found["mean"] == pytest.approx((0.96 + 0 - 0.28) / 3)
    assert found["largest"] == pytest.approx(0.96) and found["pair"] == [0, 1] and found["above"] == 2
    assert found["size"] == 2 and found["chance"] == pytest.approx(0.5**0.5)


def test_the_largest_cosine_may_be_negative():
    found = weight_figures(0, "down_proj", torch.tensor([[1.0, 0.0], [-1.0, 0.1], [0.9, 0.5]]))
    assert found["largest"] == pytest.approx(-1 / 1.01**0.5) and found["pair"] == [0, 1]


def test_blocks_change_nothing(monkeypatch):
    weights = torch.randn(6, 40, 30, generator=torch.Generator().manual_seed(1)).bfloat16()
    whole = weight_figures(0, "gate_up_proj", weights)
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 4 * 6 * 7)
    blocks = weight_figures(0, "gate_up_proj", weights)
    flat = weights.double().flatten(1).numpy()
    lengths = np.linalg.norm(flat, axis=1)
    naive = (flat @ flat.T / np.outer(lengths, lengths))[np.triu_indices(6, 1)]
    for found in (whole, blocks):
        assert found["mean"] == pytest.approx(naive.mean(), rel=1e-5)
        assert abs(found["largest"]) == pytest.approx(np.abs(naive).max(), rel=1e-5)


@torch.inference_mode()
def test_the_cosines_of_outputs_equal_a_naive_recomputation(tiny_text_model, monkeypatch):
    model = load_resident(tiny_text_model, torch.float32, "eager", None)
    module = expert_modules(model)[1]
    inputs = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    chosen = np.array([[0, 3, 7], [1, 2, 3], [15, 0, 4], [5, 6, 7], [9, 8, 1]])
    monkeypatch.setattr(similarity, "BLOCK_BYTES", 4 * 16 * 64 * 2)  # two tokens at a time
    pairs, own = output_cosines(module, inputs.numpy(), chosen, module.down_proj)
    one, other = np.triu_indices(16, 1)
    for token in range(5):
        outputs = torch.stack([expert_output(module, expert, inputs[token]) for expert in range(16)]).double().numpy()
        unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
        expected = unit @ unit.T
        np.testing.assert_allclose(pairs[token], expected[one, other], atol=1e-5)
        a, b, c = chosen[token]
        assert own[token] == pytest.approx((expected[a, b] + expected[a, c] + expected[b, c]) / 3, abs=1e-5)
    found = output_figures(1, pairs, own, np.array([0, 0, 1, 1, 2]), 16, (50, 1))
    assert found["mean"][0] == pytest.approx(pairs.mean(), abs=1e-6) and found["tokens"] == 5
    assert found["largest"][0] == pytest.approx(pairs.mean(axis=0).max(), abs=1e-6)
    assert found["mean"][1] <= found["mean"][0] <= found["mean"][2]
    best = int(pairs.mean(axis=0).argmax())
    assert found["pair"] == [one[best], other[best]]


def test_a_pair_without_an_output_is_left_out():
    pairs = np.array([[0.6, np.nan, np.nan], [0.2, np.nan, 0.3]], np.float32)
    found = output_figures(0, pairs, np.full(2, np.nan), np.array([0, 1]), 3, (20, 1))
    assert found["mean"][0] == pytest.approx((0.6 + 0.25) / 2) and found["chosen"] is None
    assert found["pair"] == [0, 1] and found["largest"][0] == pytest.approx(0.4)


def test_a_running_total_in_bf16_stops_growing():
    ones = np.ones(400)
    experts = np.array([0] * 300 + [1] * 100)
    # 256 has 8 significant bits; 257 has 9, and the tie goes to the even 256.
    assert added_in_bf16(experts, ones, 3).tolist() == [256, 100, 0]
    generator = np.random.default_rng(0)
    experts = generator.integers(0, 4, 200)
    values = torch.from_numpy(generator.lognormal(0, 1, 200)).bfloat16()
    totals = torch.zeros(4, dtype=torch.bfloat16)
    for expert, value in zip(experts, values):
        totals[expert] += value
    assert added_in_bf16(experts, values.double().numpy(), 4).tolist() == totals.double().tolist()
    assert added_in_bf16(np.zeros(0, int), np.zeros(0), 2).tolist() == [0, 0]


def test_the_protected_that_change_by_hand():
    before = np.array([[[True, True, False, False]], [[True, False, False, False]], [[False] * 4]])
    after = np.array([[[True, False, True, False]], [[True, False, False, False]], [[False] * 4]])
    found = protected_differ(before, after)[:, 0]
    assert found[:2].tolist() == [0.5, 0] and np.isnan(found[2])


def test_sampled_positions_lie_in_the_span_and_repeat():
    spans = [(3, 50 + n) for n in range(200)]
    drawn = [sampled_positions(span, 2, 1) for span in spans]
    assert drawn == [sampled_positions(span, 2, 1) for span in spans]
    assert all(3 <= low < high < end for (low, high), (_, end) in zip(drawn, spans))
    assert sampled_positions((3, 5), 9, 1) == [3, 4]
    middle = np.mean([(place - 3) / (end - 3) for places, (_, end) in zip(drawn, spans) for place in places])
    assert abs(middle - 0.5) < 0.05  # spread evenly over the questions


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="layer 3: expected weights"):
        weight_figures(3, "down_proj", torch.zeros(3, 2))
    with pytest.raises(InputError, match="layer 3: expected outputs"):
        output_figures(3, np.full((2, 1), np.nan, np.float32), np.zeros(2), np.arange(2), 2, (5, 1))


def test_experts_without_a_gate_have_two_matrices_too():
    module = SimpleNamespace(has_gate=False, up_proj=torch.ones(2, 3, 3), down_proj=torch.zeros(2, 3, 3))
    assert list(similarity.matrices_of(module)) == ["up_proj", "down_proj"]
