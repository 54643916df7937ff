"""JSON that is written whole or not at all: objects, records, lines; and the record beside a large file.

Apart from their reading (json_records.py), so that a room that only reads does not bring in what writes files.
"""

import json
from collections.abc import Callable
from pathlib import Path

from files.input_errors import InputError
from files.json_records import Record, check_record, read_json
from files.safe_files import write_whole


def write_json(path: Path, value: dict) -> None:
    """Write a JSON object, indented, keys in the given order, atomically."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def write_record(path: Path, content: dict, kind: type[Record]) -> None:
    """Write a record, its version first; raise InputError rather than write what `read_record` would refuse."""
    write_json(path, check_record(path, {"version": kind.current, **content}, kind))


def as_lines(rows: list[dict]) -> bytes:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write rows as JSON lines, whole or not at all."""
    write_whole(path, as_lines(rows))


def check_recorded(path: Path, what: str, belongs: Callable[[dict], bool]) -> None:
    """Raise InputError unless `path` is absent, or a file of ours: one whose record FILE.json `belongs` accepts.

    `what` names such a file in the message.
    """
    record = Path(f"{path}.json")
    if path.exists() and not (path.is_file() and record.is_file() and belongs(read_json(record))):
        raise InputError(
            path,
            f"nothing, or {what} with its record {record.name}",
            "another file",
            "move it away or give another --output",
        )
