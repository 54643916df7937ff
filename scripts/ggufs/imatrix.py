"""Imatrix files in GGUF form: what they cover, and how many calibration tokens reached each expert.

llama-imatrix writes for each weight NAME.in_sum2 [experts, columns] and NAME.counts [experts, 1]. llama-quantize takes
an expert that was never reached for one of all ones, without a word; it fails in mid-file over a tensor that is missing
where the type demands one, or that has another number of experts. So both are looked at before the first byte.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggufs.gguf_files import field, read_gguf
from ggufs.gguf_header import GgufHeader
from quants.quant_plan import QuantPlan
from files.safe_files import InputError

NOT_MEASURED = {"token_embd.weight", "output.weight", "per_layer_token_embd.weight"}  # llama-imatrix leaves these out


@dataclass(frozen=True)
class Imatrix:
    """Per weight: tokens per expert ([experts] int64; one entry for a weight without experts) and columns."""

    path: Path
    counts: dict[str, np.ndarray]
    columns: dict[str, int]

    def expert_counts(self) -> dict[int, np.ndarray]:
        """Return the tokens that reached each expert, [experts] by layer."""
        return {int(name.split(".")[1]): row for name, row in sorted(self.counts.items())
                if name.endswith(".ffn_down_exps.weight")}


def read_imatrix(path: Path) -> Imatrix:
    """Read an imatrix; raise InputError when it is missing, in the old format, has no counts, or values that cannot be."""
    if path.is_file():
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise InputError(path, "an imatrix in GGUF form", "another file, perhaps of the old format",
                                 "build it again with `make imatrix`")
    reader = read_gguf(path)
    if field(reader, "general.type") != "imatrix":
        raise InputError(path, "an imatrix in GGUF form", f"general.type {field(reader, 'general.type')!r}")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    counts = {name.removesuffix(".counts"): np.rint(np.asarray(tensor.data).reshape(-1)).astype(np.int64)
              for name, tensor in tensors.items() if name.endswith(".counts")}
    if not counts or any(f"{name}.in_sum2" not in tensors for name in counts):
        raise InputError(path, "sums and token counts of each weight", f"{len(tensors)} arrays without a pair")
    for name in counts:
        for part in (f"{name}.in_sum2", f"{name}.counts"):
            values = np.asarray(tensors[part].data)
            if not np.isfinite(values).all() or (values < 0).any():
                raise InputError(path, f"finite values, 0 or more, in {part}", "others", "build it again with `make imatrix`")
    return Imatrix(path, counts, {name: int(tensors[f"{name}.in_sum2"].shape[0]) for name in counts})


def check_covers(imatrix: Imatrix, header: GgufHeader, plan: QuantPlan) -> None:
    """Raise InputError unless the imatrix has every weight that the plan quantises, in the model's shape."""
    for tensor in header.tensors:
        if plan.types[tensor.name] == tensor.kind or tensor.name in NOT_MEASURED:
            continue
        if tensor.name not in imatrix.counts:
            raise InputError(imatrix.path, f"the imatrix of this model, with {tensor.name}", "no such tensor")
        experts = tensor.dims[2] if len(tensor.dims) > 2 else 1
        found = (imatrix.columns[tensor.name], imatrix.counts[tensor.name].size)
        if found != (tensor.dims[0], experts):
            raise InputError(imatrix.path, f"{tensor.dims[0]} columns and {experts} experts in {tensor.name}, as the model has",
                             f"{found[0]} and {found[1]}", "is it the imatrix of another model?")


def check_reached(imatrix: Imatrix, least: int) -> str:
    """Return a line on the experts that calibration never reached, count and share per layer.

    Raises InputError when an expert was reached by fewer than `least` tokens.
    """
    counts = imatrix.expert_counts()
    for layer, row in sorted(counts.items()):
        if row.min() < least:
            raise InputError(imatrix.path, f"{least} tokens or more for every expert",
                             f"{row.min()} for expert {row.argmin()} of layer {layer}", "calibrate on more text")
    never = {layer: int((row == 0).sum()) for layer, row in sorted(counts.items())}
    listed = ", ".join(f"layer {layer}: {count} = {count / counts[layer].size:.1%}" for layer, count in never.items() if count)
    return f"experts that calibration never reached: {sum(never.values())} of {sum(row.size for row in counts.values())}" + (
        f" ({listed})" if listed else "")
