"""A checkpoint that transformers and llama.cpp's converter would read differently is refused when it is fetched.

Each way is one by which a model was analysed and another one released.
"""

import json
import shutil
from pathlib import Path

import convert_to_gguf
import fetch_model
from conftest import DEMO
from files.input_errors import InputError
from files.json_records import read_json
from llama.config_reading import check_config_read_alike, unknown_keys, without_unknown
from makers.multimodal_twin import write_twin
from makers.tiny_models import build_family_model

import pytest
import torch
from safetensors.torch import load_file, save_file


def fetch(model: Path, folder: Path) -> None:
    fetch_model.main(["--model", str(model), "--output", str(folder / "checkpoint")])


@pytest.fixture
def copied(demo_model, tmp_path) -> Path:
    return Path(shutil.copytree(demo_model, tmp_path / "model"))


def change_config(model: Path, **values: object) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(read_json(path) | values))


def add_tensor(model: Path, name: str, like: str) -> None:
    path = next(path for path in sorted(model.glob("*.safetensors")) if like in load_file(path))
    tensors = load_file(path)
    save_file({**tensors, name: torch.zeros_like(tensors[like])}, path, {"format": "pt"})


ODD_KEYS = [
    ("num_experts_per_tok", 1),
    ("num_experts_per_token", 1),
    ("expert_intermediate_size", 8),
    ("llm_config", {"final_logit_softcapping": 0.01}),  # the converter takes it for the text's part
    ("is_causal", False),
    ("rope_parameters", {"partial_rotary_factor": 0.0625}),  # beside those of each kind of layer
    ("architectures", ["Gemma4UnifiedForConditionalGeneration"]),
]


@pytest.mark.parametrize("key, value", ODD_KEYS)
def test_a_value_under_a_name_that_transformers_does_not_know_is_refused(copied, tmp_path, refusal, key, value):
    rotations = read_json(copied / "config.json")["rope_parameters"]
    change_config(copied, **{key: rotations | value if key == "rope_parameters" else value})
    # Of that class the converter writes what no other one's header has.
    generation = read_json(copied / "generation_config.json") | {"suppress_tokens": [375]}
    (copied / "generation_config.json").write_text(json.dumps(generation))
    named = "partial_rotary_factor" if key == "rope_parameters" else key
    arguments = ["--model", copied, "--output", tmp_path / "checkpoint"]
    refusal(fetch_model.main, arguments, "config.json", "as transformers does", named)
    assert not (tmp_path / "checkpoint").exists()


def test_a_key_that_changes_nothing_is_taken(copied, tmp_path):
    """Among them a size of 0, as Qwen3-Coder's of shared experts."""
    change_config(copied, unsloth_version="1", max_window_layers=3, shared_expert_intermediate_size=0, qkv_bias=False)
    fetch(copied, tmp_path)


def test_without_strange_keys_no_tool_is_asked_for(demo_model):
    """Nor for those of the published 26B: a host that only fetches needs no llama.cpp."""
    for path in (demo_model / "config.json", Path("data/shapes/gemma-4-26b-a4b.json")):
        config = {key: value for key, value in read_json(path).items() if key != "vision_config"}
        config["architectures"] = ["Gemma4ForCausalLM"]
        assert without_unknown(config) == config, unknown_keys(config, without_unknown(config))
        check_config_read_alike(path.parent, config, lambda: pytest.fail("asked for"))


def test_keys_that_published_configs_have_are_known():
    """Names as such configs have them; those that transformers does not know cost one look at two headers."""
    routed = ["num_experts_per_tok", "output_router_logits", "router_aux_loss_coef", "rope_theta", "rope_scaling"]
    common = ["architectures", "hidden_size", "rms_norm_eps", "torch_dtype", "vocab_size", "eos_token_id", *routed]
    gemma = ["image_token_id", "audio_token_id", "boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_index"]
    for kind, keys, unknown in (
        ("qwen3_moe", ["num_experts", "head_dim", "max_window_layers", "norm_topk_prob"], ["max_window_layers"]),
        ("olmoe", ["num_experts", "clip_qkv", "norm_topk_prob"], []),
        ("mixtral", ["num_local_experts", "sliding_window"], []),
    ):
        config = {"model_type": kind, **dict.fromkeys([*common, *keys], 1)}
        assert unknown_keys(config, without_unknown(config)) == unknown
    config = {"model_type": "gemma4", **dict.fromkeys([*gemma, "eos_token_id", "vision_soft_tokens_per_image"], 1)}
    assert unknown_keys(config, without_unknown(config)) == ["vision_soft_tokens_per_image"]


def test_keys_of_older_files_and_of_parts(demo_model):
    older = {"model_type": "mixtral", "rope_theta": 1e6, "num_experts": 8, "max_window_layers": 3}
    assert unknown_keys(older, without_unknown(older)) == ["max_window_layers"]
    # Two names of one value; the expert tensors tell which of them is right.
    both = {**older, "num_local_experts": 8}
    assert unknown_keys(both, without_unknown(both)) == ["max_window_layers"]
    saved = {"model_type": "qwen3_moe", "num_local_experts": 8}  # as save_pretrained writes it
    assert without_unknown(saved) == saved
    text = read_json(demo_model / "config.json")
    parts = {"model_type": "gemma4", "n_layers": 1, "text_config": {**text, "norm_eps": 1}, "vision_config": None}
    assert unknown_keys(parts, without_unknown(parts)) == ["n_layers", "norm_eps"]
    assert without_unknown({"model_type": "of tomorrow", "a": 1}) == {"model_type": "of tomorrow", "a": 1}


@pytest.mark.parametrize(
    "name, words",
    [
        ("model.layers.0.layer_scalar.weight", "only weights that Gemma4ForCausalLM of transformers has"),
        ("model.language_model.norm.weight", "every tensor under one name"),
        ("layers.0.layer_scalar", "every weight under one name"),
        ("model.extra.weight", "only weights that Gemma4ForCausalLM of transformers has"),
    ],
)
def test_a_tensor_that_transformers_leaves_aside_is_refused(copied, tmp_path, refusal, name, words):
    like = "model.norm.weight" if name.endswith("norm.weight") else "model.layers.0.layer_scalar"
    add_tensor(copied, name, like)
    refusal(fetch_model.main, ["--model", copied, "--output", tmp_path / "checkpoint"], words)
    assert not (tmp_path / "checkpoint").exists()


def test_a_head_that_is_tied_to_nothing_is_there(copied, tmp_path, refusal):
    """The converter would take the embedding for it, and transformers random weights."""
    change_config(copied, tie_word_embeddings=False)
    arguments = ["--model", copied, "--output", tmp_path / "checkpoint"]
    refusal(fetch_model.main, arguments, "expected lm_head.weight, as tie_word_embeddings is not true, found none")


def test_where_there_are_no_tools_the_conversion_looks(copied, tmp_path, refusal, monkeypatch):
    """A machine that only drops needs none, and a finetune's config has a key of its tool."""
    change_config(copied, num_experts_per_tok=2)
    with monkeypatch.context() as patched:
        patched.setenv("LLAMA_CPP", str(tmp_path / "none"))
        fetch(copied, tmp_path)
    arguments = ["--model", copied, "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(
        convert_to_gguf.main, arguments, "takes gemma4.expert_used_count as transformers does", "num_experts_per_tok"
    )
    assert not (tmp_path / "x.gguf").exists()


def test_a_dtype_that_is_not_read_is_refused(copied, tmp_path, refusal):
    """Such as those of a checkpoint in FP8."""
    (path,) = copied.glob("*.safetensors")
    tensors = load_file(path)
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.float8_e4m3fn)
    save_file(tensors, path, {"format": "pt"})
    arguments = ["--model", copied, "--output", tmp_path / "checkpoint"]
    refusal(fetch_model.main, arguments, "expected model.norm.weight in one of F32, ", "found F8_E4M3; a quantised")


def test_frequencies_of_older_checkpoints_pass(copied, tmp_path):
    add_tensor(copied, "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.layer_scalar")
    fetch(copied, tmp_path)


@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe", "mixtral"])
def test_other_families_pass(tmp_path, family):
    fetch(build_family_model(tmp_path / family, family, DEMO / "model"), tmp_path)


@pytest.mark.parametrize("audio", [False, True])
def test_towers_pass(demo_model, tmp_path, audio):
    write_twin(demo_model, tmp_path / "twin", audio=audio)
    fetch(tmp_path / "twin", tmp_path)


def test_the_error_names_no_key_that_is_long(copied, tools):
    config = read_json(copied / "config.json") | {"num_experts_per_tok": 2, **{f"{'x' * 500}{n}": 1 for n in range(9)}}
    with pytest.raises(InputError) as refused:
        check_config_read_alike(copied, config, lambda: tools)
    assert len(str(refused.value)) < 1000


def test_a_model_that_the_converter_cannot_read_can_still_be_dropped(demo_model, tmp_path):
    """Its tokenizer is of a kind that the converter does not know, and a tool has left a key of its own."""
    model = build_family_model(tmp_path / "model", "olmoe", demo_model)
    change_config(model, unsloth_version="2026.11")
    fetch(model, tmp_path)
