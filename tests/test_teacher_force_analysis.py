"""The analysis: sums by hand, equality with a naive recomputation, an unchanged forward pass, and what is refused."""

import json

import numpy as np
import pytest
import torch
from decoder import load_resident
from expert_observer import ExpertObserver, expert_sums
from expert_stats import read_stats
from naive_experts import naive_sums
from questions import chat_answer, chat_prompt, load_questions
from tiny_models import EXPERTS, LAYERS, TOP_K


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
    assert "layer    tokens" in done.stdout


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
