"""The tokens that begin and end a text: those of a GGUF file's header against those of the checkpoint it was made from.

A checkpoint names them in generation_config.json, else in config.json. A header has one id for each kind. A chat model
ends in more than one way (Gemma 4: <eos>, <turn|>, <|tool_response>), and llama.cpp takes some of them for an end by
their text alone (special_eog_ids in src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp).
"""

from dataclasses import dataclass
from pathlib import Path

from files.input_errors import InputError, shown
from files.json_records import read_json
from ggufs.gguf_header import GgufHeader

SOURCES = ("generation_config.json", "config.json")
ENDS = ("eos", "eot", "eom")  # the kinds of a header at which generation ends
# The texts of that list that Gemma's vocabularies have.
ENDS_BY_TEXT = ("<eos>", "<turn|>", "<|tool_response>", "<end_of_turn>")


@dataclass(frozen=True)
class TokenIds:
    """The token that begins a text (None: none), and those at which generation ends."""

    bos: int | None
    ends: tuple[int, ...]


def checkpoint_tokens(directory: Path) -> TokenIds | None:
    """Return what a checkpoint names, None for a directory without its configs; raise InputError when it has no end."""
    found = [read_json(directory / name) for name in SOURCES if (directory / name).is_file()]
    if not found:
        return None
    named: dict[str, list[int]] = {}
    for key in ("bos_token_id", "eos_token_id"):
        # A multimodal config has them in its text_config as well, and only there in older ones.
        places = [place for config in found for place in (config, config.get("text_config")) if isinstance(place, dict)]
        value = next((place[key] for place in places if place.get(key) is not None), None)
        named[key] = value if isinstance(value, list) else [] if value is None else [value]
        if not all(type(ident) is int for ident in named[key]):
            raise InputError(directory, f"{key} in {' or '.join(SOURCES)}, a token's number", shown(value))
    if not named["eos_token_id"]:
        raise InputError(directory, f"eos_token_id in {' or '.join(SOURCES)}", "none")
    return TokenIds(next(iter(named["bos_token_id"]), None), tuple(named["eos_token_id"]))


def header_tokens(header: GgufHeader) -> dict[str, int]:
    """Return the ids that a header names, by kind: bos, eos, eot, eom."""
    found = {kind: header.value(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", *ENDS)}
    return {kind: value for kind, value in found.items() if isinstance(value, int)}


def token_differences(header: GgufHeader, wanted: TokenIds) -> list[str]:
    """Return a line for each token of a GGUF file that is not the checkpoint's, or at which it would not end."""
    named, texts = header_tokens(header), header.array("tokenizer.ggml.tokens") or []

    def shown(ident: int) -> str:
        return f"{ident} ({texts[ident]})" if 0 <= ident < len(texts) else f"{ident} (no token)"

    found = []
    if wanted.bos is not None and named.get("bos") != wanted.bos:
        other = shown(named["bos"]) if "bos" in named else "none"
        found.append(f"{header.path}: expected bos {shown(wanted.bos)}, as the checkpoint says, found {other}")
    ends = ", ".join(map(shown, wanted.ends))
    if "eos" not in named:
        found.append(f"{header.path}: expected eos among {ends}, as the checkpoint says, found none")
    for kind in ENDS:
        if kind in named and named[kind] not in wanted.ends:
            found.append(
                f"{header.path}: expected {kind} among {ends}, as the checkpoint says, found {shown(named[kind])}"
            )
    by_header = {named[kind] for kind in ENDS if kind in named}
    for ident in wanted.ends:
        by_text = 0 <= ident < len(texts) and texts[ident] in ENDS_BY_TEXT
        if ident not in by_header and not by_text:
            found.append(f"{header.path}: expected an end at {shown(ident)}, as the checkpoint has, found none")
    return found
