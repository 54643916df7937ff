"""JSON records: what is refused, when they are read and before they are written, and how the one line reads."""

import io
import json
import os
from pathlib import Path
from typing import ClassVar

from chats.questions import read_ids
from files import json_records
from files.input_errors import RECORD_MIB, InputError, PrintableLines, read_whole, read_words
from files.json_records import Record, read_record
from files.sealed_lines import seal_line
from files.written_records import write_record
from loops.loop_answers import read_loop_answers
from scoring.answer_record import read_answers
from scoring.lm_eval_samples import read_frozen

import pytest


class Measurement(Record):
    """A record as the owners of files declare them."""

    what: ClassVar[str] = "a measurement"
    current: ClassVar[int] = 2
    tokens: int
    shares: dict[str, list[float]]


CONTENT = {"tokens": 3, "shares": {"all": [0.5, 1]}, "note": "beyond the named fields"}
DAMAGE = {
    "no version": ("version", None, "a measurement, version 2, found no version; make it again"),
    "older": ("version", 1, "a measurement, version 2, found version 1; make it again"),
    "newer": ("version", 3, "a measurement, version 2, found version 3; make it again"),
    "version as text": ("version", "2", "a measurement, version 2, found version '2'; make it again"),
    "no field": ("tokens", None, "a measurement with the field 'tokens', found none; make it again"),
    "text": ("tokens", "3", "a measurement whose 'tokens' is a valid integer, found '3'; make it again"),
    "bool": ("tokens", True, "a measurement whose 'tokens' is a valid integer, found True; make it again"),
    "list": ("shares", [1], "a measurement whose 'shares' is a valid dictionary, found [1]; make it again"),
    "inner": (
        "shares",
        {"all": [0.5, "x"]},
        "a measurement whose 'shares.all.1' is a valid number, found 'x'; make it again",
    ),
}


def damaged(field: str, value: object) -> dict:
    """A complete record with another value of one field; None takes the field away."""
    content = {"version": 2, **CONTENT, field: value}
    return {key: entry for key, entry in content.items() if entry is not None}


def test_a_record_is_read_as_it_was_written_with_its_version_first(tmp_path):
    write_record(tmp_path / "record.json", CONTENT, Measurement)
    assert read_record(tmp_path / "record.json", Measurement) == {"version": 2, **CONTENT}
    assert list(json.loads((tmp_path / "record.json").read_text())) == ["version", *CONTENT]


@pytest.mark.parametrize("case", DAMAGE)
def test_another_record_is_refused_in_one_line(tmp_path, case):
    field, value, line = DAMAGE[case]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(damaged(field, value)))
    with pytest.raises(InputError) as caught:
        read_record(path, Measurement)
    assert str(caught.value) == f"{path}: expected {line}"


@pytest.mark.parametrize("case", [case for case in DAMAGE if case != "no version"])  # writing adds the version
def test_what_would_be_refused_is_not_written(tmp_path, case):
    field, value, line = DAMAGE[case]
    path = tmp_path / "record.json"
    with pytest.raises(InputError) as caught:
        write_record(path, damaged(field, value), Measurement)
    assert str(caught.value) == f"{path}: expected {line}" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        '"\\u001b[2J"',
        '"\\ud800"',
        "NaN",
        "-Infinity",
        "1e999",
        "9" * 60,
        '"\\u0000"',
        '"a\\\\\\u0007"',
        '"\\b"',
        '"a\\nb"',
        '"\\t"',
        '"\\u2028"',
    ],
)
def test_what_no_record_of_ours_holds_is_refused(tmp_path, text):
    path = tmp_path / "record.json"
    path.write_text(f'{{"version": 2, "tokens": 3, "shares": {{}}, "note": {text}}}')
    with pytest.raises(InputError) as caught:
        read_record(path, Measurement)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["C:\\bin\\u001b", "C:\\new\\table", "😀", "\\\\f"])
def test_ordinary_texts_are_kept(tmp_path, text):
    write_record(tmp_path / "record.json", {**CONTENT, "note": text}, Measurement)
    assert read_record(tmp_path / "record.json", Measurement)["note"] == text


def test_a_refusal_is_one_printable_line():
    line = str(InputError("a\x1b[2J\nb", "x", "y\r"))
    assert line == "a\\x1b[2J\\nb: expected x, found y\\r"


def test_what_a_command_prints_steers_no_terminal():
    stream = io.StringIO()
    lines = PrintableLines(stream)
    print("a\x1b[2J\tb\u202e", "é±\n", file=lines)
    lines.flush()
    assert stream.getvalue() == "a\\x1b[2J\tb\\u202e é±\n\n"


def test_a_file_that_is_read_as_a_whole_has_a_bound(tmp_path):
    """A sparse one needs no disk."""
    with open(tmp_path / "record.json", "wb") as file:
        file.truncate((RECORD_MIB << 20) + 1)
    with pytest.raises(InputError, match=f"record.json: expected at most {RECORD_MIB} MiB to be read as a whole"):
        read_record(tmp_path / "record.json", Measurement)


@pytest.mark.parametrize("read", [read_whole, read_words])
def test_what_is_read_as_a_whole_is_a_file_within_its_bound(tmp_path, read):
    with open(tmp_path / "text", "wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.raises(InputError, match="text: expected at most 1 MiB to be read as a whole, found 1 MiB"):
        read(tmp_path / "text", 1)
    with pytest.raises(InputError, match="expected a file, found something else"):
        read(tmp_path)
    os.truncate(tmp_path / "text", 1 << 20)
    assert len(read(tmp_path / "text", 1)) == 1 << 20


@pytest.mark.parametrize(
    "read",
    [
        read_ids,
        read_answers,
        lambda path: read_frozen(path.parent),
        lambda path: read_loop_answers(path, []),
        lambda path: seal_line(path, b"{}\n", "of a test"),
    ],
)
def test_a_file_of_short_lines_takes_no_memory(tmp_path, read):
    """A GiB of line ends would be a list of 40 GiB."""
    path = tmp_path / "frozen.jsonl"
    path.write_bytes(b"\n" * ((1 << 20) + 1))
    if read is read_ids:
        path = path.rename(tmp_path / "ids.txt")
    with pytest.raises(InputError, match=f"{path.name}: expected at most {1 << 20} lines, found more"):
        read(path)


def test_a_record_of_more_values_than_a_memory_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_records, "MAX_JSON_VALUES", 100)
    (tmp_path / "record.json").write_text(json.dumps({"version": 2, "tokens": [[]] * 101}))
    with pytest.raises(InputError, match="expected valid JSON, found expected at most 100 values, found more"):
        read_record(tmp_path / "record.json", Measurement)


def test_long_values_are_cut(tmp_path):
    path = tmp_path / "record.json"
    for field in ("version", "tokens"):
        path.write_text(json.dumps(damaged(field, "x" * 10_000)))
        with pytest.raises(InputError) as caught:
            read_record(path, Measurement)
        assert len(str(caught.value)) < len(str(path)) + 200


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "a JSON file, found nothing"),
        ("{", "valid JSON"),
        ("[]", "a JSON object, found list"),
        ("", "valid JSON"),
        ('{"a": 1, "b": {"c": 2, "c": 1}}', "the key 'c' twice"),
    ],
)
def test_what_is_no_json_object_is_refused(tmp_path, text, words):
    path: Path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_record(path, Measurement)
