#!/usr/bin/env python3
"""Put what is known of a build on one page: pipeline, experts, size against quality, scores, questions, calibration.

Inputs:  the records of a build, those that there are: statistics and drop map, expert_drop_metadata.json, the records
of
         the pruned F16 GGUF and of its quants (FILE.gguf.json), imatrix, quality.json, scores.json, and the
         summary.json of two models.
Output:  one HTML file that holds everything and asks nothing of any network; equal records give equal bytes.
Use:     scripts/build_report.py --name NAME --stats STATS --drop-map DROP_MAP.json --output REPORT.html

A section whose records are not given says so and names the make target. Records of different builds are refused.
"""

import argparse
import json
from pathlib import Path

from files.safe_files import InputError, check_apart, in_unit, replace_when_done, run
from page.pipeline import Step, all_digests, pipeline
from page.records import read_records
from page.sections import Section, number, sections

from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PARTS = ("stats", "drop_map", "metadata", "f16", "imatrix", "quality", "scores")
MB = 10**6
PAGE = Path(__file__).resolve().parent / "page"


def inline_json(value: object) -> Markup:
    """Return JSON that may stand inside a script element."""
    # A Record ID or a name of a model may hold "</script>", which would end the element.
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def inline_script(text: str) -> Markup:
    """Return a script as it may stand inside a script element."""
    return Markup(text.replace("</script", "<\\/script"))


def page(name: str, steps: list[Step], parts: list[Section]) -> str:
    """Return the HTML of the page."""
    # An undefined name fails instead of showing as nothing; everything but our own style and scripts is escaped.
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    library = Resources(mode="inline", components=["bokeh"]).js_raw
    return environment.get_template("page.html").render(
        name=name,
        number=number,
        steps=steps,
        digests=all_digests(steps),
        sections=parts,
        bokeh=inline_script("\n".join(library)),
        style=Markup((PAGE / "page.css").read_text()),
        script=inline_script((PAGE / "page.js").read_text()),
        items=inline_json([chart.item for section in parts for chart in section.charts]),
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="name of the pruned model")
    parser.add_argument("--stats", type=Path, help="statistics file of teacher_force_analysis.py")
    parser.add_argument("--drop-map", type=Path, help="drop map chosen from it, or one that you brought")
    parser.add_argument("--metadata", type=Path, help="expert_drop_metadata.json")
    parser.add_argument("--f16", type=Path, help="record of the pruned F16 GGUF (FILE.gguf.json)")
    parser.add_argument("--imatrix", type=Path, help="imatrix of the pruned model, its record beside it")
    parser.add_argument("--quants", type=Path, nargs="*", default=[], help="records of the quants (FILE.gguf.json)")
    parser.add_argument("--quality", type=Path, help="quality.json of measure_quality.py")
    parser.add_argument("--scores", type=Path, help="scores.json of compare_scores.py")
    parser.add_argument(
        "--summaries", type=Path, nargs="*", default=[], help="summary.json of the reference and of the pruned model"
    )
    parser.add_argument("--output", type=Path, required=True, help="HTML file to write")
    args = parser.parse_args(argv)
    if len(args.summaries) not in (0, 2):
        parser.error("--summaries: expected two models, or none")
    if args.stats and not args.drop_map:
        parser.error("--stats: expected --drop-map with it")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    paths = {part: path for part in PARTS if (path := getattr(args, part))}
    inputs = [*paths.values(), *args.quants, *args.summaries]
    if not inputs:
        raise InputError(
            args.output, "records of a build to report on", "none", "run make analyze, or make demo, first"
        )
    check_apart(inputs, [args.output])
    records = read_records(args.name, paths, args.quants, args.summaries)
    parts = sections(records)
    with replace_when_done(args.output) as partial:
        partial.write_text(page(args.name, pipeline(records), parts), encoding="utf-8")
    missing = [f"{part.title} ({part.command})" for part in parts if part.command]
    size = in_unit(args.output.stat().st_size, MB)
    print(f"{args.output}: {size} MB{'; missing: ' + ', '.join(missing) if missing else ''}")


if __name__ == "__main__":
    run(main)
