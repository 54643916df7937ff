"""Files for pictures: what they compute, their record, their planned size; what is refused."""

import json
import re
from pathlib import Path

from checkpoints.checkpoint import bytes_digest, read_checkpoint
from checkpoints.towers import tower_tensors
from conftest import REPO
from files.input_errors import InputError
from ggufs.gguf_header import read_header
from ggufs.mmproj import TRUE_GELU, mmproj_name, projection_widths, write_with_true_gelu
from makers.multimodal_twin import VISION, write_twin
from makers.picture_embeddings import by_llama_cpp, by_transformers, picture
from makers.pruned_models import NAME
from makers.seeing_model import make_mmproj_of, seeing_model
from makers.shared_ggufs import demo_ggufs
from quants.mmproj_conversion import tower_source_digest
from quants.mmproj_plan import plan_mmproj, vision_shapes
from quants.quant_record import MmprojRecord, read_whole_gguf

import numpy as np
import pytest

SHAPE = REPO / "data/shapes/gemma-4-26b-a4b.json"
PUBLISHED_GB = 0.81  # of the 26B's Q8_0 file for pictures, as several releases have it


@pytest.fixture(scope="module")
def seeing(tmp_path_factory) -> Path:
    return seeing_model(tmp_path_factory)


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The norm of the difference, by the norm of what is expected."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_embeddings_agree_with_transformers_by_the_key_that_the_converter_leaves_out(seeing, tools, tmp_path_factory):
    pixels = picture(48 * 8, 48 * 12)
    expected = by_transformers(seeing / "twin", pixels)
    text = demo_ggufs(tmp_path_factory) / "F16.gguf"  # for its hidden size
    errors = {}
    for kind, most in {"F16": 0.003, "Q8_0": 0.1}.items():
        path = seeing / mmproj_name(NAME, kind)
        errors[kind] = relative_error(by_llama_cpp(tools, text, path, pixels), expected)
        assert errors[kind] < most
    # The same bytes without the key: llama.cpp then computes another activation.
    whole = (seeing / mmproj_name(NAME, "F16")).read_bytes()
    without = tmp_path_factory.mktemp("without") / "mmproj.gguf"
    without.write_bytes(whole.replace(TRUE_GELU.encode(), b"clip.use_gelo"))
    assert relative_error(by_llama_cpp(tools, text, without, pixels), expected) > 3 * errors["F16"]


def test_a_drop_leaves_the_towers_bytes_alone(seeing):
    before, after = (tower_tensors(read_checkpoint(seeing / folder)) for folder in ("twin", "pruned"))
    assert len(before) == 31 and before.keys() == after.keys()
    for name, tensor in before.items():
        assert (tensor.dtype, tensor.shape) == (after[name].dtype, after[name].shape)
        assert bytes_digest(tensor, 4096, 4096) == bytes_digest(after[name], 4096, 4096)


def test_the_record_says_what_is_in_the_file_and_a_second_run_leaves_it(seeing, capsys):
    path = seeing / mmproj_name(NAME, "F16")
    record, header = read_whole_gguf(path, MmprojRecord), read_header(path)
    weights = sum(int(np.prod(tensor.shape)) for tensor in tower_tensors(read_checkpoint(seeing / "twin")).values())
    assert record["towers"] == ["vision"] and record["parameters"] == weights
    assert record["tensors_per_type"] == {"F16": 16, "F32": 15} and record["added"] == [TRUE_GELU]
    assert projection_widths(header) == {"vision": 256} and header.value(TRUE_GELU) is True
    before = path.read_bytes(), path.with_suffix(".gguf.json").read_bytes()
    make_mmproj_of(seeing / "pruned", path, "F16")
    assert "converted already" in capsys.readouterr().out
    assert before == (path.read_bytes(), path.with_suffix(".gguf.json").read_bytes())


def test_whatever_lies_beside_the_towers_is_a_part_of_the_digest(seeing):
    """The converter takes a file's type from another tool's hf_quant_config.json."""
    model, before = seeing / "pruned", tower_source_digest(seeing / "pruned", "a" * 64)
    (model / "hf_quant_config.json").write_text('{"producer": {"name": "modelopt"}}')
    with_it = tower_source_digest(model, "a" * 64)
    (model / "hf_quant_config.json").unlink()
    assert with_it != before == tower_source_digest(model, "a" * 64)


def test_nothing_is_made_of_a_text_only_checkpoint(demo_model, tmp_path, capsys):
    make_mmproj_of(demo_model, tmp_path / "mmproj.gguf", "F16")
    assert "text only" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_an_audio_tower_goes_into_the_same_file(demo_model, tmp_path):
    twin = write_twin(demo_model, tmp_path / "twin", audio=True)
    path = tmp_path / "mmproj.gguf"
    make_mmproj_of(twin, path, "Q8_0")
    assert projection_widths(read_header(path)) == {"vision": 256, "audio": 256}
    assert read_whole_gguf(path, MmprojRecord)["towers"] == ["vision", "audio"]


def test_the_key_is_added_once_and_no_tensor_changes(seeing, tmp_path):
    path = seeing / mmproj_name(NAME, "Q8_0")
    header = read_header(path)
    write_with_true_gelu(header, tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


def test_planned_bytes_are_those_of_the_file(seeing, tools, tmp_path):
    config = json.loads((seeing / "pruned/config.json").read_text())
    (whole,) = plan_mmproj(seeing / "pruned", config, NAME, ["Q8_0"], tools, tmp_path)
    assert whole == {"name": "mmproj-Q8_0", "bytes": (seeing / mmproj_name(NAME, "Q8_0")).stat().st_size}
    # Of a config alone: without the numbers that generation_config.json and the processor's config add.
    (alone,) = plan_mmproj(seeing / "pruned/config.json", config, NAME, ["F16"], tools, tmp_path)
    assert 0 <= (seeing / mmproj_name(NAME, "F16")).stat().st_size - alone["bytes"] < 1024


def test_the_26b_file_for_pictures_has_the_published_size(tools, tmp_path):
    (row,) = plan_mmproj(SHAPE, json.loads(SHAPE.read_text()), "gemma", ["Q8_0"], tools, tmp_path)
    assert round(row["bytes"] / 1e9, 2) == PUBLISHED_GB


def test_planned_shapes_are_those_that_transformers_builds(seeing):
    built = {name: tensor.shape for name, tensor in tower_tensors(read_checkpoint(seeing / "twin")).items()}
    assert vision_shapes(VISION, 256) == built


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"vision_config": None}, "no tensors model.vision_tower.*, as config.json lacks vision_config"),
        ({"audio_config": {"hidden_size": 8}}, "tensors model.audio_tower.*, as config.json has audio_config"),
        ({"vision_config": VISION | {"pooling_kernel_size": 2}}, "pooling_kernel_size 3 in vision_config"),
    ],
)
def test_a_tower_that_a_file_would_get_wrong_is_refused(changes, words, demo_model, tmp_path):
    twin = write_twin(demo_model, tmp_path / "twin")
    config = json.loads((twin / "config.json").read_text())
    (twin / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=re.escape(words)):
        make_mmproj_of(twin, tmp_path / "mmproj.gguf", "F16")
    assert [path.name for path in tmp_path.iterdir()] == ["twin"]
