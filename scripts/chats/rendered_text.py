"""A text of chats that render_calibration.py wrote, and its record beside it (FILE.json)."""

from pathlib import Path
from typing import ClassVar

from files.input_errors import InputError, sha256_file
from files.json_records import FileRecord, Sha256, read_record
from files.seals import Seal, advice_for, sealing, seals_over

WRITE_AGAIN = "write its chats again (REPLACE=imatrix)"


class RenderedText(FileRecord):
    """What render_calibration.py records beside a text (FILE.json): the question file whose chats it holds."""

    what: ClassVar[str] = "the record of a text of chats"
    question_file_sha256: Sha256


def is_named_after(text: Path, questions: Path) -> bool:
    """Tell whether a text has the name that make gives to a question file's chats."""
    return text.name == f"{questions.stem}.txt"


def rendered_record(text: Path) -> dict | None:
    """Return the sealed record of a text of chats; None where none is beside it, as beside a user's own text.

    Raises InputError where the record was edited: a card would change, and nobody be told why.
    """
    record = Path(f"{text}.json")
    if not record.is_file():
        return None
    seals = seals_over(record)
    seal = seals.of_file(record, ("render_calibration",)) if seals else None
    if seal == Seal.BROKEN:
        raise InputError(record, "what render_calibration wrote", seal.value, advice_for(seal))
    return read_record(record, RenderedText) if seal == Seal.VALID or not sealing() else None


def check_rendered(text: Path) -> None:
    """Raise InputError where a text of chats is another than its sealed record says."""
    if sealing() and (known := rendered_record(text)) and known["sha256"] != sha256_file(text):
        raise InputError(text, "the chats that render_calibration wrote", "another text", WRITE_AGAIN)


def rendered_from(text: Path) -> str | None:
    """Return the sha256 of the question file whose chats were written as a text, by its sealed record.

    None where nothing shows it: chats do not have all that stands in such a file.
    """
    known = rendered_record(text)
    return known["question_file_sha256"] if known and known["sha256"] == sha256_file(text) else None
