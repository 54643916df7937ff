"""Which file for pictures, and which draft model, llama.cpp's `-hf` fetches with a model of a repository.

common/download.cpp of the pinned source (find_best_sibling): of the .gguf files with a mark anywhere in their path
(`mmproj`; `mtp-` where --spec-type draft-mtp asks for one), in the model's folder or one above it, those in the deepest
such folder. Among them, for a draft model, one with the tag behind the colon of `-hf` in its name (-TAG., in any case).
Else the one whose type has the number nearest to that of the tag, or of the model's type where there is no tag (Q4_K_M:
4, F16: 16), the first of a listing on a tie. So F16 models take the mmproj of F16, all quants that of Q8_0. A file with
such a mark in its name is never taken for a model (release/names.py).

Ollama: a pull from the Hub brings an mmproj as the model's projector by the same mark; a Modelfile names it in a FROM
line of its own, after the model's.
"""

import re

from ggufs.companions import DRAFT
from ggufs.gguf_header import PART_ENDING

MARK = "mmproj"


def type_number(path: str) -> int:
    """Return the first number of a file's type, the word behind the last dash or dot of its name; 0 without one."""
    stem = PART_ENDING.sub(".gguf", path)[: -len(".gguf")]
    word = re.search(r"[-.]([A-Za-z0-9_]+)$", stem)
    return number_in(word[1]) if word else 0


def number_in(word: str) -> int:
    """Return the first number in a word, 0 where there is none."""
    number = re.search(r"\d+", word)
    return int(number[0]) if number else 0


def sibling_pick(paths: list[str], model: str, mark: str, tag: str = "") -> str | None:
    """Return the file with a mark that `-hf` fetches with a model of a listing, None where there is none."""
    folder = model.split("/")[:-1]
    wanted = number_in(tag) if tag else type_number(model)
    found: tuple[int, bool, int, str] | None = None
    for path in paths:
        own = path.split("/")[:-1]
        if not path.endswith(".gguf") or mark not in path or folder[: len(own)] != own:
            continue
        other_tag = not (tag and f"-{tag.upper()}." in path.upper())
        rank = (-len(own), other_tag, abs(type_number(path) - wanted))
        if found is None or rank < found[:3]:
            found = (*rank, path)
    return found[3] if found else None


def mmproj_pick(paths: list[str], model: str) -> str | None:
    """Return the file for pictures that `-hf` fetches with a model of a listing, None where there is none."""
    return sibling_pick(paths, model, MARK)


def draft_pick(paths: list[str], model: str, tag: str) -> str | None:
    """Return the draft model that `-hf` fetches with a model and --spec-type draft-mtp; tag: "" for none."""
    return sibling_pick(paths, model, DRAFT, tag)
