"""What llama.cpp computes whatever a config says, for each family: a config that says otherwise is another model.

Measured were Gemma 4's activation, window of attention, experts, cap and factors, and of Qwen3-MoE and Mixtral the
activation, the normed weights and the windows: log-probabilities of llama.cpp (F32) and of transformers differ where a
config says another value, and are the same to some 1e-5 where it says this one. The others are of what llama.cpp's
converter writes: what a header does not hold, llama.cpp cannot read.
"""

from pathlib import Path
from typing import Any

from checkpoints.moe_families import GEMMA4, MIXTRAL, OLMOE, QWEN3_MOE, Family, text_config
from files.input_errors import InputError, shown

ABSENT = None  # transformers' own value is the one that llama.cpp takes
SILU = ("silu", ABSENT)
PLAIN = (1, ABSENT)  # no factor
NUMBER = ("a number above 0",)
NUMBER_OR_OWN = (*NUMBER, ABSENT)
LEAST = 1e-6  # of a number: in a header smaller ones may be 0
# What transformers' own classes say of themselves. A config can say otherwise, and then its other values mean something
# else to transformers alone: that the experts of a token, say, stand under another name.
OF_THE_CLASS = {
    *("attribute_map", "sub_configs", "sub_configs_defaults", "base_config_key"),
    *("default_rope_type", "default_theta", "ignore_keys_at_rope_validation"),
    *("is_heterogeneous", "per_layer_attributes", "allow_global_per_layer_attribute_access", "kv_sharing_modes"),
}
# Of families whose layers are of one kind: by the newer name, and by the older one with either word for the type.
ROTATIONS: dict[str, tuple] = {
    **dict.fromkeys(
        ("rope_parameters.rope_type", "rope_scaling.rope_type", "rope_scaling.type"),
        ("default", "linear", "yarn", ABSENT),
    ),
    **{f"{of}.{key}": (ABSENT,) for of in ("rope_parameters", "rope_scaling") for key in ("mscale", "mscale_all_dim")},
    **{f"{of}.truncate": (True, ABSENT) for of in ("rope_parameters", "rope_scaling")},
}
TAKEN_FOR_GRANTED: dict[str, dict[str, tuple]] = {
    GEMMA4.name: {
        "hidden_activation": ("gelu_pytorch_tanh", "gelu", ABSENT),  # the two differ by less than the rounding
        "use_bidirectional_attention": ("vision", False, ABSENT),  # of pictures alone
        "enable_moe_block": (True,),
        "sliding_window": NUMBER_OR_OWN,
        "final_logit_softcapping": NUMBER,  # without one it takes its own
        "rope_parameters.full_attention.rope_theta": NUMBER,  # else transformers looks elsewhere
        "rope_parameters.sliding_attention.rope_theta": NUMBER,
        "rope_parameters.full_attention.factor": PLAIN,
        "rope_parameters.sliding_attention.factor": PLAIN,
        "rope_parameters.sliding_attention.rope_type": ("default", ABSENT),
    },
    QWEN3_MOE.name: {
        **{"hidden_act": SILU, "norm_topk_prob": (True,), "use_sliding_window": (False, ABSENT)},
        **ROTATIONS,
    },
    OLMOE.name: {
        **{"hidden_act": SILU, "norm_topk_prob": (False, ABSENT), "rms_norm_eps": (1e-5, ABSENT)},
        **{"clip_qkv": (ABSENT,)},
        **ROTATIONS,
    },
    MIXTRAL.name: {"hidden_act": SILU, "sliding_window": (ABSENT,), **ROTATIONS},
}


def value_at(config: dict, place: str) -> Any:
    """Return the value at a place such as `rope_parameters.full_attention.factor`, ABSENT where there is none."""
    value: Any = config
    for key in place.split("."):
        value = value.get(key) if isinstance(value, dict) else ABSENT
    return value


def check_computed_alike(directory: Path, family: Family, config: dict) -> None:
    """Raise InputError where llama.cpp would compute another model than the config describes."""
    for part in (config, text_config(config)):
        if strange := sorted(OF_THE_CLASS & part.keys()):
            raise InputError(directory / "config.json", "nothing that transformers' classes say themselves", strange[0])
    for place, values in TAKEN_FOR_GRANTED[family.name].items():
        found = value_at(text_config(config), place)
        is_number = isinstance(found, int | float) and not isinstance(found, bool) and found >= LEAST
        if not (is_number if NUMBER[0] in values and found is not ABSENT else found in values):
            expected = f"{place} {shown(values[0])}, as llama.cpp computes {family.name}"
            raise InputError(directory / "config.json", expected, shown(found))
