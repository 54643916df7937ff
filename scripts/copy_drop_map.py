#!/usr/bin/env python3
"""Copy a drop map that you bring into a run, checked against the model and in this project's own form.

Inputs:  a drop map: the plain {"0": [dropped ids], ...}, or one of ours (choice/drop_map.py); what it must fit: a
         statistics file of teacher_force_analysis.py, or the checkpoint directory where nothing was analysed.
Output:  a drop map with criterion "own map", kept and dropped experts per layer, and the sha256 of your file. It has no
         scores, and names the questions that chose the experts only if your file does ("question_ids" beside "layers").
Example: .venv/bin/python scripts/copy_drop_map.py --map build/gemma-4-demo/109e/drop_map.json \\
             --model data/demo/model --output build/try/drop_map.json

Your file is read and never written. Without question ids all later steps say that it is not known whether scores are
in-sample. A map of ours that was made from other weights is refused.
"""

import argparse
from pathlib import Path

from checkpoints.checkpoint import read_checkpoint, read_config, weights_digest
from checkpoints.moe_families import family_of, shape_of
from choice.drop_map import (
    ANOTHER_MODEL,
    OWN_MAP,
    DropMap,
    Shape,
    check_digests,
    checked_map,
    criterion_of,
    question_ids_of,
    read_drop_map,
)
from choice.expert_stats import read_stats
from files.input_errors import SHOWN_CHARACTERS, InputError, sha256_file
from files.option_types import command_parser, named_path, positive
from files.safe_files import check_apart, run
from files.written_records import write_json

# What a map of ours records of its origin, and the model that it must fit bears out. All else is left out: nothing
# shows that its scores, its protection or its digests belong to the dropped ids of a file that anybody can edit, and a
# card would print them as ours.
ORIGIN = ("config_sha256", "weights_sha256")


def own_map(drop_map: DropMap, question_ids: list[str], shape: Shape, stats_sha256: str | None) -> dict:
    """Return the copy of a user's map; stats_sha256: of the statistics that it is shown against, None without any."""
    said = drop_map.details
    given: dict[str, object] = {"sha256": drop_map.sha256}
    if (criterion := criterion_of(said)) != OWN_MAP:
        given["criterion"] = " ".join(criterion.split())[:SHOWN_CHARACTERS]  # cards print it, and anybody may write it
    content = {
        "criterion": OWN_MAP,
        "own_map": given,
        "experts": drop_map.experts,
        "keep_count": drop_map.keep_count,
        "drop_count": drop_map.experts - drop_map.keep_count,
        "top_k": shape.top_k,
        **{key: said[key] for key in ORIGIN if key in said},
    }
    if question_ids:
        content |= {"questions": len(question_ids), "question_ids": question_ids}
    # Only of these very statistics: else pictures and page would refuse the copy as one of others.
    if question_ids and stats_sha256 and said.get("stats_sha256") == stats_sha256:
        content["stats_sha256"] = stats_sha256
    layers = {str(layer): {"keep": drop_map.keep[layer], "drop": drop_map.drop[layer]} for layer in drop_map.keep}
    return content | {"layers": layers}


def shape_in_stats(path: Path) -> tuple[Shape, dict[str, str]]:
    """Return the shape of the model that statistics were taken of, and its digests by their keys in a map."""
    arrays, metadata = read_stats(path)
    layers = tuple(sorted(arrays["layer_numbers"].tolist()))
    shape = Shape(arrays["token_count"].shape[2], metadata["top_k"], layers)
    return shape, {key: metadata[key] for key in ("config_sha256", "weights_sha256")}


def shape_in_checkpoint(directory: Path) -> tuple[Shape, dict[str, str]]:
    """Return the shape of a checkpoint, and its digests by their keys in a map; no weights are decoded."""
    config, tensors = read_config(directory), read_checkpoint(directory)
    shape = shape_of(directory, family_of(directory, config, list(tensors)), config)
    digests = {"config_sha256": sha256_file(directory / "config.json"), "weights_sha256": weights_digest(tensors)}
    return shape, digests


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    group = parser.add_argument_group("the map, and what it must fit")
    group.add_argument("--map", type=Path, required=True, help="your drop map (JSON)")
    fits = group.add_mutually_exclusive_group(required=True)
    fits.add_argument("--stats", type=Path, help="statistics file of the model that it must fit")
    fits.add_argument("--model", type=Path, help="checkpoint directory that it must fit, where there are no statistics")
    group.add_argument("--keep", type=positive, help="experts that it must keep in every layer (default: any number)")
    parser.add_argument_group("output").add_argument(
        "--output", type=named_path, required=True, help="drop map to write (JSON)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    source = args.stats or args.model
    check_apart([args.map, source], [args.output])
    shape, digests = shape_in_stats(args.stats) if args.stats else shape_in_checkpoint(args.model)
    drop_map = read_drop_map(args.map, shape)
    check_digests(args.map, drop_map, source, digests, ANOTHER_MODEL)
    kept = drop_map.keep_count
    if args.keep not in (None, kept):
        raise InputError(args.map, f"a map that keeps {args.keep} experts per layer", str(kept), f"set KEEP={kept}")
    ids = question_ids_of(drop_map.details)
    content = own_map(drop_map, ids, shape, sha256_file(args.stats) if args.stats else None)
    write_json(args.output, checked_map(args.output, content))
    chose = f"{len(ids)} questions chose them" if ids else "it does not say which questions chose them"
    print(f"{args.output}: {kept} of {shape.experts} experts stay in each of {len(shape.layers)} layers; {chose}")


if __name__ == "__main__":
    run(main)
