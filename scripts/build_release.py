#!/usr/bin/env python3
"""Put a release folder together: GGUF files or a pruned checkpoint, card, Ollama sidecars, pictures, evidence and manifest.

Inputs:  quantised GGUF files with their records (FILE.gguf.json), or the pruned checkpoint; its expert_drop_metadata.json;
         where they exist the scores of compare_scores.py, the quality.json of measure_quality.py and pictures; for GGUF
         files the Ollama template and params.
Output:  a folder: the files (linked; those above --max-file-bytes in parts), README.md, manifest.json (schema:
         release_files.py), expert_drop_metadata.json, scores.json, quality.json, *.png and, with GGUF files, template,
         params, Modelfile. Beside it FOLDER.sources.json, never published, for check_release.py.
Use:     scripts/build_release.py --kind standard --name NAME --base ID --gguf FILE... --metadata FILE
         --template FILE --params FILE [--scores TABLE.json] [--quality quality.json] --output DIR

Refused: names that shadow each other (release_names.py), inputs of another build. Every number in the card comes from a
record; what is missing is named there.
"""

import argparse
import shutil
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.option_types import positive
from files.safe_files import InputError, check_apart, directory_when_done, link_or_copy, run, write_json
from llama.llama_tools import find_llama_cpp
from losses.quality_record import QUALITY_NAME
from quants.quant_record import read_whole_quant
from quants.recipes import RECIPES
from release.gguf_card import PICTURES
from release.made_texts import CARD, made_texts
from release.names import clashes, is_standard
from release.release_files import (
    CHECKPOINT,
    DIGITS,
    DYNAMIC,
    KINDS,
    MANIFEST,
    STANDARD,
    listed,
    read_evidence,
    split_gguf,
    write_sources,
)
from scoring.score_records import SCORES_NAME

MAX_FILE_BYTES = 50_000_000_000  # the Hub's limit of one file


def check_one_build(records: dict[Path, dict], metadata: dict, scores: dict | None, quality: dict | None) -> None:
    """Raise InputError unless all inputs tell of one pruned model."""
    sources = {record["source_sha256"] for record in records.values()}
    for gguf, record in records.items():
        if record["source_sha256"] != next(iter(records.values()))["source_sha256"]:
            raise InputError(
                gguf, f"quants of one F16 model, sha256 {min(sources)[:DIGITS]}", f"one of {max(sources)[:DIGITS]}"
            )
        if record["experts"] != metadata["keep_count"]:
            raise InputError(gguf, f"{metadata['keep_count']} experts, as {METADATA_NAME} says", str(record["experts"]))
    if quality and sources and quality["inputs"]["pruned_sha256"] not in sources:
        raise InputError(
            "--quality",
            f"measurements of the model with sha256 {min(sources)[:DIGITS]}",
            f"those of {quality['inputs']['pruned_sha256'][:DIGITS]}",
            "run `make quality` again",
        )
    by_name = {gguf.name: record["sha256"] for gguf, record in records.items()}
    for row in (scores or {}).get("rows", []):
        if row["gguf"] in by_name and row.get("gguf_sha256") != by_name[row["gguf"]]:
            raise InputError(
                "--scores",
                f"an evaluation of {row['gguf']} with sha256 {by_name[row['gguf']][:DIGITS]}",
                f"one of {str(row.get('gguf_sha256'))[:DIGITS]}",
                "run `make eval` again",
            )


def check_labels(kind: str, records: dict[str, dict], others: list[str]) -> None:
    """Raise InputError with the first clash when a label would fetch another file than meant, or a type is of the other kind."""
    for name, record in records.items():
        if is_standard(record["type"]) != (kind == STANDARD):
            raise InputError(
                name,
                f"a {kind} release of " + ("standard types" if kind == STANDARD else "CD-* and AUTO-* files"),
                record["type"],
            )
    found = clashes(
        {part: record["type"] for record in records.values() for part in record["files"]}, tuple(others), tuple(RECIPES)
    )
    if found:
        count = f" ({len(found)} clashes)" if len(found) > 1 else ""
        raise InputError(next(iter(records)), "names that no label takes for another", f"{found[0]}{count}")


def place_gguf(args: argparse.Namespace, records: dict[Path, dict], output: Path) -> dict[str, dict]:
    """Link every GGUF file, or its parts, into the folder; return the records by name, with the files each lies in."""
    placed = {}
    for gguf, record in records.items():
        parts = [gguf]
        if record["bytes"] > args.max_file_bytes:
            folder = args.output.with_name(f"{args.output.name}.split") / gguf.stem
            parts = split_gguf(find_llama_cpp(args.llama_cpp), gguf, record["sha256"], args.max_file_bytes, folder)
        for part in parts:
            link_or_copy(part, output / part.name)
        placed[gguf.name] = {**record, "files": [part.name for part in parts]}
    return placed


def copies_of(args: argparse.Namespace) -> dict[str, Path]:
    """Return what is copied into the folder as it is, by name: evidence, pictures, template, and a checkpoint's small files."""
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
    if args.checkpoint:  # without its base's card
        found |= {
            path.relative_to(args.checkpoint).as_posix(): path
            for path in sorted(args.checkpoint.rglob("*"))
            if path.is_file() and path.suffix != ".safetensors" and path.name not in (CARD, MANIFEST, METADATA_NAME)
        }
    return {name: path for name, path in found.items() if path}


def place(args: argparse.Namespace, output: Path) -> None:
    """Copy what is copied, and link the shards of a checkpoint that its metadata name."""
    for name, path in copies_of(args).items():
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, output / name)
    for shard in read_evidence(args.metadata, METADATA_NAME)["shards"] if args.checkpoint else ():
        link_or_copy(args.checkpoint / shard, output / shard)


def fill_folder(args: argparse.Namespace, records: dict[Path, dict], output: Path) -> None:
    """Fill the folder; its manifest comes last."""
    metadata = read_evidence(args.metadata, METADATA_NAME)
    scores, quality = (
        read_evidence(path, name) if path else None
        for path, name in ((args.scores, SCORES_NAME), (args.quality, QUALITY_NAME))
    )
    check_one_build(records, metadata, scores, quality)
    place(args, output)
    placed = place_gguf(args, records, output)
    manifest = {
        "name": args.name,
        "repository": args.output.name,
        "kind": args.kind,
        "base": args.base,
        "license": args.license,
        "quantized_by": args.quantized_by,
        "sibling": args.sibling,
        "records": placed,
    }
    if args.gguf:
        check_labels(args.kind, placed, [path.name for path in output.iterdir()])
    for name, text in made_texts(output, manifest, args.params).items():
        (output / name).write_text(text, encoding="utf-8")
    write_json(output / MANIFEST, {**manifest, "files": listed(output)})


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default=STANDARD,
        help="what the folder holds (default standard: llama.cpp's own types)",
    )
    parser.add_argument("--name", required=True, help="name of the pruned model")
    parser.add_argument("--base", required=True, help="Hub id of the base model, or its name when it is local")
    parser.add_argument("--license", default="", help="the Hub's identifier of the licence, such as gemma")
    parser.add_argument("--quantized-by", default="", help="who quantised, for the front matter")
    parser.add_argument("--gguf", type=Path, nargs="+", default=[], help="quantised GGUF files")
    parser.add_argument("--checkpoint", type=Path, help="pruned checkpoint directory (kind checkpoint)")
    parser.add_argument("--metadata", type=Path, required=True, help=METADATA_NAME)
    parser.add_argument("--scores", type=Path, help="JSON of compare_scores.py (without: the card says so)")
    parser.add_argument("--quality", type=Path, help="quality.json of measure_quality.py (without: the card says so)")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help=f"pictures: {', '.join(PICTURES)}")
    parser.add_argument(
        "--questions", type=Path, nargs="*", default=[], help="question files whose text must not be published"
    )
    parser.add_argument(
        "--sibling", default="", help="name of the repository of the CD-* and AUTO-* files, for the card"
    )
    parser.add_argument("--template", type=Path, help="Ollama template")
    parser.add_argument("--params", type=Path, help="Ollama params (JSON)")
    parser.add_argument(
        "--max-file-bytes", type=positive, default=MAX_FILE_BYTES, help=f"split larger files (default {MAX_FILE_BYTES})"
    )
    parser.add_argument("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    parser.add_argument(
        "--output", type=Path, required=True, help="release folder to write; its name is the repository's"
    )
    args = parser.parse_args(argv)
    if (args.kind == CHECKPOINT) != (args.checkpoint is not None) or (args.kind == CHECKPOINT) == bool(args.gguf):
        parser.error(f"expected --gguf with --kind {STANDARD} or {DYNAMIC}, --checkpoint with --kind {CHECKPOINT}")
    if args.gguf and not (args.template and args.params):
        parser.error("expected --template and --params with --gguf")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_apart(
        [path for path in (*args.gguf, args.checkpoint, args.metadata, args.scores, args.quality) if path],
        [args.output],
    )
    records = {gguf: read_whole_quant(gguf) for gguf in args.gguf}
    # What the folder was made from comes first: a kill between the two leaves no folder without it.
    write_sources(
        args.output,
        {
            "records": {gguf.name: Path(f"{gguf}.json") for gguf in args.gguf},
            "copies": copies_of(args),
            "params": {"params": args.params} if args.gguf else {},
            "questions": {str(number): path for number, path in enumerate(args.questions)},
        },
    )
    with directory_when_done(args.output, MANIFEST) as output:
        fill_folder(args, records, output)
        sizes = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    print(f"{args.output}: {args.kind} release of {args.name}, {len(sizes)} files, {sum(sizes) / 1e9:.3f} GB")


if __name__ == "__main__":
    run(main)
