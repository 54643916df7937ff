"""The samples that one lm-eval run logged: one row per question, whatever the number of filters."""

import json
from dataclasses import dataclass
from pathlib import Path

from questions import LETTERS
from safe_files import InputError

@dataclass(frozen=True)
class Sample:
    """One question's outcome: Record ID, the messages sent, the response, the letter extracted, right or wrong.

    `letter` is what flexible-extract found ("B"), or None for an invalid answer.
    """

    record_id: str
    messages: list[dict]
    response: str
    letter: str | None
    target: str
    correct: bool
    prompt_hash: str


def read_samples(run_directory: Path) -> list[Sample]:
    """Return the newest logged samples of a run, in question order; raise InputError when there are none."""
    files = sorted((run_directory / "lm_eval").rglob("samples_*.jsonl"))
    if not files:
        raise InputError(run_directory, "samples of an lm-eval run", "none")
    rows = [json.loads(line) for line in files[-1].read_text().splitlines()]
    rows = [row for row in rows if row["filter"] == "flexible-extract"]
    if not rows:
        raise InputError(files[-1], "samples with the filter flexible-extract", "none")
    return [_sample(row) for row in sorted(rows, key=lambda row: row["doc_id"])]


def _sample(row: dict) -> Sample:
    extracted = row["filtered_resps"][0]
    letter = extracted.strip("()").upper()  # "[invalid]", or a letter that is no choice, such as "(S)"
    prompt = row["arguments"]["gen_args_0"]["arg_0"]
    prompt = prompt[0] if isinstance(prompt, list) else prompt
    messages = json.loads(prompt) if isinstance(prompt, str) else prompt
    return Sample(record_id=row["doc"]["Record ID"], messages=messages, response=row["resps"][0][0] or "",
                  letter=letter if letter in tuple(LETTERS) else None, target=row["target"].strip("()"),
                  correct=bool(row["exact_match"]), prompt_hash=row["prompt_hash"])
