"""The analysis: sums by hand, equality with a naive recomputation, an unchanged forward pass, non-finite values."""

from pathlib import Path

import teacher_force_analysis as analysis
from analysis.decoder import load_resident
from analysis.expert_observer import ExpertObserver, expert_modules, expert_sums
from chats.chat_sequences import chat_answer, chat_prompt, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from choice.expert_stats import check_finite, read_stats
from files.input_errors import InputError
from makers.naive_experts import naive_sums
from makers.tiny_models import EXPERTS, LAYERS, TOP_K

import accelerate
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file


def test_sums_by_hand():
    index = np.array([[0, 2], [2, 1]])
    weights = np.array([[0.75, 0.25], [0.5, -0.5]])
    norms = np.array([[2.0, 4.0], [8.0, 6.0]])
    sums = expert_sums(index, weights, norms, experts=4)
    assert sums["token_count"].tolist() == [1, 1, 2, 0]
    assert sums["routing_weight_sum"].tolist() == [0.75, -0.5, 0.75, 0]
    assert sums["norm_sum"].tolist() == [2, 6, 12, 0]
    assert sums["norm_sq_sum"].tolist() == [4, 36, 80, 0]
    assert sums["weighted_norm_sum"].tolist() == [1.5, 3, 5, 0]  # |w| ||f||: 0.75*2; 0.5*6; 0.25*4 + 0.5*8
    assert sums["weighted_norm_sq_sum"].tolist() == [2.25, 9, 17, 0]
    assert sums["norm_max"].tolist() == [2, 6, 8, 0]


def test_a_non_finite_output_is_left_out_of_the_sums():
    sums = expert_sums(np.array([[0, 1]]), np.ones((1, 2)), np.array([[np.inf, 3.0]]), experts=2)
    assert sums["token_count"].tolist() == [0, 1] and sums["norm_sum"].tolist() == [0, 3]


def observed(model: torch.nn.Module, ids: list[int]) -> dict[str, np.ndarray]:
    observer = ExpertObserver(model)
    observer.begin([(0, len(ids))], len(ids))
    with torch.inference_mode():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return {name: values[0] for name, values in observer.take(list(observer.layers)).items()}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_statistics_equal_a_naive_recomputation(tiny_model, dtype, tolerance):
    ids = torch.randint(5, 200, (30,), generator=torch.Generator().manual_seed(2)).tolist()
    expected = naive_sums(load_resident(tiny_model, dtype, "eager", None), ids)
    sums = observed(load_resident(tiny_model, dtype, "eager", None), ids)
    assert sums["token_count"].sum() == 30 * TOP_K * LAYERS and sums["tokens"].tolist() == [30] * LAYERS
    np.testing.assert_array_equal(sums["token_count"], expected.pop("token_count"))
    for name, values in expected.items():
        np.testing.assert_allclose(sums[name], values, rtol=2 * tolerance if "sq" in name else tolerance, err_msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_observing_changes_no_bit_of_the_forward_pass(tiny_model, dtype):
    ids = torch.randint(5, 200, (1, 30))
    model = load_resident(tiny_model, dtype, "eager", None)
    model.set_experts_implementation("grouped_mm")
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).logits
        ExpertObserver(model).begin([(0, 30)], 30)
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)


def test_a_model_spread_by_device_map_is_observed_alike(tiny_model):
    ids = torch.randint(5, 200, (30,)).tolist()
    expected = observed(load_resident(tiny_model, torch.bfloat16, "eager", None), ids)
    model = load_resident(tiny_model, torch.bfloat16, "eager", None)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))  # the hooks that device_map uses
    assert expert_modules(model)[1].down_proj.is_meta
    for name, values in observed(model, ids).items():
        np.testing.assert_array_equal(values, expected[name])


def test_the_file_is_reproducible_and_says_what_it_holds(tiny_text_model, few_questions, tmp_path, script):
    options = ["--model", tiny_text_model, "--questions", few_questions, "--max-tokens", 60, "--output"]
    done = script("teacher_force_analysis.py", *options, tmp_path / "a")
    assert done.returncode == 0 and "layer    tokens" in done.stdout, done.stderr
    analysis.main([*map(str, options), str(tmp_path / "b")])  # another process, another place
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a").read_bytes()
    arrays, metadata = read_stats(tmp_path / "a")
    assert arrays["weighted_norm_sum"].shape == (6, LAYERS, EXPERTS) and arrays["weighted_norm_sum"].dtype == np.float64
    assert arrays["token_count"].dtype == np.int64
    tokens = [question["tokens"] for question in metadata["questions"]]
    assert (arrays["tokens"] == np.array(tokens)[:, None]).all() and max(tokens) <= 60
    assert (arrays["token_count"].sum(axis=2) == TOP_K * np.array(tokens)[:, None]).all()
    assert any(question["truncated"] for question in metadata["questions"])


def test_the_teacher_forced_text_is_prompt_thought_and_letter(demo_model):
    tokenizer = load_tokenizer(demo_model)
    question = load_questions(demo_model.parent / "eval_questions.csv", 42)[0]
    assert chat_prompt(tokenizer, question).startswith("<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nWhat is")
    assert chat_prompt(tokenizer, question).endswith("step by step:<turn|>\n<|turn>model\n")
    assert chat_answer(tokenizer, question) == (
        f"<|channel>thought\n{question.explanation}\n<channel|>The answer is ({question.letter}).<turn|>"
    )


def plant(model: Path, name: str, value: float, expert: int | None = None) -> None:
    """Overwrite one tensor of a checkpoint, or one expert of it, with a value."""
    for shard in model.glob("*.safetensors"):
        weights = load_file(shard)
        if name in weights:
            weights[name][slice(None) if expert is None else expert] = value
            save_file(weights, shard, {"format": "pt"})
            return
    raise AssertionError(name)


@pytest.mark.parametrize("options", [[], ["--stream-layers"]], ids=["resident", "streamed"])
def test_non_finite_values_end_the_run(model_copy, few_questions, tmp_path, refusal, options, capsys):
    plant(model_copy, "model.layers.1.experts.down_proj", 3e38)
    arguments = ["--model", model_copy, "--questions", few_questions, "--output", tmp_path / "stats", *options]
    refusal(analysis.main, arguments, "non-finite", "layer 1", "100.00%", "--allow-nonfinite")
    assert not (tmp_path / "stats").exists()
    table = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    tokens = table[0][1]
    found = [(layer, nonfinite, skipped) for layer, *_, nonfinite, skipped in table]
    assert found == [("0", "0", "0"), ("1", tokens, "0"), ("2", "0", tokens)]  # overflow in layer 1; layer 2 gets NaN


def test_an_overflow_of_the_sum_of_the_outputs_is_counted(model_copy, few_questions, tmp_path, refusal):
    """In the last layer nothing else would show it: every expert's output and norm is finite."""
    plant(model_copy, "model.layers.2.router.per_expert_scale", 3e38)
    base = ["--model", str(model_copy), "--questions", str(few_questions), "--output", str(tmp_path / "stats")]
    refusal(analysis.main, base, "non-finite token states, first in layer 2")
    analysis.main([*base, "--allow-nonfinite", "1"])
    arrays, _ = read_stats(tmp_path / "stats")
    assert arrays["nonfinite_tokens"][:, 2].sum() > 0 and np.isfinite(arrays["moe_output_norm_sum"]).all()


def test_a_layer_with_nothing_to_rank_is_never_written(model_copy, few_questions, tmp_path, refusal):
    plant(model_copy, "model.layers.1.experts.down_proj", 3e38)
    refusal(
        analysis.main,
        ["--model", model_copy, "--questions", few_questions, "--output", tmp_path / "stats", "--allow-nonfinite", "1"],
        "to rank in every layer",
        "in layer 1",
    )
    assert not (tmp_path / "stats").exists()


def test_an_overflowing_expert_is_reported_and_left_out_of_the_sums(model_copy, few_questions, tmp_path):
    """A plain sum of bf16 norms would give it rank 0 with inf, and what follows would be NaN."""
    plant(model_copy, "model.layers.2.experts.down_proj", 3e38, expert=5)
    base = ["--model", str(model_copy), "--questions", str(few_questions), "--output", str(tmp_path / "stats")]
    with pytest.raises(InputError, match="non-finite token states, first in layer 2"):
        analysis.main(base)
    with pytest.raises(InputError, match="at most 0.01 of a layer's tokens"):
        analysis.main([*base, "--allow-nonfinite", "0.01"])
    analysis.main([*base, "--allow-nonfinite", "1"])
    arrays, _ = read_stats(tmp_path / "stats")
    bad = arrays["nonfinite_tokens"]
    assert (bad[:, :2] == 0).all() and 0 < bad[:, 2].sum() < arrays["tokens"][:, 2].sum()
    assert arrays["token_count"][:, 2, 5].sum() == 0 and arrays["norm_sum"][:, 2, 5].sum() == 0
    assert (arrays["token_count"][:, 2].sum(axis=1) + bad[:, 2] == TOP_K * arrays["tokens"][:, 2]).all()
    assert all(np.isfinite(values).all() for values in arrays.values())

    model = load_resident(model_copy, torch.bfloat16, "eager", None)
    tokenizer = load_tokenizer(model_copy)
    sums = torch.zeros(EXPERTS, dtype=torch.bfloat16)

    def plain(module, inputs):
        hidden, index, weights = inputs
        for expert in index.unique().tolist():
            token = torch.where(index == expert)[0]
            gate, up = torch.nn.functional.linear(hidden[token], module.gate_up_proj[expert]).chunk(2, dim=-1)
            output = torch.nn.functional.linear(module.act_fn(gate) * up, module.down_proj[expert])
            sums[expert] += output.norm(dim=-1).sum()

    expert_modules(model)[2].register_forward_pre_hook(plain)
    with torch.inference_mode():
        for question in load_questions(few_questions, 42):
            ids = teacher_forced_sequence(tokenizer, question, 4096, "all").ids
            model(input_ids=torch.tensor([ids]), use_cache=False)
    assert not torch.isfinite(sums[5]) and torch.isfinite(sums).sum() == EXPERTS - 1


def test_non_finite_share_by_hand():
    arrays = {
        "nonfinite_tokens": np.array([[0, 1]]),
        "skipped_tokens": np.array([[0, 1]]),
        "tokens": np.array([[4, 3]]),
        "layer_numbers": np.array([3, 7]),
        "weighted_norm_sum": np.ones((1, 2, 4)),
    }
    check_finite(Path("m"), arrays, 0.5, Path("s"))  # layer 7: (1 + 1) of 3 + 1 tokens
    with pytest.raises(InputError, match=r"2 non-finite token states, first in layer 7; most in layer 7 \(50.00%\)"):
        check_finite(Path("m"), arrays, 0.49, Path("s"))
