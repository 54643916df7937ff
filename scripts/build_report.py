#!/usr/bin/env python3
"""Put what is known of a build on one page: sizes, scores, files, questions, experts, calibration, digests.

Inputs:  the records of a build, those that there are: statistics and drop map, expert_drop_metadata.json, the records
         of the F16 GGUFs, of the quants and of the files for pictures (FILE.gguf.json), imatrix, quality.json,
         scores.json, findings.json, loops.json, draft.json, active-experts.json, and the summary.json of two models.
Output:  one HTML file that holds everything and asks nothing of any network. Equal records of equal times give equal
         bytes: the page names the days on which its records were written.
Example: .venv/bin/python scripts/build_report.py --name gemma-4-demo-109e \\
             --scores build/gemma-4-demo/109e/eval/Q6_K/scores.json --output build/try/report.html

A section whose records are not given says so and names the make target. Records of different builds are refused, and
so are edited ones. So is a page that would lose a part which the page in its place was made from (--replace writes it
nevertheless).
"""

import argparse
import base64
import hashlib
import json
import re
from pathlib import Path

from files.display import plural
from files.input_errors import InputError, read_words, reason_of, sha256_file
from files.json_records import Fields, check_fields, parse_json
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, in_unit, replace_when_done, run
from files.seals import BY_RECORD, Seal, seals_over
from page.findings_part import findings_part
from page.layers import experts_part, imatrix_part
from page.loops_part import loops_part
from page.pipeline import Table, all_digests, pipeline
from page.records import Records, dates_of, read_records
from page.sections import Section, files_part, number, questions_part, scores_part
from page.speed_part import active_part, draft_part, pictures_part
from page.summary import best_files, facts
from page.tasks_part import tasks_part

from bokeh.resources import Resources
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

# What a page can be made from, and the target of make that writes it.
MADE_BY = {
    "stats": "analyze",
    "drop_map": "analyze",
    "findings": "findings",
    "metadata": "drop",
    "f16": "quants",
    "full_f16": "quants",
    "imatrix": "imatrix",
    "quants": "quants",
    "quality": "quality",
    "mmproj": "quants",
    "draft": "draft",
    "active_experts": "active-experts",
    "scores": "eval",
    "loops": "loops",
    "tasks": "eval",
    "summaries": "eval",
}
# In the order of the page. One of what not every model has is left out where there is no record.
SECTIONS = (
    files_part,
    pictures_part,
    scores_part,
    questions_part,
    tasks_part,
    loops_part,
    draft_part,
    active_part,
    experts_part,
    findings_part,
    imatrix_part,
)
MADE_FROM = re.compile(r'<script type="application/json" id="made-from">(.*?)</script>')
MB = 10**6
PAGE_AGAIN = "move it away, or REPLACE=report"
PAGE = Path(__file__).resolve().parent / "page"


def inline_json(value: object) -> Markup:
    """Return JSON that may stand inside a script element."""
    # A Record ID or a name of a model may hold "</script>", which would end the element.
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def inline_script(text: str) -> Markup:
    """Return a script as it may stand inside a script element."""
    return Markup(text.replace("</script", "<\\/script"))


def content_policy(scripts: list[Markup]) -> str:
    """Return the page's content security policy: no script but these, and nothing of any network.

    A name in a record that came by every escape could so neither run nor send anything. Bokeh writes styles as it goes
    and makes its callbacks from texts of ours, which takes unsafe-eval; a foreign script element stays dead.
    """
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def page(records: Records, parts: list[Section], base: str | None, dates: tuple[str, str], made_from: dict) -> str:
    """Return the HTML of the page."""
    # An undefined name fails instead of showing as nothing; everything but our own style and scripts is escaped.
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    library = Resources(mode="inline", components=["bokeh"]).js_raw
    own = [(PAGE / name).read_text(encoding="utf-8") for name in ("page.js", "page.tables.js")]
    scripts = [inline_script(text) for text in ("\n".join(library), *own)]
    steps, best = pipeline(records), best_files(records)
    digests = all_digests(steps)
    tables: list[Table] = [table for part in parts for table in part.tables] + [digests] + ([best] if best else [])
    return environment.get_template("page.html").render(
        name=records.name,
        number=number,
        facts=facts(records, base, dates),
        best=best,
        steps=steps,
        digests=digests,
        sections=parts,
        policy=content_policy(scripts),
        style=Markup((PAGE / "page.css").read_text(encoding="utf-8")),
        scripts=scripts,
        items=inline_json([chart.item for section in parts for chart in section.charts]),
        tables=inline_json({table.key: table.downloads() for table in tables}),
        made_from=inline_json(made_from),
    )


def check_sealed(paths: list[Path]) -> int:
    """Raise InputError for an edited record in a build folder; return how many have no seal of this machine's key.

    Of another machine's build, or one of before, the page is made all the same. No release rests on it.
    """
    unknown = 0
    for path in paths:
        record = Path(f"{path}.json") if path.suffix == BY_RECORD else path
        seals = seals_over(record)
        seal = seals.of_file(record) if seals and record.is_file() else Seal.VALID
        if seal in (Seal.NONE, Seal.FOREIGN):
            unknown += 1
        elif seal != Seal.VALID:
            advice = "make it again, or say SEALS=no to trust it"
            raise InputError(record, "what a command of this project wrote", seal.value, advice)
    return unknown


class MadeFrom(Fields):
    """What a page says that it was made from."""

    parts: list[str]
    drop_map_sha256: str | None


def check_not_poorer(output: Path, made_from: dict) -> None:
    """Raise InputError when the page at `output` was made from a part that `made_from` lacks, or is no page of ours."""
    if not output.is_file():
        return
    found = MADE_FROM.search(read_words(output))
    if not found:
        raise InputError(output, "nothing, or a report page", "another file", PAGE_AGAIN)
    try:
        content = parse_json(found[1])
    except (ValueError, RecursionError) as error:
        raise InputError(output, "a report page with what it was made from", reason_of(error), PAGE_AGAIN) from error
    before = content if isinstance(content, dict) else {}
    check_fields(output, before, MadeFrom, "a report page", PAGE_AGAIN)
    # Of another choice of experts nothing that the old page shows is still true, so it may go.
    if before["drop_map_sha256"] != made_from["drop_map_sha256"]:
        return
    if lost := [part for part in MADE_BY if part in before["parts"] and part not in made_from["parts"]]:
        option, target = f"--{lost[0].replace('_', '-')}", MADE_BY[lost[0]]
        wanted = f"the record {option}, which the page there was made from"
        raise InputError(output, wanted, "none", f"run make {target}, or REPLACE=report to lose that part of the page")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    model = parser.add_argument_group("the model")
    model.add_argument("--name", required=True, help="name of the pruned model")
    model.add_argument("--base", help="name of the full model (default: the reference of the scores)")
    chosen = parser.add_argument_group("records of the choice of experts")
    chosen.add_argument("--stats", type=Path, help="statistics file of teacher_force_analysis.py")
    chosen.add_argument("--drop-map", type=Path, help="drop map chosen from it, or one that you brought")
    chosen.add_argument("--findings", type=Path, help="findings.json of measure_findings.py")
    chosen.add_argument("--metadata", type=Path, help="expert_drop_metadata.json")
    built = parser.add_argument_group("records of the files")
    built.add_argument("--f16", type=Path, help="record of the pruned F16 GGUF (FILE.gguf.json)")
    built.add_argument("--full-f16", type=Path, help="record of the full F16 GGUF, for its size")
    built.add_argument("--imatrix", type=Path, help="imatrix of the pruned model, its record beside it")
    built.add_argument("--quants", type=Path, nargs="*", default=[], help="records of the quants (FILE.gguf.json)")
    built.add_argument("--quality", type=Path, help="quality.json of measure_quality.py")
    built.add_argument("--mmproj", type=Path, nargs="*", default=[], help="records of the files for pictures")
    built.add_argument("--draft", type=Path, help="draft.json of measure_draft.py")
    built.add_argument("--active-experts", type=Path, help="active-experts.json of measure_active_experts.py")
    scored = parser.add_argument_group("records of the evaluation")
    scored.add_argument("--scores", type=Path, help="scores.json of compare_scores.py")
    further = "scores.json of further tasks, each in a folder named after it"
    scored.add_argument("--tasks", type=Path, nargs="*", default=[], help=further)
    scored.add_argument("--loops", type=Path, help="loops.json of measure_loops.py")
    both = "summary.json of the reference and of the pruned model; of several samples, all of the reference come first"
    scored.add_argument("--summaries", type=Path, nargs="*", default=[], help=both)
    output = parser.add_argument_group("output")
    output.add_argument("--output", type=named_path, required=True, help="HTML file to write")
    output.add_argument("--replace", action="store_true", help="write the page even if it loses a part of the old one")
    args = parser.parse_args(argv)
    if len(args.summaries) % 2:
        parser.error("--summaries: expected as many runs of both models, or none")
    if args.stats and not args.drop_map:
        parser.error("--stats: expected --drop-map with it")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    paths = {part: path for part in MADE_BY if isinstance(path := getattr(args, part), Path)}
    inputs = [*paths.values(), *args.quants, *args.mmproj, *args.summaries, *args.tasks]
    if not inputs:
        raise InputError(
            args.output, "records of a build to report on", "none", "run make analyze, or make demo, first"
        )
    check_apart(inputs, [args.output])
    if unknown := check_sealed(inputs):
        print(f"{plural(unknown, 'record')} of another key, of an older version or of none: not looked at for edits")
    records = read_records(args.name, paths, args.quants, args.summaries, args.mmproj, args.tasks)
    made_from = {
        "parts": [part for part in MADE_BY if getattr(args, part)],
        "drop_map_sha256": sha256_file(args.drop_map) if args.drop_map else None,
    }
    if not args.replace:
        check_not_poorer(args.output, made_from)
    parts = [part for section in SECTIONS if (part := section(records))]
    with replace_when_done(args.output) as partial:
        partial.write_text(page(records, parts, args.base, dates_of(inputs), made_from), encoding="utf-8")
    missing = [f"{part.title} ({part.command})" for part in parts if part.command]
    size = in_unit(args.output.stat().st_size, MB)
    print(f"{args.output}: {size} MB{'; missing: ' + ', '.join(missing) if missing else ''}")


if __name__ == "__main__":
    run(main)
