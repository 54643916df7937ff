"""FILE.gguf.json of a draft model, written by build_draft.py, and the name of such a file."""

from pathlib import Path
from typing import ClassVar

from files.json_records import FileRecord, Sha256
from ggufs.companions import DRAFT

DRAFT_TYPES = ("F16", "Q8_0", "Q4_0")


class DraftRecord(FileRecord):
    """A draft model: what it was made of and for, and what came out.

    source_sha256: of its checkpoint, target_sha256: of the GGUF file that it was checked against.
    """

    what: ClassVar[str] = "a record of build_draft.py"
    name: str
    type: str
    architecture: str
    parameters: int
    tensors_per_type: dict[str, int]
    source_sha256: Sha256
    target_sha256: Sha256
    llama_cpp: str


def is_draft(path: Path) -> bool:
    """Tell whether a file is a draft model, by its name."""
    return path.name.startswith(DRAFT) and path.suffix == ".gguf"
