"""The comparison of several runs, question by question: what scores.json holds.

compare_scores.py writes it. check_release.py makes it again. Refused: different protocols (but for the seeds), orders
of choices or question sets, and patched beside unpatched scores. Statistics: scoring/paired_statistics.py.
"""

from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from files.input_errors import InputError
from scoring.eval_protocol import first_differing_key
from scoring.followed import followed_instructions
from scoring.paired_statistics import pass_at, wilson
from scoring.score_records import (
    ANSWERED_BY,
    IFEVAL,
    SUMMARY_NAME,
    by_record_id,
    each_once,
    finally_correct,
    pair_figures,
    read_summary,
)

import numpy as np

SEEDS = ("seed", "choice_order_seed")  # may differ between the runs of one model, which are then averaged


def locked(summary: dict) -> dict:
    """Return the protocol without its seeds."""
    return {key: value for key, value in summary["protocol"].items() if key not in SEEDS}


def seed_of(summary: dict) -> int:
    """Return the seed of a run."""
    return summary["protocol"]["seed"]


def seeds_of(runs: list[dict]) -> list[int]:
    """Return the seeds of a model's runs."""
    return [seed_of(summary) for summary in runs]


def total(runs: list[dict], key: str) -> int:
    """Return the sum of one count over a model's runs."""
    return sum(summary[key] for summary in runs)


def check_protocol(reference: dict, other: dict) -> None:
    """Raise InputError unless a run has the reference's protocol, seeds aside, and its patch step."""
    if key := first_differing_key(locked(reference), locked(other)):
        raise InputError(
            other["name"],
            f"the reference's {key} {reference['protocol'].get(key)}",
            str(other["protocol"].get(key)),
            "scores of two protocols cannot be compared",
        )
    if other["patch"] != reference["patch"]:
        raise InputError(
            other["name"],
            "the reference's " + ("patch step" if reference["patch"] else "unpatched score"),
            "another patch step" if other["patch"] else "an unpatched score",
            "patch all or none",
        )


def check_questions(reference: dict, other: dict) -> None:
    """Raise InputError unless two runs answer the same questions, with the same prompts and orders of choices."""
    expected, found = by_record_id(reference), by_record_id(other)
    if set(expected) != set(found):
        raise InputError(
            other["name"],
            f"the {len(expected)} questions of {reference['name']}",
            f"{len(set(found) - set(expected))} others, {len(set(expected) - set(found))} missing",
        )
    for record_id, answer in expected.items():
        for key, what in (("order", "order of choices"), ("prompt_sha256", "prompt")):
            if answer[key] != found[record_id][key]:
                raise InputError(
                    other["name"], f"the {what} of {reference['name']} in question {record_id}", "another one"
                )


def check_comparable(reference: list[dict], other: list[dict]) -> None:
    """Raise InputError unless two models' runs have one protocol, the same seeds, questions, orders and patch step."""
    for summary in [*reference, *other]:
        check_protocol(reference[0], summary)
    seeds, others = seeds_of(reference), seeds_of(other)
    if seeds != others:
        raise InputError(
            other[0]["name"],
            f"the seeds {', '.join(map(str, seeds))} of {reference[0]['name']}",
            ", ".join(map(str, others)),
        )
    for mine, theirs in zip(reference, other):
        check_questions(mine, theirs)


def right_by_question(runs: list[dict]) -> np.ndarray:
    """Return how many of a model's runs got each question right: int [questions], in the order of Record IDs."""
    rights = []
    for summary in runs:
        answers = by_record_id(summary)
        rights.append([finally_correct(answers[record_id]) for record_id in sorted(answers)])
    return np.array(rights, int).sum(axis=0)


def paired_figures(first: list[dict], second: list[dict]) -> dict:
    """Return the paired figures of two models, the second against the first; differences as shares of the questions."""
    check_comparable(first, second)
    sums, seeds = right_by_question(second) - right_by_question(first), len(first)
    return {
        "reference": first[0]["name"],
        "model": second[0]["name"],
        "questions": sums.size,
        "seeds": seeds,
        "lost": int((sums < 0).sum()),
        "won": int((sums > 0).sum()),
        **pair_figures(sums, seeds),
    }


def invalid_by_class(runs: list[dict]) -> dict[str, int]:
    """Return a model's invalid answers by class, sums over its runs; a run names only the classes that it has."""
    counts: Counter[str] = Counter()
    for summary in runs:
        counts.update(summary["invalid"])
    return dict(sorted(counts.items()))


def machines_and_builds(runs: list[dict]) -> dict[str, list]:
    """Return the machines and the builds of llama.cpp that answered in a model's runs, each once."""
    found: dict[str, list] = {}
    for key in ANSWERED_BY:
        for summary in runs:
            found[key] = each_once(found.get(key, []), summary.get(key, []))
    return {key: known for key, known in found.items() if known}


def pass_rates(right: np.ndarray, samples: int) -> dict[str, float]:
    """Return pass@k for k = 1, 2, 4, ... and for all samples, by k; right: int [questions], of `samples` each."""
    counts = sorted({*(2**power for power in range(samples.bit_length())), samples})
    return {str(k): pass_at(right, samples, k) for k in counts}


def score_row(runs: list[dict], quants: list[dict], reference: list[dict]) -> dict:
    """Return one model's figures; counts are sums over its seeds, `bytes` are its quants' by type."""
    right = right_by_question(runs)
    scores = right / len(runs)
    several: dict[str, Any] = {"pass_at": pass_rates(right, len(runs))} if len(runs) > 1 else {}
    first, asked = runs[0], total(runs, "questions")
    if first["protocol"].get("task") == IFEVAL:
        several["followed"] = followed_instructions([answer for summary in runs for answer in summary["answers"]])
    raw, strict = total(runs, "raw_correct"), total(runs, "strict_correct")
    patched = total(runs, "patched_correct") if first["patch"] else None
    against: dict[str, Any] = {} if runs is reference else paired_figures(reference, runs)
    labels = [summary["in_sample"] for summary in runs if summary["in_sample"]]
    return {
        "name": first["name"],
        "experts": first["experts"],
        "questions": asked,
        "seeds": seeds_of(runs),
        "gguf": first["gguf"],
        "gguf_sha256": first["gguf_sha256"],
        "bytes": {quant["type"]: quant["bytes"] for quant in quants},
        "raw_correct": raw,
        "raw": raw / asked,
        "strict_correct": strict,
        "strict": strict / asked,
        "patched_correct": patched,
        "patched": None if patched is None else patched / asked,
        "score": float(scores.mean()),
        "interval": list(wilson(scores)),
        # One model has one choice of experts: a run that does not know it says nothing against one that does.
        "in_sample": min(labels, key=lambda label: label["chosen_on"] is None, default=None),
        "drop_map": next((summary["drop_map"] for summary in runs if summary.get("drop_map")), None),
        **machines_and_builds(runs),
        "invalid": total(runs, "invalid_total"),
        "invalid_classes": invalid_by_class(runs),
        "expected_by_chance": sum(summary["patch_expected_by_chance"] for summary in runs),
        "points_vs_reference": 100 * against.get("difference", 0.0),
        **several,
        **{key: against[key] for key in ("lost", "won", "mcnemar_p") if against},
    }


def compare(models: list[list[dict]], quants: list[list[dict]]) -> dict:
    """Return rows, pairs and the ids of the scored questions."""
    for runs in models:
        check_comparable(models[0], runs)
    return {
        "evaluated": " and ".join(runs[0]["gguf"] for runs in models),
        "protocol": models[0][0]["protocol"],
        "patched": models[0][0]["patch"] is not None,
        "question_ids": sorted(answer["record_id"] for answer in models[0][0]["answers"]),
        "rows": [score_row(runs, records, models[0]) for runs, records in zip(models, quants)],
        "pairs": [paired_figures(first, second) for first, second in combinations(models, 2)],
    }


def group_runs(paths: list[Path]) -> list[list[dict]]:
    """Return the summaries of run directories or files, those of one name and GGUF file together, by seed."""
    # By file and not by name alone: two quants under one name would be averaged as if they were seeds.
    groups: dict[tuple[str, str], list[dict]] = {}
    for path in paths:
        summary = read_summary(path / SUMMARY_NAME if path.is_dir() else path)
        groups.setdefault((summary["name"], summary["gguf_sha256"]), []).append(summary)
    if len({name for name, _ in groups}) < len(groups):
        raise InputError("--runs", "a name of its own for every model", "one name for two GGUF files")
    return [check_group(sorted(group, key=seed_of)) for group in groups.values()]


def check_group(runs: list[dict]) -> list[dict]:
    """Return a model's runs; raise InputError when there is none, a seed occurs twice, or questions differ."""
    if not runs:
        raise InputError("--model", "a summary of eval_gpqa_v3.sh for every model", "none")
    if len(set(seeds_of(runs))) < len(runs):
        raise InputError(runs[0]["name"], "another seed in every run of one model", "one seed twice")
    for summary in runs[1:]:  # their scores are added up question by question
        if by_record_id(summary).keys() != by_record_id(runs[0]).keys():
            raise InputError(runs[0]["name"], "the same questions in every run of one model", "others")
    return runs
