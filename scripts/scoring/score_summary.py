"""The figures of one run's summary, from its answers, and the line that says them."""

from collections import Counter
from pathlib import Path

from scoring.answer_record import CLASSES
from files.safe_files import InputError

CHOICES = 4
SUMMARY_KEYS = ("name", "gguf", "gguf_sha256", "gguf_bytes", "experts", "protocol", "protocol_sha256", "in_sample", "questions",
                "raw_correct", "strict_correct", "patch", "patched_correct", "invalid", "invalid_total",
                "patch_expected_by_chance", "answers")


def figures(rows: list[dict], patch: dict | None) -> dict:
    """Return the figures of a run; `patch` is the head of patched.json, or None for a run that stays unpatched.

    `patch_expected_by_chance`: right answers that guessing the invalid ones would add, less those already counted.
    """
    invalid = [row for row in rows if row["class"] != "answered"]
    counts = Counter(row["class"] for row in invalid)
    return {"questions": len(rows), "raw_correct": sum(row["correct"] for row in rows),
            "strict_correct": sum(row["strict_correct"] for row in rows), "patch": patch,
            "patched_correct": None if patch is None else sum(row.get("patched_correct", row["correct"]) for row in rows),
            "invalid": {kind: counts[kind] for kind in CLASSES if counts[kind]}, "invalid_total": len(invalid),
            "patch_expected_by_chance": sum(1 / CHOICES - row["correct"] for row in invalid),
            "completion_tokens": sum(row["completion_tokens"] for row in rows), "answers": rows}


def check_summary(path: Path, content: dict) -> dict:
    """Return a summary as it is; raise InputError when a file's content is none."""
    missing = [key for key in SUMMARY_KEYS if key not in content]
    if missing or not isinstance(content["answers"], list) or not isinstance(content["protocol"], dict):
        raise InputError(path, "a summary of eval_gpqa_v3.sh", f"a file without {missing[0]!r}" if missing else "other values")
    answers = [answer for answer in content["answers"] if isinstance(answer, dict) and {"record_id", "correct", "order"} <= answer.keys()]
    if not answers or not len(answers) == len(content["answers"]) == len({a["record_id"] for a in answers}) == content["questions"]:
        raise InputError(path, f"{content['questions']} answered questions, every Record ID once", f"{len(answers)} answers")
    return content


def describe(name: str, summary: dict) -> str:
    """Return the run's scores in one line: raw, strict and patched, invalid by class, chance."""
    n = summary["questions"]
    raw, strict, patched = (summary[f"{kind}_correct"] for kind in ("raw", "strict", "patched"))
    shown = "not patched" if patched is None else f"patched {patched}/{n} = {patched / n:.2%}"
    kinds = ", ".join(f"{count} {kind}" for kind, count in summary["invalid"].items())
    return (f"{name}: raw {raw}/{n} = {raw / n:.2%}, strict A-D {strict}/{n} = {strict / n:.2%}, {shown}; "
            f"{summary['invalid_total']} invalid{f' ({kinds})' if kinds else ''}, chance alone would add "
            f"{summary['patch_expected_by_chance']:.1f}")
