"""What follows from the losses of measure_quality.py: dominated files, and each file against the standard quants.

The line of the standard quants joins those that no other standard quant dominates. It is straight over size, where KLD
is logarithmic. So a file of any size has a point of the line to be compared with, and its figure is the ratio of its
KLD to the KLD there. Everything is concluded once by the total loss and once by the quantisation loss, where the
pruning loss does not hide small differences.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from losses.quality_record import LOSSES, SIGNIFICANT_ERRORS, SMALLER, STANDARD, dominates, verdict_of
from scoring.paired_statistics import mean_and_error

import numpy as np

# Kinds beside STANDARD, also the keys of the palette.
CONTRIB, TARGET, PADDED = "ContribDynamic", "target size", "padded"
KINDS = {"CD-": CONTRIB, "AUTO-": TARGET, "PAD-": PADDED}
EXPERTS_ONLY = " (experts only)"
NO_IMATRIX = " (no imatrix)"


@dataclass(frozen=True)
class Measured:
    """One file: name, kind, size in bytes, bits per weight, digest; by loss, the KLD of each chat and all measures."""

    label: str
    kind: str
    size: int
    bits_per_weight: float
    sha256: str
    sums: dict[str, np.ndarray]  # {loss: [chats]}
    losses: dict[str, dict[str, list[float]]]  # {loss: {measure: [value, standard error]}}

    def kld(self, loss: str) -> float:
        """Return the mean KLD of a loss, nats per token."""
        return self.losses[loss]["kld"][0]

    def described(self) -> dict:
        """Return what the record holds of the file: all but the sums."""
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
    return next((kind for begin, kind in KINDS.items() if quant.startswith(begin)), STANDARD)


def better_and_smaller(entry: Measured, others: Iterable[Measured], loss: str) -> list[Measured]:
    """Return the files that dominate `entry`: no larger, no worse, and not equal to it in both; the best first."""
    own = (entry.size, entry.kld(loss))
    return sorted(
        (other for other in others if dominates((other.size, other.kld(loss)), own)),
        key=lambda other: (other.kld(loss), other.size),
    )


def line_of(measured: list[Measured], loss: str) -> list[Measured]:
    """Return the standard quants that no other standard quant dominates, the smallest first."""
    # F16 has no quantisation loss, and a KLD of 0 has no logarithm.
    standard = [entry for entry in measured if entry.kind == STANDARD and entry.kld(loss) > 0]
    return sorted(
        (entry for entry in standard if not better_and_smaller(entry, standard, loss)), key=lambda entry: entry.size
    )


def weights_at(size: int, line: list[Measured]) -> list[tuple[Measured, float]]:
    """Return the points of the line around a size, with weights that sum to 1; [] below the smallest point.

    Above the largest point that one alone counts: it has the least loss of the line, in fewer bytes.
    """
    for low, high in zip(line, line[1:]):
        if low.size <= size <= high.size:
            share = (size - low.size) / (high.size - low.size)
            return [(low, 1 - share), (high, share)]
    return [(line[-1], 1.0)] if line and size >= line[-1].size else []


def influence(entry: Measured, around: list[tuple[Measured, float]], loss: str) -> np.ndarray:
    """Return what each chat adds to log(KLD of the file / KLD of the line), linearised, [chats].

    d log(mean) = d mean / mean: each sum over a chat is taken relative to the mean of its file. Both files read the
    same chats, so their difference is taken chat by chat, and a chat that is hard for both cancels.
    """
    return entry.sums[loss] / entry.kld(loss) - sum(
        weight * point.sums[loss] / point.kld(loss) for point, weight in around
    )


def against_line(entry: Measured, line: list[Measured], counts: np.ndarray, loss: str) -> dict | None:
    """Return how one file compares with the line at its size; None for a file that is smaller than the whole line.

    log_ratio: log of its mean KLD divided by that of the line; its error is over chats, paired, linearised. counts:
    tokens per chat [chats].
    """
    around = weights_at(entry.size, line)
    if not around or entry.kld(loss) <= 0:
        return None
    # Weights of the logarithms: the line is straight where KLD is logarithmic.
    there = float(np.exp(sum(weight * np.log(point.kld(loss)) for point, weight in around)))
    ratio = float(np.log(entry.kld(loss) / there))
    _, error = mean_and_error(influence(entry, around, loss), counts)
    return {
        "line": there,
        "between": [point.label for point, _ in around],
        "log_ratio": ratio,
        "log_ratio_error": error,
        "verdict": verdict_of(ratio, error),
    }


def near_in_size(entry: Measured, measured: list[Measured], counts: np.ndarray, loss: str) -> dict:
    """Return the standard quant nearest in size, and by how many nats per token `entry` costs more (less: below 0)."""
    near = min((other for other in measured if other.kind == STANDARD), key=lambda other: abs(other.size - entry.size))
    difference, error = mean_and_error(entry.sums[loss] - near.sums[loss], counts)
    return {"nearest": near.label, "nearest_bytes": near.size, "difference": difference, "difference_error": error}


def scopes(measured: list[Measured], line: list[Measured], counts: np.ndarray, loss: str) -> dict | None:
    """Return how ContribDynamic's scopes compare, each file at its own size, by type and on average.

    Values are log(KLD / line) of `all` minus that of `experts`, [value, error]: below 0 where `all` is better. None
    where no type was built in both scopes.
    """
    by_label = {entry.label: entry for entry in measured}
    found: dict[str, list[float]] = {}
    moves = []
    for label, entry in by_label.items():
        other = by_label.get(f"{label}{EXPERTS_ONLY}")
        own = against_line(entry, line, counts, loss)
        theirs = against_line(other, line, counts, loss) if other else None
        if other is None or own is None or theirs is None:
            continue
        # The two scopes differ in size, so each is compared with the line at its own size before they are subtracted.
        parts = [influence(each, weights_at(each.size, line), loss) for each in (entry, other)]
        moves.append(parts[0] - parts[1])
        found[label] = [own["log_ratio"] - theirs["log_ratio"], mean_and_error(moves[-1], counts)[1]]
    if not found:
        return None
    mean = float(np.mean([value for value, _ in found.values()]))
    return {
        "all_minus_experts": found,
        "mean": [mean, mean_and_error(np.mean(moves, axis=0), counts)[1]],
        "better": "all" if mean < 0 else "experts",
    }


def dominated_files(measured: list[Measured], counts: np.ndarray, loss: str) -> dict[str, dict]:
    """Return, of each file that another one dominates, the best of those and how much less that one costs."""
    found = {}
    for entry in measured:
        if stronger := better_and_smaller(entry, measured, loss):
            difference, error = mean_and_error(entry.sums[loss] - stronger[0].sums[loss], counts)
            found[entry.label] = {
                "by": stronger[0].label,
                "difference": difference,
                "difference_error": error,
                "significant": difference > SIGNIFICANT_ERRORS * error,
            }
    return found


def imatrix_gains(measured: list[Measured], counts: np.ndarray, loss: str) -> dict[str, dict]:
    """Return what the imatrix gains, by the label of every file that was measured without one, too; else {}.

    difference: mean KLD without the imatrix less that with it, so above 0 the imatrix helps. Its error is over chats,
    paired: both files read the same ones. counts: tokens per chat [chats].
    """
    by_label = {entry.label: entry for entry in measured}
    found = {}
    for label, entry in by_label.items():
        if plain := by_label.get(label + NO_IMATRIX):
            difference, error = mean_and_error(plain.sums[loss] - entry.sums[loss], counts)
            found[label] = {
                "with": entry.losses[loss]["kld"],
                "without": plain.losses[loss]["kld"],
                "difference": difference,
                "difference_error": error,
                "significant": abs(difference) > SIGNIFICANT_ERRORS * error,
            }
    return found


def conclusion_of_loss(measured: list[Measured], counts: np.ndarray, loss: str) -> dict:
    """Return what follows by one loss.

    line: labels of its points. verdicts: of every file that is not standard. dominated: the dominated files. scopes: as
    `scopes` returns. imatrix: as `imatrix_gains` returns.
    """
    line = line_of(measured, loss)
    verdicts = {
        entry.label: {
            **(against_line(entry, line, counts, loss) or {"verdict": SMALLER}),
            **near_in_size(entry, measured, counts, loss),
        }
        for entry in measured
        if entry.kind != STANDARD and line
    }
    return {
        "line": [entry.label for entry in line],
        "verdicts": verdicts,
        "dominated": dominated_files(measured, counts, loss),
        "scopes": scopes(measured, line, counts, loss),
        "imatrix": imatrix_gains(measured, counts, loss),
    }


def quality_conclusions(measured: list[Measured], counts: np.ndarray) -> dict:
    """Return `conclusion_of_loss` for each loss; counts: scored tokens per chat [chats]."""
    return {loss: conclusion_of_loss(measured, counts, loss) for loss in LOSSES}
