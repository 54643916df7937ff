#!/usr/bin/env python3
"""Run llama.cpp's converter as it is, but for what its headers say (vouched_header.py), and quicker.

Inputs:  the path of convert_hf_to_gguf.py, then its own arguments.
Output:  the GGUF file that it writes.
Use:     scripts/llama/start_converter.py CONVERTER MODEL --mmproj --outfile FILE.gguf --outtype f16
"""

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def refuse_code_of_checkpoints() -> None:
    """Let transformers run no code of a checkpoint: for some families the converter says that it may."""
    from transformers import dynamic_module_utils

    def refused(class_name: str, *arguments: object, **options: object) -> NoReturn:
        raise ValueError(f"expected a checkpoint without code of its own, found {class_name}")

    # All ways to such code end there, whatever name a caller has imported.
    vars(dynamic_module_utils)["get_class_in_module"] = refused


def start_converter(write_tensors: Callable | None = None) -> None:
    """Run the converter that the arguments name; write_tensors: in place of GGUFWriter's `write_tensors_to_file`."""
    converter = Path(sys.argv[1])
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: no room takes the place of a library
    from chats.without_torch import hide_torch
    from files.command_start import collect_garbage_again
    from llama.vouched_header import keep_vouched

    hide_torch()  # of the three seconds until the converter begins, one went into parts of transformers that run models
    sys.path[0:1] = [str(converter.parent), str(converter.parent / "gguf-py")]  # as when it is run by itself
    from gguf import GGUFWriter
    from gguf.metadata import Metadata

    refuse_code_of_checkpoints()
    importlib.import_module("torch")  # the converter's first import
    collect_garbage_again()
    keep_vouched(Metadata)
    if write_tensors:
        # The converter's own class is changed: it makes its writer itself, and has no option to write otherwise.
        GGUFWriter.write_tensors_to_file = write_tensors  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(str(converter), run_name="__main__")


if __name__ == "__main__":
    start_converter()
