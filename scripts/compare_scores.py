#!/usr/bin/env python3
"""Print the model card's table: models, experts, quant sizes, raw and patched scores, and what the difference means.

Inputs:  per model its summary.json of eval_gpqa_v3.sh and the FILE.json records of its quants; the first is the
         reference.
Output:  a Markdown table and the same figures as JSON.
Use:     scripts/compare_scores.py --model SUMMARY.json Q6_K.gguf.json ... --model SUMMARY.json ... --output TABLE.md

Intervals: Wilson, 1927 (95%). Paired test: exact McNemar (binomial over the discordant questions).
"""

import argparse
from pathlib import Path

from scipy.stats import binomtest

from safe_files import GIB, InputError, read_json, replace_when_done, run, write_json


def wilson(correct: int, total: int) -> tuple[float, float]:
    """Return the Wilson 95% interval of a proportion."""
    interval = binomtest(correct, total).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided McNemar p-value for `lost` and `won` discordant questions."""
    return float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def final_correct(answer: dict) -> bool:
    """Whether an answer is right after the patch step."""
    return bool(answer["correct"] or answer.get("patched_correct", False))


def compare(reference: dict, other: dict) -> dict:
    """Pair two summaries question by question; raise InputError when protocol or questions differ."""
    if reference["protocol"] != other["protocol"]:
        key = next(k for k in {**reference["protocol"], **other["protocol"]}
                   if other["protocol"].get(k) != reference["protocol"].get(k))
        raise InputError(other["name"], f"the reference's {key} {reference['protocol'].get(key)}",
                         str(other["protocol"].get(key)), "scores of two protocols cannot be compared")
    mine = {answer["record_id"]: answer for answer in other["answers"]}
    if [a["prompt_hash"] for a in reference["answers"]] != [a["prompt_hash"] for a in other["answers"]]:
        raise InputError(other["name"], "the questions and choice order of the reference", "other prompts")
    pairs = [(final_correct(answer), final_correct(mine[answer["record_id"]])) for answer in reference["answers"]]
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    return {"lost": lost, "won": won, "mcnemar_p": mcnemar(lost, won)}


def row(summary: dict, quants: list[dict], reference: dict) -> dict:
    """Return one model's figures."""
    n = summary["questions"]
    low, high = wilson(summary["patched_correct"], n)
    return {"name": summary["name"], "experts": summary["experts"], "questions": n, "gguf": summary["gguf"],
            "gib": {quant["type"]: quant["bytes"] / GIB for quant in quants},
            "raw_correct": summary["raw_correct"], "patched_correct": summary["patched_correct"],
            "raw": summary["raw_correct"] / n, "patched": summary["patched_correct"] / n, "patched_interval": [low, high],
            "invalid": summary["invalid_total"], "expected_by_chance": summary["patch_expected_by_chance"],
            "points_vs_reference": 100 * (summary["patched_correct"] - reference["patched_correct"]) / n,
            **(compare(reference, summary) if summary is not reference else {})}


def gib(size: float | None) -> str:
    """Return a size in GiB with the digits that matter, or a dash for a file that was not made."""
    return "-" if size is None else f"{size:.4f}" if size < 1 else f"{size:.2f}"


def table(rows: list[dict]) -> str:
    """Return the Markdown table and one sentence per comparison."""
    types = sorted({kind for r in rows for kind in r["gib"]}, key=lambda kind: -max(r["gib"].get(kind, 0) for r in rows))
    lines = ["| Model | Experts | " + " | ".join(f"{kind} GiB" for kind in types) +
             " | Raw score | Patched score | 95% interval | Invalid (right by chance) | Change |",
             "| --- | ---: |" + " ---: |" * (len(types) + 5)]
    for r in rows:
        sizes = " | ".join(gib(r["gib"].get(kind)) for kind in types)
        n, (low, high) = r["questions"], r["patched_interval"]
        change = "reference" if r is rows[0] else f"{r['points_vs_reference']:+.2f} points"
        lines.append(f"| {r['name']} | {r['experts']} | {sizes} | {r['raw_correct']}/{n} = {r['raw']:.2%} | "
                     f"{r['patched_correct']}/{n} = {r['patched']:.2%} | {low:.1%} to {high:.1%} | {r['invalid']} "
                     f"({r['expected_by_chance']:.1f}) | {change} |")
    for r in rows[1:]:
        verdict = "a detectable difference" if r["mcnemar_p"] < 0.05 else "no detectable difference"
        lines.append(f"\n{r['name']} against {rows[0]['name']}: {r['lost']} questions lost, {r['won']} won, exact McNemar "
                     f"p = {r['mcnemar_p']:.2g}: {verdict} on {r['questions']} questions.")
    return "\n".join(lines) + "\n"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, nargs="+", action="append", required=True, metavar="FILE",
                        help="summary.json and quant records of one model; the first --model is the reference")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write; JSON goes beside it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    summaries = [read_json(files[0]) for files in args.model]
    quants = [[read_json(file) for file in files[1:]] for files in args.model]
    rows = [row(summary, records, summaries[0]) for summary, records in zip(summaries, quants)]
    text = table(rows)
    write_json(args.output.with_suffix(".json"), {
        "evaluated": " and ".join(summary["gguf"] for summary in summaries),
        "question_ids": [answer["record_id"] for answer in summaries[0]["answers"]], "rows": rows})
    with replace_when_done(args.output) as partial:
        partial.write_text(text)
    print(args.output.read_text(), end="")


if __name__ == "__main__":
    run(main)
