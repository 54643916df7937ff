"""How much disk and memory a run needs: from its plan (plan.json of plan_quants.py), else estimated by the checkpoint.

Sizes in bytes. Text, pictures and scores are not counted: they are small.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.json_records import Count, Fields, check_fields, read_json
from files.safe_files import GIB
from ggufs.companions import is_companion
from quants.recipes import RECIPES, target_bytes
from scoring.score_records import SUMMARY_NAME

# Measured (bench_analysis.py): Python, torch and the tokenizer, and what is read of the next layer ahead.
SLACK_BYTES, LAYER_FACTOR = GIB, 1.3
# A name such as Q4_K_M tells the bits of most weights. Scales, and tensors that need a larger type, come on top.
BITS_ABOVE_NAME, FLOAT_BITS = 1.2, 16
STATISTICS, IMATRIX = "expert_stats.safetensors", "imatrix.gguf"
PLAN_AGAIN = "run `make plan` again"
FULL_FOLDER = "full"  # in build/NAME: what belongs to the full model and not to a pruned one


class PlannedFile(Fields):
    """A file of a plan; bytes: none where it is refused."""

    name: str
    bytes: Count | None = None


class Plan(Fields):
    """What is read of plan.json, which plan_quants.py writes; active_weights: of one token."""

    full_f16_bytes: Count
    f16_bytes: Count
    largest_layer_bytes: Count
    vocabulary_bytes: Count
    active_weights: Count
    quants: list[PlannedFile]
    mmproj: list[PlannedFile] = []
    draft: list[PlannedFile] = []


@dataclass(frozen=True)
class RunSizes:
    """Sizes of a run's files.

    full, pruned: the models at 16 bits, as checkpoint or F16 file; layer: the largest layer of the full one; rest: what
    lies in no layer of it, mostly the vocabulary; quants: the pruned model's files by quant, F16 left out; companions:
    the files that go with them, by the beginnings and the types of their names (mmproj-F16).
    """

    full: int
    pruned: int
    layer: int
    rest: int
    quants: dict[str, int]
    companions: dict[str, int] = field(default_factory=dict)

    def quant(self, name: str) -> int:
        """Return the size of a quant; of one that is not known the largest."""
        return self.quants.get(name, max(self.quants.values(), default=self.pruned))

    def of_full(self, size: int) -> int:
        """Return what a quant of the full model takes, whose pruned one takes `size`."""
        return size * self.full // max(self.pruned, 1)


def read_plan(path: Path) -> Plan:
    """Return a plan of plan_quants.py; raise InputError when the file is none."""
    content = read_json(path)
    check_fields(path, content, Plan, "a plan of plan_quants.py", PLAN_AGAIN)
    return Plan.model_validate(content)


def sizes_of_plan(path: Path) -> RunSizes:
    """Return the sizes in a plan; raise InputError when the file is none."""
    plan = read_plan(path)
    quants = {row.name: row.bytes for row in plan.quants if row.bytes is not None and row.name != "F16"}
    beside = {row.name: row.bytes for row in (*plan.mmproj, *plan.draft) if row.bytes is not None}
    sizes = (plan.full_f16_bytes, plan.f16_bytes, plan.largest_layer_bytes, plan.vocabulary_bytes)
    return RunSizes(*sizes, quants, beside)


def estimated_quant(name: str, float_bytes: int) -> int:
    """Return about what a quant takes of a model of so many bytes at 16 bits, by its name."""
    if (size := target_bytes(name)) is not None:
        return size
    digit = re.search(r"(?:Q|FP)(\d)", name)
    bits = int(digit[1]) + BITS_ABOVE_NAME if digit else FLOAT_BITS
    return int(float_bytes * bits / FLOAT_BITS)


def all_quants() -> list[str]:
    """Return the quants that are built unless some are asked for."""
    return [name for name, recipe in RECIPES.items() if not recipe.opt_in]


def with_estimated_quants(sizes: RunSizes, quants: Iterable[str]) -> RunSizes:
    """Return sizes with those of quants, for a run that has no plan yet."""
    return replace(sizes, quants={name: estimated_quant(name, sizes.pruned) for name in quants if name != "F16"})


def disk_of_run(
    sizes: RunSizes, downloads: bool, ggufs: bool, references: Iterable[str], low_disk: bool = False
) -> int:
    """Return the bytes that a whole run writes; with LOW_DISK the most that it has at once.

    downloads: whether the full checkpoint is fetched; ggufs: whether F16 files and quants are made; references: quants
    of the full model.
    """
    source = sizes.full if downloads else 0
    if not ggufs:
        return sizes.pruned + source
    compared = sum(sizes.of_full(sizes.quant(name)) for name in references if name != "F16")
    # A release folder takes nothing: its files are links to these.
    made = sum((*sizes.quants.values(), *sizes.companions.values()))
    if low_disk:  # as make/low_disk.mk orders it; the full quant stays for a draft model, which the last two count
        pruned = 2 * sizes.pruned + made
        return max(source + sizes.full + compared, source + sizes.pruned + compared, pruned + compared)
    return source + 2 * sizes.pruned + sizes.full + made + compared


def memory_of_analysis(sizes: RunSizes, streams: bool) -> int:
    """Return the memory that an analysis on the CPU takes: of the whole model, or of a layer and the vocabulary."""
    held = LAYER_FACTOR * sizes.layer + sizes.rest if streams else sizes.full
    return int(held) + SLACK_BYTES


def quant_of(target: Path, sizes: RunSizes) -> str | None:
    """Return the quant that a GGUF file is named for, None of a file of another kind."""
    if target.suffix != ".gguf" or is_companion(target):  # that is no quant, whatever its ending
        return None
    named = [name for name in sizes.quants if target.stem.endswith(f"-{name}")]
    return max(named, key=len, default=None)  # the longest: a CD-Q4_K_M ends with -Q4_K_M, too


def companion_name(target: Path) -> str:
    """Return the name of a plan's companion for a file: beginning and type, without the model between them."""
    return f"{target.stem.split('-')[0]}-{target.stem.rsplit('-', 1)[-1]}"


def disk_of_step(target: Path, sizes: RunSizes) -> int:
    """Return the bytes that a step writes, by what it makes; 0 of a step whose output is small."""
    full = FULL_FOLDER in target.parts
    if is_companion(target):
        return next((size for name, size in sizes.companions.items() if companion_name(target) == name), 0)
    if target.name == METADATA_NAME:
        return sizes.pruned
    if target.name.endswith("-F16.gguf"):
        return sizes.full if full else sizes.pruned
    if quant := quant_of(target, sizes):
        return sizes.of_full(sizes.quant(quant)) if full else sizes.quant(quant)
    return 0


def memory_of_step(target: Path, sizes: RunSizes, streams: bool) -> int:
    """Return the memory that a step takes at once, by what it makes; 0 of one that takes little.

    llama.cpp maps its model: with less memory it goes on, but reads the file again and again.
    """
    model = sizes.full if FULL_FOLDER in target.parts else sizes.pruned
    if target.name == STATISTICS:
        return memory_of_analysis(sizes, streams)
    if target.name == IMATRIX:
        return model
    if target.name == SUMMARY_NAME:  # in eval/EVAL_NAME, which begins with the quant unless it was given by hand
        quant = sizes.quant(re.sub(r"-seed\d+$", "", target.parent.name))
        return sizes.of_full(quant) if model == sizes.full else quant
    if target.name in ("quality.md", "criteria.md") or target.name.startswith("sensitivity"):
        return sizes.full
    return 0


def machine_memory() -> tuple[int, int]:
    """Return the memory of this machine, or of the container that holds us, and what of it is free."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = total
    if (info := Path("/proc/meminfo")).exists() and (match := re.search(r"MemAvailable: +(\d+) kB", info.read_text())):
        free = 1024 * int(match[1])
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    return total, min(free, total)


def bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder, those with several names once; links are not followed."""
    sizes: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(place, name))
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
