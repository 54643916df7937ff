"""What a release would publish in words: text files, headers of GGUF and safetensors files, pictures; and what must not be in it.

Not to be published: tokens, paths and the name of this machine, hosts of a private network, and the text of the
questions (GPQA asks for that). Question texts are compared by runs of words, case, digits and signs ignored: runs of
NGRAM_WORDS, of a shorter text the whole of it, down to LEAST_WORDS. Findings name the place and the question's id, not its text.
"""

import ipaddress
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from chats.questions import read_rows
from files.safe_files import InputError
from ggufs.gguf_header import ARRAY, array_values, read_header

NGRAM_WORDS, LEAST_WORDS = 8, 6
BASE_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "chat_template.jinja")
# Tokens of the Hub, GitHub, GitLab and the services that name theirs sk-; keys of AWS; private keys.
TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[opsu]_[A-Za-z0-9]{30,}|\b(?:glpat-[\w-]{20,}|sk-[\w-]{32,}|AKIA[A-Z0-9]{16}\b)|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
)
PLACE = re.compile(
    r"(?<![\w.~:/-])/(?:home|root|tmp|var|mnt|media|Users|srv|scratch|workspace|work)/[\w.+-]+|\b[A-Z]:\\Users\\\w+"
)
URL = re.compile(r"\b(?:https?|ssh|git|ftp|file)://[^\s\"'<>()\[\]{}|\\`]+")
BARE_HOST = re.compile(
    r"(?<![\w./@-])(?:(?:10\.\d{1,3}|169\.254|172\.(?:1[6-9]|2\d|3[01])|192\.168)(?:\.\d{1,3}){2}|"
    r"(?:[a-z0-9-]+\.)+(?:internal|lan|corp|intranet|localdomain))(?![\w-]|\.\w)(?::\d+)?"
)
PRIVATE_ENDINGS = (".local", ".internal", ".lan", ".corp", ".intra", ".intranet", ".home", ".localdomain")
PNG, ZLIB_MARK, MOST_INFLATED_BYTES = b"\x89PNG\r\n\x1a\n", 0x78, 1 << 20
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True)
class Published:
    """A text that will be public: where it stands, the text, whether it is the base model's own.

    A vocabulary or a chat template of a base may hold any path and host (gpt-oss's names /mnt/data) and is public already.
    """

    place: str
    text: str
    of_base: bool = False


def inflated(data: bytes) -> str:
    """Return the start of a zlib stream as text, "" for what is none; at most MOST_INFLATED_BYTES, damaged ends aside."""
    try:
        return zlib.decompressobj().decompress(data, MOST_INFLATED_BYTES).decode("utf-8", "replace")
    except zlib.error:
        return ""


def picture_texts(data: bytes) -> list[str]:
    """Return the compressed texts of a PNG file (its chunks zTXt, iTXt and iCCP); those that are not compressed can be read as they are."""
    found, at = [], len(PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            found += [
                text for place in range(len(body)) if body[place] == ZLIB_MARK and (text := inflated(body[place:]))
            ]
        at += length + 12
    return found


def json_texts(value: object) -> Iterator[str]:
    """Yield every key and text of JSON, without the escapes that it is written with."""
    if isinstance(value, str):
        yield value
    for part in (
        [*value.keys(), *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from json_texts(part)


def file_texts(path: Path) -> list[str]:
    """Return what a file says: its bytes as text, of JSON its texts without escapes, too, of a picture what is compressed in it."""
    data = path.read_bytes()
    texts = [data.decode("utf-8", "replace")]
    if data.startswith(PNG):
        return texts + picture_texts(data)
    if "\\" in texts[0]:
        try:
            texts += json_texts(json.loads(data))
        except (ValueError, RecursionError):
            pass  # no JSON: what it says is what stands there
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
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size - 8:
                raise InputError(
                    path, "a whole safetensors file", f"a header of {length} bytes in one of {path.stat().st_size}"
                )
            yield Published(f"{name}, its header", file.read(length).decode("utf-8", "replace"))
    else:
        yield Published(name, "\n".join(file_texts(path)), Path(name).name in BASE_FILES)


def is_private(url: str) -> bool:
    """Tell whether a URL names a host that is not public: of a private network, without a dot, with a port or a user."""
    try:
        parts = urlsplit(url)
        host, extra = parts.hostname or "", parts.port or parts.username
    except ValueError:
        return False
    if host in ("localhost", "127.0.0.1", "0.0.0.0", "::1"):  # no one's in particular
        return False
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(extra) or "." not in host or host.endswith(PRIVATE_ENDINGS)


def machine_names(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return what tells this machine (text: what it is), and what of that cannot be searched for, since it is a plain word."""
    places = {
        f"{place}/": what
        for place, what in (
            (Path.home(), "the home directory"),
            (Path.cwd(), "the working directory"),
            (folder.resolve().parent, "the folder of releases"),
        )
        if len(place.parts) > 1
    }
    names = {socket.gethostname(), socket.getfqdn()} - {"localhost", "localhost.localdomain"}
    known = {name: "the host's name" for name in names if len(name) > 3 and re.search(r"[\d.-]", name)}
    return places | known, sorted(f"host name {name!r}" for name in names - known.keys())


def secrets(texts: Iterable[Published], names: dict[str, str]) -> list[str]:
    """Return where a token, a path, the machine's name or a private host stands, one line each; the token itself is not shown."""
    found = []
    for entry in texts:
        if token := TOKEN.search(entry.text):
            found.append(f"{entry.place}: expected no token, found {re.match('[a-z]*[_-]?', token[0])[0]}...")
        found += [
            f"{entry.place}: expected nothing of this machine, found {what}"
            for name, what in names.items()
            if re.search(rf"(?<![\w-]){re.escape(name)}" if what == "the host's name" else re.escape(name), entry.text)
        ]
        if entry.of_base:
            continue
        found += [
            f"{entry.place}: expected no path of a machine, found {place}"
            for place in dict.fromkeys(PLACE.findall(entry.text))
        ]
        found += [
            f"{entry.place}: expected no private host, found {url[:100]}"
            for url in dict.fromkeys(URL.findall(entry.text))
            if is_private(url)
        ]
        found += [
            f"{entry.place}: expected no private host, found {host}"
            for host in dict.fromkeys(BARE_HOST.findall(entry.text))
        ]
    return found


def words(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return WORD.findall(text.lower())


def runs(tokens: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of so many words."""
    return (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def question_runs(paths: Iterable[Path]) -> tuple[dict[int, dict[tuple[str, ...], str]], int, int]:
    """Return the runs of words of question files with their Record IDs, by length, and how many texts are compared and too short."""
    known: dict[int, dict[tuple[str, ...], str]] = {}
    compared = short = 0
    for path in paths:
        for row in read_rows(path):
            for column, text in row.items():
                tokens = words(text) if column != "Record ID" else []
                if len(tokens) < LEAST_WORDS:
                    short += bool(tokens)
                    continue
                compared += 1
                length = min(len(tokens), NGRAM_WORDS)
                known.setdefault(length, {}).update((run, row["Record ID"]) for run in runs(tokens, length))
    if not compared:
        raise InputError("--questions", f"question texts of {LEAST_WORDS} words or more", "none")
    return known, compared, short


def quoted_questions(texts: Iterable[Published], known: dict[int, dict[tuple[str, ...], str]]) -> list[str]:
    """Return where text of a question stands, one line a place, with the question's id."""
    found = []
    for entry in texts:
        tokens = words(entry.text)
        hits = {by_run[run] for length, by_run in known.items() for run in runs(tokens, length) if run in by_run}
        if hits:
            found.append(
                f"{entry.place}: expected no text of a question, found that of {min(hits)}"
                + (f" and {len(hits) - 1} others" if len(hits) > 1 else "")
            )
    return found
