"""The rehearsal's random model: its form is the shape's, transformers and llama.cpp read it, all is finite."""

import json
import math
import sys
from pathlib import Path

import convert_to_gguf
from calls import call
from chats.chat_tokenizer import load_tokenizer
from checkpoints.checkpoint import read_checkpoint
from conftest import DEMO, REPO
from fetch_model import check_model_directory
from ggufs.gguf_header import read_header
from makers.tiny_models import SMALL_TOWER

import pytest
import torch
import transformers

sys.path.insert(0, str(REPO / "bench"))

import generate_rehearsal  # noqa: E402

VOCABULARY = 4000
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "moe_intermediate_size": 32,
    "num_experts": 16,
    "top_k_experts": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "sliding_window": 128,
    "vocab_size": VOCABULARY,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of the 26B's form with small sizes, two layers of it."""
    folder = tmp_path_factory.mktemp("rehearsal")
    shape = json.loads((REPO / "data/shapes/gemma-4-26b-a4b.json").read_text())
    shape = {**shape, **SMALL, "vision_config": {**shape["vision_config"], **SMALL_TOWER}}
    (folder / "shape.json").write_text(json.dumps(shape))
    flags = ["--shape", folder / "shape.json", "--tokenizer", DEMO / "model", "--layers", 2]
    call(generate_rehearsal.main, *flags, "--output", folder / "model")
    return folder / "model"


def test_it_has_the_published_layout_and_a_tokenizer_of_its_size(model: Path) -> None:
    found = check_model_directory(model)
    assert (found["experts"], found["layers"]) == (16, 2)
    names = read_checkpoint(model).keys()
    assert {"model.language_model.embed_tokens.weight", "model.vision_tower.std_bias"} <= names
    config = json.loads((model / "config.json").read_text())["text_config"]
    assert config["layer_types"] == ["sliding_attention", "full_attention"]
    tokenizer, demo = load_tokenizer(model), load_tokenizer(DEMO / "model")
    assert len(tokenizer) == VOCABULARY
    text = "Which element has the symbol Fe? (A) iron"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == demo.decode(demo(text)["input_ids"])


def test_its_answers_are_finite(model: Path) -> None:
    loaded = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.inference_mode():
        logits = loaded(input_ids=torch.arange(2, 66)[None]).logits
    assert torch.isfinite(logits).all() and logits.std() > 0.01


def test_it_converts(model: Path, tmp_path: Path) -> None:
    call(convert_to_gguf.main, "--model", model, "--name", "random", "--output", tmp_path / "random-F16.gguf")
    header = read_header(tmp_path / "random-F16.gguf")
    assert (header.experts, header.vocabulary) == (16, VOCABULARY)


def test_as_many_layers_as_fit() -> None:
    fits = generate_rehearsal.layers_that_fit
    assert fits(0) == 2 and fits(10**13) == 30
    assert fits(45 * 10**9) == math.floor((45e9 - generate_rehearsal.PEAK_BESIDE) / generate_rehearsal.PEAK_PER_LAYER)
