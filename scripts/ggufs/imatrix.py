"""An imatrix in GGUF form: what it covers, how many calibration tokens reached each expert, and its record.

llama-imatrix writes for each weight NAME.in_sum2 [experts, columns] and NAME.counts [experts, 1], fp32. llama-quantize
counts all inputs of a never reached expert alike, without a word. It fails in mid-file over a tensor that is missing
where the type demands one, or that has another number of experts. So both are checked before the first byte.
FILE.json beside it (`ImatrixRecord`) names the model and the text that it was measured on.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from files.input_errors import InputError, sha256_file, shown
from files.json_records import FileRecord, Sha256, read_record
from ggufs.gguf_header import TensorInfo, read_header

import numpy as np
from gguf.constants import GGMLQuantizationType

NOT_MEASURED = {"token_embd.weight", "output.weight", "per_layer_token_embd.weight"}  # llama-imatrix leaves these out
BUILD_AGAIN = "build it again with `make imatrix`"
WRITE_IMATRIX_RECORDS = ("build_imatrix", "pad_gguf")  # the commands whose seal a record has
DOWN_EXPERTS = ".ffn_down_exps.weight"
LAYER_DOWN = re.compile(r"blk\.([0-9]{1,6})" + re.escape(DOWN_EXPERTS))
CONTEXT_TOKENS = 512  # per chunk, as llama-imatrix itself has it
MOST_TOKENS = 1 << 53  # a larger count is damage: no float of it is exact


class ImatrixRecord(FileRecord):
    """What build_imatrix.py records beside an imatrix; context: tokens per chunk."""

    what: ClassVar[str] = "the record of an imatrix"
    model_sha256: Sha256
    calibration: str
    calibration_sha256: Sha256
    context: int
    llama_cpp: str
    tools_sha256: Sha256 | None = None  # of the build; older records have none


def read_imatrix_record(imatrix: Path) -> dict:
    """Return the record beside an imatrix; raise InputError when there is none, or when it is another file's."""
    record = Path(f"{imatrix}.json")
    known = read_record(record, ImatrixRecord)
    if known["sha256"] != (found := sha256_file(imatrix)):
        raise InputError(
            imatrix,
            f"the imatrix of its record, sha256 {known['sha256'][:12]}",
            found[:12],
            f"build it again, or, if it is meant, remove {record}",
        )
    return known


@dataclass(frozen=True)
class Imatrix:
    """By weight: tokens per expert ([experts] int64; one entry for a weight without experts) and columns."""

    path: Path
    counts: dict[str, np.ndarray]
    columns: dict[str, int]

    def expert_counts(self) -> dict[int, np.ndarray]:
        """Return the tokens that reached each expert, [experts] int64 by layer.

        They are those of `down`; gate and up see the same tokens.
        """
        return {
            int(found[1]): row for name, row in sorted(self.counts.items()) if (found := LAYER_DOWN.fullmatch(name))
        }


def values_of(path: Path, tensor: TensorInfo) -> np.ndarray:
    """Return the values of a tensor, flat fp32; raise InputError when it has another type, or a value cannot be."""
    if tensor.kind != GGMLQuantizationType.F32:
        raise InputError(path, f"{tensor.name} in F32", tensor.kind.name, BUILD_AGAIN)
    # numpy refuses to map no bytes at all.
    values = np.memmap(path, "<f4", "r", tensor.offset, (tensor.size // 4,)) if tensor.size else np.empty(0, np.float32)
    # One NaN spoils every weight of its row in llama-quantize. Sums of squares and counts cannot be negative.
    if not np.isfinite(values).all() or (values < 0).any():
        raise InputError(path, f"finite values, 0 or more, in {tensor.name}", "others", BUILD_AGAIN)
    return values


def read_imatrix(path: Path) -> Imatrix:
    """Read an imatrix; raise InputError when it is missing, of the old format, without counts, or cannot be right."""
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(
                    path, "an imatrix in GGUF form", "another file, perhaps of the old format", BUILD_AGAIN
                )
    header = read_header(path)
    if header.value("general.type") != "imatrix":
        raise InputError(path, "an imatrix in GGUF form", f"general.type {header.value('general.type')!r}")
    tensors = {tensor.name: tensor for tensor in header.tensors}
    names = [name.removesuffix(".counts") for name in tensors if name.endswith(".counts")]
    if not names or any(f"{name}.in_sum2" not in tensors for name in names):
        raise InputError(path, "sums and token counts of each weight", f"{len(tensors)} arrays without a pair")
    counts = {}
    for name in names:
        if name.endswith(DOWN_EXPERTS) and not LAYER_DOWN.fullmatch(name):
            raise InputError(path, f"experts named blk.LAYER{DOWN_EXPERTS}", shown(name), BUILD_AGAIN)
        values_of(path, tensors[f"{name}.in_sum2"])
        values = values_of(path, tensors[f"{name}.counts"])
        if not values.size or values.max() > MOST_TOKENS:
            raise InputError(path, f"token counts up to {MOST_TOKENS} in {name}", "none or more", BUILD_AGAIN)
        # Counts are whole numbers, but stored as floats.
        counts[name] = np.rint(values).astype(np.int64)
    return Imatrix(path, counts, {name: tensors[f"{name}.in_sum2"].dims[0] for name in names})


def read_expert_counts(path: Path) -> dict[int, np.ndarray]:
    """Return how many calibration tokens reached each expert, [experts] int64 by layer, to choose experts by.

    Raises InputError when it is no imatrix, has no experts, or when layers differ in their number.
    """
    counts = read_imatrix(path).expert_counts()
    if not counts or len({row.size for row in counts.values()}) > 1 or next(iter(counts.values())).size < 2:
        raise InputError(path, "token counts of as many experts in every layer", f"those of {len(counts)} layers")
    return counts


def check_reached(imatrix: Imatrix, least: int) -> str:
    """Return a line on the experts that calibration never reached: in all, then count and share per layer.

    Raises InputError when fewer than `least` tokens reached some expert.
    """
    counts = dict(sorted(imatrix.expert_counts().items()))
    for layer, row in counts.items():
        if row.min() < least:
            raise InputError(
                imatrix.path,
                f"{least} tokens or more for every expert",
                f"{row.min()} for expert {row.argmin()} of layer {layer}",
                "calibrate on more text",
            )
    never = {layer: int((row == 0).sum()) for layer, row in counts.items()}
    shares = [f"layer {layer}: {count} = {count / counts[layer].size:.1%}" for layer, count in never.items() if count]
    total = sum(row.size for row in counts.values())
    line = f"experts that calibration never reached: {sum(never.values())} of {total}"
    return f"{line} ({', '.join(shares)})" if shares else line
