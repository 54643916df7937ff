"""The analysis: sums by hand, equality with a naive recomputation, an unchanged forward pass, and what is refused."""

import json

import numpy as np
import pytest
import torch
from expert_observer import ExpertObserver, expert_modules, expert_sums
from expert_stats import read_stats
from questions import chat_answer, chat_prompt, load_questions
from teacher_force_analysis import load_model
from tiny_models import EXPERTS, LAYERS, TOP_K


def test_sums_by_hand():
    index = torch.tensor([[0, 2], [2, 1]])
    weights = torch.tensor([[0.75, 0.25], [0.5, -0.5]])
    norms = torch.tensor([[2.0, 4.0], [8.0, 6.0]])
    sums = expert_sums(index, weights, norms, experts=4)
    assert sums["token_count"].tolist() == [1, 1, 2, 0]
    assert sums["routing_weight_sum"].tolist() == [0.75, -0.5, 0.75, 0]
    assert sums["norm_sum"].tolist() == [2, 6, 12, 0]
    assert sums["norm_sq_sum"].tolist() == [4, 36, 80, 0]
    assert sums["weighted_norm_sum"].tolist() == [1.5, 3, 5, 0]  # |w| ||f||: 0.75*2; 0.5*6; 0.25*4 + 0.5*8
    assert sums["weighted_norm_sq_sum"].tolist() == [2.25, 9, 17, 0]
    assert sums["norm_max"].tolist() == [2, 6, 8, 0]


def test_a_non_finite_output_is_left_out_of_the_sums():
    sums = expert_sums(torch.tensor([[0, 1]]), torch.ones(1, 2), torch.tensor([[torch.inf, 3.0]]), experts=2)
    assert sums["token_count"].tolist() == [0, 1] and sums["norm_sum"].tolist() == [0, 3]


def naive(model: torch.nn.Module, ids: torch.Tensor) -> dict[str, np.ndarray]:
    """Recompute every routed expert of every token one at a time in fp32."""
    sums = {name: np.zeros((LAYERS, EXPERTS)) for name in ("token_count", "norm_sum", "weighted_norm_sum")}
    seen = []
    for module in expert_modules(model).values():
        module.register_forward_pre_hook(lambda module, inputs: seen.append((module, *inputs)))
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
        for layer, (module, hidden, index, weights) in enumerate(seen):
            for token in range(len(hidden)):
                for expert, weight in zip(index[token].tolist(), weights[token].tolist()):
                    gate, up = (module.gate_up_proj[expert].float() @ hidden[token].float()).chunk(2)
                    output = module.down_proj[expert].float() @ (module.act_fn(gate) * up)
                    norm = float(torch.sqrt((output.double() ** 2).sum()))
                    sums["token_count"][layer, expert] += 1
                    sums["norm_sum"][layer, expert] += norm
                    sums["weighted_norm_sum"][layer, expert] += weight * norm
    return sums


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_statistics_equal_a_naive_recomputation(tiny_model, dtype, tolerance):
    ids = torch.randint(5, 200, (1, 30), generator=torch.Generator().manual_seed(2))
    expected = naive(load_model(tiny_model, dtype, "eager"), ids)
    model = load_model(tiny_model, dtype, "eager")
    observer = ExpertObserver(model)
    with torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    sums = observer.take()
    assert sums["token_count"].sum() == 30 * TOP_K * LAYERS and sums["tokens"].tolist() == [30] * LAYERS
    np.testing.assert_array_equal(sums["token_count"], expected["token_count"])
    for name in ("norm_sum", "weighted_norm_sum"):
        np.testing.assert_allclose(sums[name], expected[name], rtol=tolerance)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_observing_changes_no_bit_of_the_forward_pass(tiny_model, dtype):
    ids = torch.randint(5, 200, (1, 30))
    model = load_model(tiny_model, dtype, "eager")
    model.set_experts_implementation("grouped_mm")
    with torch.inference_mode():
        plain = model(input_ids=ids, use_cache=False).logits
        ExpertObserver(model)
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, plain)


def test_the_file_is_reproducible_and_says_what_it_holds(tiny_text_model, few_questions, tmp_path, script):
    for name in ("a", "b"):
        done = script("teacher_force_analysis.py", "--model", tiny_text_model, "--questions", few_questions, "--output",
                      tmp_path / name, "--max-tokens", 60)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert str(tmp_path).encode() not in (tmp_path / "a").read_bytes()
    arrays, metadata = read_stats(tmp_path / "a")
    assert arrays["weighted_norm_sum"].shape == (6, LAYERS, EXPERTS) and arrays["weighted_norm_sum"].dtype == np.float64
    assert arrays["token_count"].dtype == np.int64
    tokens = [question["tokens"] for question in metadata["questions"]]
    assert (arrays["tokens"] == np.array(tokens)[:, None]).all() and max(tokens) <= 60
    assert (arrays["token_count"].sum(axis=2) == TOP_K * np.array(tokens)[:, None]).all()
    assert any(question["truncated"] for question in metadata["questions"])
    assert "layer   tokens" in done.stdout


def test_the_teacher_forced_text_is_prompt_thought_and_letter(demo_model):
    from chat_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(demo_model)
    question = load_questions(demo_model.parent / "eval_questions.csv", 42)[0]
    assert chat_prompt(tokenizer, question).startswith("<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nWhat is")
    assert chat_prompt(tokenizer, question).endswith("step by step:<turn|>\n<|turn>model\n")
    assert chat_answer(tokenizer, question) == (f"<|channel>thought\n{question.explanation}\n<channel|>The answer is "
                                                f"({question.letter}).<turn|>")


def test_non_finite_values_end_the_run(model_copy, few_questions, tmp_path, script, refused):
    from safetensors.torch import load_file, save_file

    for shard in model_copy.glob("*.safetensors"):
        weights = load_file(shard)
        for name in weights:
            if name.endswith("layers.1.experts.down_proj"):
                weights[name][:] = 3e38
                save_file(weights, shard, {"format": "pt"})
    refused(script("teacher_force_analysis.py", "--model", model_copy, "--questions", few_questions, "--output",
                   tmp_path / "stats"), "non-finite", "layer 1")
    assert not (tmp_path / "stats").exists()


def test_bad_input_is_refused_in_one_line(model_copy, few_questions, tmp_path, script, refused):
    def analyze(model=model_copy, questions=few_questions):
        return script("teacher_force_analysis.py", "--model", model, "--questions", questions, "--output", tmp_path / "out")

    refused(analyze(model=tmp_path / "none"), tmp_path / "none", "model directory")
    refused(analyze(questions=tmp_path / "none.csv"), tmp_path / "none.csv")
    lines = few_questions.read_text().splitlines(keepends=True)
    bad = tmp_path / "bad.csv"
    bad.write_text(lines[0].replace("Correct Answer", "Answer") + lines[1])
    refused(analyze(questions=bad), bad, "'Correct Answer'")
    bad.write_text(lines[0] + lines[1] + lines[1])
    refused(analyze(questions=bad), bad, "twice")
    (model_copy / "chat_template.jinja").unlink()
    refused(analyze(), model_copy, "chat template")
    (model_copy / "tokenizer.json").unlink()
    refused(analyze(), model_copy, "tokenizer")
    config = json.loads((model_copy / "config.json").read_text())
    (model_copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": LAYERS + 1}))
    assert not (tmp_path / "out").exists()
