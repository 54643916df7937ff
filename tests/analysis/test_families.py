"""The analysis of other mixture-of-experts families, against a naive recomputation; which families are refused."""

from pathlib import Path

import teacher_force_analysis as analysis
from analysis.decoder import load_resident
from analysis.layer_stream import LayerStream
from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from choice.expert_stats import read_stats
from conftest import DEMO
from files.input_errors import InputError
from makers.naive_experts import naive_sums
from makers.tiny_models import EXPERTS, TOP_K, build_family_model, text_config

import numpy as np
import pytest
import torch
from transformers import Gemma4ForCausalLM, JetMoeConfig, JetMoeForCausalLM

FAMILIES = ("qwen3_moe", "olmoe", "mixtral", "gpt_oss", "deepseek_v3")


def analyze_both_ways(model: Path, questions: Path, folder: Path) -> Path:
    """Analyse two questions with the whole model and streamed; return the statistics, which are the same bytes."""
    options = ["--model", str(model), "--questions", str(questions), "--limit", "2"]
    analysis.main([*options, "--output", str(folder / "resident")])
    analysis.main([*options, "--output", str(folder / "streamed"), "--stream-layers"])
    assert (folder / "resident").read_bytes() == (folder / "streamed").read_bytes()
    return folder / "resident"


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_of_other_families_equal_a_naive_recomputation(family, few_questions, tmp_path):
    model_dir = build_family_model(tmp_path / "model", family, DEMO / "model")
    arrays, metadata = read_stats(analyze_both_ways(model_dir, few_questions, tmp_path))
    assert metadata["experts"] == EXPERTS and metadata["top_k"] == TOP_K and metadata["model_type"] == family
    assert arrays["layer_numbers"].tolist() == ([1, 2] if family == "deepseek_v3" else [0, 1, 2])
    tokenizer = load_tokenizer(model_dir)
    model = load_resident(model_dir, torch.float32, "eager", None)
    for row, question in enumerate(load_questions(few_questions, 42)[:2]):
        expected = naive_sums(model, teacher_forced_sequence(tokenizer, question, 4096, "all").ids)
        np.testing.assert_array_equal(arrays["token_count"][row], expected.pop("token_count"))
        for name, values in expected.items():
            np.testing.assert_allclose(arrays[name][row], values, rtol=2e-5 if "sq" in name else 1e-5, err_msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_streaming_in_bf16_is_the_resident_run(family, few_questions, tmp_path):
    model_dir = build_family_model(tmp_path / "model", family, DEMO / "model", torch.bfloat16)
    analyze_both_ways(model_dir, few_questions, tmp_path)


def test_a_model_without_experts_is_refused_by_name(few_questions, tmp_path, refusal):
    model_dir = build_family_model(tmp_path / "model", "llama", DEMO / "model")
    refusal(
        analysis.main,
        ["--model", model_dir, "--questions", few_questions, "--output", tmp_path / "stats"],
        "LlamaForCausalLM",
        "experts interface",
    )


def test_experts_outside_the_interface_are_refused_by_name(few_questions, tmp_path, refusal):
    size = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 16}
    model = JetMoeForCausalLM(JetMoeConfig(**size, num_key_value_heads=2, kv_channels=8, num_local_experts=4))
    model.save_pretrained(tmp_path / "model")
    refusal(
        analysis.main,
        ["--model", tmp_path / "model", "--questions", few_questions, "--output", tmp_path / "stats"],
        "JetMoeForCausalLM",
        "JetMoeParallelExperts",
    )


def test_layers_that_share_keys_are_not_streamed(tmp_path):
    config = text_config(
        100, layer_types=["sliding_attention", "full_attention", "full_attention"], num_kv_shared_layers=1
    )
    with torch.device("meta"):
        model = Gemma4ForCausalLM(config)
    with pytest.raises(InputError, match="num_kv_shared_layers 0"):
        LayerStream(tmp_path, {}, model, torch.device("cpu"))
