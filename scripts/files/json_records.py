"""JSON that is read strictly, and records: JSON files of ours with a version and named fields.

Every record is a pydantic model with one owner module, which names its fields. Bad input raises `InputError`.
"""

import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar

import files.command_start  # noqa: F401  (before any package of others)
from files.input_errors import RECORD_MIB, SHOWN_CHARACTERS, InputError, check_bounded, shown

from pydantic import BaseModel, ConfigDict, Field, ValidationError

# Line ends and control characters, also those that turn the direction of a line: they would stand in a card as a line
# of somebody's own. ESCAPED: as json.dumps writes them; a backslash of a text itself is doubled.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
ESCAPED = re.compile(rf"(?<!\\)(?:\\\\)*\\(?:u00[01]|[bfnrt])|{CONTROL.pattern}")
MAX_JSON_VALUES = 1 << 24  # 256 MiB of "[]," would be 89 million lists, which take 5 GiB
MAX_JSON_INTEGER = 1 << 64  # no count, size or offset of ours is larger; 60 digits would overflow a float later


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):  # NaN and Infinity are Python's own; 1e999 becomes infinite
        raise ValueError(f"expected a finite number, found {shown(text)}")
    return value


def _bounded(text: str) -> int:
    if len(text) > len(str(MAX_JSON_INTEGER)) or abs(value := int(text)) > MAX_JSON_INTEGER:
        raise ValueError(f"expected a whole number of at most 64 bits, found {shown(text)}")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice, _ = Counter(names).most_common(1)[0]
        raise ValueError(f"the key {twice[:SHOWN_CHARACTERS]!r} twice")
    return value


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise ValueError where Python would take more than JSON and a file can hold.

    That is: NaN and infinite numbers, whole numbers over 64 bits, half of a surrogate pair (no file can be written with
    one), a key twice, of which another reader may take the other value, and more values than a memory holds. Raises
    RecursionError on brackets nested thousands deep.
    """
    decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    if sum(map(decoded.count, ",[{")) > MAX_JSON_VALUES:
        raise ValueError(f"expected at most {MAX_JSON_VALUES} values, found more")
    numbers: dict[str, Any] = {"parse_constant": _finite, "parse_float": _finite, "parse_int": _bounded}
    value = json.loads(decoded, object_pairs_hook=_each_once, **numbers)
    if "\\ud" in decoded.lower():  # only an escape can bring half a pair in; most texts have none and are not walked
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path) -> dict:
    """Read a JSON object; raise InputError when the file is missing, is not JSON or is not an object."""
    if not path.is_file():
        raise InputError(path, "a JSON file", "nothing" if not path.exists() else "no file")
    check_bounded(path, RECORD_MIB)
    try:
        value = parse_json(path.read_bytes())
    except (ValueError, RecursionError) as error:  # RecursionError: brackets nested thousands deep
        raise InputError(path, "valid JSON", str(error)) from error
    if not isinstance(value, dict):
        raise InputError(path, "a JSON object", type(value).__name__)
    return value


def sha256_json(value: object) -> str:
    """Return the hex sha256 of a value's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


SHA256_PATTERN = "^[0-9a-f]{64}$"
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]  # of a file's bytes, in hex
ModelName = Annotated[str, Field(pattern=r"^[^<\]|\n]+$")]  # it stands in tables and sentences of a page
FILE_NAME_PATTERN = r"^[^<|/]+$"
PATTERN_WORDS = {SHA256_PATTERN: "is 64 hex digits", FILE_NAME_PATTERN: "has no <, | and /"}
FileName = Annotated[str, Field(pattern=FILE_NAME_PATTERN)]  # of a file or a folder, without its place
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Fields(BaseModel):
    """A part of a record: named fields of a JSON object, with their types. Other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)  # strict: "5" and true are no numbers


def require(holds: bool, rule: str) -> None:
    """Raise ValueError unless a rule between the fields of a record holds: for its validator.

    rule: as in "expected a record with RULE".
    """
    if not holds:
        raise ValueError(rule)


class Record(Fields):
    """A JSON file that one step writes and others read. A subclass names its fields and belongs to one module.

    `what` names the file in messages. `current` is the version of its form. It goes up when a field changes its name or
    meaning, so that an older file is refused and never misread. `any_letters`: it holds a model's own words, in which a
    control character may be; none of them is printed. `again`: what makes it again, in messages.
    """

    what: ClassVar[str]
    again: ClassVar[str] = "make it again"
    current: ClassVar[int] = 1
    any_letters: ClassVar[bool] = False
    version: int


class FileRecord(Record):
    """The record FILE.json beside a large file: its size and digest, by which reading the file again is spared."""

    bytes: Count
    sha256: Sha256


def is_file_record(content: dict) -> bool:
    """Tell whether an object has the fields of a FileRecord, of any owner and version."""
    try:
        FileRecord.model_validate(content)
    except ValidationError:
        return False
    return True


def control_in(value: object, field: str = "") -> tuple[str, str] | None:
    """Return the field and the text of the first text with a line end or a control character, None without any."""
    if isinstance(value, str):
        return (field, value) if CONTROL.search(value) else None
    if isinstance(value, dict):
        for key, part in value.items():
            if found := control_in(key, field) or control_in(part, f"{field}.{key}".lstrip(".")):
                return found
    for number, part in enumerate(value if isinstance(value, list) else []):
        if found := control_in(part, f"{field}.{number}".lstrip(".")):
            return found
    return None


def check_record(path: object, content: dict, kind: type[Record], again: str = "") -> dict:
    """Return a record's content unchanged; raise InputError when its version or a field is not as `kind` defines it.

    again: what to do about it (default: what `kind` says).
    """
    again = again or kind.again
    # The version comes first: of an older file that is the reason, and a missing field only follows from it.
    if content.get("version") != kind.current:
        found = f"version {content['version']!r}"[:SHOWN_CHARACTERS] if "version" in content else "no version"
        raise InputError(path, f"{kind.what}, version {kind.current}", found, again)
    # Some of what a record holds is printed: an escape sequence in a name would reach the terminal, a line end a card.
    if not kind.any_letters and ESCAPED.search(json.dumps(content, ensure_ascii=False)):  # most have none: no walk
        if control := control_in(content):
            where = f"{shown(control[1])} in {shown(control[0])}"
            raise InputError(path, f"{kind.what} without line ends and control characters", where, again)
    check_fields(path, content, kind, kind.what, again)
    return content


def check_fields(path: object, content: dict, kind: type[Fields], what: str, again: str = "make it again") -> None:
    """Raise InputError when a field is not as `kind` defines it; what: the file, in the message."""
    try:
        kind.model_validate(content)
    except ValidationError as error:
        raise _refused_field(path, what, again, error) from error


def _refused_field(path: object, what: str, again: str, error: ValidationError) -> InputError:
    first = error.errors(include_url=False)[0]  # one line, so the first of them
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return InputError(path, f"{what} with the field {field!r}", "none", again)
    found = shown(first["input"])
    if first["type"] == "string_pattern_mismatch":  # the words of pydantic show the expression
        said = PATTERN_WORDS.get(first["ctx"]["pattern"], "has no <, ], | and line end")
        return InputError(path, f"{what} whose {field!r} {said}", found, again)
    if first["type"] == "value_error":  # of `require`
        place = f"{what} whose {field!r} has" if field else f"{what} with"
        return InputError(path, f"{place} {first['ctx']['error']}", "others", again)
    words = first["msg"]  # of pydantic, mostly "Input should be a valid integer" and the like
    words = words.partition(" or instance of ")[0]  # of a class of ours, which says nothing to a reader
    rule = words.removeprefix("Input should be ") if words.startswith("Input should be ") else f"valid ({words})"
    return InputError(path, f"{what} whose {field!r} is {rule}", found, again)


def read_record(path: Path, kind: type[Record], again: str = "") -> dict:
    """Read a record; raise InputError when it is missing or is not one of that kind; again: as in `check_record`."""
    return check_record(path, read_json(path), kind, again)
