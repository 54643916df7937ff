#!/usr/bin/env python3
"""Build one quant from an unquantised GGUF file with llama-quantize: checked before the first byte and after the last.

Inputs:  an F16, BF16 or F32 GGUF file; an imatrix of the same model; a quant's name (table: quants/recipes.py); for the
         ContribDynamic ones the statistics of the analysis, or tiers of layers; for AUTO-<GiB> a file of sensitivities.
Output:  the quantised GGUF file and, beside it, FILE.json: recipe, tool version, digests, size, bits per weight.
Example: .venv/bin/python scripts/quantize_gguf.py --input build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf \\
             --imatrix build/gemma-4-demo/109e/gguf/imatrix.gguf --type Q4_K_M --output build/try/demo-Q4_K_M.gguf

Checked before: the plan (quants/quant_plan.py), the imatrix against it, room on disk, that the output's name ends with
its type, and that nothing else is in the file's place. Checked after: types and size equal the plan, and a short
forward pass of llama-perplexity is finite. An output whose record names the same recipe, tools and inputs is left as it
is.
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from files.known_digests import held_sha256, known_sha256
from files.option_types import command_parser, named_path, positive, whole_number
from files.safe_files import existing_parent, gib, link_or_copy, remove, replace_when_done, require_disk_space, run
from files.seals import link_held
from files.written_by import check_copied_from
from files.written_records import check_recorded, write_record
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.imatrix import WRITE_IMATRIX_RECORDS, check_reached, read_imatrix, read_imatrix_record
from llama.llama_tools import LlamaCpp, find_llama_cpp, run_tool
from quants.layer_tiers import cd_choices
from quants.padded_model import padded_bytes, quantised_files, recorded_widths, shapes_of
from quants.quant_plan import FLOAT_TYPES, QuantPlan, check_covers, check_float, check_larger, link_alone, plan_quant
from quants.quant_record import QuantRecord, record_path
from quants.recipe_choice import add_recipe_arguments, auto_choices, check_target, recipe_for
from quants.recipes import RECIPES, Recipe, check_quant, target_bytes, type_in_name

import numpy as np

CHECK_TOKENS = 64
CHECK_HEADER_BYTES = 20 + 4 * CHECK_TOKENS  # of llama-perplexity's file of logits: a mark, three numbers, the tokens
CHECKED_POSITIONS = CHECK_TOKENS // 2 - 1  # llama-perplexity scores the second half of its context
CHECK_TEXT = " ".join(f"{n} plus {n} is {2 * n}." for n in range(CHECK_TOKENS))
# What of a record decides whether a file must be built again; the rest follows from it or is for people.
RECORD_PROOF = (
    *("type", "base", "arguments", "padded", "auto_padding", "auto_measured_on", "cd_stats_sha256"),
    *("llama_cpp", "tools_sha256", "source_sha256", "imatrix_sha256"),
)


def quantize_command(
    tool: Path, recipe: Recipe, model: Path, imatrix: Path | None, output: Path, threads: int
) -> list[object]:
    """Return the command line of llama-quantize; the imatrix by its bare name, which is what the header will hold."""
    imatrix_flags = ("--imatrix", imatrix.name) if imatrix else ()
    return [tool, *imatrix_flags, *recipe.arguments, model.resolve(), output.resolve(), recipe.base, threads]


def check_place(output: Path, source: Path, recipe: Recipe) -> None:
    """Raise InputError when an output names another type, or there is something in its place that is not ours."""
    if output.suffix != ".gguf" or type_in_name(output.stem) != recipe.name:
        raise InputError(output, f"a name that ends with -{recipe.name}.gguf, its type", output.name)
    if output.resolve() == source.resolve():  # not samefile(): an F16 is a link to its source
        raise InputError(
            output, "an output apart from its source", "one that would overwrite it", "give another --output"
        )
    check_recorded(output, f"an earlier {recipe.name}", lambda record: record.get("type") == recipe.name)


def check_imatrix_source(imatrix: Path, source_sha256: str, output: Path) -> dict:
    """Return the imatrix's record; without one print that its model is not known, and return {}.

    Raises InputError when the record belongs to another imatrix, names another model, or was edited. The last is asked
    only where the output's record gets a seal, which says that its text is the one of this record.
    """
    record = Path(f"{imatrix}.json")
    if not record.is_file():
        print(f"{imatrix}: no record {record.name}, so which model it was measured on is not known; its shape fits")
        return {}
    known = read_imatrix_record(imatrix)
    check_copied_from(record, WRITE_IMATRIX_RECORDS, output)
    if known["model_sha256"] != source_sha256:
        raise InputError(
            imatrix,
            f"an imatrix of the model with sha256 {source_sha256[:12]}",
            f"one of {known['model_sha256'][:12]}",
            f"if it is meant, remove {record}",
        )
    return known


def check_written(output: Path, path: Path, header: GgufHeader, plan: QuantPlan) -> None:
    """Raise InputError when a file's tensors, their types or its size are not those of the plan."""
    found = read_header(path)
    shapes = {tensor.name: tensor.dims for tensor in found.tensors}
    if shapes != shapes_of(header, plan.recipe):
        raise InputError(output, "the tensors of its source", "other ones")
    for tensor in found.tensors:
        if tensor.kind != plan.types[tensor.name]:
            raise InputError(output, f"{tensor.name} in {plan.types[tensor.name].name}, as planned", tensor.kind.name)
    if path.stat().st_size != plan.size:
        raise InputError(output, f"{plan.size} bytes, as planned", str(path.stat().st_size))


def logits_bytes(header: GgufHeader) -> int:
    """Return the bytes of the file of logits that llama-perplexity writes in `check_forward`.

    Raises InputError for a model without an embedding.
    """
    # Per position two floats, then 16 bits per vocabulary entry, padded to a whole number of 32 bits.
    return CHECK_HEADER_BYTES + CHECKED_POSITIONS * 2 * (2 * ((header.vocabulary + 1) // 2) + 4)


def forward_command(tool: Path, model: Path, text: Path, logits: Path, threads: int) -> list[object]:
    """Return the command line of llama-perplexity for one chunk of CHECK_TOKENS."""
    size = ["-c", CHECK_TOKENS, "-b", CHECK_TOKENS, "--chunks", 1, "-t", threads]
    return [tool, "-m", model.resolve(), "-f", text.resolve(), *size, "--save-all-logits", logits.resolve()]


def check_forward(llama_cpp: LlamaCpp, output: Path, path: Path, header: GgufHeader, threads: int) -> None:
    """Raise InputError unless a short forward pass of llama-perplexity over fixed text gives finite logits everywhere.

    The numbers are read from the file of its --save-all-logits: its last printed lines can be lost. There, after the
    header, each position has its range of log-probabilities as two floats, then 16 bits per vocabulary entry.
    """
    text, logits, expected = path.with_suffix(".txt"), path.with_suffix(".logits"), logits_bytes(header)
    for place in (text, logits):  # a link that lies there could lead to any file of the user's
        remove(place)
    try:
        text.write_text(CHECK_TEXT)
        command = forward_command(llama_cpp.tool("llama-perplexity"), path, text, logits, threads)
        run_tool(command, cwd=Path.cwd(), what="forward", step=r"\[(\d+)\]")
        found = logits.stat().st_size if logits.is_file() else 0
        # llama-perplexity reports no write that fails. On a full disk the cause is said, else what is missing.
        if found != expected:
            require_disk_space(output.parent, expected)
            raise InputError(
                output,
                f"the {expected} bytes of logits of a short forward pass",
                f"{found} bytes",
                "the file was not kept",
            )
        rows = np.fromfile(logits, "<u2", offset=CHECK_HEADER_BYTES).reshape(CHECKED_POSITIONS, -1)
    finally:
        text.unlink(missing_ok=True)
        logits.unlink(missing_ok=True)
    ranges = rows[:, :4].copy().view("<f4")
    if not np.isfinite(ranges).all():
        raise InputError(
            output,
            "finite logits in a short forward pass",
            f"{(~np.isfinite(ranges)).any(axis=1).sum()} of {len(rows)} positions that are not",
            "the file was not kept",
        )


def room(plan: QuantPlan, args: argparse.Namespace, header: GgufHeader) -> int:
    """Return the bytes of disk that a build takes: the file, unless it is a link, and the logits of its check."""
    linked = plan.copies and args.input.stat().st_dev == existing_parent(args.output.parent).stat().st_dev
    return (0 if linked else plan.size) + padded_bytes(header, plan.recipe) + logits_bytes(header)


def build_quant(
    llama_cpp: LlamaCpp, plan: QuantPlan, args: argparse.Namespace, header: GgufHeader, partial: Path
) -> None:
    """Write the file of a plan: by llama-quantize, or as a link to the source when no type changes."""
    require_disk_space(args.output.parent, room(plan, args, header))
    if plan.copies:
        link_held(args.input, lambda: link_or_copy(args.input, partial))  # whose digest must be the source's
        return
    try:
        tool = llama_cpp.tool("llama-quantize")
        with (
            quantised_files(header, plan.recipe, args.imatrix, args.output) as (model, imatrix),
            tempfile.TemporaryDirectory() as alone,  # not in the build folder, where a link is refused
        ):
            run_tool(
                quantize_command(tool, plan.recipe, model, imatrix, partial, args.threads),
                cwd=link_alone(imatrix, Path(alone)) if imatrix else Path.cwd(),
                what=plan.recipe.name,
                step=r"\[\s*(\d+)/\s*(\d+)\]",
            )
    except InputError:
        # On a full disk llama-quantize ends by a signal or with an unrelated line: say the better reason if it holds.
        if partial.exists():
            require_disk_space(args.output.parent, plan.size - partial.stat().st_size)
        raise


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--input", type=Path, required=True, help="unquantised GGUF file")
    add("--imatrix", type=Path, help="imatrix of the same model (GGUF form)")
    add("--type", required=True, help=f"quant: {', '.join(RECIPES)}, or AUTO-<GiB>")
    add("--output", type=named_path, required=True, help="GGUF file to write; its name ends with -TYPE.gguf")
    add_recipe_arguments(parser)
    add = parser.add_argument_group("what is refused, and how it runs").add_argument
    least = "refuse an imatrix in which fewer tokens reached some expert (default 0: list those that none reached)"
    add("--min-expert-tokens", type=whole_number, default=0, metavar="N", help=least)
    add("--threads", type=positive, default=len(os.sched_getaffinity(0)), help="threads (default: all processors)")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def check_all(args: argparse.Namespace, tool: Path) -> tuple[GgufHeader, QuantPlan]:
    """Return the source's header and the plan; raise InputError for whatever would go wrong later."""
    header = read_header(args.input)
    parts = header.value("split.count") or 1
    if parts > 1:
        raise InputError(args.input, "a model in one file", f"{parts} files", "join them with llama-gguf-split --merge")
    check_float(args.input, header)
    check_quant(args.type)
    recipe = recipe_for(args, args.type, header, tool, args.imatrix, args.input)
    check_place(args.output, args.input, recipe)
    imatrix = read_imatrix(args.imatrix) if args.imatrix else None
    plan = plan_quant(tool, recipe, header, args.imatrix)
    check_target(plan)
    if recipe.larger_than:
        check_larger(plan, plan_quant(tool, RECIPES[recipe.larger_than], header, args.imatrix))
    if imatrix:
        check_covers(imatrix, header, plan)
        print(f"{args.imatrix}: {check_reached(imatrix, args.min_expert_tokens)}")
    elif args.min_expert_tokens and not FLOAT_TYPES.issuperset(plan.types.values()):
        raise InputError("--min-expert-tokens", "--imatrix, whose tokens are counted", "none")
    return header, plan


def record_of(args: argparse.Namespace, llama_cpp: LlamaCpp, header: GgufHeader, plan: QuantPlan) -> dict:
    """Return the record of the file to be, all but its sha256.

    Raises InputError when the imatrix is another model's, and when sensitivities that it goes by were edited.
    """
    if args.sensitivity and target_bytes(plan.recipe.name):
        check_copied_from(args.sensitivity, ("measure_sensitivity",), args.output)
    source_sha256 = known_sha256(args.input)
    imatrix = None if plan.copies else args.imatrix
    calibration = check_imatrix_source(imatrix, source_sha256, args.output) if imatrix else {}
    return {
        "type": plan.recipe.name,
        "base": plan.recipe.base,
        "arguments": plan.recipe.arguments,
        "note": plan.recipe.note,
        **cd_choices(plan.recipe, args),
        **auto_choices(plan.recipe, args),
        **({"padded": recorded_widths(header, plan.recipe)} if plan.recipe.pad else {}),
        "llama_cpp": llama_cpp.version(),
        "tools_sha256": None if plan.copies else llama_cpp.digest(),
        "parameters": plan.parameters,
        "experts": header.experts,
        "bytes": plan.size,
        "bits_per_weight": round(plan.bits_per_weight, 3),
        "tensors_per_type": plan.type_counts(),
        "source_sha256": source_sha256,
        "imatrix_sha256": held_sha256(imatrix) if imatrix else None,
        "calibration_sha256": calibration.get("calibration_sha256"),
    }


def is_built(output: Path, side: Path, record: dict) -> bool:
    """Tell whether the output is there, of the same recipe, tools and inputs, and whole."""
    if not output.exists() or not side.is_file():
        return False
    known = read_json(side)
    return (
        known.get("version") == QuantRecord.current
        and all(known.get(key) == record.get(key) for key in RECORD_PROOF)
        and known.get("sha256") == sha256_file(output)
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    llama_cpp = find_llama_cpp(args.llama_cpp)
    header, plan = check_all(args, llama_cpp.tool("llama-quantize"))
    record, side = record_of(args, llama_cpp, header, plan), record_path(args.output)
    if is_built(args.output, side, record):
        if not args.output.samefile(args.input):  # for make, which goes by time; the record stays the newer one
            os.utime(args.output)
            os.utime(side)
        print(f"{args.output}: {plan.recipe.name}, built already")
        return
    with replace_when_done(args.output) as partial:
        build_quant(llama_cpp, plan, args, header, partial)
        check_written(args.output, partial, header, plan)
        with ThreadPoolExecutor(1) as pool:  # the digest is taken while llama-perplexity computes
            digest = pool.submit(sha256_file, partial)
            check_forward(llama_cpp, args.output, partial, header, args.threads)
        if plan.copies and digest.result() != record["source_sha256"]:
            raise InputError(args.input, "a file that stays as it is while it is read", "a change", "run it again")
        # The record comes first: a kill between the two leaves no quant without one.
        write_record(side, {**record, "sha256": digest.result()}, QuantRecord)
    print(f"{args.output}: {plan.recipe.name}, {gib(plan.size)} GiB, {plan.bits_per_weight:.2f} bits per weight")


if __name__ == "__main__":
    run(main)
