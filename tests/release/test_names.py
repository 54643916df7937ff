"""The rules of llama.cpp, the Hub and a listing on real names: what shadows what, and where CD files may be."""

from quants.recipes import RECIPES
from release.names import (
    RULES,
    clashes,
    has_placeholder,
    hub_label,
    is_standard,
    label_pick,
    listing_pick,
    llama_cpp_pick,
    suffix_pick,
)

import pytest

NAME = "gemma-4-A4B-109e-v3"
STANDARD = {f"{NAME}-{quant}.gguf": quant for quant in RECIPES if is_standard(quant)}
DYNAMIC = {f"{NAME}-{quant}.gguf": quant for quant in [*RECIPES, "AUTO-10.5", "AUTO-0.0086"] if not is_standard(quant)}


@pytest.mark.parametrize(
    "name, label",
    [
        ("m-Q4_K_M.gguf", "Q4_K_M"),
        ("m-CD-Q4_K_M.gguf", "Q4_K_M"),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m.q8_0.gguf", "Q8_0"),
        ("m-IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-BF16.gguf", "BF16"),
        ("m-F16-00001-of-00002.gguf", "F16"),
        ("m-Q8_0-tuned-Q6_K.gguf", "Q6_K"),
        ("m-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("m-AUTO-10.5.gguf", None),
        ("Q4_K_M/m.gguf", None),
    ],
)
def test_labels_as_the_hub_reads_them(name, label):
    assert hub_label(name) == label


def test_the_cards_own_names_shadow_each_other_in_one_repository():
    """The reference model card has both in one repository. The CD file comes first by name, and every rule takes it."""
    both = sorted([f"{NAME}-CD-Q4_K_M.gguf", f"{NAME}-Q4_K_M.gguf", f"{NAME}-Q8_0.gguf"])
    for rule in RULES.values():
        assert rule(both, "Q4_K_M") == f"{NAME}-CD-Q4_K_M.gguf"
    assert llama_cpp_pick(both, None) == label_pick(both, None) == f"{NAME}-CD-Q4_K_M.gguf"
    found = clashes(STANDARD | DYNAMIC)
    for quant in ("Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"):
        assert any(line.startswith(f":{quant}: ") and f"CD-{quant}.gguf" in line for line in found), quant
    assert any(line.startswith("no tag: ") for line in found)


def test_repositories_of_their_own_are_safe_for_every_label():
    assert not clashes(STANDARD, ("README.md", "template", "params"), tuple(RECIPES))
    assert not clashes(DYNAMIC, (), tuple(RECIPES))


@pytest.mark.parametrize("folder", ["CD", "zz"])
def test_a_subfolder_is_not_enough(folder):
    """llama.cpp lists subfolders, too: it fetches a CD file there where the standard file of a label is missing."""
    quants = {f"{NAME}-Q5_K_M.gguf": "Q5_K_M", f"{folder}/{NAME}-CD-Q4_K_M.gguf": "CD-Q4_K_M"}
    assert llama_cpp_pick(sorted(quants), None) == f"{folder}/{NAME}-CD-Q4_K_M.gguf"
    assert any(line.startswith(":Q4_K_M: ") for line in clashes(quants, labels=tuple(RECIPES)))


@pytest.mark.parametrize(
    "quants, tag, taken",
    [
        ({"m-AUTO-4.gguf": "AUTO-4", "m-AUTO-4.5.gguf": "AUTO-4.5"}, ":AUTO-4:", "m-AUTO-4.5.gguf"),
        ({"m-BF16.gguf": "BF16", "m-F16.gguf": "F16"}, ":F16:", "m-BF16.gguf"),
        ({"Q8_0-m-Q4_K_M.gguf": "Q4_K_M", "Q8_0-m-Q8_0.gguf": "Q8_0"}, ":Q8_0:", "Q8_0-m-Q4_K_M.gguf"),
        ({"m-AUTO-4.gguf": "AUTO-4", "m-Q6_K.gguf": "Q6_K"}, "no tag:", "m-AUTO-4.gguf"),
        ({"a-Q4_K_M.gguf": "Q4_K_S", "b-Q4_K_S.gguf": "Q4_K_S"}, ":Q4_K_M:", None),
    ],
)
def test_names_that_clash(quants, tag, taken):
    found = [line for line in clashes(quants) if line.startswith(tag)]
    assert (found and taken in found[0]) if taken else not found


def test_llama_cpp_takes_some_names_for_no_model_and_a_preset_for_all():
    assert llama_cpp_pick(["mtp-m-Q4_K_M.gguf"], None) is None
    assert clashes({"mtp-m-Q4_K_M.gguf": "Q4_K_M"}) == [
        ":Q4_K_M: expected the file of that type by the rule of llama.cpp -hf, found none"
    ]
    assert clashes({"m-Q4_K_M.gguf": "Q4_K_M"}, ("preset.ini",))[0].startswith("preset.ini")


def test_rules_by_hand():
    parts = ["m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf", "m-IQ4_XS.gguf", "m-Q6_K.gguf", "m-Q6_K_L.gguf"]
    # No Q4_K_M, no Q8_0: the first.
    assert llama_cpp_pick(parts, None) == label_pick(parts[:2], None) == "m-F16-00001-of-00002.gguf"
    assert label_pick(parts, None) == "m-IQ4_XS.gguf"  # a 4-bit file, where there is no Q4_K_M
    for rule in RULES.values():
        assert rule(parts, "q6_k") == "m-Q6_K.gguf" and rule(parts, "F16") == "m-F16-00001-of-00002.gguf"
    assert llama_cpp_pick(parts, "Q6_K_") is None and suffix_pick(parts, "6_K") is None
    assert listing_pick(parts, "6_K_L") == "m-Q6_K_L.gguf"
    assert label_pick(parts, "m-Q6_K_L.gguf") == "m-Q6_K_L.gguf"
    assert not clashes(dict.fromkeys(parts[:2], "F16"))


@pytest.mark.parametrize(
    "text, found",
    [
        ("ollama run hf.co/USER/x-GGUF:x.gguf", True),
        ('name = "USER/x"', True),
        ("-hf me/x-GGUF --hf-file x.gguf", False),
        ("SUPERUSER/x", False),
        ("the USER of it", False),
    ],
)
def test_a_placeholder_owner_is_found(text, found):
    assert has_placeholder(text) == found
