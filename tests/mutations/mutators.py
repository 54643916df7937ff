"""Structure-aware mutations of the formats that the commands read.

A mutation is an edit: a small JSON object, so that a failing one can be kept in a file and done again. `choose` draws
one that fits a file's bytes, `apply` does it. Every edit is an exact place and an exact value, never a seed.
"""

import io
import json
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Edit = dict[str, Any]
MARKUP = "<script>zq(1)</script>"  # looked for in what a command writes
ESCAPE = "\x1b[2Jzq"
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, float("nan"), float("inf"), 10**60, 2**63, -(2**40)),
    *("", "zq", "1", "x" * 5000, ESCAPE, MARKUP, "\ud800", "a\nb", "a|b", "../../zq", "/tmp/zq", "é\u202e", "nan"),
    *([], {}, [[]], ["zq"], {"zq": 1}, [None], [0.5]),
]
ODD_TEXTS = [
    "",
    ESCAPE,
    MARKUP,
    "\x00",
    "x" * 5000,
    "\n",
    '"',
    "zq,zq",
    "\ud800",
    "-1",
    "1e999",
    "../../zq",
    "\u202ezq",
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


class Format(NamedTuple):
    """How one format is mutated."""

    choose: Callable[[bytes, random.Random], Edit]
    apply: Callable[[bytes, Edit], bytes]


def encoded(value: object) -> bytes:
    """Return JSON as another program could write it; half a surrogate pair stays an escape."""
    return json.dumps(value).encode()


# ---- bytes: what any file may suffer
def choose_bytes(data: bytes, draw: random.Random) -> Edit:
    """Draw a cut, changed, doubled or foreign stretch of bytes."""
    place = draw.randrange(len(data) + 1)
    size = draw.choice([1, 1, 4, 64])
    noise = bytes(draw.randrange(256) for _ in range(size))
    return draw.choice(
        [
            splice(place, len(data), b""),
            splice(0, len(data), draw.choice([b"", b"\x00", b"{}", b"[]", b"null", b"\xff\xfe"])),
            splice(place, min(place + size, len(data)), noise),
            splice(place, place, noise),
            splice(place, min(place + 64, len(data)), b""),
        ]
    )


def splice(start: int, end: int, new: bytes) -> Edit:
    """Return the edit that puts `new` in the place of some bytes."""
    return {"op": "splice", "from": start, "to": end, "with": new.hex()}


def apply_bytes(data: bytes, edit: Edit) -> bytes:
    """Do a splice."""
    return data[: edit["from"]] + bytes.fromhex(edit["with"]) + data[edit["to"] :]


# ---- JSON
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


# ---- JSON lines
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


# ---- CSV and other texts
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


# ---- binary files
def choose_safetensors(data: bytes, draw: random.Random) -> Edit:
    """Draw an edit of the header, its length, or bytes of the tensors."""
    size = struct.unpack("<Q", data[:8])[0]
    kind = draw.random()
    if kind < 0.15:
        return splice(0, 8, struct.pack("<Q", draw.choice([0, 1, size - 1, size + 8, len(data), 2**63, 2**64 - 1])))
    if kind < 0.3:
        place = 8 + size + 4 * draw.randrange(max(1, (len(data) - 8 - size) // 4))
        return splice(
            place, place + 8, draw.choice([b"\xff" * 8, struct.pack("<d", float("inf")), b"\x00\x00\x80\xbf" * 2])
        )
    if kind < 0.4:
        return choose_bytes(data, draw)
    return {"op": "header", "edit": choose_json(data[8 : 8 + size], draw)}


def apply_safetensors(data: bytes, edit: Edit) -> bytes:
    """Do an edit of a safetensors file; the length of the header follows the header."""
    if edit["op"] == "splice":
        return apply_bytes(data, edit)
    size = struct.unpack("<Q", data[:8])[0]
    header = apply_json(data[8 : 8 + size], edit["edit"])
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes of a value, by its type
GGUF_TEXT, GGUF_LIST = 8, 9
SHOWN_ITEMS = 3  # of a long list in a header: one item is as good as another


def gguf_places(data: bytes) -> tuple[list[tuple[int, int]], int]:
    """Return the start and the end of every item of a GGUF's header (lengths, texts, types, values), and its end."""
    found, at = [(0, 4), (4, 8), (8, 16), (16, 24)], 24
    tensors, pairs = struct.unpack("<QQ", data[8:24])

    def take(size: int, keep: bool = True) -> int:
        nonlocal at
        at += size
        if keep and size:
            found.append((at - size, at))
        return int.from_bytes(data[at - size : at], "little") if size <= 8 else 0

    def text(keep: bool = True) -> None:
        take(take(8, keep), keep)

    def value(kind: int, keep: bool = True) -> None:
        if kind == GGUF_TEXT:
            text(keep)
        elif kind == GGUF_LIST:
            inner, count = take(4), take(8)
            for number in range(count):
                value(inner, number < SHOWN_ITEMS)
        else:
            take(GGUF_SIZES[kind], keep)

    for _ in range(pairs):
        text()
        value(take(4))
    for _ in range(tensors):
        text()
        for _ in range(take(4)):
            take(8)
        take(4), take(8)
    return found, at


def choose_gguf(data: bytes, draw: random.Random) -> Edit:
    """Draw another value of one item of the header, or bytes of the tensors."""
    found, end = gguf_places(data)
    if draw.random() < 0.2:
        place = min(len(data), end + 4 * draw.randrange(max(1, (len(data) - end) // 4)))
        new = draw.choice([b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\x00\x00\x80\xbf", b"\xff\xff\x7f\x7f"])
        return draw.choice([splice(place, place + 4, new), choose_bytes(data, draw)])
    start, stop = draw.choice(found)
    size, old = stop - start, int.from_bytes(data[start:stop], "little")
    if size not in (1, 2, 4, 8):
        word = draw.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")[:size]
        return splice(start, stop, draw.choice([word.ljust(size, b"z"), b"\xff" * size, data[start:stop][::-1]]))
    new = draw.choice([0, 1, old + 1, old - 1, 2 * old, 1 << (8 * size - 1), (1 << 8 * size) - 1, draw.getrandbits(8)])
    return splice(start, stop, (new % (1 << 8 * size)).to_bytes(size, "little"))


def choose_npz(data: bytes, draw: random.Random) -> Edit:
    """Draw other values of one array, another shape or type, or bytes."""
    if draw.random() < 0.3:
        return choose_bytes(data, draw)
    name = draw.choice(list(np.load(io.BytesIO(data))))
    change = draw.choice(["one more", "nan", "negative", "text", "flat", "shorter", "gone"])
    return {"op": "array", "name": name, "change": change}


def apply_npz(data: bytes, edit: Edit) -> bytes:
    """Do an edit of an npz file."""
    if edit["op"] == "splice":
        return apply_bytes(data, edit)
    arrays = dict(np.load(io.BytesIO(data)))
    old = arrays[edit["name"]]
    new = {
        "one more": old + 1,
        "nan": old * np.float64("nan"),
        "negative": -old,
        "text": old.astype(str),
        "flat": old[None],
        "shorter": old[:-1],
    }
    if edit["change"] == "gone":
        del arrays[edit["name"]]
    else:
        arrays[edit["name"]] = new[edit["change"]]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def choose_parquet(data: bytes, draw: random.Random) -> Edit:
    """Draw another column or cell, or bytes."""
    if draw.random() < 0.3:
        return choose_bytes(data, draw)
    table = pq.read_table(io.BytesIO(data))
    edit = {"op": draw.choice(["cell", "column gone", "column of numbers", "column of nothing", "new name", "no rows"])}
    value = draw.choice([text for text in ODD_TEXTS if text != "\ud800"])
    return edit | {"column": draw.choice(table.column_names), "row": draw.randrange(table.num_rows), "value": value}


def apply_parquet(data: bytes, edit: Edit) -> bytes:
    """Do an edit of a parquet file."""
    if edit["op"] == "splice":
        return apply_bytes(data, edit)
    columns = pq.read_table(io.BytesIO(data)).to_pydict()
    name, rows = edit["column"], len(columns[edit["column"]])
    if edit["op"] == "cell":
        columns[name][edit["row"]] = edit["value"]
    elif edit["op"] == "column gone":
        del columns[name]
    elif edit["op"] == "new name":
        columns["zq"] = columns.pop(name)
    elif edit["op"] == "no rows":
        columns = {key: [] for key in columns}
    else:
        columns[name] = list(range(rows)) if edit["op"] == "column of numbers" else [None] * rows
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


FORMATS = {
    "json": Format(choose_json, apply_json),
    "jsonl": Format(choose_jsonl, apply_jsonl),
    "csv": Format(choose_csv, apply_bytes),
    "text": Format(choose_text, apply_bytes),
    "card": Format(choose_card, apply_bytes),
    "go": Format(chooser_of(GO, b"{{"), apply_bytes),
    "jinja": Format(chooser_of(JINJA, b"{%"), apply_bytes),
    "safetensors": Format(choose_safetensors, apply_safetensors),
    "gguf": Format(choose_gguf, apply_bytes),
    "npz": Format(choose_npz, apply_npz),
    "parquet": Format(choose_parquet, apply_parquet),
    "bytes": Format(choose_bytes, apply_bytes),
}
ENDINGS = {
    **{".json": "json", ".jsonl": "jsonl", ".csv": "csv", ".parquet": "parquet", ".safetensors": "safetensors"},
    **{".gguf": "gguf", ".npz": "npz", ".jinja": "jinja", ".template": "go", ".png": "bytes", ".txt": "text"},
    **{".mk": "text", ".yaml": "text", ".md": "card", ".log": "text", ".html": "text"},
}


def format_of(name: str) -> Format:
    """Return how a file of that name is mutated."""
    special = {"template": "go", "params": "json", "Modelfile": "text"}  # of Ollama
    file = name.rsplit("/", 1)[-1]
    return FORMATS[special.get(file) or ENDINGS["." + file.rsplit(".", 1)[-1]]]
