"""What the losses of measure_quality.py say: which files are dominated, which are better than the standard quants of their size.

The line: the standard files that no smaller standard file equals in KLD, joined by straight lines over size in the
picture, where KLD is logarithmic. A file of any size can be held against it: the ratio of its KLD to the line's. All of it is
said twice: of the total loss, and of the quantisation loss, which the pruning loss does not blur.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from losses.kld_statistics import SIGNIFICANT_ERRORS, mean_and_error
from losses.quality_record import LOSSES

STANDARD, CONTRIB, TARGET = "standard", "ContribDynamic", "target size"
BETTER, WORSE, NO_DIFFERENCE, SMALLER = (
    "better",
    "worse",
    "no significant difference",
    "smaller than any standard quant",
)
EXPERTS_ONLY = " (experts only)"


@dataclass(frozen=True)
class Measured:
    """One file: name, kind, size in bytes, bits per weight, digest, KLD summed over each chat and summary, by loss."""

    label: str
    kind: str
    size: int
    bits_per_weight: float
    sha256: str
    sums: dict[str, np.ndarray]  # [chats]
    losses: dict[str, dict[str, list[float]]]

    def kld(self, loss: str) -> float:
        """Return the mean KLD of a loss, nats a token."""
        return self.losses[loss]["kld"][0]

    def described(self) -> dict:
        """Return all of it but the sums, as JSON."""
        return {
            "label": self.label,
            "kind": self.kind,
            "bytes": self.size,
            "bits_per_weight": self.bits_per_weight,
            "sha256": self.sha256,
            "losses": self.losses,
        }


def quant_kind(quant: str) -> str:
    """Return the kind of a quant by its name."""
    return CONTRIB if quant.startswith("CD-") else TARGET if quant.startswith("AUTO-") else STANDARD


def better_and_smaller(entry: Measured, others: Iterable[Measured], loss: str) -> list[Measured]:
    """Return the files that dominate one: no larger, no worse, and one of the two by something; the best first."""
    own = (entry.size, entry.kld(loss))
    return sorted(
        (
            other
            for other in others
            if other.size <= own[0] and other.kld(loss) <= own[1] and (other.size, other.kld(loss)) != own
        ),
        key=lambda other: (other.kld(loss), other.size),
    )


def line_of(measured: list[Measured], loss: str) -> list[Measured]:
    """Return the standard files that no other standard file dominates, the smallest first; one without any loss aside."""
    standard = [entry for entry in measured if entry.kind == STANDARD and entry.kld(loss) > 0]
    return sorted(
        (entry for entry in standard if not better_and_smaller(entry, standard, loss)), key=lambda entry: entry.size
    )


def weights_at(size: int, line: list[Measured]) -> list[tuple[Measured, float]]:
    """Return the points of the line around a size, with weights that sum to 1; [] for a size below its smallest file.

    Above its largest file that one alone counts: it costs least of all, in fewer bytes.
    """
    for low, high in zip(line, line[1:]):
        if low.size <= size <= high.size:
            share = (size - low.size) / (high.size - low.size)
            return [(low, 1 - share), (high, share)]
    return [(line[-1], 1.0)] if line and size >= line[-1].size else []


def influence(entry: Measured, around: list[tuple[Measured, float]], loss: str) -> np.ndarray:
    """Return per chat what moves log(KLD / line): sums over its tokens, each relative to its mean [chats]."""
    return entry.sums[loss] / entry.kld(loss) - sum(
        weight * point.sums[loss] / point.kld(loss) for point, weight in around
    )


def against_line(entry: Measured, line: list[Measured], counts: np.ndarray, loss: str) -> dict | None:
    """Return how one file lies to the line at its size, None for a size below its smallest.

    log_ratio: log of its mean KLD over the line's; its error is over chats, paired, linearised. counts: [chats].
    """
    around = weights_at(entry.size, line)
    if not around or entry.kld(loss) <= 0:
        return None
    there = float(np.exp(sum(weight * np.log(point.kld(loss)) for point, weight in around)))
    ratio, error = float(np.log(entry.kld(loss) / there)), mean_and_error(influence(entry, around, loss), counts)[1]
    return {
        "line": there,
        "between": [point.label for point, _ in around],
        "log_ratio": ratio,
        "log_ratio_error": error,
        "verdict": NO_DIFFERENCE if abs(ratio) <= SIGNIFICANT_ERRORS * error else BETTER if ratio < 0 else WORSE,
    }


def near_in_size(entry: Measured, measured: list[Measured], counts: np.ndarray, loss: str) -> dict:
    """Return the standard file nearest in size and how much more, or less, this one costs than that."""
    near = min((other for other in measured if other.kind == STANDARD), key=lambda other: abs(other.size - entry.size))
    difference, error = mean_and_error(entry.sums[loss] - near.sums[loss], counts)
    return {"nearest": near.label, "nearest_bytes": near.size, "difference": difference, "difference_error": error}


def scopes(measured: list[Measured], line: list[Measured], counts: np.ndarray, loss: str) -> dict | None:
    """Return by how much ContribDynamic's scope `all` lies lower than `experts`, each type at its own size, and on average.

    Values are differences of log(KLD / line), [value, error]: below 0 where `all` is the better one. None where no type
    was built in both scopes.
    """
    by_label, found, moves = {entry.label: entry for entry in measured}, {}, []
    for label, entry in by_label.items():
        pair = (entry, by_label.get(f"{label}{EXPERTS_ONLY}"))
        both = [each and against_line(each, line, counts, loss) for each in pair]
        if None not in both:
            moves.append(np.subtract(*(influence(each, weights_at(each.size, line), loss) for each in pair)))
            found[label] = [both[0]["log_ratio"] - both[1]["log_ratio"], mean_and_error(moves[-1], counts)[1]]
    if not found:
        return None
    mean = float(np.mean([value for value, _ in found.values()]))
    return {
        "all_minus_experts": found,
        "mean": [mean, mean_and_error(np.mean(moves, axis=0), counts)[1]],
        "better": "all" if mean < 0 else "experts",
    }


def conclusion_of_loss(measured: list[Measured], counts: np.ndarray, loss: str) -> dict:
    """Return, of one loss, the line, the verdict on every file that is no standard one, the dominated files, the scopes."""
    line, verdicts, dominated = line_of(measured, loss), {}, {}
    for entry in measured:
        if entry.kind != STANDARD and line:
            verdicts[entry.label] = {
                **(against_line(entry, line, counts, loss) or {"verdict": SMALLER}),
                **near_in_size(entry, measured, counts, loss),
            }
        if stronger := better_and_smaller(entry, measured, loss):
            difference, error = mean_and_error(entry.sums[loss] - stronger[0].sums[loss], counts)
            dominated[entry.label] = {
                "by": stronger[0].label,
                "difference": difference,
                "difference_error": error,
                "significant": difference > SIGNIFICANT_ERRORS * error,
            }
    return {
        "line": [entry.label for entry in line],
        "verdicts": verdicts,
        "dominated": dominated,
        "scopes": scopes(measured, line, counts, loss),
    }


def quality_conclusions(measured: list[Measured], counts: np.ndarray) -> dict:
    """Return `conclusion_of_loss` by loss; counts: scored tokens of each chat [chats]."""
    return {loss: conclusion_of_loss(measured, counts, loss) for loss in LOSSES}
