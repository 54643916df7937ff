"""Edits of safetensors, GGUF, npz and parquet files, which know where an item of each begins."""

import io
import random
import struct

from mutations.edits import ODD_TEXTS, Edit, apply_bytes, choose_bytes, splice
from mutations.text_edits import apply_json, choose_json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


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
