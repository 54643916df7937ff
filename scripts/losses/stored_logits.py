"""A reference model's logits over given texts, computed once and kept in files, to compare several models with."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from files.input_errors import InputError, reason_of
from files.safe_files import replace_when_done, require_disk_space, unchanged
from files.seals import check_kept, file_state
from ggufs.gguf_header import read_header, split_paths
from llama.llama_tools import LlamaCpp
from losses.gguf_logits import CHUNK_TOKENS, GgufLogits

import numpy as np
from tqdm import tqdm

FP32_BYTES = 4


def open_model(path: Path, tools: LlamaCpp, texts: list[list[int]], args: argparse.Namespace) -> GgufLogits:
    """Load a GGUF model with a context for the longest text, on `args.threads` threads and `args.gpu_layers` layers."""
    return GgufLogits(path, tools, context=max(map(len, texts)), threads=args.threads, gpu_layers=args.gpu_layers)


def progress(items: Iterable, what: str, unit: str) -> tqdm:
    """Return a progress bar; without a terminal it writes a line every 30 seconds only, to keep logs short."""
    return tqdm(items, desc=what, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 30)


def logits_path(folder: Path, name: str, number: int) -> Path:
    """Return the file of text `number`: fp32 [tokens, vocabulary]."""
    return folder / f"{name}-{number:06d}.npy"


def missing_texts(folder: Path, name: str, texts: list[list[int]]) -> list[int]:
    """Return the numbers of the texts whose logits are in no file."""
    return [number for number in range(len(texts)) if not logits_path(folder, name, number).exists()]


class StoredLogits:
    """One model's logits of all texts: read from files that are computed once, or computed again for every reader."""

    def __init__(
        self,
        path: Path,
        tools: LlamaCpp,
        texts: list[list[int]],
        folder: Path,
        args: argparse.Namespace,
        name: str,
        recompute: bool = False,
    ) -> None:
        """Write the files NAME-*.npy that are missing in `folder`; with `recompute` keep the model in memory instead.

        Raises InputError when the disk has no room for the files.
        """
        self.path, self.texts, self.folder, self.name = path, texts, folder, name
        self.checked: dict[int, tuple[int, ...]] = {}  # the `file_state` of each file whose seal was checked
        self.vocabulary = read_header(split_paths(path)[0]).vocabulary
        self.model = open_model(path, tools, texts, args) if recompute else None
        missing = missing_texts(folder, name, texts)
        if missing and not recompute:
            with open_model(path, tools, texts, args) as model:
                self._store(model, missing)

    def _store(self, model: GgufLogits, missing: list[int]) -> None:
        # Before the first text: a pass over a large model takes hours, and a full disk would end it near the end.
        try:
            require_disk_space(self.folder, stored_bytes(self.path, [self.texts[number] for number in missing]))
        except InputError as error:
            raise InputError(
                self.folder,
                f"room for the {self.name} model's logits",
                str(error),
                "free some, or give --recompute-full where the command has it, or fewer chats (--limit)",
            ) from error
        for number in progress(missing, f"{self.name} model", "chat"):
            with replace_when_done(logits_path(self.folder, self.name, number)) as partial:
                save_array(partial, model.logits(self.texts[number]))

    def _stored(self, number: int) -> np.ndarray:
        path, shape = logits_path(self.folder, self.name, number), (len(self.texts[number]), self.vocabulary)
        if number not in self.checked:
            with unchanged(path):
                check_kept(path)
            self.checked[number] = file_state(path)
        try:
            # A long text's logits are gigabytes, and are read in pieces. np.load would take other kinds of files, too.
            logits = np.lib.format.open_memmap(path, "r")
        except Exception as error:  # all kinds: numpy reads the header by Python's own parser
            if isinstance(error, OSError):
                raise
            raise InputError(path, f"logits {list(shape)}", reason_of(error)[:200], "remove it") from error
        if (logits.shape, logits.dtype) != (shape, np.float32):
            raise InputError(
                path, f"logits {list(shape)} in float32", f"{list(logits.shape)} in {logits.dtype}", "remove it"
            )
        self._check_same(number)
        return logits

    def _check_same(self, number: int) -> None:
        """Raise InputError unless a file is the one whose seal was checked.

        They are read for every model that is compared. Taking the digests each time would make a comparison a fifth
        slower, so inode, size and times must do: only who sets the clock back changes a file without them.
        """
        path = logits_path(self.folder, self.name, number)
        if file_state(path) != self.checked[number]:
            raise InputError(path, "the logits that were checked", "others", "run the same command again")

    def chunks(self, number: int) -> Iterator[np.ndarray]:
        """Yield the logits of text `number` in pieces, as GgufLogits.chunks does."""
        if self.model:
            yield from self.model.chunks(self.texts[number])
            return
        logits = self._stored(number)
        # The pieces of a computing model, so that both sides of a comparison come in step.
        for first in range(0, len(logits), CHUNK_TOKENS):
            yield logits[first : first + CHUNK_TOKENS]
        self._check_same(number)


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array as np.save does, the same bytes, and raise OSError where a write fails.

    np.save gives what is left to C's fclose and asks for no error: a disk that is full by then leaves a short file.
    """
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)


def stored_bytes(path: Path, texts: list[list[int]]) -> int:
    """Return the bytes of a model's logits of these texts: 4 per token and vocabulary entry."""
    return sum(map(len, texts)) * read_header(split_paths(path)[0]).vocabulary * FP32_BYTES
