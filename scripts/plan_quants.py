#!/usr/bin/env python3
"""Say what every quant of a model will be before anything is built: size to the byte, types, disk needed, refusals.

Inputs:  a float GGUF, a checkpoint directory, a config.json (a path, or a Hub id of which that one file is fetched), or
         --shape NAME (data/shapes/NAME.json); with --keep, that many experts; quants by name (quants/recipes.py).
Output:  a table on stdout; with --output the same as JSON, with every tensor's type. With --mmproj also the files for
         pictures, if the model sees; with --draft the draft model.
Example: .venv/bin/python scripts/plan_quants.py --shape gemma-4-26b-a4b --keep 109

It asks `llama-quantize --dry-run` over a header without data. Sizes are those of builds with an imatrix, unless
--no-imatrix. A config alone says nothing of the tokenizer: a real file is larger by it (about 15 MB for Gemma 4).
"""

import argparse
import math
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from files.deadline import DOWNLOAD_SECONDS, within
from files.display import markdown_table
from files.input_errors import InputError
from files.json_records import read_json
from files.option_types import command_parser, named_path
from files.safe_files import check_apart, existing_parent, gib, run
from files.written_records import write_json
from ggufs.gguf_header import BLOCK_TENSOR, EXPERT_TENSOR, GgufHeader, experts_used_key
from ggufs.imatrix import Imatrix, read_imatrix
from llama.llama_tools import LlamaCpp, find_llama_cpp
from quants.draft_plan import plan_draft
from quants.draft_record import DRAFT_TYPES
from quants.layer_tiers import cd_choices
from quants.mmproj_plan import plan_mmproj
from quants.padded_model import padded_bytes
from quants.quant_plan import (
    QuantPlan,
    check_covers,
    check_float,
    check_larger,
    imatrix_reason,
    plan_quant,
    write_imatrix_stand_in,
)
from quants.recipe_choice import add_recipe_arguments, check_target, recipe_for
from quants.recipes import CD_DEPTH, CD_RECIPES, RECIPES, check_quant
from quants.sparse_gguf import from_checkpoint, from_config, from_gguf
from speed.active_experts import counts_to_try
from stages.hub_checks import downloading

from huggingface_hub import hf_hub_download

MMPROJ_TYPES = ("F16", "BF16", "F32", "Q8_0")
SHAPES = Path(__file__).resolve().parents[1] / "data/shapes"
CARD_NOTES = {
    "Q3_K_XL": "the model card's Q3_K_XL (10.90 GiB) is smaller than its Q3_K_L (11.18): that file is Q3_K_M with "
    "embedding and output at Q8_0. Here it is Q3_K_L with them, as its name says",
    "Q4_0": "the model card's 11.67 GiB is the size without an imatrix; with one, llama-quantize puts the first eighth "
    "of ffn_down at Q4_1",
}
USUAL = "Q4_K_M"  # a padded file that is larger than this one without padding wins nothing
NO_TOKENIZER = "From a config alone: a real file is larger by its tokenizer (about 15 MB for Gemma 4)."
ASSUMED = (
    "AUTO: no sensitivities given, so all roles and layers are taken for alike, and each type costs its error on "
    "generated weights. Measured ones give other types."
)
LAYER_ORDER = (
    "CD tiers: no statistics given, layers taken in their order; sizes hardly depend on which layers are high."
)


def fetch_config(model_id: str) -> Path:
    """Return config.json of a repository of the Hub, fetched or cached; raise InputError when it cannot be had."""
    expected = "a file, a directory, or a Hub repository that can be reached and read"
    advice = "without network: SHAPE=gemma-4-26b-a4b"

    def fetch() -> Path:
        with downloading(model_id, expected, advice):
            return Path(hf_hub_download(model_id, "config.json"))

    return within(DOWNLOAD_SECONDS, model_id, fetch, advice)


def open_source(source: str, name: str, llama_cpp: LlamaCpp, work: Path) -> tuple[GgufHeader, bool]:
    """Return the header of the source's sparse F16 GGUF, and whether it has a tokenizer."""
    path, output = Path(source), work / "full.gguf"
    # From what is known exactly to what is estimated: a GGUF has every size, a config lacks the tokenizer.
    if path.is_file() and path.suffix != ".json":
        header = from_gguf(path, None, output)
        check_float(path, header)
        return header, True
    if path.is_dir() and any(path.glob("*.safetensors")):
        return from_checkpoint(path, llama_cpp, name, output), True
    if path.is_dir():
        path /= "config.json"
    elif not path.exists():
        # A mistyped path would otherwise be looked for on the Hub, and the message would be about the network.
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            raise InputError(
                source, "a float GGUF, a checkpoint directory, a config.json or a Hub id OWNER/NAME", "nothing"
            )
        path = fetch_config(source)
    return from_config(path, read_json(path), name, output), False


def config_of(source: str | None, shape: str | None) -> tuple[Path, dict]:
    """Return the config of a source or a shape, {} for a GGUF, and the checkpoint directory or file that it is from."""
    path = SHAPES / f"{shape}.json" if source is None else Path(source)
    if path.is_dir():
        return path, read_json(path / "config.json")
    if path.is_file() and path.suffix != ".json":
        return path, {}
    path = path if path.exists() else fetch_config(str(source))
    return path, read_json(path)


def open_shape(shape: str, name: str, work: Path) -> GgufHeader:
    """Return the header of a known shape's sparse F16 GGUF, which has no tokenizer."""
    known = sorted(path.stem for path in SHAPES.glob("*.json"))
    if shape not in known:
        raise InputError("--shape", f"one of {', '.join(known)}", shape)
    path = SHAPES / f"{shape}.json"
    return from_config(path, read_json(path), name, work / "full.gguf")


def keep_experts(header: GgufHeader, source: str, keep: int | None, work: Path) -> GgufHeader:
    """Return the header with `keep` experts; raise InputError when there are fewer."""
    if keep is None:
        return header
    if not 1 <= keep <= header.experts:
        raise InputError(source, f"{keep} experts or more, to keep {keep}", str(header.experts))
    return from_gguf(header.path, keep, work / "kept.gguf")


def plan_row(
    name: str, args: argparse.Namespace, tool: Path, header: GgufHeader, imatrix: Path | None, measured: Imatrix | None
) -> dict:
    """Return one row: the plan as plain values, or why llama-quantize or this project would refuse it.

    imatrix: the file that llama-quantize gets; measured: what is in it, when it is no stand-in.
    """
    row: dict = {"name": name}
    try:
        recipe = recipe_for(args, name, header, tool, imatrix, None, assume_order=True)
        row["note"] = recipe.note
        plan = plan_quant(tool, recipe, header, imatrix)
        check_target(plan)
        if recipe.larger_than:
            check_larger(plan, plan_quant(tool, RECIPES[recipe.larger_than], header, imatrix))
        if recipe.pad:
            row["padded_f16_bytes"] = padded_bytes(header, recipe)
            row["usual_bytes"] = plan_quant(tool, RECIPES[USUAL], header, imatrix).size
        if measured:
            check_covers(measured, header, plan)
        reason = imatrix_reason(tool, recipe, header)
    except InputError as error:  # the other rows are still wanted
        return {**row, "refused": str(error).removeprefix(f"{name}: ")}
    imatrix_fields = {"needs_imatrix": reason is not None, "imatrix_reason": reason, "without_imatrix": not imatrix}
    return {**row, **described(plan), **cd_choices(recipe, args), **imatrix_fields}


def described(plan: QuantPlan) -> dict:
    """Return a plan as JSON: bytes, bits per weight, tensors per type, overrides, and each tensor's type."""
    return {
        "base": plan.recipe.base,
        "arguments": plan.recipe.arguments,
        "bytes": plan.size,
        "bits_per_weight": round(plan.bits_per_weight, 3),
        "tensors_per_type": plan.type_counts(),
        "types": {name: kind.name for name, kind in plan.types.items()},
        **({"padded": list(plan.recipe.pad)} if plan.recipe.pad else {}),
        "fallback_of": {name: kind.name for name, kind in plan.wanted.items()},
    }


def plan_cells(row: dict) -> list[str]:
    """Return one quant's cells."""
    if "refused" in row:
        return [row["name"], "", "", "", "", f"refused: {row['refused']}"]
    # F32 is left out: norms and the router have it in every quant, so it tells nothing.
    kinds = ", ".join(f"{kind} {count}" for kind, count in row["tensors_per_type"].items() if kind != "F32")
    if padded := row.get("padded"):
        kinds += f"; padded: {', '.join(padded)}"
    return [
        row["name"],
        f"{row['bytes']:,}",
        gib(row["bytes"]),
        f"{row['bits_per_weight']:.2f}",
        "needed" if row["needs_imatrix"] else "off" if row["without_imatrix"] else "",
        kinds,
    ]


def plan_table(rows: list[dict]) -> str:
    """Return the rows as Markdown."""
    heads = [
        "quant",
        "bytes",
        "GiB",
        "bits per weight",
        "imatrix",
        "tensors per type (T<W: T where the row width forbids W)",
    ]
    return markdown_table(heads, [plan_cells(row) for row in rows], last_words=2)


def size_in_words(row: dict) -> str:
    """Return a file's size, or why it would be refused."""
    return f"refused: {row['refused']}" if "refused" in row else f"{row['bytes']:,} bytes, {gib(row['bytes'])} GiB"


def companion_lines(found: dict) -> list[str]:
    """Return a line for each file that goes with the quants, and one on how many experts can be active."""
    rows = [(row, "for pictures") for row in found["mmproj"]] + [(row, "draft model") for row in found["draft"]]
    lines = [f"{row['name']} ({what}): {size_in_words(row)}" for row, what in rows]
    if found["active_experts"]:
        counts = ", ".join(map(str, found["active_experts"]))
        lines.append(
            f"make active-experts would run each file with {counts} active experts; nothing is written for it."
        )
    return lines


def disk_line(rows: list[dict], f16_bytes: int, place: Path) -> str:
    """Return a line on the disk needed for the F16 file and all others, and on the room there is."""
    # The F16 file counts although it may be removed later (KEEP_F16=no): while quants are made it is there.
    total = f16_bytes + sum(row.get("bytes", 0) for row in rows if row["name"] != "F16")
    # A padded F16 file goes when its quant is built; the next one takes its place.
    padded = max((row.get("padded_f16_bytes", 0) for row in rows), default=0)
    total += padded
    what = f"F16 included, and for a time a padded one of {gib(padded)} GiB" if padded else "F16 included"
    free = shutil.disk_usage(existing_parent(place)).free
    return f"Disk in all, {what}: {total:,} bytes, {gib(total)} GiB; free here: {gib(free)} GiB" + (
        "" if free >= total else " (too little: the build would be refused where it runs out)"
    )


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    group = parser.add_argument_group("what is planned")
    source = group.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", help="float GGUF, checkpoint directory, config.json, or Hub id")
    source.add_argument("--shape", help="name of a known shape (data/shapes)")
    group.add_argument("--keep", type=int, help="experts that stay in each layer (default: all)")
    group.add_argument("--types", nargs="+", help="quants (default: all that are not opt-in)")
    group.add_argument("--name", default="model", help="model name in the header")
    pictures = "a file for pictures of this type"
    group.add_argument("--mmproj", choices=MMPROJ_TYPES, action="append", default=[], help=pictures)
    group.add_argument("--draft", type=Path, help="assistant checkpoint directory, for the draft model")
    group.add_argument("--draft-type", choices=DRAFT_TYPES, default="Q8_0", help="type of the draft model")
    group = parser.add_argument_group("imatrix of the build")
    group.add_argument("--imatrix", type=Path, help="the imatrix (its names go into the header)")
    off = "plan these quants without an imatrix (none named: all)"
    group.add_argument("--no-imatrix", nargs="*", metavar="QUANT", help=off)
    text = "without --imatrix: file name of the calibration text"
    group.add_argument("--dataset", default="calibration.txt", help=text)
    add_recipe_arguments(parser)
    group = parser.add_argument_group("disk, output and tools")
    group.add_argument("--disk", type=Path, default=Path("."), help="where the files would go")
    group.add_argument("--output", type=named_path, help="JSON file to write")
    tools = "llama.cpp directory (default: $LLAMA_CPP, else the built one)"
    group.add_argument("--llama-cpp", type=Path, help=tools)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace, names: list[str]) -> None:
    """Raise InputError for unknown quants and for an output that would overwrite an input."""
    for name in [*names, *(args.no_imatrix or [])]:
        check_quant(name)
    if args.output:
        inputs = (args.source and Path(args.source), args.imatrix, args.stats, args.sensitivity)
        check_apart([path for path in inputs if path], [args.output])


def plan_all(args: argparse.Namespace, names: list[str], llama_cpp: LlamaCpp) -> dict:
    """Return the plan of all quants, as it is written to the output."""
    measured = read_imatrix(args.imatrix) if args.imatrix else None
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.source is None:
            full, has_tokenizer = open_shape(args.shape, args.name, work), False
        else:
            full, has_tokenizer = open_source(args.source, args.name, llama_cpp, work)
        header = keep_experts(full, args.source or args.shape, args.keep, work)
        # With an imatrix llama-quantize picks other types for some tensors, and its name goes into the header. So where
        # there is none yet, a stand-in of the same names makes the plan that of the build.
        imatrix = args.imatrix or work / "imatrix.gguf"
        if not args.imatrix:
            write_imatrix_stand_in(imatrix, args.dataset)
        tool, plain = llama_cpp.tool("llama-quantize"), without_imatrix(args, names)
        rows = [
            plan_row(name, args, tool, header, *((None, None) if name in plain else (imatrix, measured)))
            for name in names
        ]
        # Read here: the sparse files go with the folder.
        f16_bytes, full_bytes = header.path.stat().st_size, full.path.stat().st_size
        memory, weights = memory_parts(full), active_weights(full)
        active = header.value(experts_used_key(header))
        draft = [plan_draft(args.draft, header, args.name, args.draft_type, llama_cpp, work)] if args.draft else []
        pictures = []
        if args.mmproj:  # else the config is not looked up once more
            path, config = config_of(args.source, args.shape)
            pictures = plan_mmproj(path, config, args.name, dict.fromkeys(args.mmproj), llama_cpp, work)
    return {
        "experts": args.keep,
        "f16_bytes": f16_bytes,
        "full_f16_bytes": full_bytes,
        **memory,
        "active_weights": weights,
        "tokenizer_counted": has_tokenizer,
        "llama_cpp": llama_cpp.version(),
        "quants": rows,
        "mmproj": pictures,
        "draft": draft,
        "active_experts": counts_to_try(active) if isinstance(active, int) and active > 1 else [],
    }


def without_imatrix(args: argparse.Namespace, names: list[str]) -> list[str]:
    """Return the quants that are planned without an imatrix."""
    if args.no_imatrix is None:
        return []
    return args.no_imatrix or names


def memory_parts(header: GgufHeader) -> dict:
    """Return the bytes that a streaming analysis holds at once: the largest layer, and all that is in no layer."""
    sizes: Counter[str | None] = Counter()
    for tensor in header.tensors:
        match = BLOCK_TENSOR.match(tensor.name)
        sizes[match[1] if match else None] += tensor.size
    outside = sizes.pop(None, 0)
    return {"largest_layer_bytes": max(sizes.values(), default=0), "vocabulary_bytes": outside}


def active_weights(header: GgufHeader) -> int:
    """Return the weights that one token goes through: of the experts those that it uses, and no table of tokens.

    The table counts where it is the output, too: that is its product with every token.
    """
    used, total = header.value(experts_used_key(header)) or 0, 0
    tied = not any(tensor.name == "output.weight" for tensor in header.tensors)
    for tensor in header.tensors:
        count = math.prod(tensor.dims)
        if EXPERT_TENSOR.fullmatch(tensor.name) and "_exps." in tensor.name:
            count = count * used // max(header.experts, 1)
        if tensor.name != "token_embd.weight" or tied:
            total += count
    return total


def cd_note(args: argparse.Namespace) -> str:
    """Return the line that says how the CD quants are made."""
    high, middle, low = CD_RECIPES[args.cd_recipe].layers
    tiers = "tiers by hand" if args.cd_tiers else "cuts by hand" if args.cd_cuts else f"tiers of {high}/{middle}/{low}"
    of_depth = "" if args.cd_tiers or args.cd_cuts else f" of {CD_DEPTH} layers"
    protect = f", {args.cd_protect} protected" if args.cd_protect else ""
    return f"CD recipe: {args.cd_recipe} ({tiers}{of_depth}{protect})."


def padding_notes(rows: list[dict]) -> list[str]:
    """Return a line for each padded file that is larger than the usual choice without padding."""
    return [
        f"{row['name']} is larger than {USUAL} without padding ({gib(row['usual_bytes'])} GiB): the zeros cost more "
        "than the smaller types save."
        for row in rows
        if row.get("bytes", 0) > row.get("usual_bytes", math.inf)
    ]


def notes_of(args: argparse.Namespace, names: list[str], has_tokenizer: bool) -> list[str]:
    """Return the lines below the table: where its sizes differ from a build's or from the model card's."""
    notes = [] if has_tokenizer else [NO_TOKENIZER]
    if any(name.startswith("CD-") for name in names) and not (args.stats or args.cd_tiers):
        notes.append(LAYER_ORDER)
    if any(name.startswith("CD-") for name in names):
        notes.append(cd_note(args))
    if any(name.startswith("AUTO-") for name in names) and not args.sensitivity:
        notes.append(ASSUMED)
    return notes + [f"{name}: {note}." for name, note in CARD_NOTES.items() if args.shape and name in names]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    names = list(dict.fromkeys(args.types or [name for name, recipe in RECIPES.items() if not recipe.opt_in]))
    check_args(args, names)
    found = plan_all(args, names, find_llama_cpp(args.llama_cpp))
    notes = padding_notes(found["quants"]) + notes_of(args, names, found["tokenizer_counted"])
    files = [*found["quants"], *found["mmproj"], *found["draft"]]
    disk = disk_line(files, found["f16_bytes"], args.disk)
    print(plan_table(found["quants"]), "", *companion_lines(found), disk, *notes, sep="\n")
    if args.output:
        write_json(args.output, found)


if __name__ == "__main__":
    run(main)
