"""A conversion is held against transformers: what both compute alike passes, whatever the family; two models do not."""

import json
import shutil
from pathlib import Path

import convert_to_gguf
import losses.conversion_loss
from calls import call
from checkpoints.checkpoint import read_checkpoint, read_config
from files.input_errors import InputError
from files.json_records import read_json
from losses.conversion_loss import MOST_TOKENS, alike_tokens, conversion_loss, reference_of
from losses.converted_logits import divergence_of_listed
from makers.shared_ggufs import demo_ggufs, tiny_ggufs
from makers.tiny_models import build_family_model, build_tiny_model
from quants.quant_record import ROUNDINGS, SAME_KLD, ConversionLoss

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import log_softmax

OTHER_DTYPE = "expected the same model in bfloat16, its own dtype, as in float32"
REFUSED = "with a KL divergence of at most 0.01 nats"


def convert(model: Path, output: Path) -> dict:
    call(convert_to_gguf.main, "--model", model, "--name", "x", "--output", output)
    return read_json(Path(f"{output}.json"))


def ids_of(model: Path) -> list[int]:
    return reference_of(model, read_config(model), read_checkpoint(model)).ids


@pytest.fixture
def changed(demo_model, tmp_path):
    """Make a copy of the demo in which a function has changed the tensors."""

    def change(edit) -> Path:
        model = Path(shutil.copytree(demo_model, tmp_path / "model"))
        for path in model.glob("*.safetensors"):
            tensors = load_file(path)
            edit(tensors)
            save_file(tensors, path, {"format": "pt"})
        return model

    return change


def test_a_plain_model_is_the_same_in_both(tiny_model, demo_model, tmp_path, tmp_path_factory, monkeypatch):
    """Text-only, multimodal, and of a family with a head of its own and without the demo's norms."""
    demo = read_json(demo_ggufs(tmp_path_factory) / "F16.gguf.json")["against_transformers"]
    assert demo["kld"] < 0.001 and 0 < demo["own_dtype"] < 0.01 and demo["tokens_alike"] == 1
    mixtral = build_family_model(tmp_path / "mixtral", "mixtral", demo_model, torch.bfloat16)
    monkeypatch.setattr(losses.conversion_loss, "alike_tokens", lambda *_: 1.0)  # the converter takes another kind
    for number, model in enumerate((tiny_model, mixtral)):
        loss = convert(model, tmp_path / f"{number}.gguf")["against_transformers"]
        assert loss["tokens"] == len(ids_of(model)[:MOST_TOKENS]) and loss["kld"] < 0.01, loss


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_experts_that_f16_cannot_hold_are_refused(changed, tmp_path, refusal, layer):
    """Tiny weights with scales that make up for it: in bf16 the same model, in F16 zeros."""

    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"model.layers.{layer}.experts.down_proj"] *= 2.0**-40
        tensors[f"model.layers.{layer}.router.per_expert_scale"] *= 2.0**40

    model = changed(shrink)
    refusal(convert_to_gguf.main, ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"], REFUSED)
    assert not list(tmp_path.glob("x.gguf*"))


def test_a_router_that_transformers_rounds_is_refused(changed, tmp_path, refusal):
    """Stored in fp32, its rows differ by less than bf16 can tell; llama.cpp takes them as they are stored."""

    def widen(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if name.endswith("router.proj.weight"):
                rows = tensors[name].float()
                common = 1000 * torch.ones(rows.shape[1])  # of all rows alike, so no router sees it but by rounding
                tensors[name] = rows + common

    model = changed(widen)
    refusal(convert_to_gguf.main, ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"], REFUSED)


def test_a_model_in_float16_is_finite_in_float16(changed, tmp_path, refusal):
    """In fp32, as llama.cpp adds up too, nothing is wrong with it; its card's program would print nothing but <pad>."""

    def scale(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            factor = 30000.0 if name.endswith(("embed_tokens.weight", "post_attention_layernorm.weight")) else 1.0
            factor = 30000.0 if name.endswith("post_feedforward_layernorm.weight") else factor
            tensors[name] = (tensors[name].float() * factor / (30000 if name == "model.norm.weight" else 1)).half()

    model = changed(scale)
    config = read_json(model / "config.json")
    (model / "config.json").write_text(json.dumps(config | {"dtype": "float16"}))
    arguments = ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, model, "expected finite logits in float16, its own dtype, found others")


def test_a_router_that_needs_more_digits_than_its_dtype_has_is_refused(changed, tmp_path, refusal):
    """What all experts get alike changes no choice, but in bfloat16 it rounds their differences away."""

    def shift(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(3):
            tensors[f"model.layers.{layer}.router.proj.weight"][:, 0] = 1.0
            tensors[f"model.layers.{layer}.router.scale"][0] = 2.0**22

    arguments = ["--model", changed(shift), "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, OTHER_DTYPE)


def test_what_rounding_explains_is_let_through_and_both_figures_are_kept(demo_model, tmp_path, monkeypatch):
    """As of the language test bed, whose routers are undecided; here the limit is as low as the model is small."""
    monkeypatch.setattr(losses.conversion_loss, "SAME_KLD", 1e-4)
    model = build_tiny_model(tmp_path / "model", "text", demo_model, torch.float32)
    loss = convert(model, tmp_path / "x.gguf")["against_transformers"]
    assert 1e-4 < loss["kld"] <= ROUNDINGS * loss["rounding"] < SAME_KLD, loss
    with pytest.raises(ValueError, match="of at most 0.01, or of rounding"):
        ConversionLoss(tokens=512, kld=0.5, rounding=0.15, own_dtype=0.0, tokens_alike=1.0)
    with pytest.raises(ValueError, match="less than or equal to 0.1"):
        ConversionLoss(tokens=512, kld=0.0, own_dtype=0.999, tokens_alike=1.0)


def test_what_only_a_router_loses_by_rounding_explains_nothing(changed, tmp_path, refusal):
    """A GGUF file keeps its digits. Here the experts are what F16 loses."""

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            tensors[name] = tensors[name].float() + (20000 if name.endswith("router.proj.weight") else 0)
            if name.endswith("experts.down_proj"):
                tensors[name] *= 2.0**-40
            if name.endswith("per_expert_scale"):
                tensors[name] *= 2.0**40

    model = changed(spoil)
    config = read_json(model / "config.json")
    (model / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    arguments = ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, REFUSED, "where rounding costs 0.0")


def test_what_the_range_of_f16_loses_is_no_rounding(demo_model, tmp_path, refusal, monkeypatch):
    """Neurons that cancel in all digits made rounding as dear as the loss of all experts of a layer."""
    monkeypatch.setattr(losses.conversion_loss, "SAME_KLD", 1e-4)
    monkeypatch.setattr(losses.conversion_loss, "ROUNDINGS", 1e9)
    model = build_tiny_model(tmp_path / "model", "text", demo_model, torch.float32)
    for path in model.glob("*.safetensors"):
        tensors = load_file(path)
        for name in tensors:
            if name.endswith("experts.down_proj"):
                tensors[name][1] *= 2.0**-40  # of one expert of many
        save_file(tensors, path, {"format": "pt"})
    arguments = ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, "F16 cannot hold its numbers: a matrix loses 100% there")


@pytest.mark.parametrize("step", [{"type": "Lowercase"}, {"type": "Prepend", "prepend": "▁"}, {"type": "NFKC"}])
def test_a_tokenizer_that_llama_cpp_reads_otherwise_is_refused(demo_model, tmp_path, refusal, step):
    model = Path(shutil.copytree(demo_model, tmp_path / "model"))
    tokenizer = read_json(model / "tokenizer.json")
    steps = [step, tokenizer["normalizer"]]
    (model / "tokenizer.json").write_text(
        json.dumps(tokenizer | {"normalizer": {"type": "Sequence", "normalizers": steps}})
    )
    arguments = ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, model, "expected a tokenizer that llama.cpp reads as transformers does")


def test_a_template_that_writes_much_is_compared_at_once():
    """Tens of thousands of tokens took minutes and more, without a line."""
    assert alike_tokens(Path("model"), [5] * 100_000, [5] * 100_000) == 1
    with pytest.raises(InputError, match="50.0%"):
        alike_tokens(Path("model"), [5, 6] * 50_000, [5, 7] * 50_000)


@pytest.mark.parametrize("library", [True, False])
def test_a_template_without_what_llama_cpp_begins_with_is_refused(demo_model, tmp_path, refusal, monkeypatch, library):
    """Experts would be chosen on chats without <bos>, and scored on chats with it."""
    if not library:
        monkeypatch.setattr("llama.serve_check.check_library_loads", lambda *_: False)
    model = Path(shutil.copytree(demo_model, tmp_path / "model"))
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(template.replace("bos_token", "''"))
    words = "expected a chat template that begins with token 2, which llama.cpp puts before each chat, found token"
    refusal(convert_to_gguf.main, ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"], model, words)
    assert not list(tmp_path.glob("x.gguf*"))


def test_a_token_at_the_end_of_each_chat_is_refused(demo_model, tmp_path, refusal):
    model = Path(shutil.copytree(demo_model, tmp_path / "model"))
    config = read_json(model / "tokenizer_config.json")
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"add_eos_token": True}))
    words = "expected a tokenizer by which llama.cpp ends no chat with a token of its own, found token"
    refusal(convert_to_gguf.main, ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"], model, words)


def test_numbers_without_an_end_are_told_of_the_output(changed, tmp_path, refusal):
    def scale(tensors: dict[str, torch.Tensor]) -> None:  # finite in bf16
        tensors["model.layers.1.mlp.down_proj.weight"] *= 2.0**40

    arguments = ["--model", changed(scale), "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, f"{tmp_path / 'x.gguf'}: expected finite logits, found others")


def test_a_dtype_that_no_release_has_is_refused_before_the_conversion(demo_model, tmp_path, refusal, monkeypatch):
    monkeypatch.setattr(convert_to_gguf, "convert_streamed", lambda *_: pytest.fail("converted"))
    model = Path(shutil.copytree(demo_model, tmp_path / "model"))
    (model / "config.json").write_text(json.dumps(read_json(model / "config.json") | {"dtype": "float64"}))
    arguments = ["--model", model, "--name", "x", "--output", tmp_path / "x.gguf"]
    refusal(convert_to_gguf.main, arguments, "config.json: expected a checkpoint in float32, bfloat16, float16")


def test_a_file_of_another_model_is_refused(demo_model, tiny_text_model, tools, tmp_path_factory):
    other = tiny_ggufs(tmp_path_factory, tiny_text_model) / "F16.gguf"
    reference = reference_of(demo_model, read_config(demo_model), read_checkpoint(demo_model))
    with pytest.raises(InputError, match=rf"named: expected what transformers computes from .* {REFUSED}, found \d"):
        conversion_loss(reference, other, tools, Path("named"), library=True)


def test_without_the_bindings_the_server_is_asked(demo_model, changed, tmp_path, monkeypatch, refusal):
    monkeypatch.setattr("llama.serve_check.check_library_loads", lambda *_: False)
    loss = convert(demo_model, tmp_path / "x.gguf")["against_transformers"]
    assert 50 < loss["tokens"] <= len(ids_of(demo_model)[:MOST_TOKENS]) // 8 and loss["kld"] < 0.001

    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.experts.down_proj"] *= 2.0**-40
        tensors["model.layers.1.router.per_expert_scale"] *= 2.0**40

    refusal(convert_to_gguf.main, ["--model", changed(shrink), "--name", "y", "--output", tmp_path / "y.gguf"], REFUSED)


@pytest.mark.parametrize("share", [1.0, 0.9, 1e-13])
def test_the_divergence_of_listed_tokens_is_at_most_the_whole_one(share):
    generator = np.random.default_rng(0)
    ours, theirs = (log_softmax(generator.normal(0, 2, 50)) for _ in range(2))
    whole = float((np.exp(ours) * (ours - theirs)).sum())
    listed = {int(token): float(theirs[token]) for token in np.argsort(-theirs)[: max(1, int(50 * share))]}
    found = divergence_of_listed(ours, listed)
    assert 0 < found <= whole + 1e-12 and (share < 1 or found == pytest.approx(whole))
