#!/usr/bin/env python3
"""Choose the experts to keep, by any criterion that the statistics file can answer, and say how sure the choice is.

Inputs:  a statistics file of teacher_force_analysis.py; the number of experts to keep in every layer. Or, where there is
         no checkpoint to analyse, an imatrix: its token counts per expert give the criterion `frequency`, a weaker one.
Output:  a drop map (schema: drop_map.py): keep, drop, score and margin per layer, and how stable the choice is.
Use:     scripts/generate_drop_map.py --stats STATS --keep 109 --output DROP_MAP.json
         scripts/generate_drop_map.py --stats STATS --keep 109 --criterion reap --fold 1/5 --output DROP_MAP.json
         scripts/generate_drop_map.py --imatrix IMATRIX.gguf --keep 109 --output DROP_MAP.json

Method: the model card. For each question and layer the `--protect-top` experts with the largest weighted norm are
protected; an expert's coverage is the number of questions that protect it; the experts of highest coverage stay. Other
criteria, with formulas and sources: criteria.py. Experts rank by: protected in any question, score, total weighted
norm, lower index. Stability: the questions are drawn anew with replacement many times (bootstrap, Efron 1979) and the
choice is made again each time.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from chats.questions import read_ids
from choice.criteria import Arrays, check_criterion, scores_of
from choice.drop_map import check_keep_count, read_layers
from choice.expert_stats import EXPERT_SUMS, protected, read_stats
from files.option_types import whole_number
from files.safe_files import InputError, check_apart, run, sha256_file, write_json
from ggufs.imatrix import read_expert_counts

PROTECT_TOP = 16
RESAMPLES = 200
COIN_TOSS = (0.25, 0.75)


def rank(is_protected: np.ndarray, score: np.ndarray, total_weighted_norm: np.ndarray) -> np.ndarray:
    """Order one layer's experts, best first: protected ones, then by score, total weighted norm, lower index.

    All arguments: [experts]. Returns expert ids [experts].
    """
    return np.lexsort((np.arange(score.size), -total_weighted_norm, -score, ~is_protected))


def ranks_of(arrays: Arrays, criterion: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, protection and expert ids best first, each [layers, experts]; `arrays` as in criteria.py."""
    score = scores_of(criterion, arrays)
    guarded = arrays["protected"].any(axis=0)
    total = arrays["weighted_norm_sum"].sum(axis=0)
    return score, guarded, np.array([rank(*layer) for layer in zip(guarded, score, total)])


def layer_entry(order: np.ndarray, guarded: np.ndarray, score: np.ndarray, keep: int) -> dict:
    """Return one layer's entry of the drop map.

    `margin` is the score of the last kept expert less that of the first dropped one; None when nothing is dropped, or
    when protection and not the score parts them.
    """
    parted = keep < order.size and guarded[order[keep - 1]] == guarded[order[keep]]
    margin = float(score[order[keep - 1]] - score[order[keep]]) if parted else None
    return {
        "keep": sorted(order[:keep].tolist()),
        "drop": sorted(order[keep:].tolist()),
        "score": score.tolist(),
        "margin": margin,
    }


def bootstrap(arrays: Arrays, criterion: str, keep: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each expert is kept when the questions are drawn anew with replacement, [layers, experts] in 0..1.

    arrays: [questions, layers, experts]. Draws: numpy's PCG64 seeded by `seed`.
    """
    questions = arrays["token_count"].shape[0]
    generator = np.random.Generator(np.random.PCG64(seed))
    kept = np.zeros(arrays["token_count"].shape[1:])
    for _ in range(resamples):
        chosen = generator.integers(questions, size=questions)
        order = ranks_of({name: values[chosen] for name, values in arrays.items()}, criterion)[2]
        np.put_along_axis(kept, order[:, :keep], np.take_along_axis(kept, order[:, :keep], axis=1) + 1, axis=1)
    return kept / resamples


def stability(kept_share: np.ndarray, keep_sets: list[list[int]]) -> list[dict]:
    """Return per layer the expected overlap of the kept set with a resampled one, and the experts that are a coin toss.

    kept_share: [layers, experts], from `bootstrap`. Overlap: mean share of the kept experts that are kept again.
    """
    low, high = COIN_TOSS
    return [
        {
            "expected_overlap": float(share[keep].mean()),
            "coin_toss": np.nonzero((share >= low) & (share <= high))[0].tolist(),
        }
        for share, keep in zip(kept_share, keep_sets)
    ]


def choose_questions(ids: list[str], wanted: set[str] | None, fold: tuple[int, int] | None) -> list[int]:
    """Return the rows that choose the experts: those in `wanted`, less those of the fold that is held out."""
    rows = [row for row, record_id in enumerate(ids) if wanted is None or record_id in wanted]
    if fold is not None and fold[1] > len(rows):
        raise InputError("--fold", f"at most {len(rows)} folds, one a question", str(fold[1]))
    if fold is not None:
        rows = [row for place, row in enumerate(rows) if place % fold[1] != fold[0] - 1]
    return rows


def compare_lines(name: str, layers: dict[int, list[int]], other: dict[int, list[int]], experts: int) -> list[str]:
    """Return the overlap of two maps: experts that both drop, per layer and over all layers."""
    lines, common, total = [f"compared with {name}:"], 0, 0
    for layer, drop in layers.items():
        both = len(set(drop) & set(other[layer]))
        lines.append(f"  layer {layer:3d}: {both:3d} of {len(drop)} dropped experts are dropped by both")
        common, total = common + both, total + len(drop)
    kept = sum(experts - len(set(drop) | set(other[layer])) for layer, drop in layers.items())
    shares = (
        f" ({common / total:.1%}) are dropped by both, {1 - common / total:.1%} differ"
        if total
        else " are dropped by both"
    )
    lines.append(f"  all layers: {common} of {total} dropped experts{shares}; {kept} experts are kept by both")
    return lines


def read_other(path: Path, layers: list[int], experts: int) -> dict[int, list[int]]:
    """Return the dropped ids of a map to compare with; raise InputError when it is of another model."""
    other = read_layers(path)
    if sorted(other) != sorted(layers):
        raise InputError(
            path,
            f"a map of the layers {', '.join(map(str, sorted(layers)))}"[:200],
            f"one of {', '.join(map(str, sorted(other)))}"[:200],
        )
    for layer, drop in other.items():
        if len(set(drop)) < len(drop) or not all(0 <= expert < experts for expert in drop):
            raise InputError(path, f"ids from 0 to {experts - 1}, each once, in layer {layer}", repr(drop)[:80])
    return other


def parse_fold(text: str) -> tuple[int, int]:
    """Parse I/K."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"expected I/K with 1 <= I <= K and K of 2 or more, found {text!r}")
    return int(match[1]), int(match[2])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--stats", type=Path, help="statistics file of teacher_force_analysis.py")
    source.add_argument(
        "--imatrix", type=Path, help="imatrix (GGUF), whose token counts choose; weaker than statistics"
    )
    parser.add_argument("--keep", type=int, required=True, help="experts to keep in every layer")
    parser.add_argument("--criterion", help="criterion of criteria.py (default coverage; frequency with --imatrix)")
    parser.add_argument(
        "--protect-top",
        type=int,
        metavar="N",
        help="never drop an expert of some question's top N while "
        f"another can go (default {PROTECT_TOP} for coverage, else 0: the criterion alone)",
    )
    parser.add_argument("--worst-first", action="store_true", help="a control: drop the experts that rank best")
    parser.add_argument(
        "--questions-in",
        type=Path,
        metavar="FILE",
        help="choose by these questions only: a question file, or Record IDs, one a line",
    )
    parser.add_argument(
        "--fold", type=parse_fold, metavar="I/K", help="hold out every K-th question, beginning with the I-th"
    )
    parser.add_argument(
        "--bootstrap",
        type=whole_number,
        default=RESAMPLES,
        metavar="N",
        help="resamples (default %(default)s; 0: none)",
    )
    parser.add_argument("--seed", type=whole_number, default=42, help="seed of the bootstrap (default 42)")
    parser.add_argument("--compare", type=Path, metavar="MAP", help="print the overlap with another map")
    parser.add_argument("--output", type=Path, required=True, help="drop map to write (JSON)")
    args = parser.parse_args(argv)
    args.criterion = args.criterion or ("frequency" if args.imatrix else "coverage")
    if args.imatrix and (args.criterion != "frequency" or args.questions_in or args.fold or args.protect_top):
        parser.error("--imatrix: expected criterion frequency alone, without questions or protection")
    if args.protect_top is None:
        args.protect_top = PROTECT_TOP if args.criterion == "coverage" else 0
    return args


def read_chosen(args: argparse.Namespace) -> tuple[Arrays, dict, list[int]]:
    """Return the arrays of the questions that choose, the file's metadata, and those questions' rows."""
    arrays, metadata = read_stats(args.stats)
    ids = [question["id"] for question in metadata["questions"]]
    wanted = read_ids(args.questions_in) if args.questions_in else None
    if wanted is not None and (unknown := sorted(wanted - set(ids))):
        raise InputError(
            args.questions_in, f"questions of {args.stats}", f"{len(unknown)} others, such as {unknown[0]}"
        )
    rows = choose_questions(ids, wanted, args.fold)
    if not rows:
        raise InputError(args.stats, "questions to choose by", "none left")
    return (
        {name: arrays[name][rows] for name in EXPERT_SUMS} | {"layer_numbers": arrays["layer_numbers"]},
        metadata,
        rows,
    )


def check_arguments(args: argparse.Namespace, experts: int, top_k: int) -> None:
    """Raise InputError when the numbers do not fit the model."""
    check_criterion(args.criterion)
    check_keep_count(f"--keep for {args.stats or args.imatrix}", args.keep, experts, top_k)
    least = 1 if args.criterion == "coverage" else 0
    if not least <= args.protect_top <= experts:
        raise InputError("--protect-top", f"{least} to {experts} experts", str(args.protect_top))


def choose(args: argparse.Namespace, arrays: Arrays, layers: list[int]) -> tuple[dict[str, dict], dict]:
    """Return the entries of the layers, and the bootstrap's figures over all of them (empty without one)."""
    arrays["protected"] = protected(arrays["weighted_norm_sum"], args.protect_top)
    score, guarded, order = ranks_of(arrays, args.criterion)
    if args.worst_first:
        order = order[:, ::-1]
    entries = {
        str(layer): layer_entry(order[row], guarded[row], score[row], args.keep) for row, layer in enumerate(layers)
    }
    drawn = arrays["token_count"].shape[0]
    if not args.bootstrap or args.worst_first or args.imatrix or args.criterion.startswith("random") or drawn < 2:
        return entries, {}  # nothing that other questions could change, or nothing to draw from
    share = bootstrap(arrays, args.criterion, args.keep, args.bootstrap, args.seed)
    found = stability(share, [entry["keep"] for entry in entries.values()])
    for entry, values in zip(entries.values(), found):
        entry |= values
    return entries, {
        "bootstrap": {
            "resamples": args.bootstrap,
            "seed": args.seed,
            "coin_toss": sum(len(values["coin_toss"]) for values in found),
            "expected_overlap": float(np.mean([values["expected_overlap"] for values in found])),
        }
    }


def imatrix_arrays(path: Path) -> tuple[list[int], Arrays]:
    """Return the layers of an imatrix, and its token counts as statistics of one question, [1, layers, experts]."""
    counts = read_expert_counts(path)
    table = np.array([counts[layer] for layer in sorted(counts)])[None]
    return sorted(counts), {name: np.zeros(table.shape) for name in EXPERT_SUMS} | {"token_count": table}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.imatrix:
        layers, arrays = imatrix_arrays(args.imatrix)
        provenance: dict = {"imatrix_sha256": sha256_file(args.imatrix)}
        check_arguments(
            args, arrays["token_count"].shape[2], 1
        )  # an imatrix does not say the top-k: the drop checks it
    else:
        arrays, metadata, rows = read_chosen(args)
        layers = arrays.pop("layer_numbers").tolist()
        check_arguments(args, arrays["token_count"].shape[2], metadata["top_k"])
        provenance = map_provenance(args.stats, metadata, rows)
    experts = arrays["token_count"].shape[2]
    check_apart(filter(None, (args.stats, args.imatrix, args.compare, args.questions_in)), [args.output])
    other = read_other(args.compare, layers, experts) if args.compare else None
    entries, sure = choose(args, arrays, layers)
    content = {
        "criterion": args.criterion,
        "worst_first": args.worst_first,
        "protect_top": args.protect_top,
        "experts": experts,
        "keep_count": args.keep,
        "drop_count": experts - args.keep,
        **provenance,
        **sure,
    }
    write_json(args.output, content | {"layers": entries})
    print("\n".join(report(args, content, entries, other)))


def map_provenance(stats: Path, metadata: dict, rows: list[int]) -> dict:
    """Return what the map says of its statistics: the questions that chose and those held out, and the digests."""
    ids = [question["id"] for question in metadata["questions"]]
    chosen = set(rows)
    return {
        "top_k": metadata["top_k"],
        "questions": len(rows),
        "question_ids": [ids[row] for row in rows],
        "held_out_question_ids": [record_id for row, record_id in enumerate(ids) if row not in chosen],
        "questions_sha256": metadata["questions_sha256"],
        "stats_sha256": sha256_file(stats),
        "config_sha256": metadata["config_sha256"],
        "weights_sha256": metadata["weights_sha256"],
    }


def report(
    args: argparse.Namespace, content: dict, entries: dict[str, dict], other: dict[int, list[int]] | None
) -> list[str]:
    """Return what a person should know of the map: what stays, how sure that is, and the overlap with another map."""
    margins = [entry["margin"] for entry in entries.values() if entry["margin"] is not None]
    lines = [
        f"{args.output}: {args.keep} of {content['experts']} experts stay in each of {len(entries)} layers, by "
        f"{args.criterion} over "
        + (
            f"{content['questions']} questions"
            if "questions" in content
            else f"the tokens of {args.imatrix}, which is weaker evidence than an analysis"
        )
        + (f"; smallest margin {min(margins):g}" if margins else "")
    ]
    if "bootstrap" in content:
        sure = content["bootstrap"]
        weakest = min(entries, key=lambda layer: entries[layer]["expected_overlap"])
        lines.append(
            f"with other questions of the kind, {sure['expected_overlap']:.1%} of the kept experts would be kept again "
            f"(layer {weakest}: {entries[weakest]['expected_overlap']:.1%}); {sure['coin_toss']} experts are a coin "
            f"toss ({args.bootstrap} resamples)"
        )
    if other is not None:
        lines += compare_lines(
            str(args.compare), {int(k): e["drop"] for k, e in entries.items()}, other, content["experts"]
        )
    return lines


if __name__ == "__main__":
    run(main)
