"""Edits of texts: JSON, JSON lines, CSV, templates and cards."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from mutations.edits import ESCAPE, MARKUP, ODD_TEXTS, Edit, apply_bytes, choose_bytes, splice

ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, float("nan"), float("inf"), 10**60, 2**63, -(2**40)),
    *("", "zq", "1", "x" * 5000, ESCAPE, MARKUP, "\ud800", "a\nb", "a|b", "../../zq", "/tmp/zq", "é\u202e", "nan"),
    *([], {}, [[]], ["zq"], {"zq": 1}, [None], [0.5]),
]
JINJA = [
    *("{{", "{%", "{% for i in range(10**9) %}x{% endfor %}", "{{ 'x' * 10**10 }}", "{% endif %}", "{{ zq.zq.zq }}"),
    *("{{ ''.__class__.__mro__ }}", "{% set ns = zq %}", "{{ raise_exception('zq') }}", "{{ 1 / 0 }}", ESCAPE),
    *("{% include 'zq' %}", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ messages[99] }}"),
]
GO = [
    "{{",
    "}}",
    "{{ end }}",
    "{{ range }}",
    "{{ .Zq }}",
    "{{ if }}",
    "{{- range $i, $_ := .Messages }}",
    ESCAPE,
    MARKUP,
]
YAML = [
    "---\n",
    "zq: [\n",
    "zq: *zq\n",
    "a: &a [*a]\n",
    "zq: !!python/object/apply:os.getcwd []\n",
    "\tzq: 1\n",
    "zq\n",
]


def encoded(value: object) -> bytes:
    """Return JSON as another program could write it; half a surrogate pair stays an escape."""
    return json.dumps(value).encode()


def places(value: object, at: tuple = ()) -> Iterator[tuple]:
    """Yield the path of every value in a JSON value but the outermost."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*at, key)
        yield from places(inner, (*at, key))


def value_at(value: Any, at: list) -> Any:
    for key in at:
        value = value[key]
    return value


def nearby(value: Any, draw: random.Random) -> Any:
    """Return another value of the same type: the damage that no type check finds."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.choice([1, -1, 7, value, -2 * value])
    if isinstance(value, float):
        return draw.choice([value * 1.5, -value, value + 1e-3, 1 - value, 0.0])
    if isinstance(value, str) and value:
        i = draw.randrange(len(value))
        return draw.choice([value[:i] + draw.choice("0az.</") + value[i + 1 :], value[:i], value + "zq", value.upper()])
    if isinstance(value, list) and value:
        return draw.choice([value[:-1], [*value, value[-1]], value[::-1]])
    return value


def choose_json(data: bytes, draw: random.Random) -> Edit:
    """Draw another value at some place, a missing or a new one, or damage of the text."""
    value = json.loads(data)
    found = list(places(value))
    if not found or draw.random() < 0.08:
        return choose_json_text(data, draw)
    # Of an array of 10,000 numbers one place is as good as another: first draw how deep, then where.
    depth = draw.choice(sorted({len(at) for at in found}))
    at = draw.choice([at for at in found if len(at) == depth])
    kind = draw.random()
    if kind < 0.12:
        return {"op": "delete", "at": list(at)}
    if kind < 0.5:
        return {"op": "set", "at": list(at), "value": draw.choice(ODD_VALUES)}
    return {"op": "set", "at": list(at), "value": nearby(value_at(value, list(at)), draw)}


def choose_json_text(data: bytes, draw: random.Random) -> Edit:
    """Draw damage that only the text of a JSON file can have."""
    whole = [b"[" * 100_000, b'{"a":' * 5000 + b"1", b"NaN", b"9" * 5000, b"{}", b"[]", b'"zq"', b"null", b"\xff\xfe{}"]
    return draw.choice(
        [splice(0, len(data), draw.choice(whole)), splice(0, 0, b"\xef\xbb\xbf"), choose_bytes(data, draw)]
    )


def apply_json(data: bytes, edit: Edit) -> bytes:
    """Do an edit of a JSON file."""
    if edit["op"] == "splice":
        return apply_bytes(data, edit)
    value = json.loads(data)
    inner, key = value_at(value, edit["at"][:-1]), edit["at"][-1]
    if edit["op"] == "delete":
        del inner[key]
    else:
        inner[key] = edit["value"]
    return encoded(value)


def choose_jsonl(data: bytes, draw: random.Random) -> Edit:
    """Draw an edit of one line, a line too many or too few, or lines in another order."""
    lines = data.splitlines(keepends=True)
    kind, number = draw.random(), draw.randrange(len(lines))
    if kind < 0.1:
        return choose_bytes(data, draw)
    if kind < 0.25:
        return {"op": draw.choice(["drop line", "double line", "turn lines", "blank line"]), "line": number}
    return {"op": "line", "line": number, "edit": choose_json(lines[number], draw)}


def apply_jsonl(data: bytes, edit: Edit) -> bytes:
    """Do an edit of a file of JSON lines."""
    if edit["op"] == "splice":
        return apply_bytes(data, edit)
    lines = data.splitlines(keepends=True)
    line = lines[edit["line"]]
    new = {"drop line": [], "double line": [line, line], "blank line": [b"\n", line], "turn lines": [line]}
    lines[edit["line"] : edit["line"] + 1] = (
        [apply_json(line, edit["edit"]).rstrip(b"\n") + b"\n"] if edit["op"] == "line" else new[edit["op"]]
    )
    return b"".join(lines[::-1] if edit["op"] == "turn lines" else lines)


def choose_csv(data: bytes, draw: random.Random) -> Edit:
    """Draw another cell, or damage of the text. Cells end at commas: quoted ones are cut, which is damage, too."""
    if draw.random() < 0.2:
        return choose_text(data, draw)
    ends = [i for i, byte in enumerate(data) if byte in b",\n"]
    number = draw.randrange(1, len(ends))
    new = draw.choice([*ODD_TEXTS, "zq", "5", ","])
    return splice(ends[number - 1] + 1, ends[number], new.encode("utf-8", "surrogatepass"))


def choose_text(data: bytes, draw: random.Random) -> Edit:
    """Draw a changed, doubled or missing line, or a foreign word."""
    starts = [0, *(i + 1 for i, byte in enumerate(data) if byte == 10)]
    start = draw.choice(starts)
    end = next((i for i in starts if i > start), len(data))
    odd = draw.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
    place = draw.randrange(start, end + 1)
    return draw.choice(
        [
            splice(start, end, b""),
            splice(start, start, data[start:end]),
            splice(place, place, odd),
            choose_bytes(data, draw),
        ]
    )


def chooser_of(words: list[str], marks: bytes) -> Callable[[bytes, random.Random], Edit]:
    """Return a chooser of texts with tags: a tag goes, comes twice, or a foreign one of `words` stands before it."""

    def choose(data: bytes, draw: random.Random) -> Edit:
        found = [i for i in range(len(data)) if data.startswith(marks, i)] or [0]
        start = draw.choice(found)
        end = next((i for i in found if i > start), len(data))
        word = draw.choice(words).encode()
        edits = [splice(start, start, word), splice(0, 0, word), splice(start, end, b""), splice(start, start + 2, b"")]
        return draw.choice([*edits, splice(start, start, data[start:end]), choose_text(data, draw)])

    return choose


def choose_card(data: bytes, draw: random.Random) -> Edit:
    """Draw damage of the front matter, or a changed digit of the text."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if digits and draw.random() < 0.4:
        place = draw.choice(digits)
        return splice(place, place + 1, str((data[place] - 47) % 10).encode())
    return chooser_of(YAML, b"\n")(data[: data.find(b"\n---", 4) + 4] if draw.random() < 0.6 else data, draw)
