#!/usr/bin/env python3
"""Put a release folder together: GGUF files, card, Ollama sidecars, Modelfile, metadata and manifest.

Inputs:  quantised GGUF files with their records (FILE.gguf.json), the scores of compare_scores.py (JSON), the pruned
         checkpoint's expert_drop_metadata.json, Ollama template and params.
Output:  a folder: FILE.gguf ..., README.md, template, params, Modelfile, expert_drop_metadata.json, manifest.json.
Use:     scripts/build_release.py --name NAME --base ID --gguf FILE... --scores TABLE.json --metadata FILE
         --template FILE --params FILE --output DIR

Every number in the card comes from a record of this build. Files are hard-linked where the file system allows it.
"""

import argparse
import json
import shutil
from pathlib import Path

from ollama_files import modelfile, ollama_params
from release_card import card
from safe_files import InputError, directory_when_done, link_or_copy, read_json, run, sha256_file, write_json


def check_record(gguf: Path, record: dict) -> None:
    """Raise InputError when a GGUF file is not the one its record describes."""
    if gguf.stat().st_size != record["bytes"] or sha256_file(gguf) != record["sha256"]:
        raise InputError(gguf, f"the file of its record, sha256 {record['sha256'][:12]}", "other bytes")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--name", required=True, help="name of the pruned model")
    parser.add_argument("--base", required=True, help="Hub id of the base model, or its name when it is local")
    parser.add_argument("--gguf", type=Path, nargs="+", required=True, help="quantised GGUF files")
    parser.add_argument("--scores", type=Path, required=True, help="JSON of compare_scores.py")
    parser.add_argument("--metadata", type=Path, required=True, help="expert_drop_metadata.json")
    parser.add_argument("--template", type=Path, required=True, help="Ollama template")
    parser.add_argument("--params", type=Path, required=True, help="Ollama params (JSON)")
    parser.add_argument("--output", type=Path, required=True, help="release folder to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    records = {gguf: read_json(Path(f"{gguf}.json")) for gguf in args.gguf}
    scores, metadata = read_json(args.scores), read_json(args.metadata)
    for gguf, record in records.items():
        check_record(gguf, record)
    params = ollama_params(args.params, args.gguf[0])
    # The Modelfile takes the largest quant; F16 only where there is no other.
    best = max(args.gguf, key=lambda gguf: (records[gguf]["type"] != "F16", records[gguf]["bytes"]))
    with directory_when_done(args.output, "manifest.json") as output:
        for gguf in args.gguf:
            link_or_copy(gguf, output / gguf.name)
        shutil.copyfile(args.template, output / "template")
        shutil.copyfile(args.metadata, output / "expert_drop_metadata.json")
        (output / "params").write_text(json.dumps(params, indent=2) + "\n")
        (output / "Modelfile").write_text(modelfile(best.name, params))
        files = [{"file": gguf.name, **record} for gguf, record in records.items()]
        (output / "README.md").write_text(card(args.name, args.base, files, scores, metadata,
                                                params["num_ctx"]))
        write_json(output / "manifest.json", {"name": args.name, "base": args.base, "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(output.iterdir())}})
    print(f"{args.output}: {len(args.gguf)} quants of {args.name}, "
          f"{sum(record['bytes'] for record in records.values()) / 1e9:.3f} GB")


if __name__ == "__main__":
    run(main)
