#!/usr/bin/env python3
"""Choose the experts to keep, by any criterion that the statistics file can answer, and print how sure the choice is.

Inputs:  a statistics file of teacher_force_analysis.py; the number of experts to keep in every layer. Or, where there
         is no checkpoint to analyse, an imatrix: its token counts per expert give the criterion `frequency`, which is
         weaker evidence.
Output:  a drop map (schema: choice/drop_map.py): keep, drop, score and margin per layer, and how stable the choice is.
Example: .venv/bin/python scripts/generate_drop_map.py \\
             --stats build/gemma-4-demo/full/statistics/calibration_questions/expert_stats.safetensors \\
             --keep 96 --output build/try/drop_map.json
         The same with --criterion reap --fold 1/5, or with --imatrix IMATRIX.gguf in place of --stats.

Method: the model card. For each question and layer the `--protect-top` experts with the largest weighted norm are
protected; an expert's coverage is the number of questions that protect it; the experts of highest coverage stay. Other
criteria, with formulas and sources: choice/criteria.py. Experts rank by: protected in any question, score, total
weighted norm, lower index (choice/ranking.py).
"""

import argparse
import re
from pathlib import Path

from chats.questions import read_ids
from choice.criteria import BY_ORDER, PROTECTING, RANK, Arrays, check_criterion
from choice.domains import (
    Domain,
    domain_entries,
    members_digests,
    order_by_floors,
    parse_domain,
    read_members,
    scaled,
    shares_of,
)
from choice.drop_map import check_keep_count, checked_map, dropped_ids, read_map
from choice.expert_stats import protected, read_stats
from choice.ranking import (
    BOOTSTRAP_SEED,
    RESAMPLES,
    bootstrap,
    choose_questions,
    is_drawn,
    layer_entry,
    ranks_of,
    stability,
)
from choice.stats_record import EXPERT_SUMS
from files.input_errors import InputError, sha256_file, shown
from files.option_types import command_parser, named_path, whole_number
from files.safe_files import check_apart, run
from files.written_records import write_json
from ggufs.imatrix import read_expert_counts, read_imatrix_record

import numpy as np

PROTECT_TOP = 16  # of each question and layer, as the model card has it


def compare_lines(name: str, layers: dict[int, list[int]], other: dict[int, list[int]], experts: int) -> list[str]:
    """Return the overlap of two maps: experts that both drop, per layer and over all layers."""
    lines, common, total = [f"compared with {name}:"], 0, 0
    for layer, drop in layers.items():
        both = len(set(drop) & set(other[layer]))
        lines.append(f"  layer {layer:3d}: {both:3d} of {len(drop)} dropped experts are dropped by both")
        common, total = common + both, total + len(drop)
    kept = sum(experts - len(set(drop) | set(other[layer])) for layer, drop in layers.items())
    lines.append(
        f"  all layers: {common} of {total} dropped experts ({common / total:.1%}) are dropped by both, "
        f"{1 - common / total:.1%} differ; {kept} experts are kept by both"
    )
    return lines


def read_other(path: Path, layers: list[int], experts: int) -> dict[int, list[int]]:
    """Return the dropped ids of a map to compare with; raise InputError when it is the map of another model."""
    other = dropped_ids(read_map(path))
    if sorted(other) != sorted(layers):
        ours, theirs = (", ".join(map(str, sorted(numbers))) for numbers in (layers, other))
        raise InputError(path, f"a map of the layers {ours}"[:200], f"one of {theirs}"[:200])
    for layer, drop in other.items():
        if not all(0 <= expert < experts for expert in drop):
            raise InputError(path, f"ids from 0 to {experts - 1} in layer {layer}", shown(drop))
    return other


def parse_fold(text: str) -> tuple[int, int]:
    """Parse I/K."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise argparse.ArgumentTypeError(f"expected I/K with 1 <= I <= K and K of 2 or more, found {text!r}")
    return int(match[1]), int(match[2])


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    files = parser.add_argument_group("inputs and output")
    source = files.add_mutually_exclusive_group(required=True)
    source.add_argument("--stats", type=Path, help="statistics file of teacher_force_analysis.py")
    source.add_argument("--imatrix", type=Path, help="imatrix (GGUF) whose token counts choose; weaker evidence")
    files.add_argument("--output", type=named_path, required=True, help="drop map to write (JSON)")
    add_choice_options(parser.add_argument_group("how experts are chosen"))
    add = parser.add_argument_group("what is printed").add_argument
    add("--bootstrap", type=whole_number, default=RESAMPLES, metavar="N", help="resamples of the bootstrap; 0: none")
    add("--seed", type=whole_number, default=BOOTSTRAP_SEED, help="seed of the bootstrap")
    add("--compare", type=Path, metavar="MAP", help="print the overlap with another map")
    args = parser.parse_args(argv)
    args.criterion = args.criterion or ("frequency" if args.imatrix else "coverage")
    if args.imatrix and (args.criterion != "frequency" or args.questions_in or args.fold or args.protect_top):
        parser.error("--imatrix: expected criterion frequency alone, without questions or protection")
    if bool(args.domains) != bool(args.domain_questions):
        parser.error("--domains: expected --domain-questions beside it, and the reverse")
    if args.domains and (args.imatrix or args.worst_first):
        parser.error("--domains: expected --stats, and no --worst-first")
    if args.protect_top is None:
        args.protect_top = PROTECT_TOP if args.criterion in PROTECTING else 0
    return args


def add_choice_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that decide which experts stay."""
    add = group.add_argument
    add("--keep", type=int, required=True, help="experts to keep in every layer")
    add("--criterion", help="one of choice/criteria.py (default coverage; frequency with --imatrix)")
    protected = (
        "drop no expert that is among the top N of a question while another can go "
        f"(default {PROTECT_TOP} for {' and '.join(PROTECTING)}, else 0: the criterion alone)"
    )
    add("--protect-top", type=int, metavar="N", help=protected)
    add("--worst-first", action="store_true", help="a control: drop the experts that rank best")
    only = "choose by these questions only: a question file, or Record IDs, one per line"
    add("--questions-in", type=Path, metavar="FILE", help=only)
    domain = "NAME:WEIGHT[:FLOOR]: a domain or its question file, its weight, its least coverage in every layer"
    add("--domains", nargs="+", metavar="D", help=domain)
    add("--domain-questions", type=Path, metavar="FILE", help="question file whose column names the domains")
    add("--fold", type=parse_fold, metavar="I/K", help="hold out every K-th question, beginning with the I-th")


def read_chosen(args: argparse.Namespace) -> tuple[Arrays, list[int], dict]:
    """Return the arrays of the questions that choose, the layers' numbers, and what the map records of its source."""
    arrays, metadata = read_stats(args.stats)
    ids = [question["id"] for question in metadata["questions"]]
    wanted = read_ids(args.questions_in) if args.questions_in else None
    if wanted is not None and (unknown := sorted(wanted - set(ids))):
        found = f"{len(unknown)} others, such as {unknown[0]}"
        raise InputError(args.questions_in, f"questions of {args.stats}", found)
    rows = choose_questions(ids, wanted, args.fold)
    if not rows:
        raise InputError(args.stats, "questions to choose by", "none left")
    chosen = {name: arrays[name][rows] for name in EXPERT_SUMS}
    provenance = map_provenance(args.stats, metadata, rows)
    if args.criterion == BY_ORDER:
        check_order(args, metadata, len(ids) - len(rows))
        chosen[RANK] = arrays[RANK]
        provenance["reconstruction"] = metadata["reconstruction"]
    return chosen, arrays["layer_numbers"].tolist(), provenance


def check_order(args: argparse.Namespace, metadata: dict, left_out: int) -> None:
    """Raise InputError when the statistics have no order by reconstruction, or one of other questions or weights."""
    made = metadata.get("reconstruction")
    if made is None:
        advice = "analyse with --reconstruction (make: RECONSTRUCTION=all)"
        raise InputError(args.stats, "an order by reconstruction", "none", advice)
    if left_out:
        found = f"{left_out} left out"
        raise InputError(
            "--criterion reconstruction", "all questions of the statistics", found, "analyse the others alone"
        )
    asked = [(domain.name, domain.weight) for domain in map(parse_domain, args.domains or [])]
    if asked != [(domain["name"], domain["weight"]) for domain in made.get("domains", [])]:
        had = " ".join(f"{domain['name']}:{domain['weight']:g}" for domain in made.get("domains", [])) or "none"
        raise InputError(args.stats, "the domains and weights that are asked for", had, "analyse with them")
    ids = [question["id"] for question in metadata["questions"]]
    digests = members_digests(ids, read_members(args.domains, args.domain_questions, ids)[1])
    for domain in made.get("domains", []):
        if domain.get("questions_sha256") not in (None, digests[domain["name"]]):
            expected = f"the domain {domain['name']} to have the questions of the analysis"
            raise InputError(args.domain_questions, expected, "others", "analyse with this file")


def map_provenance(stats: Path, metadata: dict, rows: list[int]) -> dict:
    """Return the map's record of its statistics: the questions that chose, those held out, and the digests."""
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
        # Of all bytes, where the one above takes samples.
        **({"source_sha256": source} if (source := metadata.get("source_sha256")) else {}),
        "analysis": analysis_of(metadata, rows),
    }


def analysis_of(metadata: dict, rows: list[int]) -> dict:
    """Return how statistics were taken, as a map records it; rows: of the questions that chose."""
    chose = [metadata["questions"][row] for row in rows]
    known = ("counted_tokens", "reasoning", "chat_template_sha256", "dtype", "attention")
    return {
        "empty_reasonings": sum(question.get("empty_reasoning", False) for question in chose),
        "cut_questions": sum(question.get("truncated", False) for question in chose),
        "cut_tokens": metadata.get("max_tokens"),
        **{key: metadata.get(key) for key in known},
    }


def read_counts(path: Path) -> tuple[Arrays, list[int], dict]:
    """Return an imatrix as `read_chosen` returns statistics: its token counts as those of one question, else zeros."""
    known = {"imatrix_sha256": sha256_file(path)}
    if Path(f"{path}.json").is_file():  # another program's imatrix has no record
        record = read_imatrix_record(path)
        known |= {key: record[key] for key in ("calibration", "calibration_sha256") if record[key]}
    counts = read_expert_counts(path)
    table = np.array([counts[layer] for layer in sorted(counts)])[None]
    arrays = {name: np.zeros(table.shape) for name in EXPERT_SUMS} | {"token_count": table}
    return arrays, sorted(counts), known


def check_choice_options(args: argparse.Namespace, experts: int, top_k: int) -> None:
    """Raise InputError when the numbers do not fit the model."""
    check_criterion(args.criterion)
    check_keep_count(f"--keep for {args.stats or args.imatrix}", args.keep, experts, top_k)
    least = 1 if args.criterion == "coverage" else 0  # coverage counts the protected; without any, all scores are 0
    if not least <= args.protect_top <= experts:
        what_to_do = "set PROTECT_TOP lower, below the number of experts that stay"
        raise InputError("--protect-top", f"{least} to {experts} experts", str(args.protect_top), what_to_do)


def choose(
    args: argparse.Namespace, arrays: Arrays, layers: list[int], domains: list[Domain], rows: dict[str, list[int]]
) -> tuple[dict[str, dict], dict]:
    """Return the entries of the layers, and the figures over all of them: bootstrap and domains, where there are any.

    rows: of each domain's questions.
    """
    shares = shares_of(arrays, domains, rows) if domains else np.zeros(0)
    arrays = arrays | {"protected": protected(arrays["weighted_norm_sum"], args.protect_top)}
    arrays = scaled(arrays, domains, rows) if domains else arrays
    score, guarded, order = ranks_of(arrays, args.criterion)
    if args.worst_first:
        order = order[:, ::-1]
    order, moved = (
        order_by_floors(order, layers, shares, domains, args.keep) if domains else (order, [False] * len(order))
    )
    entries = {
        str(layer): layer_entry(order[row], guarded[row], score[row], args.keep) for row, layer in enumerate(layers)
    }
    for entry, by_floors in zip(entries.values(), moved):
        if by_floors:  # no score separates the kept from the dropped
            entry["margin"] = None
    figures = {}
    if domains:
        kept = [entry["keep"] for entry in entries.values()]
        figures = {"domains": domain_entries(domains, rows, shares, layers, kept)}
    return entries, figures | draw_again(args, arrays, entries)


def draw_again(args: argparse.Namespace, arrays: Arrays, entries: dict[str, dict]) -> dict:
    """Add to the entries of the layers how sure they are; return the bootstrap's figures, {} without one."""
    floors = any(parse_domain(text).floor for text in args.domains or [])
    can_draw = is_drawn(args.criterion, arrays["token_count"].shape[0], floors)
    if not args.bootstrap or args.worst_first or args.imatrix or not can_draw:
        return {}
    share = bootstrap(arrays, args.criterion, args.keep, args.bootstrap, args.seed)
    found = stability(share, [entry["keep"] for entry in entries.values()])
    for entry, values in zip(entries.values(), found):
        entry |= values
    sure = {
        "resamples": args.bootstrap,
        "seed": args.seed,
        "coin_toss": sum(len(values["coin_toss"]) for values in found),
        "expected_overlap": float(np.mean([values["expected_overlap"] for values in found])),
    }
    return {"bootstrap": sure}


def report(
    args: argparse.Namespace, content: dict, entries: dict[str, dict], other: dict[int, list[int]] | None
) -> list[str]:
    """Return the lines to print: what stays, how sure that is, and the overlap with another map."""
    margins = [entry["margin"] for entry in entries.values() if entry["margin"] is not None]
    if "questions" in content:
        evidence = f"{content['questions']} questions"
    else:
        evidence = f"the tokens of {args.imatrix}, which is weaker evidence than an analysis"
    smallest = f"; smallest margin {min(margins):g}" if margins else ""
    lines = [
        f"{args.output}: {args.keep} of {content['experts']} experts stay in each of {len(entries)} layers, by "
        f"{args.criterion} over {evidence}{smallest}"
    ]
    if "bootstrap" in content:
        sure = content["bootstrap"]
        weakest = min(entries, key=lambda layer: entries[layer]["expected_overlap"])
        lines.append(
            f"with other questions of the kind, {sure['expected_overlap']:.1%} of the kept experts would be kept again "
            f"(layer {weakest}: {entries[weakest]['expected_overlap']:.1%}); {sure['coin_toss']} experts are a coin "
            f"toss ({args.bootstrap} resamples)"
        )
    for domain in content.get("domains", []):
        lines.append(
            f"{domain['name']} (weight {domain['weight']:g}, {domain['questions']} questions): every layer keeps "
            f"{domain['least_coverage']:.2%} or more of its weighted norm (floor {domain['floor']:.2%}; least in layer "
            f"{domain['least_coverage_layer']})"
        )
    if any(domain["floor"] for domain in content.get("domains", [])):
        lines.append("with floors there are no resamples: how sure the choice is has not been computed")
    if other is not None:
        drops = {int(layer): entry["drop"] for layer, entry in entries.items()}
        lines += compare_lines(str(args.compare), drops, other, content["experts"])
    return lines


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    arrays, layers, provenance = read_counts(args.imatrix) if args.imatrix else read_chosen(args)
    experts = arrays["token_count"].shape[2]
    # An imatrix does not hold the experts per token. The drop knows the model and checks the map against it.
    check_choice_options(args, experts, provenance.get("top_k", 1))
    inputs = (args.stats, args.imatrix, args.compare, args.questions_in, args.domain_questions)
    check_apart(filter(None, inputs), [args.output])
    other = read_other(args.compare, layers, experts) if args.compare else None
    domains, rows = read_members(args.domains, args.domain_questions, provenance.get("question_ids", []))
    entries, sure = choose(args, arrays, layers, domains, rows)
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
    write_json(args.output, checked_map(args.output, content | {"layers": entries}))
    print("\n".join(report(args, content, entries, other)))


if __name__ == "__main__":
    run(main)
