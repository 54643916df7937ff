"""The record FILE.json of a file that a command has fetched, by which a card names its authors or its benchmark.

A file's name alone says nothing: anybody can give it. The record must be as the command wrote it.
"""

from pathlib import Path
from typing import ClassVar

from files.input_errors import InputError, sha256_file
from files.json_records import FileRecord, read_record
from files.seals import Seal, seals_over

CALIBRATION_V5_URL = (
    "https://gist.githubusercontent.com/bartowski1182/82ae9b520227f57d79ba04add13d0d0d/raw/"
    "ce111d8971a07caebd8234ef336b2102d6c5fb85/calibration_datav5.txt"
)
HUB = "https://huggingface.co"
GPQA_URL = f"{HUB}/datasets/Idavidrein/gpqa/gpqa_diamond.csv"
FETCHED_BY = {CALIBRATION_V5_URL: "fetch_calibration", GPQA_URL: "fetch_gpqa"}
DATASETS, FETCH_TASK = f"{HUB}/datasets/", "fetch_task"  # all else that lies there, as `dataset_url` says it


class FetchedRecord(FileRecord):
    """Where a file came from, and its digest: later downloads must get the same."""

    what: ClassVar[str] = "the record of a downloaded file"
    url: str


def check_online(offline: bool, wanted: str) -> None:
    """Raise InputError where the Hub's client may not ask the Hub: what is fetched must be what lies there."""
    if offline:
        found = "HF_HUB_OFFLINE, by which the Hub's client takes whatever a cache holds"
        raise InputError("the Hub", f"to be asked, to {wanted}", found, "unset it, or give a file of your own")


def dataset_url(dataset: str, configuration: str | None, split: str, hub: str = HUB) -> str:
    """Return where a split of a dataset lies on the Hub, or on a mirror of it."""
    return f"{hub}/datasets/{dataset}/viewer/{configuration or 'default'}/{split}"


def fetcher_of(url: str) -> str | None:
    """Return which command of ours fetches from a place, None for a place that none of them vouches for."""
    return FETCHED_BY.get(url) or (FETCH_TASK if url.startswith(DATASETS) else None)


def fetched_from(path: Path) -> str | None:
    """Return where a command of ours fetched a file from, by its sealed record; None where nothing shows it."""
    record = Path(f"{path}.json")
    if not record.is_file() or not (seals := seals_over(record)):
        return None
    # The seal first: what another program wrote there is not ours to read.
    commands = (*FETCHED_BY.values(), FETCH_TASK)
    by = [command for command in commands if seals.of_file(record, (command,)) == Seal.VALID]
    known = read_record(record, FetchedRecord, "fetch it again") if by else {}
    ours = fetcher_of(known.get("url", "")) in by and known["sha256"] == sha256_file(path)
    return known["url"] if ours else None
