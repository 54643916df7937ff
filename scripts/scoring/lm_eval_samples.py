"""What lm-eval reads and writes: the frozen questions of its task, and the samples and score of its run."""

import json
from dataclasses import dataclass
from pathlib import Path

from files.safe_files import InputError, read_json, remove
from scoring.answer_record import letter_of
from scoring.run_files import LM_EVAL

TASK = "gpqa_diamond_cot_zeroshot_frozen"
RESULTS_FILES, SAMPLES_FILES = "results*.json", "samples*.jsonl"


@dataclass(frozen=True)
class Sample:
    """One question's outcome by flexible-extract; `letter` is None for an answer without one."""

    record_id: str
    prompt: str
    answer: str
    letter: str | None
    target: str
    correct: bool


def read_frozen(task: Path) -> list[dict]:
    """Return the frozen documents of a task directory; raise InputError when two have the same prompt."""
    path = task / "frozen.jsonl"
    if not path.is_file():
        raise InputError(path, "the frozen questions of freeze_questions.py", "nothing")
    documents = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    seen: dict[str, str] = {}
    for document in documents:
        # The proxy knows a question by its prompt alone: lm-eval sends no Record ID.
        if (other := seen.setdefault(document["prompt"], document["Record ID"])) != document["Record ID"]:
            raise InputError(
                path, "a prompt of its own for every question", f"that of {other} in {document['Record ID']}, too"
            )
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


def shorten_names(folder: Path) -> None:
    """Move lm-eval's results and samples to results.json and samples.jsonl of their folder.

    lm-eval puts the model, the task and the time into their paths, which then are longer than a person reads.
    """
    for pattern in (RESULTS_FILES, SAMPLES_FILES):
        for path in sorted(folder.rglob(pattern)):
            path.rename(folder / pattern.replace("*", ""))
    for left in [path for path in folder.iterdir() if path.is_dir()]:
        remove(left)


def lm_eval_score(run_directory: Path) -> float:
    """Return lm-eval's own flexible-extract score, 0 to 1."""
    (scores,) = read_json(_newest(run_directory, RESULTS_FILES, "results"))["results"].values()
    return scores["exact_match,flexible-extract"]


def read_samples(run_directory: Path) -> list[Sample]:
    """Return the logged samples of a run, in question order; raise InputError when there are none."""
    path = _newest(run_directory, SAMPLES_FILES, "samples")
    # Not splitlines(): lm-eval writes U+2028 and the like as they are, inside of a line.
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = [row for row in rows if row["filter"] == "flexible-extract"]
    if not rows:
        raise InputError(path, "samples with the filter flexible-extract", "none")
    return [_sample(row) for row in sorted(rows, key=lambda row: row["doc_id"])]


def _sample(row: dict) -> Sample:
    # lm-eval logs a chat as JSON text, alone or in a list of one.
    prompt = row["arguments"]["gen_args_0"]["arg_0"]
    prompt = prompt[0] if isinstance(prompt, list) else prompt
    messages = json.loads(prompt) if isinstance(prompt, str) else prompt
    return Sample(
        record_id=row["doc"]["Record ID"],
        prompt=messages[-1]["content"],
        answer=row["resps"][0][0],
        letter=letter_of(row["filtered_resps"][0]),
        target=row["target"].strip("()"),
        correct=bool(row["exact_match"]),
    )
