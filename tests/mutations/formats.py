"""How each format is mutated: `choose` draws an edit that fits the bytes of a file, and `apply` does it."""

import random
from collections.abc import Callable
from typing import NamedTuple

from mutations.binary_edits import (
    apply_npz,
    apply_parquet,
    apply_safetensors,
    choose_gguf,
    choose_npz,
    choose_parquet,
    choose_safetensors,
)
from mutations.edits import Edit, apply_bytes, choose_bytes
from mutations.text_edits import (
    GO,
    JINJA,
    apply_json,
    apply_jsonl,
    choose_card,
    choose_csv,
    choose_json,
    choose_jsonl,
    choose_text,
    chooser_of,
)


class Format(NamedTuple):
    """How one format is mutated."""

    choose: Callable[[bytes, random.Random], Edit]
    apply: Callable[[bytes, Edit], bytes]


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
