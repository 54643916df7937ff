"""What a GGUF file itself says of what its record says: experts, weights, bits, types, recipe."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from ggufs.gguf_header import read_header
from ggufs.gguf_padding import dims_before, widths_in
from quants.layer_tiers import note_with
from quants.recipes import CD_RECIPES, RECIPES, target_bytes
from release.gguf_parts import tensors_of

from gguf.constants import LlamaFileType


def tensor_counts(record: dict) -> Counter[str]:
    """Return the number of tensors of each type that a record names; a ragged row's TYPE<WANTED counts as TYPE."""
    counts: Counter[str] = Counter()
    for kind, count in record["tensors_per_type"].items():
        counts[kind.split("<")[0]] += count
    return counts


def recipe_arguments(record: dict) -> list[str]:
    """Return llama-quantize's arguments of a record's type; its own where they are chosen per layer."""
    recipe = RECIPES.get(record["type"])
    return record["arguments"] if recipe is None or recipe.tiers else recipe.arguments


def note_of(record: dict) -> str:
    """Return the note that a record must have: its recipe's, or of an AUTO file what its target size makes of it."""
    if recipe := RECIPES.get(record["type"]):
        if not recipe.tiers:
            return recipe.note
        way = CD_RECIPES[record.get("cd_recipe") or "ours"]  # records of before name none
        return note_with(way.of(recipe), record.get("cd_protect") or "", bool(record.get("cd_tiers")))
    # What it was expected to lose is the one number in it that the file does not show.
    predicted = re.search(r", expected KLD [0-9.e+-]+ nats per token$", record["note"])
    return f"cheapest types under {target_bytes(record['type'])} bytes{predicted[0] if predicted else ''}"


def other_types(record: dict, kinds: dict[str, str]) -> list[str]:
    """Return the tensors that have another type than a record's arguments ask for; kinds: types by tensor.

    llama-quantize leaves vectors and routers in F32, and a row that does not fit falls back as the record says.
    """
    flags = zip(record["arguments"], record["arguments"][1:])
    rules = [value.rsplit("=", 1) for flag, value in flags if flag == "--tensor-type"]
    found = []
    for name, kind in kinds.items():
        wanted = next((type_.upper() for pattern, type_ in rules if re.search(pattern, name)), None)
        if wanted not in (None, kind) and kind != "F32" and f"{kind}<{wanted}" not in record["tensors_per_type"]:
            found.append(name)
    return found


def facts_of(record: dict, first: Path) -> list[tuple[str, Any, Any]]:
    """Return (what, as the record says, as the file says); first: of a split file the first part."""
    tensors = tensors_of(first)
    header = read_header(first)
    experts = header.value(f"{header.value('general.architecture')}.expert_count") or 0
    weights = sum(math.prod(dims_before(header, name, tensor.dims)) for name, (_, tensor) in tensors.items())
    kinds = {name: tensor.kind.name for name, (_, tensor) in tensors.items()}
    types = Counter(kinds.values())
    base, written = f"MOSTLY_{record['base']}", header.value("general.file_type")
    recipe = RECIPES.get(record["type"])
    return [
        ("experts", record["experts"], experts),
        ("weights", record["parameters"], weights),
        ("padded widths", record.get("padded", {}), widths_in(header)),
        ("padding, as its type has it:", bool(recipe.pad if recipe else record.get("padded")), "padded" in record),
        ("bits per weight", record["bits_per_weight"], round(8 * record["bytes"] / max(weights, 1), 3)),
        ("the type of llama-quantize", base, next((kind.name for kind in LlamaFileType if kind == written), written)),
        ("the base of its type", record["base"], recipe.base if recipe else record["base"]),
        ("the arguments of its type", record["arguments"], recipe_arguments(record)),
        ("the note of its type", record["note"], note_of(record)),
        ("tensors of other types than its arguments:", [], other_types(record, kinds)),
        ("tensors per type", dict(tensor_counts(record)), dict(types)),
    ]
