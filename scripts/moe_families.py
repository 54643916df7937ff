"""Mixture-of-experts families: where the expert count stands in the config, and which tensors have an expert axis.

The expert axis is axis 0 of every tensor named here. Sources: the configuration and modeling files of the families in
transformers 5.23 (https://github.com/huggingface/transformers/tree/main/src/transformers/models).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from checkpoint import TensorRange, read_config
from safe_files import InputError


@dataclass(frozen=True)
class Family:
    """Names of one family: config keys, and patterns of expert tensors whose group `layer` is the layer number."""

    name: str
    model_types: tuple[str, ...]
    experts_key: str
    top_k_key: str
    layers_key: str
    expert_tensors: tuple[str, ...]


GEMMA4 = Family(
    name="Gemma 4",
    model_types=("gemma4", "gemma4_text"),
    experts_key="num_experts",
    top_k_key="top_k_experts",
    layers_key="num_hidden_layers",
    # model.layers.N (text only) or model.language_model.layers.N (with vision beside it)
    expert_tensors=(
        r"model\.(?:language_model\.)?layers\.(?P<layer>\d+)\.experts\.(?:gate_up_proj|down_proj)",
        r"model\.(?:language_model\.)?layers\.(?P<layer>\d+)\.router\.proj\.weight",
        r"model\.(?:language_model\.)?layers\.(?P<layer>\d+)\.router\.per_expert_scale",
    ),
)
FAMILIES = (GEMMA4,)


@dataclass(frozen=True)
class Shape:
    """Experts per layer, experts chosen per token, layers."""

    experts: int
    top_k: int
    layers: int


def text_config(config: dict) -> dict:
    """Return the part of a config that holds the language model's keys."""
    return config.get("text_config") or config


def family_of(directory: Path, config: dict | None = None) -> Family:
    """Return the family of a checkpoint directory; raise InputError, naming the model type, when it is unknown."""
    config = config or read_config(directory)
    for family in FAMILIES:
        if config.get("model_type") in family.model_types:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    raise InputError(directory / "config.json", f"a model_type among {known}", repr(config.get("model_type")))


def shape_of(directory: Path, family: Family, config: dict | None = None) -> Shape:
    """Return the mixture-of-experts shape in a checkpoint's config; raise InputError when a key is missing."""
    values = text_config(config or read_config(directory))
    found = [values.get(key) for key in (family.experts_key, family.top_k_key, family.layers_key)]
    for key, value in zip((family.experts_key, family.top_k_key, family.layers_key), found):
        if not isinstance(value, int) or value < 1:
            raise InputError(directory / "config.json", f"{key} of a mixture-of-experts model", repr(value))
    return Shape(*found)


def expert_tensors(directory: Path, family: Family, tensors: dict[str, TensorRange], shape: Shape) -> dict[str, int]:
    """Return the layer of every tensor with an expert axis.

    Raises InputError when one has another number of experts than the config says, when a layer lacks one, or when a
    tensor looks like an expert tensor but is not one the family names.
    """
    layers: dict[str, int] = {}
    found: dict[str, set[int]] = {pattern: set() for pattern in family.expert_tensors}
    for name, tensor in tensors.items():
        for pattern in family.expert_tensors:
            match = re.fullmatch(pattern, name)
            if not match:
                continue
            if not tensor.shape or tensor.shape[0] != shape.experts:
                raise InputError(tensor.file, f"{shape.experts} experts in {name}", f"shape {list(tensor.shape)}")
            layers[name] = int(match["layer"])
            found[pattern].add(layers[name])
        if name not in layers and re.search(r"\bexperts?\b", name) and ".shared_expert" not in name:
            raise InputError(tensor.file, f"only expert tensors that {family.name} has", name)
    for pattern, have in found.items():
        missing = sorted(set(range(shape.layers)) - have)
        if missing:
            raise InputError(directory, f"a tensor {pattern} for layer {missing[0]}", "none")
    return layers
