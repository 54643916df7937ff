"""Files that go with every quant of a model, by the beginnings of their names: what it sees with, and what drafts.

llama.cpp's `-hf` looks for `mmproj` and, with --spec-type draft-mtp, for `mtp-` in the names of a repository's files,
and takes no such file for a model (common/download.cpp).
"""

from pathlib import Path

MMPROJ, DRAFT = "mmproj-", "mtp-"


def is_companion(path: str | Path) -> bool:
    """Tell whether a file goes with a model and is none itself."""
    return Path(path).name.startswith((MMPROJ, DRAFT))
