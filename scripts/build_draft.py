#!/usr/bin/env python3
"""Build the draft model of a pruned model: an assistant checkpoint of the full one, as a GGUF file, checked to fit.

Inputs:  an assistant checkpoint (such as google/gemma-4-26B-A4B-it-assistant) and the GGUF file that it drafts for.
Output:  one GGUF file and, beside it, FILE.json: digests of checkpoint and target, types, size, tool version.
Example: .venv/bin/python scripts/build_draft.py --model data/demo/assistant --name gemma-4-demo-109e --type Q8_0 \\
             --target build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf \\
             --output build/try/mtp-gemma-4-demo-109e-Q8_0.gguf

An assistant has no experts, so that of the full model also drafts for the pruned one. Checked: vocabulary, size of the
states and shape of the caches (ggufs/draft_fit.py); then llama-server must load both together. A file that fails is not
kept. An output whose record names the same checkpoint, target, type and tools is left as it is.
"""

import argparse
import math
import tempfile
from pathlib import Path

from checkpoints.assistant import check_assistant
from checkpoints.checkpoint import hold_checkpoint, source_digest
from files.input_errors import InputError, sha256_file
from files.known_digests import known_sha256
from files.option_types import command_parser, named_path, whole_number
from files.safe_files import check_apart, folder_for_now, gib, partial_directory, replace_when_done, run
from files.written_records import write_record
from ggufs.draft_fit import check_fits
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.mmproj import types_of
from llama.drafting import DRAFT_TOKENS, draft_flags
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp, converter_command, find_llama_cpp, run_tool
from quants.draft_record import DRAFT_TYPES, DraftRecord
from quants.quant_record import is_made_of, record_path

CHECK_FLAGS = ["-c", "512", "-np", "1"]


def write_draft(args: argparse.Namespace, tools: LlamaCpp, output: Path) -> None:
    """Convert the checkpoint, and quantise what came out unless F16 is asked for."""
    with folder_for_now(partial_directory(args.output)) as folder:
        f16 = output if args.type == "F16" else folder / "F16.gguf"
        command = converter_command(tools, args.model, args.name, f16, "f16")
        run_tool(command, cwd=Path.cwd(), what="convert the draft model", step=r"Writing:\s+(\d+)%")
        if args.type != "F16":
            quantise: list[object] = [tools.tool("llama-quantize"), f16, output.resolve(), args.type]
            run_tool(quantise, cwd=Path.cwd(), what=args.type, step=r"\[\s*(\d+)/\s*(\d+)\]")


def check_serves_together(args: argparse.Namespace, tools: LlamaCpp, draft: Path) -> None:
    """Raise InputError, with llama-server's own words, unless it loads the target with this draft model."""
    flags = [*CHECK_FLAGS, "-ngl", str(args.gpu_layers), *draft_flags(draft, DRAFT_TOKENS)]
    command = server_command(tools.tool("llama-server"), args.target, "check", 0, flags)
    try:
        # The target's template is the one that is served; a damaged old output must not stop its own rebuild.
        with tempfile.TemporaryDirectory() as folder, LlamaServer(command, args.target, Path(folder) / "server.log"):
            pass
    except InputError as error:
        expected = f"a draft model that llama-server loads with {args.target.name}"
        raise InputError(args.output, expected, str(error)) from error


def header_facts(header: GgufHeader) -> dict:
    """Return what a draft model's header tells for its record."""
    return {
        "architecture": header.architecture,
        "parameters": sum(math.prod(tensor.dims) for tensor in header.tensors),
        "tensors_per_type": types_of(header),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="assistant checkpoint directory")
    add("--target", type=Path, required=True, help="GGUF file of the model that it drafts for")
    add("--output", type=named_path, required=True, help="GGUF file to write")
    add = parser.add_argument_group("what is written, and with what").add_argument
    add("--name", required=True, help="model name for the header: the target's")
    add("--type", choices=DRAFT_TYPES, default="Q8_0", help="type of its weights")
    add("--gpu-layers", type=whole_number, default=0, help="layers on the GPU, for the check")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_apart([args.target], [args.output, record_path(args.output)])
    check_assistant(args.model)
    hold_checkpoint(args.model)
    tools, target = find_llama_cpp(args.llama_cpp), read_header(args.target)
    content = {
        "name": args.name,
        "type": args.type,
        "source_sha256": source_digest(args.model),
        "target_sha256": known_sha256(args.target),
        "llama_cpp": tools.version(),
    }
    if is_made_of(args.output, content, DraftRecord):
        for path in (args.output, record_path(args.output)):  # for make, which goes by time
            path.touch()
        print(f"{args.output}: built already")
        return
    with replace_when_done(args.output) as partial:
        write_draft(args, tools, partial)
        header = read_header(partial)
        check_fits(header, target, args.model)
        check_serves_together(args, tools, partial)
        content |= {**header_facts(header), "bytes": partial.stat().st_size, "sha256": sha256_file(partial)}
        # The record comes first: a kill between the two leaves no draft model without one.
        write_record(record_path(args.output), content, DraftRecord)
    print(f"{args.output}: {args.type} draft model, {content['parameters']:,} weights, {gib(content['bytes'])} GiB")


if __name__ == "__main__":
    run(main)
