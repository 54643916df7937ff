#!/usr/bin/env python3
"""Measure the importance matrix of a GGUF model on a calibration text with llama-imatrix.

Inputs:  an unquantised GGUF file; a text in which special tokens are written out.
Output:  an imatrix in GGUF form: per tensor and expert, sums of squared activations and token counts. Beside it,
         FILE.json: digests of the model, the text and the imatrix, context, tool version.
Example: .venv/bin/python scripts/build_imatrix.py --model build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf \\
             --calibration build/gemma-4-demo/full/statistics/calibration_questions/calibration_questions.txt \\
             --output build/try/imatrix.gguf

An output whose record names the same inputs and tools is left as it is. Upstream: llama.cpp tools/imatrix/README.md.
"""

import argparse
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chats.rendered_text import check_rendered
from files.input_errors import RECORD_MIB, InputError, check_bounded, sha256_file
from files.json_records import read_json
from files.known_digests import known_sha256
from files.option_types import command_parser, named_path, positive
from files.safe_files import check_apart, copy_file, folder_for_now, gib, replace_when_done, run, unchanged
from files.written_records import check_recorded, write_record
from ggufs.gguf_header import read_header
from ggufs.imatrix import CONTEXT_TOKENS, Imatrix, ImatrixRecord, check_reached, read_imatrix
from llama.llama_tools import LlamaCpp, find_llama_cpp, run_tool
from llama.load_check import check_library_loads, count_tokens

# llama-imatrix runs where its text lies, and there the system's loader may look for libraries.
LIBRARY = re.compile(r"\.(so(\.[0-9]+)*|dylib|dll)$", re.IGNORECASE)


def imatrix_command(tool: Path, model: Path, calibration: Path, output: Path, context: int) -> list[object]:
    """Return the command line of llama-imatrix, run in the text's directory so that its header has no path."""
    flags = ["-o", output.resolve(), "-c", context, "--parse-special", "--no-ppl"]
    return [tool, "-m", model.resolve(), "-f", calibration.name, *flags]


def check_calibration(path: Path, context: int) -> None:
    """Raise InputError unless a calibration text is UTF-8 and may hold two contexts of tokens."""
    if not path.is_file():
        raise InputError(path, "a calibration text", "nothing" if not path.exists() else "no file")
    if path.stat().st_size < 2 * context:  # no token is shorter than a byte
        raise InputError(
            path, f"{2 * context} tokens or more, which llama-imatrix needs", f"{path.stat().st_size} bytes"
        )
    if LIBRARY.search(path.name):
        raise InputError(path, "a name that no library of programs has", path.name, "give it another name")
    check_bounded(path, RECORD_MIB)
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(path, "a text in UTF-8", str(error)) from error


@contextmanager
def private_copy(path: Path, folder: Path) -> Iterator[Path]:
    """Yield a copy of a file, of the same name, in a folder of its own; raise InputError if it changed meanwhile.

    folder: beside the output and not in the temporary directory, where a killed run would leave the questions' words.
    """
    with folder_for_now(folder):
        copy_file(path, copy := folder / path.name)
        with unchanged(copy):
            yield copy


def run_imatrix(tools: LlamaCpp, model: Path, calibration: Path, output: Path, context: int) -> str:
    """Run llama-imatrix and return the sha256 of the text that it read.

    Raises InputError when it fails: by the model's name if that does not load, by the text's if it has too few tokens.
    """
    try:
        # It reads the text minutes after us. The copy is nobody's, so whatever happens to it is an attack or a mishap.
        with private_copy(calibration, Path(f"{output}.text")) as text:
            digest = sha256_file(text)
            run_tool(
                imatrix_command(tools.tool("llama-imatrix"), model, text, output, context),
                cwd=text.parent,
                what="imatrix",
                step=r"\[(\d+)\]",
                total=r"over (\d+) chunks",
            )
        return digest
    except InputError as error:
        # Its log is written by a thread that it does not wait for, and what is not written at the end is lost: on a
        # loaded machine often just the line with the reason. So the model is loaded and the tokens are counted here.
        check_library_loads(model, tools, model)
        try:
            tokens = count_tokens(tools, model, calibration.read_bytes())
        except InputError:  # a llama.cpp of another version than the bindings': what the tool printed must do
            raise error from None
        if tokens < 2 * context:
            raise InputError(
                calibration,
                f"{2 * context} tokens or more, which llama-imatrix needs",
                str(tokens),
                "calibrate on more text",
            ) from error
        raise


def read_whole_imatrix(partial: Path, output: Path) -> Imatrix:
    """Read what llama-imatrix wrote; raise InputError when it is cut short. The tool does not notice a failed write."""
    try:
        return read_imatrix(partial)
    except InputError as error:
        free = gib(shutil.disk_usage(output.parent).free)
        raise InputError(
            output,
            "a whole imatrix from llama-imatrix",
            f"{partial.stat().st_size if partial.exists() else 'no'} bytes that are none",
            f"look for a full disk ({free} GiB are free), a quota or a limit on file sizes, then build it again",
        ) from error


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="unquantised GGUF file")
    add("--calibration", type=Path, required=True, help="calibration text")
    add("--output", type=named_path, required=True, help="imatrix to write")
    add = parser.add_argument_group("how it is measured").add_argument
    add("--context", type=positive, default=CONTEXT_TOKENS, help="tokens per chunk")
    add("--llama-cpp", type=Path, help="llama.cpp directory (default: $LLAMA_CPP, else the built one)")
    return parser.parse_args(argv)


def is_imatrix_of(output: Path, record: dict) -> bool:
    """Tell whether the output is there, of the same inputs and tools, and whole."""
    if not output.exists():
        return False
    known = read_json(Path(f"{output}.json"))
    wanted = {"version": ImatrixRecord.current, **record}
    return wanted.items() <= known.items() and known.get("sha256") == sha256_file(output)


def check_imatrix_inputs(args: argparse.Namespace) -> None:
    """Raise InputError for a model or a text that cannot be used, and for an output whose place is taken."""
    read_header(args.model)
    check_calibration(args.calibration, args.context)
    check_rendered(args.calibration)
    check_apart([args.model, args.calibration], [args.output, Path(f"{args.output}.json")])
    check_recorded(
        args.output, "an earlier imatrix", lambda record: {"calibration_sha256", "model_sha256"} <= record.keys()
    )


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_imatrix_inputs(args)
    llama_cpp, side = find_llama_cpp(args.llama_cpp), Path(f"{args.output}.json")
    record = {
        "version": ImatrixRecord.current,
        "model_sha256": known_sha256(args.model),
        "calibration": args.calibration.name,
        "calibration_sha256": sha256_file(args.calibration),
        "context": args.context,
        "llama_cpp": llama_cpp.version(),
    }
    if is_imatrix_of(args.output, record):
        for path in (args.output, side):
            os.utime(path)  # for make, which goes by time
        print(f"{args.output}: built already")
        return
    with replace_when_done(args.output) as partial:
        digest = run_imatrix(llama_cpp, args.model, args.calibration, partial, args.context)
        if digest != record["calibration_sha256"]:
            expected = f"the text with sha256 {record['calibration_sha256'][:12]}"
            raise InputError(args.calibration, expected, digest[:12], "change nothing while it is measured")
        reached = check_reached(read_whole_imatrix(partial, args.output), 0)
        # Of the tools the version decides whether it is measured again: an imatrix takes hours.
        built = {"tools_sha256": llama_cpp.digest(), "bytes": partial.stat().st_size, "sha256": sha256_file(partial)}
        # The record comes first: a kill between the two leaves no imatrix without one.
        write_record(side, {**record, **built}, ImatrixRecord)
    print(f"{args.output}: {reached}")


if __name__ == "__main__":
    run(main)
