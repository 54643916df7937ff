"""Padded MLPs: the same logits, the same bytes after undoing, zeros that stay zeros in every type, and refusals."""

import json
from pathlib import Path

import pad_gguf
import quantize_gguf
from calls import call
from files.input_errors import InputError, sha256_file
from ggufs.gguf_header import GgufHeader, empty_header, header_bytes, key_value, read_header, write_header_only
from ggufs.gguf_padding import DENSE, EXPERTS, padding_widths
from ggufs.imatrix import read_imatrix
from llama.ggml_types import TYPES, GgmlTypes
from losses.gguf_logits import GgufLogits
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import demo_ggufs, tiny_ggufs
from makers.tiny_models import HIDDEN, WIDTH

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

IDS = list(range(5, 45))


def pad(source: Path, output: Path, *options: object) -> Path:
    """Run pad_gguf.py; return the output."""
    call(pad_gguf.main, "--input", source, "--output", output, *options)
    return output


def random_moe(architecture: str, width_key: str, vocabulary: GgufHeader, path: Path) -> Path:
    """Write a random mixture of experts alone in every layer, with three tensors per MLP; return its path."""
    generator, hidden, width, experts, head = np.random.default_rng(2), 64, 96, 8, 16
    numbers = {"block_count": 2, "context_length": 512, "embedding_length": hidden, "attention.head_count": 4}
    numbers |= {"attention.head_count_kv": 4, "attention.key_length": head, "attention.value_length": head}
    numbers |= {"feed_forward_length": 160, "expert_count": experts, "expert_used_count": 2, width_key: width}
    numbers |= {"attention.layer_norm_rms_epsilon": 1e-6, "rope.dimension_count": head}
    pairs = [key_value("general.architecture", architecture)]
    pairs += [key_value(f"{architecture}.{key}", value) for key, value in numbers.items()]
    pairs += [pair.raw for pair in vocabulary.key_values if pair.key.startswith("tokenizer.")]
    shapes = dict.fromkeys(("token_embd", "output"), (hidden, vocabulary.vocabulary)) | {"output_norm": (hidden,)}
    for block in ("blk.0", "blk.1"):
        shapes |= {f"{block}.attn_{part}": (hidden, hidden) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}.{norm}": (hidden,) for norm in ("attn_norm", "ffn_norm")}
        shapes |= {f"{block}.ffn_{part}_exps": (hidden, width, experts) for part in ("gate", "up")}
        shapes |= {f"{block}.ffn_down_exps": (width, hidden, experts), f"{block}.ffn_gate_inp": (hidden, experts)}
        if architecture == "qwen3moe":
            shapes |= {f"{block}.attn_{part}_norm": (head,) for part in ("q", "k")}
    plan = [(f"{name}.weight", dims, Kind.F32) for name, dims in shapes.items()]
    values = [np.float32(0.1) * generator.standard_normal(dims[::-1], np.float32) for dims in shapes.values()]
    path.write_bytes(header_bytes(empty_header(path), pairs, plan) + b"".join(value.tobytes() for value in values))
    return path


@pytest.fixture(scope="module", params=["demo", "llama", "qwen3moe"])
def model(request, tmp_path_factory) -> Path:
    """The demo's F16, with experts beside a dense MLP; a Mixtral, whose experts have the only width; a Qwen3-MoE."""
    demo = demo_ggufs(tmp_path_factory) / "F16.gguf"
    if request.param == "demo":
        return demo
    key = "feed_forward_length" if request.param == "llama" else "expert_feed_forward_length"
    return random_moe(request.param, key, read_header(demo), tmp_path_factory.mktemp("model") / "F32.gguf")


def logits(path: Path, tools) -> np.ndarray:
    with GgufLogits(path, tools, context=64, threads=1) as loaded:
        return loaded.logits(IDS)


def test_padding_changes_no_logit_beyond_rounding_and_is_undone_byte_for_byte(model, tools, tmp_path, refusal):
    padded = pad(model, tmp_path / "padded.gguf")
    pad(model, padded, "--verify")
    before, after = read_header(model), read_header(padded)
    widths = padding_widths(before)
    assert not padding_widths(after) and {width.then for width in widths.values()} == {256}
    assert after.value(f"{next(iter(widths.values())).key}_unpadded") == next(iter(widths.values())).now
    one, other = logits(model, tools), logits(padded, tools)
    # Sums of another order, rounded to F16 between the layers; wrong halves of gate and up would differ by all of it.
    assert np.abs(one - other).max() < 5e-4 * np.abs(one).max()
    restored = pad(padded, tmp_path / "restored.gguf", "--undo")
    assert restored.read_bytes() == model.read_bytes()
    with open(padded, "r+b") as file:  # a weight where a zero must be: the end of the last row of some down
        tensor = next(tensor for tensor in after.tensors if ".ffn_down" in tensor.name)
        file.seek(tensor.offset + tensor.dims[0] * GGML_QUANT_SIZES[tensor.kind][1] - 1)
        file.write(b"\x3c")
    refusal(pad_gguf.main, ["--input", model, "--output", padded, "--verify"], "padded.gguf", "others at byte")
    refusal(pad_gguf.main, ["--undo", "--input", padded, "--output", tmp_path / "x.gguf"], "zeros in the padding")
    assert not (tmp_path / "x.gguf").exists()


def test_the_halves_of_a_fused_tensor_are_padded_each(tiny_text_model, tmp_path_factory, tmp_path):
    shared = tiny_ggufs(tmp_path_factory, tiny_text_model)
    matrix = tmp_path / "imatrix.gguf"
    options = ("--roles", "experts", "--imatrix", shared / "imatrix.gguf", "--imatrix-output", matrix)
    padded = pad(shared / "F16.gguf", tmp_path / "p.gguf", *options)
    name = "blk.1.ffn_gate_up_exps.weight"
    old, new = (
        np.memmap(path, "<f2", "r", tensor.offset, tensor.dims[::-1])
        for path in (shared / "F16.gguf", padded)
        for tensor in read_header(path).tensors
        if tensor.name == name
    )
    assert new.shape == (old.shape[0], 512, HIDDEN)
    for half in (0, 1):
        rows = new[:, half * 256 : half * 256 + 256]
        assert (rows[:, :WIDTH] == old[:, half * WIDTH : (half + 1) * WIDTH]).all() and not rows[:, WIDTH:].any()
    assert json.loads(Path(f"{padded}.json").read_text())["widths"] == {EXPERTS: [WIDTH, 256]}
    assert read_header(padded).value("gemma4.feed_forward_length") == 96
    found, record = read_imatrix(matrix), json.loads(Path(f"{matrix}.json").read_text())
    assert found.columns["blk.1.ffn_down_exps.weight"] == 256 and found.columns["blk.1.ffn_down.weight"] == 96
    assert record["model_sha256"] == sha256_file(padded) and record["sha256"] == sha256_file(matrix)
    restored = pad(padded, tmp_path / "r.gguf", "--undo", "--imatrix", matrix, "--imatrix-output", tmp_path / "r")
    assert sha256_file(restored) == sha256_file(shared / "F16.gguf")
    assert (tmp_path / "r").read_bytes() == (shared / "imatrix.gguf").read_bytes()


@pytest.mark.parametrize("name", TYPES)
def test_a_row_of_zeros_stays_one_in_every_type_and_zeros_of_an_imatrix_are_safe(name, tools):
    ggml, generator = GgmlTypes(tools.directory), np.random.default_rng(1)
    weights = generator.standard_normal((4, 768)).astype(np.float32)
    weights[:, 704:], weights[2] = 0, 0
    measured = generator.random(768).astype(np.float32)
    ignoring = np.where(np.arange(768) < 704, measured, 0)
    found = ggml.through(name, weights, ignoring)
    assert np.isfinite(found).all() and not found[2].any() and found[0].any()
    # The padded columns weigh nothing either way, so what they are given must not spoil the others.
    errors = [
        ((ggml.through(name, weights, one) - weights)[:, :704] ** 2 * measured[:704]).sum()
        for one in (ignoring, measured)
    ]
    assert errors[0] < 1.1 * errors[1]


def changed(header: GgufHeader, output: Path, added: dict[str, tuple[int, ...]], removed: str = "none") -> GgufHeader:
    """Write a header with other tensors."""
    tensors = [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors if removed not in tensor.name]
    tensors += [(name, dims, Kind.F32) for name, dims in added.items()]
    return write_header_only(header, [pair.raw for pair in header.key_values], tensors, output)


@pytest.mark.parametrize(
    "added, removed, words",
    [
        ({"blk.0.ffn_gate_exps.bias": (32, 16)}, "none", "blk.0.ffn_gate_exps.bias"),
        ({"blk.0.ffn_sub_norm.weight": (96,)}, "none", "blk.0.ffn_sub_norm.weight"),
        ({"blk.0.ffn_up.bias": (96,)}, "none", "blk.0.ffn_up.bias"),
        ({}, "blk.1.ffn_gate.", "gate, up and down in the dense MLP of layer 1, to pad it, found blk.1.ffn_down"),
        ({"blk.0.ffn_up_shexp.weight": (64, 32)}, "none", "gemma4.expert_shared_feed_forward_length"),
        ({"blk.3.ffn_down.weight": (160, 64)}, "none", "one width, that of every dense MLP, found 96, [96, 160]"),
    ],
)
def test_other_mlps_are_refused_by_name(added, removed, words, tiny_text_model, tmp_path_factory, tmp_path):
    source = read_header(tiny_ggufs(tmp_path_factory, tiny_text_model) / "F16.gguf")
    with pytest.raises(InputError) as caught:
        padding_widths(changed(source, tmp_path / "x.gguf", added, removed), (EXPERTS, DENSE))
    assert words in str(caught.value)


def test_what_cannot_be_padded_or_restored_is_refused(tiny_text_model, tmp_path_factory, tmp_path, refusal):
    shared = tiny_ggufs(tmp_path_factory, tiny_text_model)

    def refuse(*words: str, source: Path = shared / "F16.gguf", options: tuple = ()) -> None:
        refusal(pad_gguf.main, ["--input", source, "--output", tmp_path / "x.gguf", *options], *words)
        assert not (tmp_path / "x.gguf").exists()

    refuse("a padded model", options=("--undo",))
    refuse("a file to compare", options=("--verify",))
    with pytest.raises(SystemExit):  # it would undo the other role's padding as well
        pad_gguf.parse_args(["--input", "a", "--output", "b", "--undo", "--roles", "dense"])
    other = ("--imatrix-output", tmp_path / "m.gguf")
    refuse("96 columns", options=("--imatrix", demo_ggufs(tmp_path_factory) / "imatrix.gguf", *other))
    quantize_gguf.main(quantize_arguments(shared, "Q8_0", tmp_path / "q-Q8_0.gguf", imatrix=None))
    refuse("in F16, BF16 or F32", "Q8_0", source=tmp_path / "q-Q8_0.gguf")
