"""Mixture-of-experts families: where the expert count stands in the config, and which tensors belong to experts.

A family stores all experts of a layer in one tensor (the experts lie on axis 0), or each expert in tensors of its own.
Routers always have the experts on axis 0. Sources: configurations and weight conversions of the families in
transformers 5.23 (https://github.com/huggingface/transformers/tree/main/src/transformers/models).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from checkpoints.checkpoint import TensorRange
from choice.drop_map import Shape
from files.input_errors import InputError

LAYERS_KEY = "num_hidden_layers"
MOST = 100_000  # of layers and of experts: a damaged number would be counted to for minutes


@dataclass(frozen=True)
class Family:
    """Names of one family: config keys, and tensor names with the groups `layer` and, one by one, `expert`."""

    name: str
    model_types: tuple[str, ...]
    experts_keys: tuple[str, ...]  # a config has one of them, by its age
    top_k_key: str
    stacked: tuple[str, ...]
    one_by_one: tuple[str, ...] = ()


def _names(prefix: str, *ends: str) -> tuple[str, ...]:
    """Return regular expressions with a common start."""
    return tuple(prefix + end for end in ends)


GEMMA4 = Family(
    "Gemma 4",
    ("gemma4", "gemma4_text"),
    ("num_experts",),
    "top_k_experts",
    # model.layers.N (text only) or model.language_model.layers.N (with vision beside it)
    _names(
        r"model\.(?:language_model\.)?layers\.(?P<layer>\d+)\.",
        r"experts\.gate_up_proj",
        r"experts\.down_proj",
        r"router\.proj\.weight",
        r"router\.per_expert_scale",
    ),
)
QWEN3_MOE = Family(
    "Qwen3-MoE",
    ("qwen3_moe",),
    ("num_experts", "num_local_experts"),
    "num_experts_per_tok",
    _names(r"model\.layers\.(?P<layer>\d+)\.mlp\.", r"gate\.weight"),
    _names(
        r"model\.layers\.(?P<layer>\d+)\.mlp\.experts\.(?P<expert>\d+)\.",
        r"gate_proj\.weight",
        r"up_proj\.weight",
        r"down_proj\.weight",
    ),
)
OLMOE = Family(
    "OLMoE", ("olmoe",), QWEN3_MOE.experts_keys, QWEN3_MOE.top_k_key, QWEN3_MOE.stacked, QWEN3_MOE.one_by_one
)
MIXTRAL = Family(
    "Mixtral",
    ("mixtral",),
    ("num_local_experts", "num_experts"),
    "num_experts_per_tok",
    _names(r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.", r"gate\.weight"),
    _names(
        r"model\.layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<expert>\d+)\.",
        r"w1\.weight",
        r"w2\.weight",
        r"w3\.weight",
    ),
)
FAMILIES = (GEMMA4, QWEN3_MOE, OLMOE, MIXTRAL)


@dataclass(frozen=True)
class ExpertTensor:
    """A tensor with experts: its layer, and its expert if it holds a single one (else they lie on axis 0)."""

    layer: int
    expert: int | None


def text_config(config: dict) -> dict:
    """Return the part of a config that holds the language model's keys."""
    text = config.get("text_config")
    return text if isinstance(text, dict) and text else config


def family_of(directory: Path, config: dict, names: list[str]) -> Family:
    """Return the family of a checkpoint directory; `names` are its tensors'.

    Raises InputError when the model type is unknown, naming it and a tensor that looks like an expert's.
    """
    for family in FAMILIES:
        if config.get("model_type") in family.model_types:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    alike = [name for name in names if looks_like_expert(name)]
    what = f"{len(alike)} tensors look like experts, such as {alike[0]}" if alike else "no tensor looks like an expert"
    raise InputError(directory / "config.json", f"a model_type among {known}", f"{config.get('model_type')!r}; {what}")


def looks_like_expert(name: str) -> bool:
    """Tell whether a tensor seems to belong to routed experts, by its name. Shared experts see every token and stay."""
    return re.search(r"(?<!shared_)(?<!shared\.)\bexperts?\b", name) is not None


def shape_of(directory: Path, family: Family, config: dict) -> Shape:
    """Return the mixture-of-experts shape in a checkpoint's config; raise InputError when a key is missing."""
    values = text_config(config)
    experts_key = next((key for key in family.experts_keys if key in values), family.experts_keys[0])
    for key in (experts_key, family.top_k_key, LAYERS_KEY):
        if not isinstance(values.get(key), int) or not 1 <= values[key] <= MOST:
            raise InputError(directory / "config.json", f"{key} of a mixture-of-experts model", repr(values.get(key)))
    # Qwen3-MoE: these layers have a plain MLP in place of experts, and of the others every step-th has experts.
    dense, step = values.get("mlp_only_layers") or [], values.get("decoder_sparse_step") or 1
    if not isinstance(dense, list) or not isinstance(step, int) or step < 1:
        raise InputError(
            directory / "config.json",
            "a list mlp_only_layers and a whole number decoder_sparse_step",
            f"{dense!r} and {step!r}"[:80],
        )
    layers = tuple(i for i in range(values[LAYERS_KEY]) if i not in dense and (i + 1) % step == 0)
    return Shape(values[experts_key], values[family.top_k_key], layers)


def pruned_config(config: dict, family: Family, keep_count: int) -> dict:
    """Return the config with the new expert count."""
    pruned = json.loads(json.dumps(config))  # a copy down to the text config
    text = text_config(pruned)
    text |= {key: keep_count for key in family.experts_keys if key in text}
    return pruned


def expert_tensors(
    directory: Path, family: Family, tensors: dict[str, TensorRange], shape: Shape
) -> dict[str, ExpertTensor]:
    """Return every tensor with experts.

    Raises InputError when one has another number of experts than the config says, when a layer or an expert lacks one,
    or when a tensor looks like an expert's but is not one the family names.
    """
    found: dict[str, ExpertTensor] = {}
    seen: dict[str, set[ExpertTensor]] = {pattern: set() for pattern in (*family.stacked, *family.one_by_one)}
    for name, tensor in tensors.items():
        for pattern in seen:
            if match := re.fullmatch(pattern, name):
                expert = int(match["expert"]) if "expert" in match.groupdict() else None
                if expert is None and (not tensor.shape or tensor.shape[0] != shape.experts):
                    raise InputError(tensor.file, f"{shape.experts} experts in {name}", f"shape {list(tensor.shape)}")
                found[name] = ExpertTensor(int(match["layer"]), expert)
                seen[pattern].add(found[name])
        # Copied whole it would keep the old number of experts, and the model would load wrong or not at all.
        if name not in found and looks_like_expert(name):
            raise InputError(tensor.file, f"only expert tensors that {family.name} has", name)
    for pattern, have in seen.items():
        experts: Iterable[int | None] = range(shape.experts) if pattern in family.one_by_one else (None,)
        _check_places(directory, pattern, have, {ExpertTensor(layer, e) for layer in shape.layers for e in experts})
    return found


def _check_places(directory: Path, pattern: str, have: set[ExpertTensor], wanted: set[ExpertTensor]) -> None:
    """Raise InputError unless a kind of tensor is there for exactly the layers and experts that should have one."""
    for differing, expected, found in ((wanted - have, "a tensor", "none"), (have - wanted, "no tensor", "one")):
        if differing:
            first = min(differing, key=lambda entry: (entry.layer, entry.expert or 0))
            what = f" expert {first.expert}" if first.expert is not None else ""
            raise InputError(directory, f"{expected} {pattern} for layer {first.layer}{what}", found)
