"""What llama.cpp computes whatever a config says: the published values pass, others are refused by their place."""

from copy import deepcopy

from checkpoints.computed_alike import TAKEN_FOR_GRANTED, check_computed_alike
from checkpoints.moe_families import FAMILIES, GEMMA4, MIXTRAL, OLMOE, QWEN3_MOE
from files.input_errors import InputError
from files.json_records import read_json
from makers.tiny_models import family_config

import pytest

# As the published configs of each family have them.
PUBLISHED = [
    (QWEN3_MOE, {"hidden_act": "silu", "norm_topk_prob": True, "sliding_window": None, "use_sliding_window": False}),
    (OLMOE, {"hidden_act": "silu", "norm_topk_prob": False, "clip_qkv": None}),
    (MIXTRAL, {"hidden_act": "silu", "sliding_window": None}),
]


def test_every_family_has_its_entries(demo_model):
    assert TAKEN_FOR_GRANTED.keys() == {family.name for family in FAMILIES}
    check_computed_alike(demo_model, GEMMA4, read_json(demo_model / "config.json"))
    for family, config in PUBLISHED:
        check_computed_alike(demo_model, family, config)
        check_computed_alike(demo_model, family, family_config(family.model_types[0], 100).to_dict())


@pytest.mark.parametrize(
    "family, place, value",
    [
        (GEMMA4, "hidden_activation", "silu"),
        (GEMMA4, "use_bidirectional_attention", "all"),
        (GEMMA4, "enable_moe_block", False),
        (GEMMA4, "final_logit_softcapping", None),
        (GEMMA4, "final_logit_softcapping", True),
        (GEMMA4, "final_logit_softcapping", 0.0),
        (GEMMA4, "final_logit_softcapping", "a number above 0"),
        (GEMMA4, "sliding_window", 0),
        (GEMMA4, "rope_parameters.sliding_attention.rope_theta", None),
        (GEMMA4, "rope_parameters.full_attention.factor", 8.0),
        (GEMMA4, "rope_parameters.sliding_attention.rope_type", "linear"),
        (QWEN3_MOE, "norm_topk_prob", None),
        (QWEN3_MOE, "hidden_act", ["silu"]),
        (QWEN3_MOE, "use_sliding_window", True),
        (OLMOE, "norm_topk_prob", True),
        (OLMOE, "rms_norm_eps", 1e-6),  # the converter writes its own
        (OLMOE, "clip_qkv", 8.0),
        (MIXTRAL, "rope_parameters", {"rope_type": "llama3"}),
        (QWEN3_MOE, "rope_scaling", {"type": "proportional"}),
        (MIXTRAL, "hidden_act", "gelu"),
        (MIXTRAL, "sliding_window", 4096),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_another_value_is_refused_by_its_place(demo_model, family, place, value, within):
    config = read_json(demo_model / "config.json") if family == GEMMA4 else deepcopy(dict(PUBLISHED)[family])
    *folders, key = place.split(".")
    part = config
    for folder in folders:
        part = part[folder]
    part |= {key: value}
    with pytest.raises(
        InputError, match=f"config.json: expected {place}.* .*, as llama.cpp computes {family.name}, found"
    ):
        check_computed_alike(demo_model, family, {"text_config": config} if within else config)


@pytest.mark.parametrize("within", [False, True])
def test_a_config_says_nothing_that_the_classes_say_themselves(demo_model, within):
    """By attribute_map transformers ran one expert of a token, and llama.cpp eight."""
    odd = read_json(demo_model / "config.json") | {"attribute_map": {"top_k_experts": "foo"}, "foo": 1}
    with pytest.raises(InputError, match="nothing that transformers' classes say themselves, found attribute_map"):
        check_computed_alike(demo_model, GEMMA4, {"text_config": odd} if within else odd)
