#!/usr/bin/env python3
"""Put a release folder together: GGUF files or a pruned checkpoint, with card, Ollama files, records and manifest.

Inputs:  quantised GGUF files with their records (FILE.gguf.json), or the pruned checkpoint; its
         expert_drop_metadata.json; where they exist, the scores of compare_scores.py, the quality.json of
         measure_quality.py and pictures; for GGUF files the Ollama template and params.
Output:  a folder: the files (linked; those above --max-file-bytes in parts), README.md, manifest.json (schema:
         release/manifest.py), expert_drop_metadata.json, scores.json, quality.json, *.png and, with GGUF files of
         Gemma 4, template, params, Modelfile. Beside it FOLDER.sources.json for check_release.py, never published.
Example: .venv/bin/python scripts/build_release.py --name gemma-4-demo-109e --base gemma-4-demo \\
             --gguf build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf \\
             --metadata build/gemma-4-demo/109e/checkpoint/expert_drop_metadata.json \\
             --map build/gemma-4-demo/109e/drop_map.json \\
             --statistics build/gemma-4-demo/full/statistics/calibration_questions/expert_stats.safetensors \\
             --f16 build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf.json \\
             --source build/gemma-4-demo/full/checkpoint \\
             --full-f16 build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf.json \\
             --imatrix-record build/gemma-4-demo/109e/gguf/imatrix.gguf.json \\
             --calibration build/gemma-4-demo/full/statistics/calibration_questions/calibration_questions.txt \\
             --template modelfiles/gemma4-2026-04.template modelfiles/gemma4-2026-07.template \\
             --params modelfiles/gemma4-card.params.json \\
             --questions data/demo/calibration_questions.csv data/demo/eval_questions.csv \\
             --output build/try/gemma-4-demo-109e-GGUF

Refused before anything is written: an unknown licence (checkpoints/licence.py), inputs of another build
(gates/lineage.py), scores and losses that are not of this build's files or do not come out the same when made again
(gates/scored.py). Names that shadow each other (release/names.py) are refused, too. Every number in the card comes
from a record. What was not measured is listed there under "Limits".
"""

import argparse
from pathlib import Path

from cards.card_findings import check_findings_match, check_other_maps
from cards.card_sections import IMATRIX_PICTURE, PICTURES
from cards.front_matter import REPOSITORY_NAME, is_repository
from cards.made_texts import made_texts
from cards.model_facts import is_for_ollama
from checkpoints.checkpoint import INDEX_NAME
from checkpoints.licence import CARD, DIGEST, Licence, held_licence
from checkpoints.small_files import small_files
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.input_errors import InputError, check_ends, shown
from files.json_records import CONTROL
from files.option_types import VERSION_FILE, command_parser, named_path, positive
from files.safe_files import GB, check_apart, copy_file, directory_when_done, in_unit, link_or_copy, remove, run
from files.written_records import write_record
from findings.findings_record import FINDINGS_NAME
from gates.compared import build_breaks
from gates.lineage import Lineage
from gates.loops_gate import loop_breaks
from gates.losses import quality_breaks
from gates.scored import score_breaks
from gates.sight_gate import tower_breaks
from gates.speed_gate import MEASURE_ACTIVE, MEASURE_DRAFT, active_breaks, draft_breaks, measured_file_breaks
from gates.tasks_gate import task_breaks
from llama.llama_tools import find_llama_cpp
from loops.loop_results import LOOPS_NAME
from losses.quality_record import QUALITY_NAME
from ollama.ollama_template import choose_template
from ollama.own_files import check_own_params, check_own_template
from quants.quant_record import MmprojRecord, read_whole_gguf, record_path
from quants.recipes import RECIPES
from release.gguf_facts import facts_of
from release.gguf_parts import SPLIT_RECORD, split_gguf
from release.given_places import ASSISTANT_PLACE, MODEL_PLACE, OWN_MAP_PLACE, check_model_folder
from release.given_words import GIVEN_WORDS, hold_given_words
from release.input_facts import input_facts
from release.manifest import CHECKPOINT, DYNAMIC, KINDS, MANIFEST, STANDARD, Manifest, file_entries
from release.names import BASE_NAME, PLAIN_NAME, clashes, is_base, is_plain, is_standard
from release.said_settings import recorded_settings
from release.sources import read_evidence, write_sources
from release.task_files import task_sources_of
from release.used_quants import by_imatrix
from scoring.score_records import SCORES_NAME
from speed.active_experts import ACTIVE_NAME
from speed.draft_results import DRAFT_NAME

FINDINGS_INPUTS = "what --findings were measured from: model, questions, measured, and map-1 and so on for other maps"
MAX_FILE_BYTES = 50_000_000_000  # the Hub's limit of one file
OF_GGUFS = ("mmproj", "quality", "draft", "active_experts", "loops", "template", "params")  # options


def check_evidence(args: argparse.Namespace, records: dict[Path, dict]) -> None:
    """Raise InputError unless quants, scores and losses are this build's, and come out the same when made again."""
    by_name = {gguf.name: record for gguf, record in records.items()}
    for gguf, record in records.items():
        check_facts(gguf, record)
    lineage = Lineage(args.name, by_name, {gguf.name: gguf for gguf in records}, sources_of(args))
    found = build_breaks(lineage)
    if not found and args.mmproj:
        found = tower_breaks(lineage)
    if not found and args.scores:
        found = score_breaks(lineage)
    if not found and args.quality:
        found = quality_breaks(lineage)
    if not found and args.active_experts:
        active = read_evidence(args.active_experts, ACTIVE_NAME)
        found = active_breaks(active, lineage.f16_sha256)
        found += measured_file_breaks(ACTIVE_NAME, lineage, [active], MEASURE_ACTIVE)
    if not found and args.loops:
        found = loop_breaks(lineage)
    if not found and args.task:
        found = task_breaks(lineage)
    if not found and args.draft:
        drafted = read_evidence(args.draft_results, DRAFT_NAME)
        found = draft_breaks(drafted, args.draft, lineage.f16_sha256)
        found += measured_file_breaks(DRAFT_NAME, lineage, drafted["models"], MEASURE_DRAFT)
    if args.findings:
        findings = read_evidence(args.findings, FINDINGS_NAME)
        check_findings_match(findings, read_metadata(args.metadata))
        check_other_maps(findings, [Path(path) for name, path in args.findings_from if name.startswith("map-")])
    for first in found[:1]:
        raise first


def check_facts(gguf: Path, record: dict) -> None:
    """Raise InputError unless a GGUF file is what its record says: the card takes its numbers from there."""
    for what, said, found in facts_of(record, gguf):
        if said != found:
            again = f"build {gguf.name} again"
            raise InputError(record_path(gguf), f"{what} {shown(found)}, as the file has", shown(said), again)


def check_labels(kind: str, records: dict[str, dict], others: list[str]) -> None:
    """Raise InputError for a quant of the other kind of release, or a label that fetches another file than meant."""
    types = "standard types" if kind == STANDARD else "CD-*, AUTO-* and PAD-* files"
    for name, record in records.items():
        if is_standard(record["type"]) != (kind == STANDARD):
            raise InputError(name, f"a {kind} release of {types}", record["type"])
    quants = {part: record["type"] for record in records.values() for part in record["files"]}
    found = clashes(quants, tuple(others), tuple(RECIPES))
    if found:
        count = f" ({len(found)} clashes)" if len(found) > 1 else ""
        raise InputError(next(iter(records)), "names that no label takes for another", f"{found[0]}{count}")


def split_folder(output: Path) -> Path:
    """Return the folder that holds a release's parts until the release does."""
    return output.with_name(f"{output.name}.split")


def remove_parts(args: argparse.Namespace) -> None:
    """Remove the folders of parts that are linked into the release now, and the folder around them if it is empty."""
    folder = split_folder(args.output)
    for gguf in args.gguf:
        if (folder / gguf.stem / SPLIT_RECORD).is_file():
            remove(folder / gguf.stem)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def place_gguf(args: argparse.Namespace, records: dict[Path, dict], output: Path) -> dict[str, dict]:
    """Link every GGUF file, or its parts, into the folder; return the records by name, with the files each lies in."""
    placed = {}
    for gguf, record in records.items():
        parts = [gguf]
        if record["bytes"] > args.max_file_bytes:
            # Beside the release: a run that is killed later need not split again.
            folder = split_folder(args.output) / gguf.stem
            parts = split_gguf(find_llama_cpp(args.llama_cpp), gguf, record["sha256"], args.max_file_bytes, folder)
        for part in parts:
            link_or_copy(part, output / part.name)
        placed[gguf.name] = {**record, "files": [part.name for part in parts]}
    return placed


def files_beside_weights(checkpoint: Path) -> dict[str, Path]:
    """Return a checkpoint's small files, config and index, by name in the folder; not its card: a release makes one."""
    files = [*small_files(checkpoint), checkpoint / "config.json", checkpoint / INDEX_NAME]
    return {path.relative_to(checkpoint).as_posix(): path for path in files if path.name != CARD}


def parse_setting(text: str) -> tuple[str, str]:
    """Parse KEY=VALUE, a setting of make or a sibling by its kind."""
    text = text.replace("\t", " ")  # of a run's file
    key, sign, value = text.partition("=")
    if not (key and sign) or CONTROL.search(text):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE in one line, found {shown(text)}")
    return key, value


def copies_of(args: argparse.Namespace) -> dict[str, Path]:
    """Return what is copied into the folder, by name: records, pictures, template, a checkpoint's small files."""
    if args.metadata.name != METADATA_NAME:  # a drop inside a GGUF file has one of another name, and no checkpoint
        raise InputError(args.metadata, f"the {METADATA_NAME} of a checkpoint", "another name")
    found = {
        METADATA_NAME: args.metadata,
        SCORES_NAME: args.scores,
        QUALITY_NAME: args.quality,
        FINDINGS_NAME: args.findings,
        DRAFT_NAME: args.draft_results,
        ACTIVE_NAME: args.active_experts,
        LOOPS_NAME: args.loops,
        "template": args.template if args.for_ollama else None,
    }
    found |= {f"scores-{scores.parent.name}.json": scores for scores, *_ in args.task}
    for picture in args.pictures:
        if picture.name not in PICTURES:
            raise InputError(picture, f"a picture among {', '.join(PICTURES)}", picture.name)
        found[picture.name] = picture
    if args.checkpoint:
        found |= files_beside_weights(args.checkpoint)
    found |= {path.name: path for path in args.mmproj}
    if args.draft:
        found[args.draft.name] = args.draft
    return {name: path for name, path in found.items() if path}


def place_copies(args: argparse.Namespace, output: Path) -> None:
    """Copy what is copied, and link the shards of a checkpoint that its metadata name."""
    for name, path in copies_of(args).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        if path in args.mmproj or path == args.draft:
            link_or_copy(path, output / name)
        else:
            check_ends(path)
            # Copied, since people edit such files; an edit of a link would change the build itself.
            copy_file(path, output / name)
    if args.checkpoint:
        for shard in read_evidence(args.metadata, METADATA_NAME)["shards"]:
            link_or_copy(args.checkpoint / shard, output / shard)


def fill_folder(args: argparse.Namespace, records: dict[Path, dict], licence: Licence, output: Path) -> None:
    """Fill the folder; its manifest comes last."""
    place_copies(args, output)
    manifest = {
        "name": args.name,
        "owner": args.owner,
        "repository": args.repository,
        "kind": args.kind,
        "base": args.base,
        "license": licence.identifier,
        "license_name": licence.name,
        "license_link": licence.link,
        "quantized_by": args.quantized_by,
        "siblings": dict(args.siblings),
        "inputs": input_facts(sources_of(args)),
        "settings": dict(args.settings),
        "project_version": VERSION_FILE.read_text().strip(),
        "records": place_gguf(args, records, output),
    }
    if args.mmproj:
        manifest["mmproj"] = {path.name: read_whole_gguf(path, MmprojRecord) for path in args.mmproj}
    if args.gguf:
        check_labels(args.kind, manifest["records"], [path.name for path in output.iterdir()])
    manifest["settings"] = recorded_settings(output, manifest, sources_of(args))
    for name, text in made_texts(output, manifest, args.params).items():
        (output / name).write_text(text, encoding="utf-8")
    write_record(output / MANIFEST, {**manifest, "files": file_entries(output)}, Manifest)


def sources_of(args: argparse.Namespace) -> dict[str, dict[str, Path]]:
    """Return what the folder is made from, paths by kind and name."""
    origins = {
        name: getattr(args, name) for name in ("map", "statistics", "f16", "logits", "calibration", "sensitivity")
    }
    origins |= {"imatrix": args.imatrix_record, "full imatrix": args.full_imatrix}
    origins |= {"full f16": args.full_f16, "source": args.source}
    origins |= {"loop answers": args.loop_answers, "loop prompts": args.loop_prompts}
    origins |= {MODEL_PLACE: args.model_record, OWN_MAP_PLACE: args.own_map, ASSISTANT_PLACE: args.assistant}
    origins |= {f"findings {name}": Path(path) for name, path in args.findings_from}
    return {
        "records": {gguf.name: record_path(gguf) for gguf in args.gguf},
        "copies": copies_of(args),
        "params": {"params": args.params} if args.for_ollama else {},
        "questions": {str(number): path for number, path in enumerate(args.questions)},
        "origins": {name: path for name, path in origins.items() if path},
        "runs": {str(number): path for number, path in enumerate(args.runs)},
        "quants": {str(number): path for number, path in enumerate(args.quants)},
        "tasks": task_sources_of(args.task),
        "variants": {str(number): path for number, path in enumerate(args.variants)},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("what is released").add_argument
    add("--kind", choices=KINDS, default=STANDARD, help="what the folder holds; standard: llama.cpp's own types")
    add("--name", required=True, help="name of the pruned model")
    add("--base", required=True, help="Hub id of the base model, or its name when it is local")
    add("--license", default="", help="the Hub's identifier of the licence (default: that of --source)")
    add("--quantized-by", default="", help="who quantised, for the front matter")
    add(
        "--owner", default="", help="owner of the repositories on the Hub (without: a placeholder that no upload takes)"
    )
    kept = "file of make with words that were given before, and the settings whose word is from there: "
    add("--given-before", nargs="+", metavar=("FILE", "SETTING"), help=kept + ", ".join(GIVEN_WORDS))
    repository_help = "name of its repository on the Hub, without the owner (default: the name of the output folder)"
    add("--repository", metavar="NAME", help=repository_help)
    siblings = "the release's other repositories, by kind, for the card"
    add("--siblings", type=parse_setting, nargs="*", default=[], metavar="KIND=NAME", help=siblings)
    settings = "settings of make to name on the card: places, and what the records have, as these have it"
    add("--settings", type=parse_setting, nargs="*", default=[], metavar="KEY=VALUE", help=settings)
    add = parser.add_argument_group("inputs").add_argument
    add("--gguf", type=Path, nargs="+", default=[], help="quantised GGUF files")
    pictures = "file for pictures, to be given for each (convert_to_gguf.py --mmproj)"
    add("--mmproj", type=Path, action="append", default=[], help=pictures)
    add("--checkpoint", type=Path, help=f"pruned checkpoint directory (kind {CHECKPOINT})")
    add("--metadata", type=Path, required=True, help=METADATA_NAME)
    add("--scores", type=Path, help="JSON of compare_scores.py (without: the card says so)")
    add("--findings", type=Path, help="findings.json of measure_findings.py (without: the card has none)")
    add("--quality", type=Path, help="quality.json of measure_quality.py (without: the card says so)")
    add("--draft", type=Path, help="draft model (GGUF) with its record, and --draft-results")
    add("--draft-results", type=Path, help="JSON of measure_draft.py")
    add("--active-experts", type=Path, help="JSON of measure_active_experts.py (without: no such section)")
    add("--loops", type=Path, help="loops.json of measure_loops.py (without: no such section)")
    task = "scores.json of a further task, then what it was made from: run=SUMMARY, questions=FILE, examples=FILE"
    add("--task", type=Path, nargs="+", action="append", default=[], metavar="PATH", help=task)
    add("--pictures", type=Path, nargs="*", default=[], help=f"pictures: {', '.join(PICTURES)}")
    add("--template", type=Path, nargs="+", help="Ollama templates; the one that fits the GGUF's own is taken")
    add("--params", type=Path, help="Ollama params, each with its reason (JSON)")
    add("--questions", type=Path, nargs="*", default=[], help="question files whose text must not be published")
    add = parser.add_argument_group("where the numbers come from (compared, never published)").add_argument
    add("--map", type=Path, required=True, help="drop map")
    add("--own-map", type=Path, help="the drop map that was given, of which --map is the copy")
    add("--assistant", type=Path, help="checkpoint that --draft was made of")
    add("--statistics", type=Path, help="what the map was chosen from; an own map needs none")
    add("--f16", type=Path, required=True, help="record of the pruned F16 file (FILE.gguf.json)")
    add("--full-f16", type=Path, help="record of the full model's F16 file, which --scores and --quality need")
    source = "checkpoint of the full model, whose small files the pruned one has, and whose card the licence"
    add("--source", type=Path, required=True, help=source)
    add("--model-record", type=Path, help="model.json of fetch_model.py, by which the build knows the full model")
    add("--given-model", type=Path, help="folder that the full model was taken from, to compare")
    add("--imatrix-record", type=Path, help="record of the imatrix (imatrix.gguf.json), which names its text")
    add("--full-imatrix", type=Path, help="record of the full model's imatrix, which scores of its quants need")
    add("--calibration", type=Path, help="calibration text of the imatrix, in which the questions are looked for")
    add("--sensitivity", type=Path, help="file of measure_sensitivity.py, which AUTO files need")
    add("--runs", type=Path, nargs="*", default=[], help="summaries that --scores compares, in their directories")
    add("--quants", type=Path, nargs="*", default=[], help="records of the files that were scored or measured")
    proofs = (
        "of other pruned models in --scores: metadata, drop maps, statistics, records of F16 files (without: not known)"
    )
    add("--variants", type=Path, nargs="*", default=[], help=proofs)
    add("--findings-from", type=parse_setting, nargs="*", default=[], metavar="INPUT=PATH", help=FINDINGS_INPUTS)
    add("--logits", type=Path, help="cache of measure_quality.py with the results of --quality")
    add("--loop-answers", type=Path, help="answers of measure_loops.py with those of --loops")
    add("--loop-prompts", type=Path, help="the prompts that --loops was measured with")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=named_path, required=True, help="release folder to write")
    add("--max-file-bytes", type=positive, default=MAX_FILE_BYTES, help="split larger files")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    args = parser.parse_args(argv)
    if (args.kind == CHECKPOINT) != (args.checkpoint is not None) or (args.kind == CHECKPOINT) == bool(args.gguf):
        parser.error(f"expected --gguf with --kind {STANDARD} or {DYNAMIC}, --checkpoint with --kind {CHECKPOINT}")
    of_ggufs = [f"--{name.replace('_', '-')}" for name in OF_GGUFS if getattr(args, name)]
    if args.kind == CHECKPOINT and of_ggufs:
        parser.error(f"{of_ggufs[0]}: expected none with --kind {CHECKPOINT}, since it is of GGUF files")
    if bool(args.draft) != bool(args.draft_results):
        parser.error("expected --draft and --draft-results, both or neither")
    args.repository = args.repository or args.output.resolve().name
    return args


def check_names(owner: str, repository: str, siblings: list[tuple[str, str]]) -> None:
    """Raise InputError unless the Hub can have an owner and repositories of these names, and no two are the same."""
    names = [("--owner", owner or "x"), ("--repository", repository), *(("--siblings", name) for _, name in siblings)]
    for option, name in names:
        if not is_repository(name):
            raise InputError(option, REPOSITORY_NAME, repr(name)[:100])
    for kind, name in siblings:
        if kind not in KINDS:
            raise InputError("--siblings", f"a kind among {', '.join(KINDS)}", repr(kind)[:100])
        if name == repository:
            raise InputError("--siblings", f"another repository than {repository}", "the same")


def check_plain_names(args: argparse.Namespace) -> None:
    """Raise InputError for a name that a card would print as something else: what it says is under a user's name."""
    if not is_base(args.base):
        raise InputError("--base", BASE_NAME, shown(args.base))
    files = {"--gguf": args.gguf, "--mmproj": args.mmproj, "--draft": [args.draft] if args.draft else []}
    names = [("--name", args.name), *([("--quantized-by", args.quantized_by)] if args.quantized_by else [])]
    for option, name in [*names, *((option, path.name) for option, paths in files.items() for path in paths)]:
        if not is_plain(name):
            raise InputError(option, PLAIN_NAME, shown(name))
    read = {"--questions": args.questions, "--calibration": [args.calibration] if args.calibration else []}
    read["--task"] = [Path(word) for words in args.task for word in words]
    for option, path in ((option, path) for option, paths in read.items() for path in paths):
        if CONTROL.search(path.name):
            raise InputError(option, "a file name without line ends and control characters", shown(path.name))


def check_given_words(args: argparse.Namespace, base: str) -> None:
    """Raise InputError for a word that make has from its own file and that was never given for a model of `base`."""
    if args.given_before:
        file, *before = args.given_before
        if unknown := [*{*before} - {*GIVEN_WORDS}]:
            raise InputError("--given-before", f"settings among {', '.join(GIVEN_WORDS)}", shown(unknown[0]))
        words = dict(zip(GIVEN_WORDS, (args.license, args.owner, args.quantized_by)))
        hold_given_words(Path(file), words, before, base)


def check_sidecars(args: argparse.Namespace) -> None:
    """Raise InputError when the sources of Ollama's files are not the project's, which GGUF files of Gemma 4 need."""
    if args.for_ollama and not (args.template and args.params):
        raise InputError("--template, --params", "both with GGUF files of Gemma 4", "one or none")
    if args.for_ollama:
        check_own_params(args.params, dict(args.settings))
        for template in args.template:
            check_own_template(template)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_names(args.owner, args.repository, args.siblings)
    check_plain_names(args)
    source = read_metadata(args.metadata)["source"]
    check_given_words(args, source.get("source_sha256", ""))
    if args.given_model and args.model_record:
        check_model_folder(args.model_record, args.given_model)
    made_of = (args.model_record, args.own_map, args.assistant)
    if gone := next((place for place in made_of if place and not place.exists()), None):
        raise InputError(gone, "what the release was made of", "nothing")
    evidence = (args.metadata, args.scores, args.quality, args.findings, args.draft, args.draft_results)
    inputs = (*args.gguf, *args.mmproj, args.checkpoint, *evidence)
    check_apart([path for path in inputs if path], [args.output])
    licence = held_licence(args.license, args.source, source.get(DIGEST))
    records = {gguf: read_whole_gguf(gguf) for gguf in args.gguf}
    args.for_ollama = bool(args.gguf) and is_for_ollama(args.gguf[0])
    check_sidecars(args)
    if args.for_ollama:
        args.template = choose_template(args.template, args.gguf[0])
    # make draws it for every build, also for one whose files are all made without an imatrix.
    if not by_imatrix(sources_of(args)):
        args.pictures = [picture for picture in args.pictures if picture.name != IMATRIX_PICTURE]
    check_evidence(args, records)
    # The manifest alone is sealed: a copy of a user's file must not pass for what this command says.
    with directory_when_done(args.output, MANIFEST, sealed=MANIFEST) as output:
        fill_folder(args, records, licence, output)
        # What the folder was made from comes before its name: a kill between the two leaves no folder without it. It
        # comes after all that can refuse: a refusal leaves nothing, and beside an older folder what that was made from.
        write_sources(args.output, sources_of(args))
        sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
        # Before the release gets its name: make would not come by again to tidy up after a kill in between.
        remove_parts(args)
    print(f"{args.output}: {args.kind} release of {args.name}, {len(sizes)} files, {in_unit(sum(sizes), GB)} GB")


if __name__ == "__main__":
    run(main)
