"""quality.json: what pruning and each quant cost, as measure_quality.py found it, and what follows from that."""

from typing import ClassVar

from files.safe_files import Record

QUALITY_NAME = "quality.json"
LOSSES = ("total", "quantisation")  # what files are compared by; the pruning loss is the same for all


class Quality(Record):
    """The measurement. chats: how many; score: the tokens that count (reply, all); tokens: their number by that name.

    files: per file label, kind, bytes, bits_per_weight, sha256 and `losses`, where by loss and measure stands
    [value, standard error over chats]. conclusions: by loss, from quality_conclusions.py.
    """

    what: ClassVar[str] = "measurements of measure_quality.py"
    inputs: dict
    chats: int
    left_out: int
    score: str
    tokens: dict[str, int]
    cut: int
    conclusions: dict[str, dict]
    files: list[dict]
