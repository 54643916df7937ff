#!/usr/bin/env python3
"""Run llama.cpp's converter, but leave a hole in the file where the tensors' data would be.

Inputs:  the path of convert_hf_to_gguf.py, then its own arguments.
Output:  the GGUF file that it writes, of the same size and with the same header; the data takes no room on disk.
Use:     scripts/llama/convert_header_only.py CONVERTER MODEL --outfile FILE.gguf --outtype f16
"""

import runpy
import sys
from pathlib import Path


def main() -> None:
    converter = Path(sys.argv[1])
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: no room takes the place of a library
    from llama.vouched_header import use_converter

    use_converter(converter)
    from gguf import GGUFWriter

    def write_no_data(self: GGUFWriter, *, progress: bool = False) -> None:
        self.write_ti_data_to_file()
        for file, tensors in zip(self.fout or [], self.tensors, strict=True):
            self.write_padding(file, file.tell())
            sizes = [self.ggml_pad(info.nbytes, self.data_alignment) for info in tensors.values()]
            file.truncate(file.tell() + sum(sizes))

    # The converter's own class is changed: it makes its writer itself, and has no option to leave the data out.
    GGUFWriter.write_tensors_to_file = write_no_data  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(str(converter), run_name="__main__")


if __name__ == "__main__":
    main()
