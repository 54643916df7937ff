#!/usr/bin/env python3
"""Run llama.cpp's converter, but leave a hole in the file where the tensors' data would be.

Inputs:  the path of convert_hf_to_gguf.py, then its own arguments.
Output:  the GGUF file that it writes, of the same size and with the same header; the data takes no room on disk.
Use:     scripts/llama/convert_header_only.py CONVERTER MODEL --outfile FILE.gguf --outtype f16
"""

import sys
from pathlib import Path
from typing import Any


def write_no_data(writer: Any, *, progress: bool = False) -> None:
    """Write the header of a GGUFWriter's files, and leave room for their tensors."""
    writer.write_ti_data_to_file()
    for file, tensors in zip(writer.fout or [], writer.tensors, strict=True):
        writer.write_padding(file, file.tell())
        sizes = [writer.ggml_pad(info.nbytes, writer.data_alignment) for info in tensors.values()]
        file.truncate(file.tell() + sum(sizes))


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: no room takes the place of a library
    from llama.start_converter import start_converter

    start_converter(write_no_data)
