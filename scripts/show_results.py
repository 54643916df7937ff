#!/usr/bin/env python3
"""Show what a stage has made: its figures, where its results are, and what to do next, in a few lines.

Inputs:  --after STAGE and the records of that stage:
         analyze  drop_map.json
         drop     expert_drop_metadata.json of the pruned checkpoint
         quants   the GGUF files that were asked for; those with a record beside them are shown
         eval     scores.json of compare_scores.py
         release  the release folders
Output:  at most six lines on stdout, and for quants, eval and release a table of at most 100 columns.
Example: .venv/bin/python scripts/show_results.py --after eval build/NAME/109e/eval/Q6_K/scores.json

Every figure is one of those records, or the size of a file that is there.
"""

import argparse
from pathlib import Path

from choice.drop_map import dropped_ids, read_map
from choice.drop_metadata import read_metadata
from files.display import plural, screen_table
from files.input_errors import InputError
from files.json_records import check_record, read_json, read_record
from files.option_types import command_parser
from files.safe_files import gib, run
from quants.quant_record import ConversionRecord, QuantRecord, record_path
from release.manifest import MANIFEST, check_sizes, read_manifest
from scoring.score_records import Scores
from scoring.score_tables import SIGNIFICANT_P
from scoring.task_tables import sample_sentence
from stages.needs import bytes_below

ONE_FILE = ("analyze", "drop", "eval")


def stability_line(content: dict) -> str:
    """Return how sure a choice of experts is, by the drop map's own figures."""
    sure = content.get("bootstrap")
    if sure:
        return (
            f"With other questions of the kind {sure['expected_overlap']:.1%} of the kept experts would be kept again; "
            f"{sure['coin_toss']} are a coin toss."
        )
    return "How sure the choice is, the map does not say."


def ties_line(content: dict) -> list[str]:
    """Return a line where the cut lies between experts of one score, so that the tie-break has decided."""
    margins = [layer["margin"] for layer in content["layers"].values() if isinstance(layer, dict) and "margin" in layer]
    tied = sum(margin == 0 for margin in margins)
    if not tied:
        return []
    return [
        f"In {tied} of {plural(len(margins), 'layer')} both sides of the cut score alike; total weighted norm decided."
    ]


def after_analyze(paths: list[Path], make: str) -> list[str]:
    """Return what a drop map keeps, and how sure that is."""
    content = read_map(paths[0])
    layers = dropped_ids(content)
    drops = sorted({len(ids) for ids in layers.values()})
    if "experts" in content and len(drops) == 1:
        kept = f"{content['experts'] - drops[0]} of {content['experts']} experts stay"
    else:  # a plain map does not say how many experts there are
        kept = "1 expert goes" if drops == [1] else f"{' to '.join(map(str, drops[:: len(drops) - 1 or 1]))} experts go"
    how = f", by {content['criterion']}" if "criterion" in content and "own_map" not in content else ""
    evidence = f" over {plural(content['questions'], 'question')}" if "questions" in content else ""
    return [
        f"{kept} in each of {plural(len(layers), 'layer')}{how}{evidence}.",
        stability_line(content),
        *ties_line(content),
        f"Results: {paths[0]}",
        f"Next: {make.format('quants')} builds the files of the pruned model; {make.format('plan')} says their sizes.",
    ]


def after_drop(paths: list[Path], make: str) -> list[str]:
    """Return what a pruned checkpoint keeps, and its size."""
    record, folder = read_metadata(paths[0]), paths[0].parent
    layers = record["layers"]
    return [
        f"{record['keep_count']} of {record['experts']} experts are kept in each of {plural(len(layers), 'layer')}; "
        f"{gib(bytes_below(folder))} GiB in {plural(len(record['shards']), 'shard')}.",
        f"Results: {folder}",
        f"Next: {make.format('quants')}; {make.format('verify')} compares every byte with the full model.",
    ]


def quant_cells(gguf: Path) -> tuple[int, list[str]]:
    """Return the size of a GGUF file that this project built, and its cells: name, GiB, bits per weight."""
    path = record_path(gguf)
    content = read_json(path)
    if "outtype" in content:  # the F16 file is a conversion's, with another record
        content = check_record(path, content, ConversionRecord)
        return content["bytes"], [gguf.name, gib(content["bytes"]), "-"]
    content = check_record(path, content, QuantRecord)
    if gguf.stat().st_size != content["bytes"]:
        wanted, found = f"{content['bytes']} bytes, as its record says", f"{gguf.stat().st_size} bytes"
        raise InputError(gguf, wanted, found, "add REPLACE=quants to build it again")
    return content["bytes"], [gguf.name, gib(content["bytes"]), f"{content['bits_per_weight']:.2f}"]


def after_quants(paths: list[Path], make: str) -> list[str]:
    """Return the table of the files that are there, the largest first."""
    built = [path for path in paths if path.is_file() and record_path(path).is_file()]
    if not built:
        raise InputError(
            paths[0],
            "a GGUF file with its record beside it",
            "none",
            f"run {make.format('quants')}; a GGUF file without its record must be moved away first",
        )
    rows = sorted(map(quant_cells, built), key=lambda entry: (-entry[0], entry[1]))
    table = screen_table(["file", "GiB", "bits per weight"], [cells for _, cells in rows])
    total = gib(sum(size for size, _ in rows))
    return [
        table,
        "",
        f"{len(built)} of {plural(len(paths), 'file')} asked for, {total} GiB.",
        f"Results: {', '.join(sorted({str(path.parent) for path in built}))}",
        f"Next: {make.format('eval')} scores one of them; {make.format('quality')} measures what each costs.",
    ]


def scored_size(row: dict) -> str:
    """Return the size of the file that was scored, a dash where the comparison does not have it."""
    sizes = [size for kind, size in row["bytes"].items() if row["gguf"].endswith(f"-{kind}.gguf")]
    return gib(max(sizes)) if len(set(sizes)) == 1 else "-"


def share(row: dict, kind: str) -> str:
    """Return one kind of score as a share, a dash where there is none."""
    return "-" if row[kind] is None else f"{row[kind]:.2%}"


def score_line(row: dict, reference: dict) -> list[str]:
    """Return a model's cells: name, experts, GiB, raw, patched, interval, change."""
    low, high = row["interval"]
    change = "reference" if row is reference else f"{row['points_vs_reference']:+.2f} points"
    scores = [share(row, "raw"), share(row, "patched")]
    return [row["name"], str(row["experts"]), scored_size(row), *scores, f"{low:.1%} to {high:.1%}", change]


def paired_sentence(pair: dict) -> str:
    """Return what the paired test of two models shows, in one sentence."""
    low, high = (100 * limit for limit in pair["difference_interval"])
    found = "a" if pair["mcnemar_p"] < SIGNIFICANT_P else "no"
    return (
        f"{plural(pair['lost'], 'question')} of {pair['questions']} lost, {pair['won']} won: {found} significant "
        f"difference (McNemar p = {pair['mcnemar_p']:.2g}, 95% interval {low:+.1f} to {high:+.1f} points)."
    )


def after_eval(paths: list[Path], make: str) -> list[str]:
    """Return the table of scores, the paired test, and whether the questions chose the experts."""
    content = read_record(paths[0], Scores)
    rows, pairs = content["rows"], content["pairs"]
    heads = ["model", "experts", "GiB", "raw", "patched", "95% interval", "change"]
    page = paths[0].with_suffix(".md")
    return [
        screen_table(heads, [score_line(row, rows[0]) for row in rows]),
        "",
        *[paired_sentence(pair) for pair in pairs[:1]],
        *filter(None, [sample_sentence(content).replace("*", "")]),
        f"Results: {page if page.exists() else paths[0]}",
        f"Next: {make.format('quality')} measures what each file costs; {make.format('release')} packs them.",
    ]


def after_release(paths: list[Path], make: str) -> list[str]:
    """Return the release folders with their sizes and numbers of files."""
    rows = []
    for folder in paths:
        manifest = read_manifest(folder)
        check_sizes(folder, manifest)
        total = sum(entry["bytes"] for entry in manifest["files"].values()) + (folder / MANIFEST).stat().st_size
        rows.append([str(folder), manifest["kind"], str(len(manifest["files"]) + 1), gib(total)])
    return [
        screen_table(["folder", "kind", "files", "GiB"], rows, left=2),
        "",
        f"Next: {make.format('check-release')} says pass or fail for each check; then "
        f"{make.format('upload').removesuffix('`')} REPO=USER/NAME`.",
    ]


STAGES = {
    "analyze": after_analyze,
    "drop": after_drop,
    "quants": after_quants,
    "eval": after_eval,
    "release": after_release,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    what = parser.add_argument_group("what was made")
    what.add_argument("--after", choices=STAGES, required=True, help="the stage that has ended")
    what.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="its records, see above")
    more = parser.add_argument_group("what is said of it")
    more.add_argument("--page", type=Path, help="the report page; named if it is there")
    more.add_argument("--run", default="", help="the run, for the commands that are proposed (default: none, the demo)")
    args = parser.parse_args(argv)
    if args.after in ONE_FILE and len(args.paths) > 1:
        parser.error(f"--after {args.after}: expected one file, found {len(args.paths)}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    make = f"`make {{}}{f' RUN={args.run}' if args.run else ''}`"
    *lines, last = STAGES[args.after](args.paths, make)
    if args.page and args.page.is_file():
        lines.append(f"Page: {args.page}")
    print("\n".join([*lines, last]))


if __name__ == "__main__":
    run(main)
