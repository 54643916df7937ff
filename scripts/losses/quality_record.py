"""quality.json, the record of measure_quality.py: what pruning and each quant cost, and the conclusions."""

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar, Self

from files.json_records import Count, Fields, Positive, Record, Sha256, require

from pydantic import Field, model_validator

QUALITY_NAME = "quality.json"
SIGNIFICANT_ERRORS = 1.96  # standard errors: 95% of a normal distribution
BETTER, WORSE = "better", "worse"  # verdicts on a file beside the line of the standard quants
NO_DIFFERENCE, SMALLER = "no significant difference", "smaller than any standard quant"
MOST_NATS = 1e6  # of a loss: the logarithm of no float32 is near that
ROUNDING = 1e-9  # of differences of KLDs, taken in another order
STANDARD = "standard"  # kind of llama.cpp's own quants, which make the line
LOSSES = ("total", "quantisation")  # what files are compared by; the pruning loss is the same for all


class MeasuredFile(Fields):
    """One file of the measurement. losses: {loss: {measure: [value, standard error over chats]}}."""

    label: str
    kind: str
    bytes: Positive
    bits_per_weight: Annotated[float, Field(gt=0)]
    sha256: Sha256
    losses: dict[str, dict[str, list[float]]]

    @model_validator(mode="after")
    def values_with_errors(self) -> Self:
        """Refuse a loss without its mean KLD, and values that no measurement gives."""
        require(set(LOSSES) <= set(self.losses), f"losses {' and '.join(LOSSES)}")
        for loss, measures in self.losses.items():
            require("kld" in measures, f"losses.{loss}.kld")
            for name, value in measures.items():
                possible = len(value) == 2 and 0 <= min(value) <= max(value) < MOST_NATS
                require(possible, f"losses.{loss}.{name} of value and error, none below 0")
                require(name != "same_top" or value[0] <= 1, f"losses.{loss}.same_top at most 1")
        return self

    def kld(self, loss: str) -> float:
        """Return the mean KLD of a loss."""
        return self.losses[loss]["kld"][0]


class Quality(Record):
    """One measurement.

    chats: number of chats measured; left_out: those that calibration or the choice of experts had seen; cut: those that
    were longer than max_tokens; no_reasoning: those whose question has none. choice_known: whether it is known which
    questions chose the experts. score: which tokens count, "reply" or "all"; tokens: their number, by that name.
    conclusions: by loss, what `conclusion_of_loss` of quality_conclusions.py returns.
    """

    what: ClassVar[str] = "measurements of measure_quality.py"
    inputs: dict
    chats: Positive
    question_file_sha256: Sha256 | None = None  # of the whole file; older records have none
    left_out: Count
    choice_known: bool = True
    score: str
    tokens: dict[str, Count]
    cut: Count
    no_reasoning: Count = 0  # older records do not say
    conclusions: dict[str, dict]
    files: Annotated[list[MeasuredFile], Field(min_length=1)]

    @model_validator(mode="after")
    def parts_and_totals(self) -> Self:
        """Refuse counts that cannot be, and losses and conclusions that are not those of one measurement."""
        require(self.score in self.tokens and "all" in self.tokens, "tokens of score and of all")
        require(self.tokens[self.score] <= self.tokens["all"], "tokens of the score within all")
        require(self.cut <= self.chats, "cut at most chats")
        require(self.no_reasoning <= self.chats, "no_reasoning at most chats")
        require(len({file.label for file in self.files}) == len(self.files), "every label once")
        # Of the pruned F16 model, so of every file the same.
        pruning = [file.losses.get("pruning") for file in self.files]
        require(all(loss == pruning[0] for loss in pruning), "one pruning loss for all files")
        require(set(self.conclusions) == set(LOSSES), f"conclusions of {' and '.join(LOSSES)}")
        for loss, found in self.conclusions.items():
            check_conclusion(loss, found, {file.label: file for file in self.files})
        return self


def check_conclusion(loss: str, found: dict, files: dict[str, MeasuredFile]) -> None:
    """Raise ValueError unless what follows by one loss names measured files, and differences that are theirs."""
    place = f"conclusions.{loss}"
    for key, kind in (("line", list), ("dominated", dict), ("verdicts", dict)):
        require(isinstance(found.get(key), kind), f"{place}.{key}")
        require(all(label in files for label in map(str, found[key])), f"{place}.{key} of measured files")
    standard = [file for file in files.values() if file.kind == STANDARD and file.kld(loss) > 0]
    line = {file.label for file in standard if not is_dominated(file, standard, loss)}
    others = {file.label for file in files.values() if file.kind != STANDARD} if line else set()
    dominated = {file.label for file in files.values() if is_dominated(file, files.values(), loss)}
    for key, labels in (("line", line), ("verdicts", others), ("dominated", dominated)):
        require(set(found[key]) == labels, f"{place}.{key} of {', '.join(sorted(labels)) or 'no file'}")
    for key, other in (("dominated", "by"), ("verdicts", "nearest")):
        for label, entry in found[key].items():
            require(isinstance(entry, dict), f"{place}.{key}.{label} of named values")
            if key == "dominated" or other in entry:
                check_difference(f"{place}.{key}.{label}", entry, files[label], files.get(str(entry.get(other))), loss)


def dominates(one: tuple[int, float], other: tuple[int, float]) -> bool:
    """Tell whether a file, by its size and its KLD, is no larger and no worse than another, and not equal in both."""
    return one[0] <= other[0] and one[1] <= other[1] and one != other


def is_dominated(file: MeasuredFile, others: Iterable[MeasuredFile], loss: str) -> bool:
    """Tell whether one of the files dominates this one."""
    return any(dominates((other.bytes, other.kld(loss)), (file.bytes, file.kld(loss))) for other in others)


def check_difference(place: str, entry: dict, one: MeasuredFile, other: MeasuredFile | None, loss: str) -> None:
    """Raise ValueError unless an entry has the difference of two measured files, with its error."""
    difference, error = entry.get("difference"), entry.get("difference_error")
    if other is None or not isinstance(difference, float) or not isinstance(error, float):
        raise ValueError(f"{place} with a difference from a measured file")
    expected = one.kld(loss) - other.kld(loss)
    require(math.isclose(difference, expected, rel_tol=1e-6, abs_tol=ROUNDING), f"{place} by the files' KLDs")
    require(error >= 0, f"{place} with an error of 0 or more")
    if "significant" in entry:
        require(entry["significant"] == (difference > SIGNIFICANT_ERRORS * error), f"{place}.significant by its error")
    if "verdict" in entry:
        check_verdict(place, entry, one, loss)


def verdict_of(ratio: float, error: float) -> str:
    """Return the verdict on a file from the logarithm of its KLD over that of the line, and the error of that."""
    return NO_DIFFERENCE if abs(ratio) <= SIGNIFICANT_ERRORS * error else BETTER if ratio < 0 else WORSE


def check_verdict(place: str, entry: dict, one: MeasuredFile, loss: str) -> None:
    """Raise ValueError unless a verdict follows from its figures, and those from the KLD of the file."""
    figures = [entry.get(name) for name in ("line", "log_ratio", "log_ratio_error")]
    if figures == [None, None, None]:
        require(entry["verdict"] == SMALLER, f"{place} with figures for its verdict")
        return
    line, ratio, error = (figure if isinstance(figure, float) else math.nan for figure in figures)
    require(line > 0 and error >= 0 and one.kld(loss) > 0, f"{place} with a line, a ratio and an error")
    same = math.isclose(ratio, math.log(one.kld(loss) / line), rel_tol=1e-6, abs_tol=ROUNDING)
    require(same, f"{place}.log_ratio of the file's KLD and the line's")
    require(entry["verdict"] == verdict_of(ratio, error), f"{place}.verdict by its figures")


def measured(records: dict[str, dict], quality: dict | None) -> dict[str, dict]:
    """Return the entry of quality.json of each record that has one, by record.

    Files are matched by sha256: a quant of the same name that was built again is not the one that was measured.
    """
    entries = {entry["sha256"]: entry for entry in (quality or {}).get("files", [])}
    return {name: entries[record["sha256"]] for name, record in records.items() if record["sha256"] in entries}


def chats_in_words(quality: dict) -> str:
    """Return how many chats were measured, and what of this build had seen none of them."""
    begin = f"{quality['chats']} chats of questions that"
    short = no_reasoning_in_words(quality)
    if quality.get("choice_known", True):
        return f"{begin} neither calibration nor the choice of experts has seen{short}"
    return f"{begin} calibration has not seen (not known whether the choice of experts has){short}"


def no_reasoning_in_words(results: dict) -> str:
    """Return how many of the measured chats are the answer's letter alone, "" where none is: their loss is small."""
    return f", {found} of them without a reasoning" if (found := results.get("no_reasoning")) else ""


def measured_chats(quality: dict, active: dict | None) -> int:
    """Return the QUALITY_CHATS of make by which losses, and those of fewer active experts beside them, were measured.

    Losses leave out chats that were seen. Where these and the others are all of a file, so many were asked for.
    """
    every = quality["chats"] + quality["left_out"]
    return every if active and active["chats"] == every else quality["chats"]
