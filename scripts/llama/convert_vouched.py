#!/usr/bin/env python3
"""Run llama.cpp's converter, with a header of what this project vouches for (vouched_header.py).

Inputs:  the path of convert_hf_to_gguf.py, then its own arguments.
Output:  the GGUF file that it writes.
Use:     scripts/llama/convert_vouched.py CONVERTER MODEL --outfile FILE.gguf --outtype f16
"""

import runpy
import sys
from pathlib import Path


def main() -> None:
    converter = Path(sys.argv[1])
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: no room takes the place of a library
    from llama.vouched_header import use_converter

    use_converter(converter)
    sys.argv = sys.argv[1:]
    runpy.run_path(str(converter), run_name="__main__")


if __name__ == "__main__":
    main()
