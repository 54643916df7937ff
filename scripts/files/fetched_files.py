"""The record FILE.json of a file that a command has fetched from a pinned place, by which a card names its authors.

A file's name alone says nothing: anybody can give it. The record must be as the command wrote it.
"""

from pathlib import Path
from typing import ClassVar

from files.json_records import FileRecord, read_record
from files.safe_files import InputError, sha256_file
from files.seals import Seal, seals_over

CALIBRATION_V5_URL = (
    "https://gist.githubusercontent.com/bartowski1182/82ae9b520227f57d79ba04add13d0d0d/raw/"
    "ce111d8971a07caebd8234ef336b2102d6c5fb85/calibration_datav5.txt"
)
HUB = "https://huggingface.co"
GPQA_URL = f"{HUB}/datasets/Idavidrein/gpqa/gpqa_diamond.csv"
FETCHED_BY = {CALIBRATION_V5_URL: "fetch_calibration", GPQA_URL: "fetch_gpqa"}


class FetchedRecord(FileRecord):
    """Where a file came from, and its digest: later downloads must get the same."""

    what: ClassVar[str] = "the record of a downloaded file"
    url: str


def check_online(offline: bool, wanted: str) -> None:
    """Raise InputError where the Hub's client may not ask the Hub: what is fetched must be what lies there."""
    if offline:
        found = "HF_HUB_OFFLINE, by which the Hub's client takes whatever a cache holds"
        raise InputError("the Hub", f"to be asked, to {wanted}", found, "unset it, or give a file of your own")


def fetched_from(path: Path) -> str | None:
    """Return which of the places of FETCHED_BY a file came from, by its sealed record; None where nothing shows it."""
    record = Path(f"{path}.json")
    if not record.is_file() or not (seals := seals_over(record)):
        return None
    # The seal first: what another program wrote there is not ours to read.
    by = [command for command in FETCHED_BY.values() if seals.of_file(record, (command,)) == Seal.VALID]
    known = read_record(record, FetchedRecord, "fetch it again") if by else {}
    ours = FETCHED_BY.get(known.get("url", "")) in by and known["sha256"] == sha256_file(path)
    return known["url"] if ours else None
