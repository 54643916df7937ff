#!/usr/bin/env python3
"""Sum up one evaluation: raw score, patched score, invalid answers, and what chance alone would have added.

Inputs:  a run directory of eval_gpqa_v3.sh (lm-eval's results and samples, patched.json, protocol.json).
Output:  RUN/summary.json: scores and, per question, Record ID, letters, right or wrong and prompt hash; no text.
Use:     scripts/summarize_scores.py --run DIR --gguf FILE.gguf
"""

import argparse
from pathlib import Path

from gguf_files import summarize_gguf
from lm_eval_samples import read_samples
from safe_files import InputError, read_json, run, sha256_file, write_json

CHOICES = 4


def lm_eval_score(run_directory: Path) -> float:
    """Return lm-eval's own flexible-extract score, 0 to 1, from its newest results file."""
    files = sorted((run_directory / "lm_eval").rglob("results_*.json"))
    if not files:
        raise InputError(run_directory, "results of an lm-eval run", "none")
    (scores,) = read_json(files[-1])["results"].values()
    return scores["exact_match,flexible-extract"]


def summarize(samples: list, patched: dict, score: float) -> dict:
    """Combine lm-eval's samples and the patched answers; raise InputError when lm-eval's own score disagrees."""
    raw = sum(sample.correct for sample in samples)
    if abs(score * len(samples) - raw) > 1e-6:
        raise InputError("lm-eval results", f"{raw}/{len(samples)}, as its samples say", f"{score:.6f}")
    fixed = {answer["record_id"]: answer for answer in patched["answers"]}
    classes = [answer["class"] for answer in patched["answers"]]
    return {
        "questions": len(samples), "raw_correct": raw,
        "patched_correct": raw + sum(answer["correct"] for answer in fixed.values()),
        "invalid": {kind: classes.count(kind) for kind in sorted(set(classes))},
        "invalid_total": len(fixed), "patch_expected_by_chance": len(fixed) / CHOICES,
        "answers": [{"record_id": s.record_id, "target": s.target, "letter": s.letter, "correct": s.correct,
                     "prompt_hash": s.prompt_hash,
                     **({"patched_letter": fixed[s.record_id]["letter"], "patched_correct": fixed[s.record_id]["correct"]}
                        if s.record_id in fixed else {})} for s in samples]}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory of eval_gpqa_v3.sh")
    parser.add_argument("--gguf", type=Path, required=True, help="the GGUF file that was evaluated")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    protocol = read_json(args.run / "protocol.json")
    summary = summarize(read_samples(args.run), read_json(args.run / "patched.json"), lm_eval_score(args.run))
    write_json(args.run / "summary.json", {
        "name": protocol["name"], "gguf": args.gguf.name, "gguf_sha256": sha256_file(args.gguf),
        "gguf_bytes": args.gguf.stat().st_size, "experts": summarize_gguf(args.gguf).experts,
        "protocol": protocol["protocol"], **summary})
    n = summary["questions"]
    print(f"{protocol['name']}: raw {summary['raw_correct']}/{n} = {summary['raw_correct'] / n:.2%}, patched "
          f"{summary['patched_correct']}/{n} = {summary['patched_correct'] / n:.2%}, {summary['invalid_total']} invalid "
          f"({summary['patch_expected_by_chance']:.1f} right by chance)")


if __name__ == "__main__":
    run(main)
