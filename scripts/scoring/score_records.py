"""The two records of scores: summary.json of one run, and scores.json, the comparison of several.

summary.json (`Summary`, written by summarize_scores.py and pool_heldout.py): scores and a row per question, no text.
scores.json (`Scores`, written by compare_scores.py): a row per model, a pair per two models.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar, Self

from files.input_errors import InputError, shown
from files.json_records import (
    Count,
    Fields,
    FileName,
    ModelName,
    Positive,
    Record,
    Sha256,
    Share,
    read_record,
    require,
    sha256_json,
)
from scoring.answer_classes import CLASSES
from scoring.followed import Followed, check_digits
from scoring.machines import Hardware
from scoring.paired_statistics import Interval, difference_interval, mcnemar, smallest_likely, smallest_shown, wilson

import numpy as np
from pydantic import Field, model_validator

SUMMARY_NAME, SCORES_NAME = "summary.json", "scores.json"
CHOICES = 4  # of a question, all as likely when one guesses; rows of other tasks say their own chance
ALL_LETTERS = "ABCDEFGHIJ"  # of choices; GPQA has the first four of them, MMLU-Pro up to ten
GPQA, IFEVAL = "gpqa_", "ifeval"  # how the names of GPQA's tasks begin; the task whose answers follow instructions
MOST_QUESTIONS = 20_000  # MMLU-Pro has 12,032; an exact test of as many takes a second
ROUNDING = 1e-6  # sums of the same numbers in another order

ANSWERED_BY = ("hardware", "tools_sha256")  # what has answered: machines, and their builds of llama.cpp
Text = Annotated[str, Field(min_length=1)]
Digits = Annotated[str, Field(pattern=r"^[01]+$")]


def each_once(known: list, more: list) -> list:
    """Return what is known and what is new of more, such as the machines of two parts of a run."""
    found = list(known)
    for one in more:
        found += [one] if one not in found else []
    return found


def alike(one: float | None, other: float | None) -> bool:
    """Tell whether two figures are the same but for rounding, or both missing."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)


class InSample(Fields):
    """How many questions chose the experts, and how many of the scored ones are among them; None: not known."""

    chosen_on: Count | None
    scored_and_chosen_on: Count | None

    @model_validator(mode="after")
    def some_of_all(self) -> Self:
        """Refuse more scored questions that chose than questions that chose."""
        require((self.chosen_on is None) == (self.scored_and_chosen_on is None), "both known or neither")
        if self.chosen_on is not None and self.scored_and_chosen_on is not None:
            require(self.scored_and_chosen_on <= self.chosen_on, "scored_and_chosen_on at most chosen_on")
        return self


class ChosenBy(Fields):
    """The drop map of a pruned model, in short; sha256: of the map's file."""

    criterion: str
    sha256: Sha256


class AnswerRow(Fields):
    """One question. kind: one of CLASSES; order: of the choices; patched_*: of invalid answers after the patch step.

    chance: of a guess, in other tasks than GPQA's. There `order` is empty; where it is 0, an answer is a number.
    loose: of IFEval, what the answer follows read loosely. There letter and target have a digit for each instruction.
    """

    record_id: Text
    order: list[int]
    prompt_sha256: Sha256
    target: Text
    kind: str = Field(alias="class")
    letter: Text | None = None
    correct: bool
    strict_letter: Text | None = None
    strict_correct: bool
    finish_reason: str | None = None
    prompt_tokens: Count = 0
    completion_tokens: Count
    seconds: Annotated[float, Field(ge=0)] = 0.0
    attempts: Count = 0
    patched_letter: Text | None = None
    patched_correct: bool = False
    chance: Share | None = None
    loose: Digits | None = None

    @model_validator(mode="after")
    def right_letters(self) -> Self:
        """Refuse an unknown class, and "right" beside another letter than the right one."""
        require(self.kind in CLASSES, f"class one of {', '.join(CLASSES)}")
        if self.chance is None:
            require(sorted(self.order) == list(range(CHOICES)), f"order of the {CHOICES} choices")
        else:
            require(not self.order, "order of the choices only in GPQA's tasks")
        choices = CHOICES if self.chance is None else round(1 / self.chance) if self.chance else 0
        require(not choices or self.target in [*ALL_LETTERS[:choices]], f"target one of the first {choices} letters")
        letters = ALL_LETTERS if self.chance else ALL_LETTERS[:choices]  # of four choices one may answer (J), too
        if self.loose is not None:
            check_digits(self.letter or "", self.loose, self.target, self.correct)
        patched = {"patched_letter", "patched_correct"} & self.model_fields_set
        require(len(patched) in (0, 2), "patched_letter and patched_correct, or neither")
        for name in ("", "strict_", "patched_"):
            if f"{name}letter" in self.model_fields_set:
                self.check_letter(f"{name}letter", f"{name}correct", letters)
        return self

    def check_letter(self, letter: str, correct: str, letters: str) -> None:
        """Refuse a letter that is none, and "right" beside another one than the right one; letters: "" of numbers."""
        found, right = getattr(self, letter), getattr(self, correct)
        require(not letters or found is None or found in [*letters], f"{letter} one of {letters}")
        # Of a number more than one spelling is right.
        same = right if not letters and found is not None and found != self.target else found == self.target
        require(right == same, f"{correct} as {letter} and target say")


class RunProtocol(Fields):
    """The values of scoring/eval_protocol.py; the runs of one model may differ in this one."""

    seed: int
    task: str = GPQA
    filter: str = ""
    lm_eval: str = ""

    @model_validator(mode="after")
    def read_by(self) -> Self:
        """Refuse a task whose answers were read in no named way; of before there were others it is GPQA's."""
        require(self.task.startswith(GPQA) or bool(self.filter and self.lm_eval), "filter and lm_eval of the task")
        return self


class Summary(Record):
    """One run. patch: the head of patched.json, None for a run without the patch step; invalid: counts by class.

    in_sample, drop_map: None for a model that was not pruned; drop_map also where it was not recorded. hardware: of all
    machines that answered, tools_sha256: of their builds of llama.cpp; [] where it was not recorded.
    """

    what: ClassVar[str] = "a summary of eval_gpqa_v3.sh"
    name: ModelName
    gguf: FileName
    gguf_sha256: Sha256
    gguf_bytes: Positive
    experts: Count
    protocol: RunProtocol
    protocol_sha256: Sha256
    hardware: list[Hardware] = []
    tools_sha256: list[Sha256] = []
    in_sample: InSample | None
    drop_map: ChosenBy | None = None
    questions: Count
    raw_correct: Count
    strict_correct: Count
    patch: dict | None
    patched_correct: Count | None
    invalid: dict[str, int]
    invalid_total: Count
    patch_expected_by_chance: float
    completion_tokens: Count
    answers: list[AnswerRow]

    @model_validator(mode="after")
    def rows_of_the_task(self) -> Self:
        """Refuse answers of another kind of task than the protocol names, and a patch step where there is none."""
        gpqa = self.protocol.task.startswith(GPQA)
        require(gpqa or self.patch is None, "patch only of GPQA's tasks")
        own = all((answer.chance is None) == gpqa for answer in self.answers)
        require(own, f"answers {'without' if gpqa else 'with'} a chance, as the task of the protocol says")
        follows = all((answer.loose is not None) == (self.protocol.task == IFEVAL) for answer in self.answers)
        require(follows, f"answers with loose of {IFEVAL} and of no other task")
        return self


def in_a_row(seeds: list[int]) -> bool:
    """Tell whether seeds follow one another, as make's SAMPLES makes them."""
    return seeds == [*range(seeds[0], seeds[0] + len(seeds))]


class ScoreRow(Fields):
    """One model; counts are sums over its seeds, `bytes` its quants' by type. in_sample, drop_map: as in Summary.

    pass_at: pass@k by k, of several seeds.
    """

    name: ModelName
    experts: Count
    questions: Positive
    seeds: Annotated[list[Count], Field(min_length=1)]
    gguf: FileName
    gguf_sha256: Sha256
    bytes: dict[str, Positive]
    raw_correct: Count
    raw: Share
    strict_correct: Count
    strict: Share
    patched_correct: Count | None
    patched: Share | None
    score: Share
    interval: Interval
    in_sample: InSample | None
    drop_map: ChosenBy | None = None
    hardware: list[Hardware] = []
    tools_sha256: list[Sha256] = []
    invalid: Count
    invalid_classes: dict[str, Count]
    expected_by_chance: float
    points_vs_reference: float
    lost: Count | None = None
    won: Count | None = None
    mcnemar_p: Share | None = None
    pass_at: dict[Annotated[str, Field(pattern=r"^[1-9]\d{0,3}$")], Share] | None = None
    followed: Followed | None = None

    @model_validator(mode="after")
    def parts_and_totals(self) -> Self:
        """Refuse shares that are not those of the counts, and totals that are not those of their parts."""
        require(self.questions <= MOST_QUESTIONS * len(self.seeds), f"at most {MOST_QUESTIONS} questions per seed")
        for kind in ("raw", "strict", "patched"):
            right, share = getattr(self, f"{kind}_correct"), getattr(self, kind)
            require(
                alike(share, None if right is None else right / self.questions), f"{kind} = {kind}_correct / questions"
            )
        require(
            alike(self.score, self.raw if self.patched is None else self.patched), "score = patched, or raw without"
        )
        require(self.drop_map is None or self.in_sample is not None, "in_sample beside drop_map")
        low, high = self.interval
        require(low <= self.score + ROUNDING and self.score <= high + ROUNDING, "score within interval")
        if len(self.seeds) == 1:  # of several the spread over the questions would be needed
            right = self.raw_correct if self.patched_correct is None else self.patched_correct
            expected = wilson(np.repeat([1.0, 0.0], [right, self.questions - right]))
            require(all(map(alike, self.interval, expected)), "Wilson's interval of score and questions")
        require(
            self.invalid == sum(self.invalid_classes.values()) <= self.questions, "invalid = the sum of invalid_classes"
        )
        require(set(self.invalid_classes) <= set(CLASSES), f"invalid_classes of {', '.join(CLASSES)}")
        require(abs(self.expected_by_chance) <= self.invalid, "expected_by_chance at most invalid")
        if (own := self.followed) is not None:
            ordered = own.strict <= own.loose <= own.asked and self.raw_correct <= own.prompts_loose <= self.questions
            require(ordered, "followed in order: strict, loose, asked; right prompts, loosely right ones, all")
        if self.pass_at is not None:
            rates = [rate for _, rate in sorted(self.pass_at.items(), key=lambda item: int(item[0]))]
            require(len(self.seeds) > 1 and rates == sorted(rates), "pass_at of several seeds, never falling")
            require(alike(self.pass_at.get("1"), self.score), "pass_at 1 = score")
        return self


def pair_figures(sums: np.ndarray, seeds: int) -> dict:
    """Return what follows from paired differences; sums: [questions], whole numbers, over `seeds` seeds."""
    # Sums over the seeds and not means: the exact test counts whole numbers.
    mean, low, high = difference_interval(sums / seeds)
    return {
        "mcnemar_p": mcnemar(sums),
        "difference": mean,
        "difference_interval": [low, high],
        "smallest_shown": smallest_shown(sums, seeds),
        "smallest_likely": smallest_likely(sums / seeds),
    }


class ScorePair(Fields):
    """Two models, the second against the first; see `paired_figures` of compare_scores.py."""

    reference: str
    model: str
    questions: Annotated[int, Field(ge=1, le=MOST_QUESTIONS)]
    seeds: Positive
    lost: Count
    won: Count
    mcnemar_p: Share
    difference: Annotated[float, Field(ge=-1, le=1)]
    difference_interval: Interval
    smallest_shown: Annotated[float, Field(gt=0)] | None
    smallest_likely: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def one_seed(self) -> Self:
        """Refuse a difference or p that is not that of the counts; over several seeds they come from sums."""
        require(self.lost + self.won <= self.questions, "lost and won within questions")
        require(self.difference_interval[0] <= self.difference_interval[1], "difference_interval from low to high")
        if self.seeds == 1:
            signs = np.repeat([-1, 1, 0], [self.lost, self.won, self.questions - self.lost - self.won])
            for name, value in pair_figures(signs, 1).items():
                found, expected = np.ravel(getattr(self, name)), np.ravel(value)
                require(all(map(alike, found, expected)), f"{name} as lost, won and questions say")
        return self


class Scores(Record):
    """A comparison; the first row is the reference.

    evaluated: the names of the scored files; patched: whether the scores are those after the patch step.
    """

    what: ClassVar[str] = "a comparison of compare_scores.py"
    evaluated: str
    protocol: RunProtocol
    patched: bool
    question_ids: list[str]
    rows: Annotated[list[ScoreRow], Field(min_length=1)]
    pairs: list[ScorePair]

    @model_validator(mode="after")
    def one_set_of_questions(self) -> Self:
        """Refuse rows and pairs of other questions than those that are listed, and differences of other scores."""
        asked = len(self.question_ids)
        require(len(set(self.question_ids)) == asked, "every question_ids once")
        require(self.evaluated == " and ".join(row.gguf for row in self.rows), "evaluated naming the rows' files")
        scores = {row.name: row.score for row in self.rows}
        require(len(scores) == len(self.rows), "rows of one name each")
        for row in self.rows:
            require(row.questions == asked * len(row.seeds), "rows of as many questions as question_ids")
            require((row.patched is not None) == self.patched, "rows patched, or all not")
            both = row.in_sample.scored_and_chosen_on if row.in_sample else None
            require((both or 0) <= asked, "scored_and_chosen_on at most question_ids")
            points = 100 * (row.score - self.rows[0].score)
            require(alike(row.points_vs_reference, points), "points_vs_reference by the rows' scores")
        seeds = {row.name: len(row.seeds) for row in self.rows}
        for pair in self.pairs:
            require({pair.reference, pair.model} <= set(scores) and pair.questions == asked, "pairs of the rows")
            require(seeds[pair.reference] == seeds[pair.model] == pair.seeds, "pairs of as many seeds as their rows")
            difference = scores[pair.model] - scores[pair.reference]
            require(alike(pair.difference, difference), "differences of the rows' scores")
        first = {pair.model: pair for pair in self.pairs if pair.reference == self.rows[0].name}
        for row in self.rows[1:]:
            require(row.name in first, "a pair of the first row and each other")
            same = all(getattr(row, name) == getattr(first[row.name], name) for name in ("lost", "won", "mcnemar_p"))
            require(same, "lost, won and mcnemar_p of the rows as their pairs say")
        return self


def figures(rows: list[dict], patch: dict | None) -> dict:
    """Return the figures of a run; `patch` is the head of patched.json, or None for a run that stays unpatched.

    `patch_expected_by_chance`: right answers that guessing the invalid ones would add. What lm-eval counts as right
    among them is taken off: a truncated answer may hold the right letter.
    """
    invalid = [row for row in rows if row["class"] != "answered"]
    counts = Counter(row["class"] for row in invalid)
    return {
        "questions": len(rows),
        "raw_correct": sum(row["correct"] for row in rows),
        "strict_correct": sum(row["strict_correct"] for row in rows),
        "patch": patch,
        "patched_correct": None if patch is None else sum(row.get("patched_correct", row["correct"]) for row in rows),
        "invalid": {kind: counts[kind] for kind in CLASSES if counts[kind]},
        "invalid_total": len(invalid),
        "patch_expected_by_chance": sum(row.get("chance", 1 / CHOICES) - row["correct"] for row in invalid),
        "completion_tokens": sum(row["completion_tokens"] for row in rows),
        "answers": rows,
    }


def read_summary(path: Path) -> dict:
    """Return a run's summary; raise InputError when it is missing, is none, or does not answer every question once."""
    content = read_record(path, Summary)
    # The comparison pairs two runs by Record ID; one question twice or none would shift every figure.
    answers, count = content["answers"], content["questions"]
    ids = {answer["record_id"] for answer in answers}
    if not answers or not len(answers) == len(ids) == count:
        found = f"{len(answers)} answers, {len(ids)} Record IDs"
        raise InputError(path, f"{count} answered questions, every Record ID once", found)
    if sha256_json(content["protocol"]) != content["protocol_sha256"]:
        raise InputError(path, f"the protocol of {content['protocol_sha256'][:12]}", "another one", "make it again")
    counted = figures(answers, content["patch"])
    if wrong := [key for key, value in counted.items() if not _same(content[key], value)]:
        key = wrong[0]
        raise InputError(path, f"{key} {counted[key]} as the answers say", shown(content[key]), "make it again")
    if (content["patch"] is None) != (content["patched_correct"] is None):
        raise InputError(path, "patched_correct with patch, and neither without", "one of the two", "make it again")
    return content


def _same(recorded: object, counted: object) -> bool:
    """Tell whether a recorded figure is the counted one; of sums of fractions but for rounding."""
    if isinstance(recorded, float) and isinstance(counted, int | float):
        return alike(recorded, counted)
    return recorded == counted


def by_record_id(run: dict) -> dict[str, dict]:
    """Return a run's answers by Record ID: two runs need not have them in one order."""
    return {answer["record_id"]: answer for answer in run["answers"]}


def final_letter(answer: dict) -> str | None:
    """Return the letter of an answer, after the patch step if there was one."""
    return answer.get("patched_letter", answer.get("letter"))


def finally_correct(answer: dict) -> bool:
    """Tell whether an answer is right, after the patch step if there was one."""
    return bool(answer.get("patched_correct", answer["correct"]))


def scores_in_words(name: str, summary: dict) -> str:
    """Return the run's scores in one line: raw, strict and patched, invalid by class, chance."""
    n = summary["questions"]
    raw, strict, patched = (summary[f"{kind}_correct"] for kind in ("raw", "strict", "patched"))
    shown = "not patched" if patched is None else f"patched {patched}/{n} = {patched / n:.2%}"
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["invalid"].items())
    letters = " A-D" if summary["protocol"].get("task", GPQA).startswith(GPQA) else ""
    return (
        f"{name}: raw {raw}/{n} = {raw / n:.2%}, strict{letters} {strict}/{n} = {strict / n:.2%}, {shown}; "
        f"{summary['invalid_total']} invalid{f' ({kinds})' if kinds else ''}, chance alone would add "
        f"{summary['patch_expected_by_chance']:.1f}"
    )
