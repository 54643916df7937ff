"""The texts that a release would publish: text files, headers of GGUF and safetensors files, texts in pictures."""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from files.input_errors import RECORD_MIB, InputError, read_whole
from ggufs.gguf_header import ARRAY, array_values, read_header

BASE_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")
PNG, ZLIB_MARK = b"\x89PNG\r\n\x1a\n", 0x78  # first bytes of a PNG file, first byte of a zlib stream
MOST_INFLATED_BYTES = 1 << 20  # a few bytes can inflate to gigabytes


@dataclass(frozen=True)
class Published:
    """A text that will be public: where it stands, the text, whether it is the base model's own.

    The vocabulary and the chat template of a base model may name any path and host (gpt-oss's names /mnt/data). They
    are public already.
    """

    place: str
    text: str
    of_base: bool = False


def inflated(data: bytes) -> str:
    """Return the start of a zlib stream as text, at most MOST_INFLATED_BYTES of it; "" for other data."""
    try:
        return zlib.decompressobj().decompress(data, MOST_INFLATED_BYTES).decode("utf-8", "replace")
    except zlib.error:
        return ""


def picture_texts(data: bytes) -> list[str]:
    """Return the compressed texts of a PNG file, from its chunks zTXt, iTXt and iCCP.

    Format: https://www.w3.org/TR/png-3/#11textinfo. A text that is not compressed can be read from the file's bytes.
    """
    found: list[str] = []
    at = len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            # Where the stream begins depends on the chunk and its keyword: every place that can be one is tried.
            starts = [place for place, byte in enumerate(body) if byte == ZLIB_MARK]
            found += filter(None, (inflated(body[place:]) for place in starts))
        at += length + 12  # length, kind and checksum, 4 bytes each
    return found


def json_texts(value: object) -> Iterator[str]:
    """Yield every key and text of a JSON value, without the escapes that a file has."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in [*value.keys(), *value.values()]:
            yield from json_texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from json_texts(part)


def file_texts(path: Path) -> list[str]:
    """Return the texts of a file: its bytes as text, and what an escape or a compression hides from that."""
    data = read_whole(path)
    texts = [data.decode("utf-8", "replace")]
    if data.startswith(PNG):
        return texts + picture_texts(data)
    if "\\" in texts[0]:  # an escape such as \u0041 or \n hides a letter or the end of a word
        try:
            texts += json_texts(json.loads(data))
        except (ValueError, RecursionError):
            pass  # not JSON, so its bytes are its text
    return texts


def texts_of(path: Path, name: str) -> Iterator[Published]:
    """Yield the texts of one file; raise InputError when a header cannot be read."""
    if path.suffix == ".gguf":
        for pair in read_header(path).key_values:
            values = array_values(pair) or [] if pair.kind == ARRAY else [pair.value]
            strings = [value for value in values if isinstance(value, str)]
            if strings:
                yield Published(f"{name}, {pair.key}", "\n".join(strings), pair.key.startswith("tokenizer."))
    elif path.suffix == ".safetensors":
        with open(path, "rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            if length > min(size - 8, RECORD_MIB << 20):
                raise InputError(path, "a whole safetensors file", f"a header of {length} bytes in one of {size}")
            yield Published(f"{name}, its header", file.read(length).decode("utf-8", "replace"))
    else:
        yield Published(name, "\n".join(file_texts(path)), Path(name).name in BASE_FILES)
