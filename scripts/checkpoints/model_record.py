"""What a folder of outputs was made from: the record model.json, which fetch_model.py writes when it first sees it.

That a model is one of the Hub is sealed when it was held against the Hub's own digests. make keeps the Hub id in a text
file, which anybody can edit.
"""

from pathlib import Path
from typing import ClassVar

from files.input_errors import InputError
from files.json_records import Record
from files.seals import Seal, seal_said, seals_over

FETCHED = "fetched from the Hub as {}"


class ModelRecord(Record):
    """The model's family, its layers with experts and its digests.

    weights_sha256: `weights_digest` of checkpoints/checkpoint.py, which takes samples. source_sha256: `source_digest`
    of there, which reads all bytes; a record of before has none.
    """

    what: ClassVar[str] = "the record of a full model"
    model_type: str
    experts: int
    layers: int
    config_sha256: str
    weights_sha256: str
    source_sha256: str | None = None


def seal_fetched(place: Path, model_id: str, digest: str) -> None:
    """Seal that what has a `source_digest` is a repository of the Hub; place: its record, or its folder."""
    seal_said(place, digest, FETCHED.format(model_id))


def check_fetched(place: Path, model_id: str, digest: str, advice: str) -> None:
    """Raise InputError unless `seal_fetched` has said so of this place; where there are no seals nothing is known."""
    seals = seals_over(place)
    if seals and seals.of_said(place, digest, FETCHED.format(model_id), ("fetch_model",)) != Seal.VALID:
        raise InputError(place, f"that of {model_id}, held against the Hub", "no such seal", advice)
