"""What lm-eval reads and writes: the frozen questions of its task, and the samples and score of its run."""

import json
from dataclasses import dataclass
from pathlib import Path

from files.safe_files import InputError, read_json
from scoring.answer_record import letter_of

TASK = "gpqa_diamond_cot_zeroshot_frozen"


@dataclass(frozen=True)
class Sample:
    """One question's outcome by flexible-extract: Record ID, prompt, answer, letter (or None), target, right or wrong."""

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
        if (other := seen.setdefault(document["prompt"], document["Record ID"])) != document["Record ID"]:
            raise InputError(
                path, "a prompt of its own for every question", f"that of {other} in {document['Record ID']}, too"
            )
    return documents


def run_digests(record: dict) -> dict:
    """Return what tells one run from another: the digests of model, questions and protocol of its run.json."""
    return {key: record.get(key) for key in ("gguf_sha256", "questions_sha256", "protocol_sha256")}


def _newest(run_directory: Path, pattern: str, what: str) -> Path:
    files = sorted((run_directory / "lm_eval").rglob(pattern))
    if not files:
        raise InputError(run_directory, f"{what} of an lm-eval run", "none")
    return files[-1]


def lm_eval_score(run_directory: Path) -> float:
    """Return lm-eval's own flexible-extract score, 0 to 1."""
    (scores,) = read_json(_newest(run_directory, "results_*.json", "results"))["results"].values()
    return scores["exact_match,flexible-extract"]


def read_samples(run_directory: Path) -> list[Sample]:
    """Return the logged samples of a run, in question order; raise InputError when there are none."""
    path = _newest(run_directory, "samples_*.jsonl", "samples")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    rows = [row for row in rows if row["filter"] == "flexible-extract"]
    if not rows:
        raise InputError(path, "samples with the filter flexible-extract", "none")
    return [_sample(row) for row in sorted(rows, key=lambda row: row["doc_id"])]


def _sample(row: dict) -> Sample:
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
