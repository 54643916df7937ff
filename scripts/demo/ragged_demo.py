"""The ragged demo: the demo model with fewer, wider experts, whose widths no block of 256 weights divides.

448 and 224 stand to their next multiples of 256 as 7 to 8, a little worse than the 26B's 704 and 2112 (11 to 12). As
there, 448 is a multiple of 64. It starts from the trained demo, so that a few training steps are enough.
"""

from pathlib import Path

from checkpoints.checkpoint import read_shard
from demo.demo_model import demo_config

import torch
import transformers
from safetensors.torch import load_file

JOINED = 14  # experts of width 32 that one of width 448 starts as; the last of the 128 go
RAGGED_SHAPE = {"intermediate_size": 224, "num_experts": 8, "moe_intermediate_size": 448, "top_k_experts": 2}


def ragged_config(vocab_size: int) -> transformers.Gemma4TextConfig:
    """Return the demo's config with ragged widths."""
    config = demo_config(vocab_size)
    for key, value in RAGGED_SHAPE.items():
        setattr(config, key, value)
    return config


def joined(name: str, weight: torch.Tensor) -> torch.Tensor:
    """Return a weight of the demo with each JOINED experts side by side as one; other weights as they are."""
    if "experts." not in name and "router.proj" not in name and "per_expert_scale" not in name:
        return weight
    experts = RAGGED_SHAPE["num_experts"]
    groups = weight[: experts * JOINED].unflatten(0, (experts, JOINED))
    if name.endswith("gate_up_proj"):  # the gates of all, then what they gate
        return groups.unflatten(2, (2, -1)).transpose(1, 2).flatten(1, 3)
    if name.endswith("down_proj"):
        return groups.transpose(1, 2).flatten(2, 3)
    return groups.mean(1)


def start_from_demo(model: transformers.Gemma4ForCausalLM, checkpoint: Path) -> None:
    """Set the weights of an initialised ragged model to those of the demo; what is wider keeps its own in the rest."""
    read_shard(checkpoint / "model.safetensors")  # refuses a damaged one
    weights = load_file(checkpoint / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.state_dict().items():
            if name in weights:  # all but the output, which is tied to the embedding
                found = joined(name, weights[name].float())
                parameter[tuple(slice(size) for size in found.shape)] = found
