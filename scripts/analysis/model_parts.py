"""Parts of a loaded model by their place: its decoder, the layers of that, and what the config says of its routing."""

from typing import cast

from analysis.expert_observer import expert_modules

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

TOP_K_KEYS = ("num_experts_per_tok", "top_k_experts", "moe_topk")


def decoder_of(model: PreTrainedModel) -> tuple[str, PreTrainedModel]:
    """Return the module that runs the layers which hold the experts, and its name in the model."""
    first = next(iter(expert_modules(model).values()))
    path = next(name for name, module in model.named_modules() if module is first)
    # By its place and not by a name: it is `model`, `model.language_model` or the model itself.
    name = f".{path}".partition(".layers.")[0].lstrip(".")
    return name, cast(PreTrainedModel, model.get_submodule(name))


def layers_of(decoder: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder, first to last."""
    return list(cast(nn.ModuleList, decoder.get_submodule("layers")))


def top_k_in(text_config: PreTrainedConfig) -> int:
    """Return the experts per token that a config names under one of the names families use; 1 when it has none."""
    values = (getattr(text_config, key, None) for key in TOP_K_KEYS)
    return next((value for value in values if isinstance(value, int)), 1)
