"""quality.json, the record of measure_quality.py: what pruning and each quant cost, and the conclusions."""

from typing import ClassVar

from files.safe_files import Fields, Record

QUALITY_NAME = "quality.json"
LOSSES = ("total", "quantisation")  # what files are compared by; the pruning loss is the same for all


class MeasuredFile(Fields):
    """One file of the measurement. losses: {loss: {measure: [value, standard error over chats]}}."""

    label: str
    kind: str
    bytes: int
    bits_per_weight: float
    sha256: str
    losses: dict[str, dict[str, list[float]]]


class Quality(Record):
    """One measurement.

    chats: number of chats measured; left_out: those that calibration or the choice of experts had seen; cut: those that
    were longer than max_tokens. choice_known: whether it is known which questions chose the experts. score: which
    tokens count, "reply" or "all"; tokens: their number, by that name. conclusions: by loss, what `conclusion_of_loss`
    of quality_conclusions.py returns.
    """

    what: ClassVar[str] = "measurements of measure_quality.py"
    inputs: dict
    chats: int
    left_out: int
    choice_known: bool = True
    score: str
    tokens: dict[str, int]
    cut: int
    conclusions: dict[str, dict]
    files: list[MeasuredFile]


def chats_in_words(quality: dict) -> str:
    """Return how many chats were measured, and what of this build had seen none of them."""
    if quality.get("choice_known", True):
        return f"{quality['chats']} chats that neither calibration nor the choice of experts has seen"
    return f"{quality['chats']} chats that calibration has not seen (not known whether the choice of experts has)"
