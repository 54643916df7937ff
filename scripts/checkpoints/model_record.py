"""What a folder of outputs was made from: the record model.json, which fetch_model.py writes when it first sees it."""

from typing import ClassVar

from files.json_records import Record


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
