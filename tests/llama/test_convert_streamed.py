"""Conversion in pieces writes what llama.cpp's converter writes by itself, byte for byte."""

import json
import shutil
import subprocess
from pathlib import Path

from files.input_errors import sha256_file
from ggufs.gguf_header import read_header
from ggufs.vouched_keys import unvouched
from llama import convert_streamed
from llama.llama_tools import LlamaCpp, convert_header_only, converter_command
from llama.llama_tools import convert_streamed as convert
from makers.tiny_models import build_family_model, build_tiny_model

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

DEMO = Path(__file__).resolve().parents[2] / "data/demo"


def random_model(directory: Path, family: str) -> Path:
    """Save a tiny bf16 model: of Gemma 4 in the published layout, else of a family whose weights are moved about."""
    if family == "gemma4":
        return build_tiny_model(directory, "multimodal", DEMO / "model")
    return build_family_model(directory, family, DEMO / "model", torch.bfloat16)


# Gemma 4 cuts the embedding; Mixtral permutes heads and stacks experts, as other families do.
@pytest.mark.parametrize("family", ["gemma4", "mixtral"])
def test_the_file_is_that_of_the_converter_alone(family: str, tools: LlamaCpp, tmp_path: Path) -> None:
    model = random_model(tmp_path / "model", family)
    shard = max(model.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    weights = load_file(shard)
    largest = max(weights.values(), key=torch.numel).view(-1)
    largest[:4] = torch.tensor([float("nan"), -float("nan"), float("inf"), 1e30], dtype=torch.bfloat16)
    save_file(weights, shard, {"format": "pt"})
    plain, ours = tmp_path / "plain.gguf", tmp_path / "ours.gguf"
    python, _, *command = map(str, converter_command(tools, model, "tiny", plain, "f16"))
    subprocess.run([python, *command], check=True, capture_output=True)
    digest = convert(tools, model, "tiny", ours, "f16")
    assert ours.read_bytes() == plain.read_bytes()
    assert digest == sha256_file(ours)


def test_a_header_says_of_its_model_only_what_this_project_vouches_for(tools: LlamaCpp, tmp_path: Path) -> None:
    """Whatever the base's card, its config and the folder's name say of it: in all three ways to convert."""
    model = Path(shutil.copytree(DEMO / "assistant", tmp_path / "best-99B-instruct"))
    said = "author: x\nversion: v9\nsize_label: 26x99B\ndescription: 99% on GPQA\ntags: [y]\nbase_model: a/b-7B\n"
    licence = "license: other\nlicense_name: nice-terms\nlicense_link: https://example.com/x\n"
    (model / "README.md").write_text(f"---\n{said}{licence}---\n")
    for name, more in (
        ("config.json", {"_name_or_path": "best/a-99B"}),
        ("generation_config.json", {"sequence": "99%"}),
    ):
        (model / name).write_text(json.dumps(json.loads((model / name).read_text()) | more))
    paths = [tmp_path / f"{way}.gguf" for way in ("plain", "streamed", "header")]
    subprocess.run(
        list(map(str, converter_command(tools, model, "tiny", paths[0], "f16"))), check=True, capture_output=True
    )
    convert(tools, model, "tiny", paths[1], "f16")
    convert_header_only(tools, model, "tiny", paths[2], "f16")
    for path in paths:
        header = read_header(path)
        assert not unvouched(header) and header.value("general.name") == "tiny"
        assert header.value("general.license.name") == "nice-terms" and "99" not in header.value("general.size_label")


def test_values_are_written_in_pieces_and_hashed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_streamed, "PIECE_VALUES", 64)
    values = torch.randn(1000).to(torch.bfloat16)
    values[130] = float("nan")
    with open(tmp_path / "file", "wb") as file:
        file.write(b"header")
        output = convert_streamed.Output(file)
        output.write_values(values)
        file.write(b"between")
        output.write_values(values)
        digest = output.finish()
    expected = values.to(torch.float32).numpy().astype(np.float16).tobytes()
    assert (tmp_path / "file").read_bytes() == b"header" + expected + b"between" + expected
    assert digest == sha256_file(tmp_path / "file")


def test_what_is_computed_is_left_to_the_converter(tools: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tools.converter.parent / "gguf-py", tools.converter.parent):
        monkeypatch.syspath_prepend(str(folder))
    from conversion.base import LazyTorchTensor

    stored = torch.randn(64, 128).to(torch.bfloat16)
    lazy = LazyTorchTensor.from_eager(stored).to(torch.float32)
    moved = lazy.reshape(32, 256).transpose(0, 1)[:200]
    found = convert_streamed.stored_values(moved.numpy().astype(np.float16))
    assert found is not None and torch.equal(found, stored.reshape(32, 256).T[:200].reshape(-1))
    assert convert_streamed.stored_values((moved + 1).numpy().astype(np.float16)) is None
    assert convert_streamed.stored_values(lazy.view(torch.int32).to(torch.float32).numpy().astype(np.float16)) is None
    assert convert_streamed.stored_values(moved.numpy()) is None
