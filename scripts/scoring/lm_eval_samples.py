"""What lm-eval reads and writes: the frozen questions of its task, and the samples and score of its run."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from files.input_errors import InputError, read_lines, reason_of, sha256_file
from files.json_records import Fields, check_fields, parse_json, read_json
from files.safe_files import remove
from scoring.eval_tasks import EvalTask, task_of
from scoring.followed import followed_digits
from scoring.run_files import ANOTHER_OUTPUT, FROZEN, LM_EVAL, RUN, SHOTS, TASK_FOLDER

from pydantic import Field

RESULTS_FILES, SAMPLES_FILES = "results*.json", "samples*.jsonl"


@dataclass(frozen=True)
class Sample:
    """One question's outcome by the task's filter; `letter` is None for an answer without one."""

    record_id: str
    prompt: str
    answer: str
    letter: str | None
    target: str
    correct: bool
    loose: str | None = None  # of IFEval: what lm-eval says that the answer follows, read loosely


class FrozenQuestion(Fields):
    """A row of frozen.jsonl, as far as we read it; lm-eval's templates read the other fields."""

    record_id: str = Field(alias="Record ID", min_length=1)
    question: str = Field(alias="Question", min_length=1)
    prompt: str = Field(min_length=1)
    choices: Annotated[list[str], Field(min_length=4, max_length=4)]
    answer: str = Field(pattern=r"^\([A-D]\)$")


class OtherQuestion(Fields):
    """The same of a question that is none of GPQA's; target: what the right answer is."""

    record_id: str = Field(alias="Record ID", min_length=1)
    prompt: str = Field(min_length=1)
    target: str = Field(min_length=1)


def _rows(path: Path, what: str) -> Iterator[tuple[str, dict]]:
    """Yield the JSON objects of a JSONL file, each with its place for a message; raise InputError on others."""
    # By their line ends alone: lm-eval writes U+2028 and the like as they are, inside of a line.
    for number, line in enumerate(read_lines(path), start=1):
        if line != b"\n":
            try:
                row = parse_json(line.decode())
            except (ValueError, RecursionError) as error:
                raise InputError(path, f"{what} in line {number}", reason_of(error)) from error
            if not isinstance(row, dict):
                raise InputError(path, f"{what} in line {number}", type(row).__name__)
            yield f"{path}, line {number}", row


def read_frozen(task: Path) -> list[dict]:
    """Return the frozen documents of a task directory; raise InputError when two have the same prompt."""
    path = task / FROZEN
    if not path.is_file():
        raise InputError(path, "the frozen questions of freeze_questions.py", "nothing")
    documents = []
    seen: dict[str, str] = {}
    for place, document in _rows(path, "a frozen question"):
        kind = OtherQuestion if "target" in document else FrozenQuestion
        check_fields(place, document, kind, "a frozen question", "freeze the questions again")
        documents.append(document)
        # The proxy knows a question by its prompt alone: lm-eval sends no Record ID.
        if (other := seen.setdefault(document["prompt"], document["Record ID"])) != document["Record ID"]:
            raise InputError(
                path, "a prompt of its own for every question", f"that of {other} in {document['Record ID']}, too"
            )
    if not documents:
        raise InputError(path, "frozen questions", "none", "freeze the questions again")
    return documents


def read_shots(task: Path) -> list[dict]:
    """Return the frozen few shots of a task directory, [] of a task that has none."""
    path = task / SHOTS
    return [row for _, row in _rows(path, "a few shot")] if path.is_file() else []


def read_asked(run: Path, record: dict) -> list[dict]:
    """Return the frozen documents of a run; raise InputError when they are not those that its record names."""
    path = run / TASK_FOLDER / FROZEN
    documents = read_frozen(run / TASK_FOLDER)
    if (found := sha256_file(path)) != record["questions_sha256"]:
        expected = f"the questions of {run / RUN}, sha256 {record['questions_sha256'][:12]}"
        raise InputError(path, expected, found[:12], ANOTHER_OUTPUT)
    for number, document in enumerate(documents, start=1):
        if "target" in document:  # of a task that reads its own columns once more, to tell what is right
            task = task_of(record["protocol"].get("task", ""))
            task.check(path, number, {column: document.get(column) for column in task.columns})
    return documents


def _newest(run_directory: Path, pattern: str, what: str) -> Path:
    # The names hold the time in ISO form, so the last one by name is the newest.
    files = sorted((run_directory / LM_EVAL).rglob(pattern))
    if not files:
        raise InputError(run_directory, f"{what} of an lm-eval run", "none")
    return files[-1]


def missing_results(folder: Path) -> str | None:
    """Return what a folder lacks of lm-eval's results and samples, or None when both are there.

    lm-eval only warns when it cannot write one of them, and exits with code 0.
    """
    wanted = {"results": RESULTS_FILES, "samples": SAMPLES_FILES}
    return next((what for what, pattern in wanted.items() if not any(folder.rglob(pattern))), None)


def check_whole(folder: Path, task: EvalTask, count: int) -> None:
    """Raise InputError unless results can be read, and there are samples of so many questions.

    lm-eval goes on where the disk gets full while it writes them, and exits with code 0.
    """
    read_json(folder / RESULTS_FILES.replace("*", ""))
    path = folder / SAMPLES_FILES.replace("*", "")
    found = sum(row.get("filter") == task.filter for _, row in _rows(path, "a sample"))
    if found != count:
        raise InputError(path, f"samples of {count} questions", str(found), "run the same command again to go on")


def shorten_names(folder: Path) -> None:
    """Move lm-eval's results and samples to results.json and samples.jsonl of their folder.

    lm-eval puts the model, the task and the time into their paths, which then are longer than a person reads.
    """
    for pattern in (RESULTS_FILES, SAMPLES_FILES):
        for path in sorted(folder.rglob(pattern)):
            path.rename(folder / pattern.replace("*", ""))
    for left in [path for path in folder.iterdir() if path.is_dir()]:
        remove(left)


def lm_eval_score(run_directory: Path, task: EvalTask) -> float:
    """Return lm-eval's own score by the task's filter, 0 to 1."""
    path = _newest(run_directory, RESULTS_FILES, "results")
    match read_json(path):
        case {"results": dict(results)} if len(results) == 1:
            (scores,) = results.values()
            score = scores.get(f"{task.metric},{task.filter}") if isinstance(scores, dict) else None
            if isinstance(score, float) and 0 <= score <= 1:
                return score
    raise InputError(path, f"lm-eval's {task.filter} score of one task, 0 to 1", "none")


def lm_eval_settings(run_directory: Path) -> dict:
    """Return what lm-eval itself recorded of a run: gen_kwargs, requests at once, seed and version; {} without it."""
    found = read_json(_newest(run_directory, RESULTS_FILES, "results"))
    match found:
        case {"config": {"gen_kwargs": dict(kwargs), "model_args": dict(model), "random_seed": int(seed)}}:
            once = model.get("num_concurrent")
            return {"gen_kwargs": kwargs, "at_once": once, "seed": seed, "version": found.get("lm_eval_version")}
    return {}


def read_samples(run_directory: Path, task: EvalTask) -> list[Sample]:
    """Return the logged samples of a run, in question order; raise InputError when there are none."""
    path = _newest(run_directory, SAMPLES_FILES, "samples")
    rows = [row for _, row in _rows(path, "a sample") if row.get("filter") == task.filter]
    if not rows:
        raise InputError(path, f"samples with the filter {task.filter}", "none")
    try:
        return [_sample(row, task) for row in sorted(rows, key=lambda row: row["doc_id"])]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # lm-eval's own form, which is not ours to define: what does not read as one of its samples is none.
        raise InputError(path, "samples as lm-eval writes them", reason_of(error)) from error


def _sample(row: dict[str, Any], task: EvalTask) -> Sample:
    # lm-eval logs a chat as JSON text, alone or in a list of one.
    prompt = row["arguments"]["gen_args_0"]["arg_0"]
    prompt = prompt[0] if isinstance(prompt, list) else prompt
    messages = json.loads(prompt) if isinstance(prompt, str) else prompt
    letter, target, loose = task.found(row["filtered_resps"][0]), task.target(row["target"]), None
    if task.is_ifeval:
        letter, loose = (followed_digits(row[f"inst_level_{reading}_acc"]) for reading in ("strict", "loose"))
        target = row["doc"]["target"]
    return Sample(
        record_id=row["doc"]["Record ID"],
        prompt=messages[-1]["content"],
        answer=row["resps"][0][0],
        letter=letter,
        target=target,
        correct=bool(row[task.metric]),
        loose=loose,
    )
