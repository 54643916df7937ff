"""The steps of a run with what each will take on this machine, and what those took that are done."""

from dataclasses import dataclass
from pathlib import Path

from chats.questions import load_questions
from stages.needs import RunSizes, machine_memory, read_plan, sizes_of_plan
from stages.planned_steps import PlannedStep
from stages.run_costs import CHARACTERS_PER_TOKEN, START_SECONDS, Work, disk_after, peak_memory, step_cost

# Of GPQA Diamond, and of calibration data v5, before they are fetched.
GPQA_QUESTIONS, GPQA_TOKENS, V5_CHARACTERS = 198, 120_000, 1_300_000
MOST_FACTOR = 20.0  # a step that took less than its start says no more than "fast"
TEMPLATE_CHARACTERS = 120  # of a chat around a question


@dataclass(frozen=True)
class RunPlan:
    """A run's sizes and work, and whether its analysis holds one layer at a time."""

    sizes: RunSizes
    work: Work
    streams: bool


@dataclass(frozen=True)
class Row:
    """A step's seconds, memory and disk: planned, and as recorded where it is done."""

    words: str
    planned: tuple[float, int, int]
    actual: tuple[float, int, int] | None


def characters_of(path: Path) -> tuple[int, int]:
    """Return the number of questions in a file, and the characters of their chats; of GPQA where there is none yet."""
    if not path.exists():
        return GPQA_QUESTIONS, GPQA_TOKENS * CHARACTERS_PER_TOKEN
    asked = load_questions(path, seed=0)
    return len(asked), sum(len(each.prompt) + len(each.explanation) + TEMPLATE_CHARACTERS for each in asked)


def run_plan(
    plan: Path, questions: Path, text: Path | None, eval_questions: Path, answer_tokens: int, streams: bool
) -> RunPlan:
    """Return what a run has to do, by the plan of its files and its questions.

    text: of the imatrix, None where it is the questions as chats; answer_tokens: of one answer of the evaluation.
    """
    asked, chats = characters_of(questions)
    letters = chats if text is None else text.stat().st_size if text.exists() else V5_CHARACTERS
    work = Work(
        analysed_questions=asked,
        analysed_tokens=chats // CHARACTERS_PER_TOKEN,
        imatrix_tokens=letters // CHARACTERS_PER_TOKEN,
        questions=characters_of(eval_questions)[0],
        answer_tokens=answer_tokens,
        active_weights=read_plan(plan).active_weights,
        memory_bytes=machine_memory()[0],
    )
    return RunPlan(sizes_of_plan(plan), work, streams)


def rows_of(plan: RunPlan, records: list[dict], steps: list[PlannedStep], factors: dict[str, float]) -> list[Row]:
    """Return a row for each step: those that are done, by their records, then those that are left."""
    left = {step.target for step in steps}
    done = [record for record in records if record["stage"] and Path(record["target"]) not in left]
    rows, disk = [], plan.sizes.full
    listed: list[tuple[str, Path, dict | None]] = [(each["words"], Path(each["target"]), each) for each in done]
    for words, target, record in [*listed, *((step.words, step.target, None) for step in steps)]:
        disk += disk_after(target, plan.sizes)
        seconds = step_cost(target, plan.sizes, plan.work, plan.streams).seconds(factors)
        actual = (record["seconds"], record["resident_bytes"], record["disk_after_bytes"]) if record else None
        rows.append(Row(words, (seconds, peak_memory(target, plan.sizes, plan.streams), disk), actual))
    return rows


def factors_of(plan: RunPlan, records: list[dict]) -> dict[str, float]:
    """Return how many times as long each kind of step took as the machine of reference would have taken."""
    known: dict[str, tuple[float, float]] = {}
    for record in records:
        cost = step_cost(Path(record["target"]), plan.sizes, plan.work, plan.streams)
        # What is small is nothing but a start.
        kind = cost.kind if cost.work_seconds else "start"
        work = cost.work_seconds or START_SECONDS[cost.kind]
        took = record["seconds"] - (START_SECONDS[cost.kind] if cost.work_seconds else 0)
        planned, taken = known.get(kind, (0.0, 0.0))
        known[kind] = planned + work, taken + max(took, work / MOST_FACTOR)
    return {kind: round(min(taken / planned, MOST_FACTOR), 3) for kind, (planned, taken) in known.items()}
