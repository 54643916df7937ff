"""Edits: small JSON objects, so that a failing one can be kept in a file and done again, and those of any bytes.

Every edit is an exact place and an exact value, never a seed.
"""

import random
from typing import Any

Edit = dict[str, Any]
MARKUP = "<script>zq(1)</script>"  # looked for in what a command writes
ESCAPE = "\x1b[2Jzq"
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
