"""Which file for pictures llama.cpp's `-hf` takes for a model of a repository, and what that means for names.

common/download.cpp of the pinned source (find_best_sibling): of the .gguf files with `mmproj` anywhere in their path,
in the model's folder or one above it, those in the deepest such folder; among them the one whose type has the number
nearest to that of the model's type (Q4_K_M: 4, F16: 16), the first of a listing on a tie. So F16 models take F16, all
quants take Q8_0. A file with `mmproj` in its name is never taken for a model (release/names.py).

Ollama: a pull from the Hub brings such a file as the model's projector by the same mark; a Modelfile names it in a FROM
line of its own, after the model's.
"""

import re

from ggufs.gguf_header import PART_ENDING

MARK = "mmproj"


def type_number(path: str) -> int:
    """Return the first number of a file's type, the word behind the last dash or dot of its name; 0 without one."""
    stem = PART_ENDING.sub(".gguf", path)[: -len(".gguf")]
    word = re.search(r"[-.]([A-Za-z0-9_]+)$", stem)
    number = re.search(r"\d+", word[1]) if word else None
    return int(number[0]) if number else 0


def mmproj_pick(paths: list[str], model: str) -> str | None:
    """Return the file for pictures that `-hf` fetches with a model of a listing, None where there is none."""
    folder = model.split("/")[:-1]
    found: tuple[int, int, str] | None = None
    for path in paths:
        own = path.split("/")[:-1]
        if not path.endswith(".gguf") or MARK not in path or folder[: len(own)] != own:
            continue
        rank = (-len(own), abs(type_number(path) - type_number(model)))
        if found is None or rank < found[:2]:
            found = (*rank, path)
    return found[2] if found else None
