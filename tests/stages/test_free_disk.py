"""What LOW_DISK removes: files of ours alone, and what a release is held against stays as an outline."""

import os
import shutil
from pathlib import Path

import free_disk
from calls import as_command, call
from checkpoints.checkpoint import read_checkpoint, weights_digest
from checkpoints.outline import write_checkpoint_outline
from choice.drop_metadata import METADATA_NAME
from files.input_errors import InputError, sha256_file
from files.seals import MARKER
from files.written_records import write_json
from ggufs.gguf_header import read_header
from ggufs.gguf_outline import check_outline, file_or_outline, outline_path
from makers.shared_ggufs import demo_ggufs

import pytest

DEMO = Path(__file__).resolve().parents[2] / "data/demo"


@pytest.fixture
def f16(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's F16 file, with a record."""
    path = Path(shutil.copy(demo_ggufs(tmp_path_factory) / "F16.gguf", tmp_path / "demo-F16.gguf"))
    write_json(Path(f"{path}.json"), {"version": 1, "bytes": path.stat().st_size, "sha256": sha256_file(path)})
    return path


def test_an_outline_has_the_header_the_routers_and_the_size(f16: Path) -> None:
    before, whole = read_header(f16), f16.read_bytes()
    call(free_disk.main, "--outlined", "--gguf", f16)
    outline = file_or_outline(f16)
    assert outline == outline_path(f16) and not f16.exists() and Path(f"{f16}.json").exists()
    after = read_header(outline)
    assert after.key_values == before.key_values and outline.stat().st_size == len(whole)
    for tensor in before.tensors:
        if "ffn_gate_inp" in tensor.name:
            part = slice(tensor.offset, tensor.offset + tensor.size)
            assert outline.read_bytes()[part] == whole[part]
    assert outline.stat().st_blocks * 512 < len(whole) / 2
    call(free_disk.main, "--outlined", "--gguf", f16)  # it has gone, and the outline stays
    assert outline.exists()


def test_an_outline_is_sealed_for_the_file_of_a_record_alone(f16: Path, refusal) -> None:
    (f16.parent / MARKER).touch()
    refusal(free_disk.main, ["--outlined", "--gguf", f16], f"{f16}.json", "expected what convert_to_gguf wrote")
    with as_command("convert_to_gguf"):
        write_json(Path(f"{f16}.json"), {"version": 1, "bytes": f16.stat().st_size, "sha256": sha256_file(f16)})
    whole = f16.read_bytes()
    f16.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refusal(free_disk.main, ["--outlined", "--gguf", f16], f16, "expected the file of its record, sha256")
    f16.write_bytes(whole)
    call(free_disk.main, "--outlined", "--gguf", f16)
    outline = outline_path(f16)
    check_outline(outline)
    router = next(tensor for tensor in read_header(outline).tensors if "ffn_gate_inp" in tensor.name)
    held = bytearray(outline.read_bytes())
    held[router.offset] ^= 1
    outline.write_bytes(held)
    with pytest.raises(InputError, match="expected what free_disk.py wrote, found one edited"):
        check_outline(outline)


def test_an_outline_takes_nothing_along_that_is_not_the_checkpoint_s(tmp_path: Path) -> None:
    """The key of the seals came into a build folder through a link in a folder of the checkpoint."""
    model = Path(shutil.copytree(DEMO / "model", tmp_path / "model"))
    (tmp_path / "key").write_text("secret")
    (model / "x/full").mkdir(parents=True)
    (model / "x/full/checkpoint").symlink_to(tmp_path / "key")
    (model / "extra.bin").symlink_to("nothing")
    write_checkpoint_outline(model, tmp_path / "outline")
    assert {path.name for path in (tmp_path / "outline").iterdir()} == {path.name for path in model.iterdir()} - {
        "x",
        "extra.bin",
    }
    (model / "LICENSE").symlink_to(tmp_path / "key")
    with pytest.raises(InputError, match="LICENSE: expected a file of the checkpoint, found a link to"):
        write_checkpoint_outline(model, tmp_path / "another")
    assert not (tmp_path / "another").exists()


def test_a_file_that_is_not_that_of_its_record_stays(f16: Path, refusal) -> None:
    good = f16.with_name("good.gguf")
    for end in ("", ".json"):
        shutil.copy(f"{f16}{end}", f"{good}{end}")
    os.truncate(f16, f16.stat().st_size - 1)
    refusal(free_disk.main, ["--gguf", good, f16], f16, "expected the file of its record", "found another")
    assert f16.exists() and good.exists()  # all are looked at before the first one goes


def test_what_never_was_is_not_told_as_freed(tmp_path: Path, refusal) -> None:
    refusal(free_disk.main, ["--gguf", tmp_path / "x.gguf"], tmp_path / "x.gguf", "the record of one that has gone")
    flags = ["--checkpoint", tmp_path / "nowhere", "--outline", tmp_path / "outline"]
    refusal(free_disk.main, flags, tmp_path / "nowhere", "the outline of one that has gone", "neither")


def test_a_file_whose_header_is_damaged_stays_with_all_others(f16: Path, refusal) -> None:
    good = f16.with_name("good.gguf")
    for end in ("", ".json"):
        shutil.copy(f"{f16}{end}", f"{good}{end}")
    with open(f16, "r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 8)  # the number of tensors
    refusal(free_disk.main, ["--outlined", "--gguf", good, f16], f16, "rows of whole blocks")
    assert f16.exists() and good.exists() and not outline_path(good).exists()


def test_the_outline_of_a_checkpoint_has_its_digest(demo_model: Path, tmp_path: Path) -> None:
    write_checkpoint_outline(demo_model, tmp_path / "outline")
    found = read_checkpoint(tmp_path / "outline")
    assert weights_digest(found) == weights_digest(read_checkpoint(demo_model))
    whole = demo_model / "model.safetensors"
    assert (tmp_path / "outline/model.safetensors").stat().st_blocks * 512 < whole.stat().st_size * 0.9
    assert (tmp_path / "outline/tokenizer.json").read_bytes() == (demo_model / "tokenizer.json").read_bytes()


def test_of_a_model_of_the_user_s_own_only_its_weights_go(demo_model: Path, tmp_path: Path, capsys, refusal) -> None:
    """An adapter beside them went, too, and of the Hub's cache the links alone, told as disk given back."""
    local, link, outline = tmp_path / "local", tmp_path / "checkpoint", tmp_path / "outline"
    shutil.copytree(demo_model, local)
    link.symlink_to(local)
    flags = ["--checkpoint", link, "--outline", outline, "--local", local]
    adapter = local / "adapter_model.safetensors"
    shutil.copy(local / "model.safetensors", adapter)
    refusal(free_disk.main, flags, adapter, "no weights beside the model's", "LOW_DISK=yes")
    assert (local / "model.safetensors").exists() and not outline.exists()
    adapter.unlink()
    (local / "model.safetensors").rename(tmp_path / "blob")
    (local / "model.safetensors").symlink_to(tmp_path / "blob")
    call(free_disk.main, *flags)
    assert (local / "model.safetensors").exists()
    said = capsys.readouterr().out
    assert "1 of its 1 weight files are links, left as they are" in said and " 0.0000 GiB" in said, said
    (tmp_path / "blob").rename(local / "model.safetensors")
    call(free_disk.main, *flags)
    assert not (local / "model.safetensors").exists()
    call(free_disk.main, *flags)


def test_a_local_model_goes_only_when_that_is_said(demo_model: Path, tmp_path: Path) -> None:
    local, link, outline = tmp_path / "local", tmp_path / "checkpoint", tmp_path / "outline"
    shutil.copytree(demo_model, local)
    link.symlink_to(local)
    flags = ["--checkpoint", link, "--outline", outline]
    call(free_disk.main, *flags)
    assert (local / "model.safetensors").exists() and not outline.exists()
    with pytest.raises(InputError, match="expected a link to .*another, found one to another model"):
        call(free_disk.main, *flags, "--local", tmp_path / "another")  # the link was exchanged
    assert (local / "model.safetensors").exists() and not outline.exists()
    (local / METADATA_NAME).write_text("{}")
    with pytest.raises(InputError, match=METADATA_NAME):
        call(free_disk.main, *flags, "--local", local)
    assert (local / "model.safetensors").exists() and not outline.exists()
    (local / METADATA_NAME).unlink()
    call(free_disk.main, *flags, "--local", local)
    assert not (local / "model.safetensors").exists() and (local / "config.json").exists()
    digest = weights_digest(read_checkpoint(outline))
    assert digest == weights_digest(read_checkpoint(demo_model))
    call(free_disk.main, *flags, "--local", local)  # once more: nothing is left to go
    assert weights_digest(read_checkpoint(outline)) == digest
