"""Target sizes (AUTO-<GiB>): the types that cost least within a size, from measured sensitivities, as a recipe.

Weights are grouped by layer and role. Measured (measure_sensitivity.py): what each type costs a role in all layers, and
what one low type costs each layer of it. The cost of a type in a layer is the former in the latter's share. Costs of
groups add up, which holds for small ones. A multiple-choice knapsack (Kellerer, Pferschy and Pisinger, Knapsack
Problems, 2004, chapter 11) picks one type per group; scipy's HiGHS solves it to the optimum. It does so for each choice
of MLPs to pad (ggufs/gguf_padding.py), since a width is one number for all layers; PADDING_PAYS says which is taken.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from files.input_errors import InputError
from files.json_records import read_record
from files.known_digests import held_sha256, known_sha256
from files.safe_files import GIB
from files.silence import silent_stdout
from ggufs.gguf_header import BLOCK_TENSOR, GgufHeader, TensorInfo, aligned, tensor_bytes
from ggufs.gguf_padding import Width, padding_widths
from ggufs.imatrix import NOT_MEASURED
from quants.padded_model import planned_header
from quants.quant_plan import plan_quant, planned_size
from quants.recipes import RECIPES, Recipe
from quants.sensitivity_record import Sensitivity

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Kind

WIDE = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "IQ3_XXS", "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS")
RAGGED = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")  # what rows that are no multiple of 256 can have
# A file pads if its expected loss falls to this share of that without padding, or if nothing else fits. On the ragged
# demo files that expected 0.95 of it were measured at 1.6 to 1.7 times the loss, 0.69 at 1.0, and 0.44 at 0.4
# (data/measurements/ragged-demo.md): costs are added up group by group, and padding moves them all at once.
PADDING_PAYS = 2 / 3
# Relative squared error of the output of a generated `down` (bench/padding_errors.py), for plans without measurements.
ASSUMED_ERRORS = {
    **{"Q8_0": 5.4e-5, "Q6_K": 4.9e-4, "Q5_K": 1.8e-3, "Q4_K": 6.9e-3, "IQ4_XS": 8.2e-3, "Q3_K": 0.030},
    **{"IQ3_S": 0.023, "IQ3_XXS": 0.034, "Q2_K": 0.080, "IQ2_S": 0.086, "IQ2_XS": 0.102, "IQ2_XXS": 0.142},
    **{"Q5_1": 1.5e-3, "Q5_0": 3.1e-3, "Q4_1": 6.6e-3, "IQ4_NL": 8.0e-3, "Q4_0": 0.0123},
}
NEED_IMATRIX = {"IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"}
MOST_PADDING = 0.25  # share of a width: beyond it the zeros cost more than smaller types save
LOW_TYPES = ("Q3_K", "Q4_0")  # what one layer is tried at: the first that is legal for it
# The first pattern that a name matches is its role.
ROLES = {
    "experts, down": r"blk\.\d+\.ffn_down_exps",
    "experts, gate and up": r"blk\.\d+\.ffn_\w*exps",
    "dense, down": r"blk\.\d+\.ffn_down\.",
    "dense, gate and up": r"blk\.\d+\.ffn_",
    "attention": r"blk\.\d+\.attn_",
    "other, of blocks": r"blk\.",
    "embedding and output": "",
}
# llama-quantize's mixture that a file is labelled by, after the type that most weights have. Over a float base it takes
# no overrides, so there it is Q8_0.
BASES = {"Q5_K": "Q5_K_M", "Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M", "F16": "Q8_0", "BF16": "Q8_0", "F32": "Q8_0"}


@dataclass(frozen=True)
class Group:
    """The weights of one role in one layer (None outside of the blocks)."""

    role: str
    layer: int | None
    tensors: tuple[TensorInfo, ...]

    @property
    def legal(self) -> tuple[str, ...]:
        """The types that it can have: whole blocks in every row, no imatrix where there is none."""
        rows = [tensor.dims[0] for tensor in self.tensors]
        ragged = any(row % 256 for row in rows)
        # llama-quantize refuses these types where it has no imatrix.
        blind = any(tensor.name in NOT_MEASURED for tensor in self.tensors)
        found = []
        for name in RAGGED if ragged else WIDE:
            block = GGML_QUANT_SIZES[Kind[name]][0]
            if not (blind and name in NEED_IMATRIX) and all(row % block == 0 for row in rows):
                found.append(name)
        return tuple(found)

    def bytes_at(self, kind: str, alignment: int) -> int:
        """Return its bytes in a file at a type, padding included."""
        return sum(aligned(tensor_bytes(tensor.dims, Kind[kind]), alignment) for tensor in self.tensors)


@dataclass(frozen=True)
class Option:
    """One type that a group may have: bytes, and cost in nats per token."""

    kind: str
    size: int
    cost: float


def groups_of(header: GgufHeader, tool: Path, imatrix: Path | None) -> list[Group]:
    """Return the groups of all weights that llama-quantize quantises."""
    types = plan_quant(tool, RECIPES["Q8_0"], header, imatrix).types
    found: dict[tuple[str, int | None], list[TensorInfo]] = {}
    for tensor in header.tensors:
        if types[tensor.name] != tensor.kind:
            block = BLOCK_TENSOR.match(tensor.name)
            role = next(role for role, pattern in ROLES.items() if re.match(pattern, tensor.name))
            found.setdefault((role, int(block[1]) if block else None), []).append(tensor)
    return [Group(role, layer, tuple(tensors)) for (role, layer), tensors in found.items()]


def paddable(header: GgufHeader) -> dict[str, Width]:
    """Return the widths that a padding may change with profit; {} for a family whose MLPs cannot be padded."""
    try:
        widths = padding_widths(header)
    except InputError:  # an AUTO file needs no padding; pad_gguf.py and the PAD-* quants say what is in its way
        return {}
    return {role: width for role, width in widths.items() if width.then <= (1 + MOST_PADDING) * width.now}


def ways_to_pad(header: GgufHeader) -> list[tuple[str, ...]]:
    """Return the choices of roles to pad, none first: each width is one number for all layers of a file."""
    roles = tuple(paddable(header))
    return [each for count in range(len(roles) + 1) for each in combinations(roles, count)]


def padded_groups(header: GgufHeader, tool: Path, imatrix: Path | None, roles: tuple[str, ...]) -> list[Group]:
    """Return the groups of the model with these roles padded."""
    with planned_header(header, replace(RECIPES["Q8_0"], pad=roles)) as padded:
        return groups_of(padded, tool, imatrix)


def low_type(group: Group) -> str:
    """Return the type at which a layer's sensitivity is measured."""
    return next(name for name in LOW_TYPES if name in group.legal)


def overrides_of(choice: dict[Group, str] | list[tuple[Group, str]]) -> tuple[tuple[str, str], ...]:
    """Return the overrides of llama-quantize that give groups their types; layers of one role and type share one."""
    merged: dict[tuple[str, str], list[Group]] = {}
    for group, kind in dict(choice).items():
        merged.setdefault((group.role, kind), []).append(group)
    overrides = []
    for (_, kind), groups in merged.items():
        tensors = [tensor.name for group in groups for tensor in group.tensors]
        names = sorted({BLOCK_TENSOR.sub("", name).removesuffix(".weight") for name in tensors})
        layers = [group.layer for group in groups if group.layer is not None]
        block = rf"blk\.({'|'.join(map(str, layers))})\." if layers else ""
        overrides.append((rf"^{block}({'|'.join(map(re.escape, names))})\.weight$", kind.lower()))
    return tuple(overrides)


def cost_of(sensitivity: dict, group: Group, kind: str) -> float:
    """Return the expected KLD of a group at a type, nats per token: what the role costs, in the layer's share."""
    # A value below 0 is noise: no lower type is better than the source, and a choice must not gain from it.
    whole = max(sensitivity["roles"][group.role][kind], 0.0)
    layers = sensitivity["layers"].get(group.role)
    if group.layer is None or not layers:
        return whole
    total = sum(max(value, 0.0) for value in layers.values())
    return whole * (max(layers[str(group.layer)], 0.0) / total if total else 1 / len(layers))


def smallest_sum(options: list[list[Option]]) -> int:
    """Return the bytes of all groups at their smallest options."""
    return sum(min(option.size for option in each) for each in options)


def cheapest(options: list[list[Option]], room: int) -> list[int] | None:
    """Return which option each group takes, so that the sum of costs is least and that of sizes at most `room` bytes.

    None when even the smallest options do not fit. Equal costs go to the smaller option.
    """
    if smallest_sum(options) > room:
        return None
    # Imported here: most who use this module solve nothing, and scipy takes most of a second.
    from scipy.optimize import Bounds, LinearConstraint, milp

    flat = [(group, option) for group, each in enumerate(options) for option in each]
    sizes = np.array([option.size for _, option in flat], np.float64)
    costs = np.array([option.cost for _, option in flat])
    # HiGHS' tolerances are absolute (1e-6 to 1e-7). Costs are some 1e-5 nats per token, sizes some 1e9 bytes: unscaled,
    # any choice of types would pass for the best one, and no sum of sizes could be held to the byte.
    scale = costs.max() or 1.0
    # Among equal costs (0 where a measured value is negative) the smaller option: too little to outweigh any real cost.
    tie_break = 1e-12 * sizes / sizes.max()
    group_of = np.array([group for group, _ in flat])
    one_each = (group_of == np.arange(len(options))[:, None]).astype(np.float64)  # [groups, options of all]
    starts, limit, step = np.cumsum([0, *map(len, options)]), room, 0
    # A solution may exceed the limit by the solver's tolerance, some kilobytes of 10 GB, but a file may not: the limit
    # goes down until the sizes themselves, whole numbers, fit. The step doubles: an excess can be as small as a byte.
    while True:
        rules = [LinearConstraint(one_each, 1, 1), LinearConstraint(sizes[None] / room, -np.inf, limit / room)]
        with silent_stdout():
            found = milp(
                costs / scale + tie_break,
                integrality=np.ones(len(flat)),
                bounds=Bounds(0, 1),
                constraints=rules,
                # By default HiGHS stops within 0.01 % of the optimum, at a choice that depends on its version.
                options={"mip_rel_gap": 0},
            )
        if found.x is None:  # the limit has come down to the smallest options, which fit
            return [min(range(len(each)), key=lambda number: each[number].size) for each in options]
        picked = [place for place, value in enumerate(found.x) if value > 0.5]  # 1 to within the tolerance
        excess = sum(flat[place][1].size for place in picked) - room
        if excess <= 0:
            return [place - int(starts[flat[place][0]]) for place in picked]
        step = max(excess, 2 * step)
        limit -= step


def assumed_costs(groups: list[Group]) -> dict:
    """Return costs as of a sensitivity file for a model that was not measured: a type's error, by share of weights."""
    weights: Counter[str] = Counter()
    for group in groups:
        weights[group.role] += sum(math.prod(tensor.dims) for tensor in group.tensors)
    counts, total = Counter(group.role for group in groups), weights.total()
    roles = {
        role: {kind: error * weights[role] / counts[role] / total for kind, error in ASSUMED_ERRORS.items()}
        for role in weights
    }
    return {"roles": roles, "layers": {}}


def read_sensitivity(path: Path, source: Path | None, imatrix: Path | None, groups: list[Group]) -> dict:
    """Return a sensitivity file; raise InputError unless it is of these groups and, where given, of the very source.

    groups: those of padded models, too.
    """
    found = read_record(path, Sensitivity, "measure them again")
    if source:
        check_measured_on(path, found["inputs"], source, imatrix)
    for group in groups:
        layers = found["layers"].get(group.role)
        lacks_type = not set(group.legal) <= found["roles"].get(group.role, {}).keys()
        if lacks_type or layers and str(group.layer) not in layers:
            raise InputError(
                path,
                f"the {group.role} of layer {group.layer} at {', '.join(group.legal)}",
                "less than that",
                "measure them again, unless it is of another model",
            )
    return found


def check_measured_on(path: Path, inputs: dict, source: Path, imatrix: Path | None) -> None:
    """Raise InputError unless the inputs of a sensitivity file are this model and this imatrix."""
    model, matrix = inputs["source_sha256"], inputs["imatrix_sha256"]
    if model != (digest := known_sha256(source)):
        raise InputError(
            path,
            f"sensitivities of the model with sha256 {digest[:12]}",
            f"those of {model[:12]}",
            "measure them again",
        )
    if matrix != (wanted := held_sha256(imatrix) if imatrix else None):
        raise InputError(
            path,
            f"sensitivities with the imatrix {str(wanted)[:12]}",
            f"those with {str(matrix)[:12]}",
            "measure them again",
        )


def options_of(group: Group, costs: dict, alignment: int) -> list[Option]:
    """Return the types that a group may have, its own in the source first: that one costs nothing."""
    own = tensor_kind(group)
    lower = [Option(kind, group.bytes_at(kind, alignment), cost_of(costs, group, kind)) for kind in group.legal]
    return [Option(own, group.bytes_at(own, alignment), 0.0), *lower]


@dataclass(frozen=True)
class CheapestTypes:
    """The cheapest types with some roles padded: none where they do not fit; least: bytes at the smallest types."""

    roles: tuple[str, ...]
    picked: list[tuple[Group, Option]]
    least: int

    @property
    def cost(self) -> float:
        """Expected KLD, nats per token."""
        return sum(option.cost for _, option in self.picked)


def choice_within(
    target: int, header: GgufHeader, imatrix: Path | None, roles: tuple[str, ...], groups: list[Group], costs: dict
) -> CheapestTypes:
    """Return the cheapest types within `target` bytes for a model with these roles padded."""
    with planned_header(header, replace(RECIPES["Q8_0"], pad=roles)) as padded:
        options = [options_of(group, costs, padded.alignment) for group in groups]
        # Header, small tensors that stay as they are, and what llama-quantize adds: the same for every choice of types.
        whole = planned_size(padded, {tensor.name: tensor.kind for tensor in padded.tensors}, imatrix)
    fixed = whole - sum(each[0].size for each in options)
    chosen = cheapest(options, target - fixed)
    picked = [(group, each[number]) for group, each, number in zip(groups, options, chosen or [])]
    return CheapestTypes(roles, picked, fixed + smallest_sum(options))


def target_recipe(
    name: str,
    target: int,
    header: GgufHeader,
    tool: Path,
    imatrix: Path | None,
    sensitivity: Path | None,
    source: Path | None,
    may_pad: bool = True,
) -> Recipe:
    """Return the recipe of a file of at most `target` bytes.

    Without sensitivities a plan (no `source`) assumes them; else it raises InputError, as where no types fit.
    """
    if sensitivity is None and source is not None:
        raise InputError(
            name, "--sensitivity, which says what each type costs where", "none", "measure_sensitivity.py makes it"
        )
    if imatrix is None:
        raise InputError(name, "--imatrix", "none")
    ways = {roles: padded_groups(header, tool, imatrix, roles) for roles in (ways_to_pad(header) if may_pad else [()])}
    every = [group for groups in ways.values() for group in groups]
    costs = read_sensitivity(sensitivity, source, imatrix, every) if sensitivity else assumed_costs(ways[()])
    found = [choice_within(target, header, imatrix, roles, groups, costs) for roles, groups in ways.items()]
    least = min(choice.least for choice in found)
    fitting = [choice for choice in found if choice.picked]
    if not fitting:
        raise InputError(
            name, f"AUTO-{math.ceil(least / GIB * 1e5) / 1e5:g} or more, the size at the lowest types", name
        )
    best = min(fitting, key=lambda choice: choice.cost)
    plain = found[0]
    if plain.picked and best.cost > PADDING_PAYS * plain.cost:
        best = plain
    expected = f"expected KLD {best.cost:.3g} nats per token" if sensitivity else "no sensitivities: all roles alike"
    return Recipe(
        name,
        base_of(best.picked),
        f"cheapest types under {target} bytes, {expected}",
        overrides=overrides_of([(group, option.kind) for group, option in best.picked]),
        pad=best.roles,
    )


def base_of(picked: list[tuple[Group, Option]]) -> str:
    """Return llama-quantize's base type of a choice: the mixture named after the type that most weights have."""
    weights: Counter[str] = Counter()
    for group, option in picked:
        weights[option.kind] += sum(math.prod(tensor.dims) for tensor in group.tensors)
    most = max(weights, key=lambda kind: (weights[kind], kind))
    return BASES.get(most, most)


def tensor_kind(group: Group) -> str:
    """Return the type of a group in its source."""
    return group.tensors[0].kind.name
