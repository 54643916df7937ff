"""The record of a split GGUF file: what keeps the parts of an earlier run, and what is refused."""

from collections.abc import Callable
from pathlib import Path

from calls import as_command
from files.input_errors import InputError, sha256_file
from files.seals import MARKER
from files.written_records import write_json
from ggufs.gguf_header import GgufHeader, header_bytes, key_value, read_header
from makers.pruned_models import NAME
from release.gguf_parts import SPLIT_RECORD, check_parts, kept_parts, split_gguf

import pytest

MADE_FROM = {"sha256": "a" * 64, "limit_bytes": 9, "llama_cpp": "x"}


def test_parts_are_kept_while_they_are_whole_and_made_from_the_same(tmp_path):
    part = tmp_path / "a-00001-of-00001.gguf"
    part.write_bytes(b"part")
    assert kept_parts(tmp_path, MADE_FROM) == []
    write_json(tmp_path / SPLIT_RECORD, {"version": 1, **MADE_FROM, "parts": {part.name: sha256_file(part)}})
    assert kept_parts(tmp_path, MADE_FROM) == [part]
    assert kept_parts(tmp_path, MADE_FROM | {"limit_bytes": 8}) == []
    part.write_bytes(b"other")
    assert kept_parts(tmp_path, MADE_FROM) == []


@pytest.fixture(scope="module")
def split(pruned_demo, tools, tmp_path_factory) -> tuple[Path, list[Path]]:
    """A file of the demo, and its parts as build_release.py splits it in a build folder."""
    folder, whole = tmp_path_factory.mktemp("split"), pruned_demo / f"{NAME}-Q4_K_M.gguf"
    (folder / MARKER).touch()
    with as_command("build_release"):
        return whole, split_gguf(tools, whole, sha256_file(whole), 3_000_000, folder / "parts")


def with_pairs(header: GgufHeader, pairs: list[bytes]) -> bytes:
    """Return a part's bytes with other key-values, as someone writes them who knows the format."""
    plans = [(tensor.name, tensor.dims, tensor.kind) for tensor in header.tensors]
    return header_bytes(header, pairs, plans) + header.path.read_bytes()[header.tensors[0].offset :]


def with_one_more(header: GgufHeader) -> bytes:
    return with_pairs(header, [pair.raw for pair in header.key_values] + [key_value("general.description", "99%")])


def without_one(header: GgufHeader) -> bytes:
    return with_pairs(header, [pair.raw for pair in header.key_values if pair.key != "general.name"])


def behind_its_header(header: GgufHeader) -> bytes:
    """Letters where the header is filled up to a multiple of 32 bytes."""
    data, begin = bytearray(header.path.read_bytes()), header.tensors[0].offset
    data[begin - 1] = 57
    return bytes(data)


@pytest.mark.parametrize(
    "number, damage, words",
    [
        (0, with_one_more, f"as key-values those of {NAME}-Q4_K_M.gguf, found others"),
        (0, without_one, f"as key-values those of {NAME}-Q4_K_M.gguf, found others"),
        (1, with_one_more, "as key-values those of its place in the split alone, found others"),
        (1, behind_its_header, "header and tensors alone, with zeros between, found other bytes"),
    ],
)
def test_a_part_holds_nothing_but_its_share_of_the_whole_file(
    split, tmp_path, number: int, damage: Callable[[GgufHeader], bytes], words: str
):
    whole, parts = split
    check_parts(whole, parts, 3_000_000)
    copies = [tmp_path / part.name for part in parts]
    for part, copy in zip(parts, copies):
        copy.hardlink_to(part)
    copies[number].unlink()
    copies[number].write_bytes(damage(read_header(parts[number])))
    with pytest.raises(InputError, match=words):
        check_parts(whole, copies, 3_000_000)


def test_parts_in_a_build_folder_are_kept_only_if_they_are_sealed(split, tools, capsys):
    whole, parts = split
    folder = parts[0].parent
    made_from = {"sha256": sha256_file(whole), "limit_bytes": 3_000_000, "llama_cpp": tools.version()}
    with as_command("build_release"):
        assert kept_parts(folder, made_from) == parts
    record = folder / SPLIT_RECORD
    held = record.read_text()
    record.write_text(f"{held} ")
    with as_command("build_release"):
        assert kept_parts(folder, made_from) == [] and "it is made again" in capsys.readouterr().out
    record.write_text(held)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"version": 2}, "the record of a split GGUF file, version 1, found version 2"),
        ({"sha256": "a"}, "'sha256' is 64 hex digits, found 'a'"),
        ({"parts": ["a"]}, "'parts' is a valid dictionary"),
        ({"parts": {"a": 5}}, "'parts.a' is a valid string, found 5"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, change, words):
    write_json(tmp_path / SPLIT_RECORD, {"version": 1, **MADE_FROM, "parts": {}} | change)
    with pytest.raises(InputError) as caught:
        kept_parts(tmp_path, MADE_FROM)
    assert words in str(caught.value) and str(caught.value).endswith(f"; remove {tmp_path}")
