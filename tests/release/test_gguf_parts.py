"""The record of a split GGUF file: what keeps the parts of an earlier run, and what is refused."""

from files.json_records import write_json
from files.safe_files import InputError, sha256_file
from release.gguf_parts import SPLIT_RECORD, kept_parts

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
