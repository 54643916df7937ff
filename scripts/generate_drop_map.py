#!/usr/bin/env python3
"""Choose the experts to keep: those that are among the most needed ones in the most questions.

Inputs:  a statistics file of teacher_force_analysis.py; the number of experts to keep in every layer.
Output:  a drop map (schema: drop_map.py).
Use:     scripts/generate_drop_map.py --stats STATS --keep 109 --protect-top 16 --output DROP_MAP.json

Method: the model card. For each question and layer the `--protect-top` experts with the largest weighted norm are
protected; an expert's coverage is the number of questions that protect it; the experts of highest coverage stay.
"""

import argparse
from pathlib import Path

import numpy as np

from drop_map import check_keep_count
from expert_stats import read_stats
from safe_files import InputError, run, sha256_file, write_json


def coverage(weighted_norm_sum: np.ndarray, protect_top: int) -> np.ndarray:
    """Count the questions in which each expert is among its layer's `protect_top` by weighted norm.

    weighted_norm_sum: [questions, layers, experts] fp64. Returns [layers, experts] int64. Ties go to the lower index;
    an expert that a question never used is not protected by it.
    """
    order = np.argsort(-weighted_norm_sum, axis=2, kind="stable")[:, :, :protect_top]
    protected = np.zeros(weighted_norm_sum.shape, dtype=bool)
    np.put_along_axis(protected, order, True, axis=2)
    return (protected & (weighted_norm_sum > 0)).sum(axis=0)


def rank(score: np.ndarray, total_weighted_norm: np.ndarray) -> np.ndarray:
    """Order one layer's experts, best first: by score, then by total weighted norm, then by lower index.

    score, total_weighted_norm: [experts]. Returns expert ids [experts].
    """
    return np.lexsort((np.arange(score.size), -total_weighted_norm, -score))


def choose_layer(score: np.ndarray, total_weighted_norm: np.ndarray, keep: int) -> dict:
    """Return one layer's entry of the drop map; `margin` is the score of the last kept less that of the first dropped."""
    order = rank(score, total_weighted_norm)
    margin = int(score[order[keep - 1]] - score[order[keep]]) if keep < score.size else None
    return {"keep": sorted(order[:keep].tolist()), "drop": sorted(order[keep:].tolist()), "score": score.tolist(),
            "margin": margin}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stats", type=Path, required=True, help="statistics file of teacher_force_analysis.py")
    parser.add_argument("--keep", type=int, required=True, help="experts to keep in every layer")
    parser.add_argument("--protect-top", type=int, default=16, help="experts protected per question and layer")
    parser.add_argument("--output", type=Path, required=True, help="drop map to write (JSON)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    arrays, metadata = read_stats(args.stats)
    weighted = arrays["weighted_norm_sum"]
    questions, layers, experts = weighted.shape
    check_keep_count(f"--keep for {args.stats}", args.keep, experts, metadata["top_k"])
    if not 1 <= args.protect_top <= experts:
        raise InputError("--protect-top", f"1 to {experts} experts", str(args.protect_top))
    score, total = coverage(weighted, args.protect_top), weighted.sum(axis=0)
    entries = {str(layer): choose_layer(score[row], total[row], args.keep)
               for row, layer in enumerate(arrays["layer_numbers"].tolist())}
    write_json(args.output, {
        "criterion": "coverage", "protect_top": args.protect_top, "experts": experts, "keep_count": args.keep,
        "drop_count": experts - args.keep, "top_k": metadata["top_k"], "questions": questions,
        "question_ids": [question["id"] for question in metadata["questions"]],
        "questions_sha256": metadata["questions_sha256"], "stats_sha256": sha256_file(args.stats),
        "config_sha256": metadata["config_sha256"], "weights_sha256": metadata["weights_sha256"], "layers": entries})
    print(f"{args.output}: {args.keep} of {experts} experts stay in each of {layers} layers, by coverage over "
          f"{questions} questions; smallest margin {min((e['margin'] or 0) for e in entries.values())} questions")


if __name__ == "__main__":
    run(main)
