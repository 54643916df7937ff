"""What a quant will be, before it is built: a dry run of llama-quantize gives its types, and they its size to the byte.

A dry run reads the header alone, so it works on a sparse GGUF as well (sparse_gguf.py).
"""

import math
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from files.command_start import dying_with_parent
from files.input_errors import InputError
from ggufs.gguf_header import (
    ARRAY,
    BLOCK_TENSOR,
    EXPERT_TENSOR,
    GgufHeader,
    array_values,
    empty_header,
    file_bytes,
    key_value,
    read_header,
    write_header_only,
)
from ggufs.imatrix import NOT_MEASURED, Imatrix
from llama.llama_tools import last_words
from quants.padded_model import planned_header
from quants.recipes import Recipe

from gguf import GGMLQuantizationType

FLOAT_TYPES = {GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16}
# What llama-quantize prints. The sizes there are rounded and leave the header out, so only the types are read.
TENSOR_LINE = re.compile(r"^\[ *\d+/ *\d+\] (\S+) .*? type = +(\w+), size = [^(\n]*(?:\((\w+)\))?", re.MULTILINE)
FALLBACK_LINE = re.compile(r"^warning: (\S+) +- ncols.*?\(required for type +(\w+)\)", re.MULTILINE)
OFFENDER = re.compile(r"offending tensor: (\S+)\s+- target type: (\w+)")
KEPT_BYTES = (
    127  # of a string that llama-quantize adds to a header: llama.h's key-value overrides have 128 with the end
)
WANTS_IMATRIX = "will require an imatrix"
OTHER_VERSION = "is it another version of llama.cpp?"


@dataclass(frozen=True)
class QuantPlan:
    """One file to be: size in bytes, number of weights (those of a padding do not count), and types by tensor.

    wanted: the types that tensors could not have, as their rows are no multiple of the type's block.
    """

    recipe: Recipe
    size: int
    parameters: int
    types: dict[str, GGMLQuantizationType]
    wanted: dict[str, GGMLQuantizationType]
    copies: bool  # no type changes: the file is its source

    @property
    def bits_per_weight(self) -> float:
        """Bits of the whole file per weight."""
        return 8 * self.size / self.parameters

    def type_counts(self) -> dict[str, int]:
        """Return the tensors per type, a fallback as TYPE<WANTED, float types of source tensors included."""
        names = Counter(
            f"{kind.name}<{self.wanted[name].name}" if name in self.wanted else kind.name
            for name, kind in self.types.items()
        )
        return dict(sorted(names.items(), key=lambda entry: (-entry[1], entry[0])))


def type_of(name: str) -> GGMLQuantizationType:
    """Return a type by llama.cpp's name of it, such as q4_K."""
    return GGMLQuantizationType[name.upper()]


def expert_layers(header: GgufHeader) -> tuple[int, ...]:
    """Return the numbers of the layers with experts; of a dense model, those of all layers."""
    return _layers_with(header, EXPERT_TENSOR) or _layers_with(header, BLOCK_TENSOR)


def _layers_with(header: GgufHeader, pattern: re.Pattern[str]) -> tuple[int, ...]:
    matches = (pattern.match(tensor.name) for tensor in header.tensors)
    return tuple(sorted({int(match[1]) for match in matches if match}))


def check_float(path: Path, header: GgufHeader) -> None:
    """Raise InputError when a GGUF file is quantised already, or has nothing to quantise."""
    if not header.tensors:
        raise InputError(path, "a GGUF file with tensors", "none")
    quantised = [tensor for tensor in header.tensors if tensor.kind not in FLOAT_TYPES]
    if quantised:
        raise InputError(
            path, "an unquantised GGUF file (F16, BF16, F32)", f"{quantised[0].name} in {quantised[0].kind.name}"
        )


def write_imatrix_stand_in(path: Path, dataset: str) -> None:
    """Write an imatrix of one tensor. A dry run looks at nothing but its presence; its names go into headers."""
    pairs = {
        "general.type": "imatrix",
        "imatrix.datasets": [dataset],
        "imatrix.chunk_count": 1,
        "imatrix.chunk_size": 512,
    }
    write_header_only(
        empty_header(path),
        [key_value(*pair) for pair in pairs.items()],
        [(f"none.{part}", (1, 1), GGMLQuantizationType.F32) for part in ("in_sum2", "counts")],
        path,
    )


def cut_text(text: bytes) -> str:
    """Return what llama-quantize keeps of a string, cut between bytes; half a character stays as it is."""
    return text[:KEPT_BYTES].decode("utf-8", "surrogateescape")


def imatrix_pairs(imatrix: Path) -> list[bytes]:
    """Return the key-values that llama-quantize adds for an imatrix: bare file name, first dataset, two counts.

    The counts are 0 here: only the size of the header is wanted, and theirs is the same for every number.
    """
    datasets = next((pair for pair in read_header(imatrix).key_values if pair.key == "imatrix.datasets"), None)
    pairs = [key_value("quantize.imatrix.file", cut_text(os.fsencode(imatrix.name)))]
    if datasets is not None:
        names = array_values(datasets) if datasets.kind == ARRAY else None
        if names is None or not all(isinstance(name, str) for name in names):
            raise InputError(imatrix, "names of texts under imatrix.datasets", "another value", "build it again")
        first = (names or [""])[0]
        pairs.append(key_value("quantize.imatrix.dataset", cut_text(first.encode("utf-8", "surrogateescape"))))
    return [*pairs, key_value("quantize.imatrix.entries_count", 0), key_value("quantize.imatrix.chunks_count", 0)]


def planned_size(header: GgufHeader, types: dict[str, GGMLQuantizationType], imatrix: Path | None) -> int:
    """Return the size in bytes of the file that llama-quantize will write with these types."""
    # It joins a split, so the keys of one go; two keys it sets, whether they were there or not.
    pairs = [pair.raw for pair in header.key_values if not pair.key.startswith("split.")]
    pairs += [
        key_value(key, 0) for key in ("general.quantization_version", "general.file_type") if header.value(key) is None
    ]
    pairs += imatrix_pairs(imatrix) if imatrix else []
    return file_bytes(header, pairs, [(tensor.name, tensor.dims, types[tensor.name]) for tensor in header.tensors])


def run_quantize(command: Sequence[object], cwd: Path | None = None) -> tuple[int, str]:
    """Run llama-quantize without a progress bar; return its exit code and what it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=dying_with_parent(),
    )
    return done.returncode, done.stdout + done.stderr


def link_alone(imatrix: Path, folder: Path) -> Path:
    """Link to an imatrix in a new, empty folder; return the folder, for llama-quantize to run in.

    llama.cpp's programs, as CMake builds them, look for libraries in the folder that they run in. In the imatrix's own
    somebody could have put some.
    """
    (folder / imatrix.name).symlink_to(imatrix.resolve())
    return folder


def dry_run(tool: Path, recipe: Recipe, model: Path, imatrix: Path | None) -> str:
    """Return what llama-quantize prints for a recipe; raise InputError with its reason when it refuses."""
    # By its bare name, as in the real run: the name goes into the header, and a path there would be this machine's.
    named = ["--imatrix", imatrix.name] if imatrix else []
    command = [tool, "--dry-run", *named, *recipe.arguments, model.resolve(), recipe.base]
    with tempfile.TemporaryDirectory() as folder:
        code, said = run_quantize(command, link_alone(imatrix, Path(folder)) if imatrix else None)
    if code != 0:
        raise InputError(recipe.name, "a recipe that llama-quantize accepts", last_words(said))
    return said


def imatrix_reason(tool: Path, recipe: Recipe, header: GgufHeader) -> str | None:
    """Return why a recipe needs an imatrix (tensor and type), None when it does not.

    The dry run says whether; the real run, which then stops before its first byte, says which tensor.
    """
    with planned_header(header, recipe) as found:
        if WANTS_IMATRIX not in dry_run(tool, recipe, found.path, None):
            return None
        _, said = run_quantize([tool, *recipe.arguments, found.path.resolve(), "/dev/null", recipe.base])
    match = OFFENDER.search(said)
    if match is None:
        raise InputError(tool, "the tensor that needs an imatrix", last_words(said), OTHER_VERSION)
    return f"{match[1]} would be {match[2].upper()}"


def plan_quant(tool: Path, recipe: Recipe, header: GgufHeader, imatrix: Path | None) -> QuantPlan:
    """Return the plan of one recipe for the (sparse or whole) float GGUF of `header`.

    Raises InputError when llama-quantize refuses the recipe, or when it needs an imatrix and none is given.
    """
    if imatrix is None and (reason := imatrix_reason(tool, recipe, header)):
        raise InputError(recipe.name, "an imatrix, which this recipe needs", f"none ({reason})")
    with planned_header(header, recipe) as read:
        said = dry_run(tool, recipe, read.path, imatrix)
    types = {name: type_of(new or old) for name, old, new in TENSOR_LINE.findall(said)}
    if types.keys() != {tensor.name for tensor in header.tensors}:
        raise InputError(tool, f"a type for each of {len(header.tensors)} tensors", f"{len(types)}", OTHER_VERSION)
    # llama-quantize would write all bytes again, and names of an imatrix that it did not use.
    copies = all(types[tensor.name] == tensor.kind for tensor in read.tensors)
    return QuantPlan(
        recipe,
        planned_size(read, types, None if copies else imatrix),
        sum(math.prod(tensor.dims) for tensor in header.tensors),
        types,
        {name: type_of(kind) for name, kind in FALLBACK_LINE.findall(said)},
        copies,
    )


def check_larger(plan: QuantPlan, other: QuantPlan) -> None:
    """Raise InputError when a plan is not larger than that of the recipe it must exceed."""
    if plan.size <= other.size:
        raise InputError(
            plan.recipe.name,
            f"more than the {other.size} bytes of {other.recipe.name}",
            f"{plan.size} bytes",
            "leave one of them out",
        )


def check_covers(imatrix: Imatrix, header: GgufHeader, plan: QuantPlan) -> None:
    """Raise InputError unless the imatrix has every weight that the plan quantises, in the model's shape."""
    # Not only where llama-quantize would insist on one: a type that can do without is worse without, in silence.
    for tensor in header.tensors:
        if plan.types[tensor.name] == tensor.kind or tensor.name in NOT_MEASURED:
            continue
        if tensor.name not in imatrix.counts:
            raise InputError(imatrix.path, f"the imatrix of this model, with {tensor.name}", "no such tensor")
        experts = tensor.dims[2] if len(tensor.dims) > 2 else 1
        found = (imatrix.columns[tensor.name], imatrix.counts[tensor.name].size)
        if found != (tensor.dims[0], experts):
            raise InputError(
                imatrix.path,
                f"{tensor.dims[0]} columns and {experts} experts in {tensor.name}, as the model has",
                f"{found[0]} and {found[1]}",
                "is it the imatrix of another model?",
            )
