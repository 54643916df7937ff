#!/usr/bin/env python3
"""Put a release folder together: GGUF files or a pruned checkpoint, with card, Ollama files, records and manifest.

Inputs:  quantised GGUF files with their records (FILE.gguf.json), or the pruned checkpoint; its
         expert_drop_metadata.json; where they exist, the scores of compare_scores.py, the quality.json of
         measure_quality.py and pictures; for GGUF files the Ollama template and params.
Output:  a folder: the files (linked; those above --max-file-bytes in parts), README.md, manifest.json (schema:
         release/manifest.py), expert_drop_metadata.json, scores.json, quality.json, *.png and, with GGUF files,
         template, params, Modelfile. Beside it FOLDER.sources.json for check_release.py, which is never published.
Example: .venv/bin/python scripts/build_release.py --name gemma-4-demo-109e --base gemma-4-demo \\
             --gguf build/gemma-4-demo/109e/gguf/gemma-4-demo-109e-Q6_K.gguf \\
             --metadata build/gemma-4-demo/109e/checkpoint/expert_drop_metadata.json \\
             --template modelfiles/gemma4.template --params modelfiles/gemma4.params.json \\
             --questions data/demo/calibration_questions.csv data/demo/eval_questions.csv \\
             --output build/try/gemma-4-demo-109e-GGUF

Refused: names that shadow each other (release/names.py), inputs of another build. Every number in the card comes from a
record. What is missing is listed there.
"""

import argparse
import shutil
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.option_types import command_parser, positive
from files.safe_files import GB, InputError, check_apart, directory_when_done, in_unit, link_or_copy, run, write_record
from llama.llama_tools import find_llama_cpp
from losses.quality_record import QUALITY_NAME
from quants.mmproj_record import read_whole_mmproj
from quants.quant_record import read_whole_quant, record_path
from quants.recipes import RECIPES
from release.card_sections import PICTURES
from release.front_matter import REPOSITORY_NAME, is_repository
from release.gguf_parts import split_gguf
from release.made_texts import CARD, made_texts
from release.manifest import CHECKPOINT, DIGITS, DYNAMIC, KINDS, MANIFEST, STANDARD, Manifest, file_entries
from release.names import clashes, is_standard
from release.sources import read_evidence, write_sources
from scoring.score_records import SCORES_NAME

MAX_FILE_BYTES = 50_000_000_000  # the Hub's limit of one file


def check_quants_match(records: dict[Path, dict], metadata: dict) -> None:
    """Raise InputError unless all quants were made from one F16 model with the experts that the metadata say."""
    first = next(iter(records.values()), {}).get("source_sha256")
    for gguf, record in records.items():
        if record["source_sha256"] != first:
            found = record["source_sha256"][:DIGITS]
            raise InputError(gguf, f"quants of one F16 model, sha256 {str(first)[:DIGITS]}", f"one of {found}")
        if record["experts"] != metadata["keep_count"]:
            raise InputError(gguf, f"{metadata['keep_count']} experts, as {METADATA_NAME} says", str(record["experts"]))


def check_quality_matches(records: dict[Path, dict], quality: dict) -> None:
    """Raise InputError unless the quality was measured on the F16 model of the quants."""
    measured = quality["inputs"]["pruned_sha256"]
    for record in records.values():
        if record["source_sha256"] != measured:
            expected = f"measurements of the model with sha256 {record['source_sha256'][:DIGITS]}"
            raise InputError("--quality", expected, f"those of {measured[:DIGITS]}", "run `make quality` again")


def check_scores_match(records: dict[Path, dict], scores: dict) -> None:
    """Raise InputError when a file of the release was scored under its name, but with other bytes."""
    by_name = {gguf.name: record["sha256"] for gguf, record in records.items()}
    for row in scores["rows"]:
        scored, expected = str(row.get("gguf_sha256")), by_name.get(row["gguf"])
        if expected and scored != expected:  # other rows are of models outside of the release
            what = f"an evaluation of {row['gguf']} with sha256 {expected[:DIGITS]}"
            raise InputError("--scores", what, f"one of {scored[:DIGITS]}", "run `make eval` again")


def check_labels(kind: str, records: dict[str, dict], others: list[str]) -> None:
    """Raise InputError for a quant of the other kind of release, or a label that fetches another file than meant."""
    types = "standard types" if kind == STANDARD else "CD-* and AUTO-* files"
    for name, record in records.items():
        if is_standard(record["type"]) != (kind == STANDARD):
            raise InputError(name, f"a {kind} release of {types}", record["type"])
    quants = {part: record["type"] for record in records.values() for part in record["files"]}
    found = clashes(quants, tuple(others), tuple(RECIPES))
    if found:
        count = f" ({len(found)} clashes)" if len(found) > 1 else ""
        raise InputError(next(iter(records)), "names that no label takes for another", f"{found[0]}{count}")


def place_gguf(args: argparse.Namespace, records: dict[Path, dict], output: Path) -> dict[str, dict]:
    """Link every GGUF file, or its parts, into the folder; return the records by name, with the files each lies in."""
    placed = {}
    for gguf, record in records.items():
        parts = [gguf]
        if record["bytes"] > args.max_file_bytes:
            # Beside the release: the parts outlive it, and a second release need not split again.
            folder = args.output.with_name(f"{args.output.name}.split") / gguf.stem
            parts = split_gguf(find_llama_cpp(args.llama_cpp), gguf, record["sha256"], args.max_file_bytes, folder)
        for part in parts:
            link_or_copy(part, output / part.name)
        placed[gguf.name] = {**record, "files": [part.name for part in parts]}
    return placed


def files_beside_weights(checkpoint: Path) -> dict[str, Path]:
    """Return a checkpoint's files but its weights, by name in the folder; without what a release makes itself."""
    return {
        path.relative_to(checkpoint).as_posix(): path
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.suffix != ".safetensors" and path.name not in (CARD, MANIFEST, METADATA_NAME)
    }


def copies_of(args: argparse.Namespace) -> dict[str, Path]:
    """Return what is copied into the folder, by name: records, pictures, template, a checkpoint's small files."""
    found = {
        METADATA_NAME: args.metadata,
        SCORES_NAME: args.scores,
        QUALITY_NAME: args.quality,
        "template": args.template if args.gguf else None,
    }
    for picture in args.pictures:
        if picture.name not in PICTURES:
            raise InputError(picture, f"a picture among {', '.join(PICTURES)}", picture.name)
        found[picture.name] = picture
    if args.checkpoint:
        found |= files_beside_weights(args.checkpoint)
    found |= {path.name: path for path in args.mmproj}
    return {name: path for name, path in found.items() if path}


def place_copies(args: argparse.Namespace, output: Path) -> None:
    """Copy what is copied, and link the shards of a checkpoint that its metadata name."""
    for name, path in copies_of(args).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        if path in args.mmproj:
            link_or_copy(path, output / name)
        else:  # Copied, since people edit such files; an edit of a link would change the build itself.
            shutil.copyfile(path, output / name)
    if args.checkpoint:
        for shard in read_evidence(args.metadata, METADATA_NAME)["shards"]:
            link_or_copy(args.checkpoint / shard, output / shard)


def fill_folder(args: argparse.Namespace, records: dict[Path, dict], output: Path) -> None:
    """Fill the folder; its manifest comes last."""
    check_quants_match(records, read_evidence(args.metadata, METADATA_NAME))
    if args.quality:
        check_quality_matches(records, read_evidence(args.quality, QUALITY_NAME))
    if args.scores:
        check_scores_match(records, read_evidence(args.scores, SCORES_NAME))
    place_copies(args, output)
    manifest = {
        "name": args.name,
        "repository": args.repository,
        "kind": args.kind,
        "base": args.base,
        "license": args.license,
        "quantized_by": args.quantized_by,
        "sibling": args.sibling,
        "records": place_gguf(args, records, output),
    }
    if args.mmproj:
        manifest["mmproj"] = {path.name: read_whole_mmproj(path) for path in args.mmproj}
    if args.gguf:
        check_labels(args.kind, manifest["records"], [path.name for path in output.iterdir()])
    for name, text in made_texts(output, manifest, args.params).items():
        (output / name).write_text(text, encoding="utf-8")
    write_record(output / MANIFEST, {**manifest, "files": file_entries(output)}, Manifest)


def sources_of(args: argparse.Namespace) -> dict[str, dict[str, Path]]:
    """Return what the folder is made from, paths by kind and name."""
    return {
        "records": {gguf.name: record_path(gguf) for gguf in args.gguf},
        "copies": copies_of(args),
        "params": {"params": args.params} if args.gguf else {},
        "questions": {str(number): path for number, path in enumerate(args.questions)},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("what is released").add_argument
    add("--kind", choices=KINDS, default=STANDARD, help="what the folder holds; standard: llama.cpp's own types")
    add("--name", required=True, help="name of the pruned model")
    add("--base", required=True, help="Hub id of the base model, or its name when it is local")
    add("--license", default="", help="the Hub's identifier of the licence, such as gemma")
    add("--quantized-by", default="", help="who quantised, for the front matter")
    repository_help = "name of its repository on the Hub, without the user (default: the name of the output folder)"
    add("--repository", metavar="NAME", help=repository_help)
    add("--sibling", default="", help="name of the repository of the CD-* and AUTO-* files, for the card")
    add = parser.add_argument_group("inputs").add_argument
    add("--gguf", type=Path, nargs="+", default=[], help="quantised GGUF files")
    pictures = "file for pictures, to be given for each (convert_to_gguf.py --mmproj)"
    add("--mmproj", type=Path, action="append", default=[], help=pictures)
    add("--checkpoint", type=Path, help=f"pruned checkpoint directory (kind {CHECKPOINT})")
    add("--metadata", type=Path, required=True, help=METADATA_NAME)
    add("--scores", type=Path, help="JSON of compare_scores.py (without: the card says so)")
    add("--quality", type=Path, help="quality.json of measure_quality.py (without: the card says so)")
    add("--pictures", type=Path, nargs="*", default=[], help=f"pictures: {', '.join(PICTURES)}")
    add("--template", type=Path, help="Ollama template")
    add("--params", type=Path, help="Ollama params (JSON)")
    add("--questions", type=Path, nargs="*", default=[], help="question files whose text must not be published")
    add = parser.add_argument_group("output").add_argument
    add("--output", type=Path, required=True, help="release folder to write")
    add("--max-file-bytes", type=positive, default=MAX_FILE_BYTES, help="split larger files")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    args = parser.parse_args(argv)
    if (args.kind == CHECKPOINT) != (args.checkpoint is not None) or (args.kind == CHECKPOINT) == bool(args.gguf):
        parser.error(f"expected --gguf with --kind {STANDARD} or {DYNAMIC}, --checkpoint with --kind {CHECKPOINT}")
    if args.gguf and not (args.template and args.params):
        parser.error("expected --template and --params with --gguf")
    args.repository = args.repository or args.output.resolve().name
    return args


def check_names(repository: str, sibling: str) -> None:
    """Raise InputError unless the Hub can have repositories of these names, and they are two; sibling: "" for none."""
    for option, name in (("--repository", repository), ("--sibling", sibling or repository)):
        if not is_repository(name):
            raise InputError(option, REPOSITORY_NAME, repr(name)[:100])
    if sibling == repository:
        raise InputError("--sibling", f"another repository than {repository}", "the same")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_names(args.repository, args.sibling)
    inputs = (*args.gguf, *args.mmproj, args.checkpoint, args.metadata, args.scores, args.quality)
    check_apart([path for path in inputs if path], [args.output])
    records = {gguf: read_whole_quant(gguf) for gguf in args.gguf}
    # What the folder was made from comes first: a kill between the two leaves no folder without it.
    write_sources(args.output, sources_of(args))
    with directory_when_done(args.output, MANIFEST) as output:
        fill_folder(args, records, output)
        sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    print(f"{args.output}: {args.kind} release of {args.name}, {len(sizes)} files, {in_unit(sum(sizes), GB)} GB")


if __name__ == "__main__":
    run(main)
