"""The two records of scores: summary.json of one run, and scores.json, the comparison of several.

summary.json (`Summary`, written by summarize_scores.py and pool_heldout.py): scores and a row per question, no text.
scores.json (`Scores`, written by compare_scores.py): a row per model, a pair per two models.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, ClassVar

from files.safe_files import Fields, InputError, Record, read_record

from pydantic import Field

SUMMARY_NAME, SCORES_NAME = "summary.json", "scores.json"
CLASSES = ("answered", "empty", "truncated", "no letter", "parser error", "server error")  # of an answer
CHOICES = 4  # of a question, all as likely when one guesses; rows of other tasks say their own chance


Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class InSample(Fields):
    """How many questions chose the experts, and how many of the scored ones are among them; None: not known."""

    chosen_on: int | None
    scored_and_chosen_on: int | None


class ChosenBy(Fields):
    """The drop map of a pruned model, in short; sha256: of the map's file."""

    criterion: str
    sha256: str


class AnswerRow(Fields):
    """One question. kind: one of CLASSES; order: of the choices; patched_*: of invalid answers after the patch step."""

    record_id: str
    order: list[int]
    prompt_sha256: str
    target: str
    kind: str = Field(alias="class")
    letter: str | None = None
    correct: bool
    strict_correct: bool
    completion_tokens: int
    patched_letter: str | None = None
    patched_correct: bool = False


class RunProtocol(Fields):
    """The values of scoring/eval_protocol.py; the runs of one model may differ in this one."""

    seed: int


class Summary(Record):
    """One run. patch: the head of patched.json, None for a run without the patch step; invalid: counts by class.

    in_sample, drop_map: None for a model that was not pruned; drop_map also where it was not recorded.
    """

    what: ClassVar[str] = "a summary of eval_gpqa_v3.sh"
    name: str
    gguf: str
    gguf_sha256: str
    gguf_bytes: int
    experts: int
    protocol: RunProtocol
    protocol_sha256: str
    in_sample: InSample | None
    drop_map: ChosenBy | None = None
    questions: int
    raw_correct: int
    strict_correct: int
    patch: dict | None
    patched_correct: int | None
    invalid: dict[str, int]
    invalid_total: int
    patch_expected_by_chance: float
    completion_tokens: int
    answers: list[AnswerRow]


class ScoreRow(Fields):
    """One model; counts are sums over its seeds, `bytes` its quants' by type. in_sample, drop_map: as in Summary.

    pass_at: pass@k by k, of several seeds.
    """

    name: str
    experts: int
    questions: int
    seeds: Annotated[list[int], Field(min_length=1)]
    gguf: str
    gguf_sha256: str
    bytes: dict[str, int]
    raw_correct: int
    raw: float
    strict_correct: int
    strict: float
    patched_correct: int | None
    patched: float | None
    score: float
    interval: Interval
    in_sample: InSample | None
    drop_map: ChosenBy | None = None
    invalid: int
    invalid_classes: dict[str, int]
    expected_by_chance: float
    points_vs_reference: float
    pass_at: dict[str, float] | None = None


class ScorePair(Fields):
    """Two models, the second against the first; see `paired_figures` of compare_scores.py."""

    reference: str
    model: str
    questions: int
    seeds: int
    lost: int
    won: int
    mcnemar_p: float
    difference: float
    difference_interval: Interval
    smallest_shown: float | None
    smallest_likely: float


class Scores(Record):
    """A comparison; the first row is the reference.

    evaluated: the names of the scored files; patched: whether the scores are those after the patch step.
    """

    what: ClassVar[str] = "a comparison of compare_scores.py"
    evaluated: str
    protocol: dict
    patched: bool
    question_ids: list[str]
    rows: Annotated[list[ScoreRow], Field(min_length=1)]
    pairs: list[ScorePair]


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
    if (content["patch"] is None) != (content["patched_correct"] is None):
        raise InputError(path, "patched_correct with patch, and neither without", "one of the two", "make it again")
    return content


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
    return (
        f"{name}: raw {raw}/{n} = {raw / n:.2%}, strict A-D {strict}/{n} = {strict / n:.2%}, {shown}; "
        f"{summary['invalid_total']} invalid{f' ({kinds})' if kinds else ''}, chance alone would add "
        f"{summary['patch_expected_by_chance']:.1f}"
    )
