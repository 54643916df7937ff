#!/usr/bin/env python3
"""Run llama.cpp's converter, and write large F16 tensors in pieces: the same bytes, in less time and memory.

Inputs:  the path of convert_hf_to_gguf.py, then its own arguments.
Output:  the GGUF file that it writes, byte for byte; the last line on stdout is "sha256 " and the file's digest.
Use:     scripts/llama/convert_streamed.py CONVERTER MODEL --outfile FILE.gguf --outtype f16

The converter makes float32 of a whole bf16 tensor and float16 of that, each in memory that is new: 4.5 GB for the
experts of one layer of the 26B. Its lazy tensors know what they are made by. Where that only moves values about (views,
transpositions, stacks), the order of the two steps does not matter: values are moved as bf16, then written as float16
piece by piece. float32 holds every bf16, so both ways round once. Any other tensor is made as the converter makes it.
"""

import hashlib
import queue
import sys
import threading
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: no room takes the place of a library
    import files.command_start  # noqa: F401 - before numpy and torch, whose import takes a second

import numpy as np
import torch

POSITIVE_INFINITY, NEGATIVE_INFINITY = 0x7F80, 0xFF80  # bits in bf16; those of NaN are larger
PIECE_VALUES = 8 << 20
BUFFERS = 4
SMALL_VALUES = 1 << 12  # a tensor of fewer is made as the converter makes it
MOVES = ("view", "reshape", "permute", "transpose", "swapaxes", "squeeze", "unsqueeze", "contiguous", "stack", "cat")
SLICE = "__getitem__"  # such as the rows of an embedding without those past the vocabulary


class ComputedError(Exception):
    """A lazy tensor is made by more than moves of stored values."""


def operation(lazy: Any) -> str:
    """Return the name of the operation that makes a lazy tensor, "" of one that is read from a file."""
    function, args = getattr(lazy, "_func", None), getattr(lazy, "_args", ())
    if function is None:
        raise ComputedError
    if not any(hasattr(part, "_meta") or isinstance(part, (list, tuple)) for part in args):
        return ""
    # A method is called by a function that holds its name.
    code = getattr(function, "__code__", None)
    if code is not None and code.co_freevars == ("name",):
        return function.__closure__[0].cell_contents
    return code.co_names[0] if code is not None and len(code.co_names) == 1 else getattr(function, "__name__", "?")


def moved(part: Any) -> Any:
    """Return a lazy tensor's values without the step to float32; raise ComputedError where they are computed."""
    if isinstance(part, (list, tuple)):
        return type(part)(moved(inner) for inner in part)
    if isinstance(part, torch.dtype):  # values would be read as others, or rounded
        raise ComputedError
    if not hasattr(part, "_meta"):
        return part
    if part._data is not None:
        return part._data
    name = operation(part)
    if name == "":
        return part._func(*part._args, **part._kwargs)
    if name == "to" and part._args[1:] == (torch.float32,) and not part._kwargs:
        return moved(part._args[0])
    if name not in (*MOVES, SLICE):
        raise ComputedError
    return part._func(*moved(part._args), **part._kwargs)


def stored_values(tensor: Any) -> torch.Tensor | None:
    """Return the bf16 values of a float16 tensor of the converter, None where it must make the tensor itself."""
    if getattr(tensor, "dtype", None) != np.float16 or int(np.prod(tensor.shape)) < SMALL_VALUES:
        return None
    try:
        if operation(tensor) != "astype" or operation(whole := tensor._args[0]) != "numpy":
            return None
        values = moved(whole._args[0])
    except ComputedError:
        return None
    same = values.dtype == torch.bfloat16 and tuple(values.shape) == tuple(tensor.shape)
    return values.reshape(-1) if same else None


def has_nan(values: torch.Tensor) -> bool:
    """Tell whether there is a NaN among bf16 values: by their bits, 16 times as fast as torch.isnan."""
    bits = values.view(torch.int16).numpy()
    return bool(bits.max() > POSITIVE_INFINITY or bits.view(np.uint16).max() > NEGATIVE_INFINITY)


class Output:
    """The file of the writer, from its header on; what goes into it is hashed by a thread of its own."""

    def __init__(self, file: Any) -> None:
        self.file, self.hashed, self.digest = file, 0, hashlib.sha256()
        self.waiting: queue.Queue[tuple[torch.Tensor, torch.Tensor] | None] = queue.Queue()
        self.free: queue.Queue[torch.Tensor] = queue.Queue()
        for _ in range(BUFFERS):
            self.free.put(torch.empty(PIECE_VALUES, dtype=torch.float16))
        # A daemon: where a write fails (a full disk) nobody ends it, and the process would wait for it for ever.
        self.thread = threading.Thread(target=self.hash_pieces, daemon=True)
        self.thread.start()

    def hash_pieces(self) -> None:
        """Hash what is written, in its order, and give its memory back."""
        while (entry := self.waiting.get()) is not None:
            buffer, piece = entry
            self.digest.update(piece.numpy().data)
            self.free.put(buffer)
            self.waiting.task_done()
        self.waiting.task_done()

    def write_values(self, values: torch.Tensor) -> None:
        """Write bf16 values as float16."""
        self.catch_up()
        for piece in values.split(PIECE_VALUES):
            buffer = self.free.get()
            target = buffer[: len(piece)].copy_(piece)
            if has_nan(piece):  # numpy keeps other bits of them
                target.copy_(torch.from_numpy(piece.to(torch.float32).numpy().astype(np.float16)))
            self.file.write(target.numpy().data)
            self.hashed += 2 * len(piece)
            self.waiting.put((buffer, target))

    def catch_up(self) -> None:
        """Hash what others have written to the file: read again, as the file is open for writing alone."""
        self.file.flush()
        self.waiting.join()
        with open(self.file.name, "rb") as file:
            file.seek(self.hashed)
            while chunk := file.read(2 * PIECE_VALUES):
                self.digest.update(chunk)
                self.hashed += len(chunk)

    def finish(self) -> str:
        """Return the hex sha256 of the whole file."""
        self.catch_up()
        self.waiting.put(None)
        self.thread.join()
        return self.digest.hexdigest()


def write_in_pieces(writer: Any, *, progress: bool = False) -> None:
    """Write the tensors of a GGUFWriter, which has opened one file."""
    writer.write_ti_data_to_file()
    (file,), (tensors,) = writer.fout, writer.tensors
    writer.write_padding(file, file.tell())
    output, total, done = Output(file), sum(info.nbytes for info in tensors.values()), 0
    for info in tensors.values():
        if (values := stored_values(info.tensor)) is not None:
            output.write_values(values)
        else:
            # Not by tofile: it asks for no error of its last bytes, and a full disk would leave a hole.
            to_eager = getattr(type(info.tensor), "to_eager", np.asarray)
            file.write(np.ascontiguousarray(to_eager(info.tensor)).data)
        del values
        info.tensor = None  # with it go the pages that were read
        writer.write_padding(file, info.nbytes)
        done += info.nbytes
        print(f"Writing: {100 * done // total}%", file=sys.stderr, flush=True)
    print("sha256", output.finish(), flush=True)


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: no room takes the place of a library
    from llama.start_converter import start_converter

    torch.set_num_threads(1)  # a second core is for the digest
    start_converter(write_in_pieces)
