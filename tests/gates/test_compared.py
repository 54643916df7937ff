"""Compared files of the full and the pruned model: one recipe for each type, whatever the recipe follows from."""

from pathlib import Path

from gates.compared import one_recipe_breaks

import pytest

AUTO = {
    "type": "AUTO-12",
    "base": "Q4_K_M",
    "imatrix_sha256": "1" * 64,
    "arguments": ["--tensor-type", "a=q4_K"],
    "padded": {"down": [704, 768]},
    "auto_padding": True,
    "auto_measured_on": {"questions_sha256": "2" * 64, "chats": 12},
}
PAD = {"type": "PAD-IQ3_XXS", "base": "IQ3_XXS", "imatrix_sha256": "1" * 64, "arguments": [], "padded": {"x": [1, 2]}}


@pytest.mark.parametrize(
    ("own", "changes", "words"),
    [
        (AUTO, {}, ""),
        # Of each model's own sensitivities.
        (AUTO, {"arguments": ["--tensor-type", "a=q2_K"], "padded": {}, "base": "Q5_K_M"}, ""),
        (AUTO, {"auto_measured_on": {"questions_sha256": "2" * 64, "chats": 2}}, "AUTO-12 files made by one recipe:"),
        (AUTO, {"auto_measured_on": {"questions_sha256": "3" * 64, "chats": 12}}, "AUTO-12 files made by one recipe:"),
        (AUTO, {"auto_padding": False}, "AUTO-12 files made by one recipe:"),
        (AUTO, {"imatrix_sha256": None}, "AUTO-12 files made with an imatrix:"),
        (PAD, {}, ""),
        (PAD, {"padded": {"x": [1, 3]}}, "PAD-IQ3_XXS files made by one recipe:"),
        (PAD, {"type": "Q4_K_M", "padded": {}}, ""),
    ],
)
def test_files_of_one_type_are_of_one_recipe(own, changes, words):
    compared = [(Path("own.gguf.json"), own), (Path("full.gguf.json"), {**own, **changes})]
    found = [str(error) for error in one_recipe_breaks(compared)]
    assert len(found) == 1 and words in found[0] and found[0].startswith("full") if words else not found, found


def test_an_older_auto_file_is_made_again_before_it_is_compared():
    old = {key: value for key, value in AUTO.items() if not key.startswith("auto_")}
    found = [str(error) for error in one_recipe_breaks([(Path("own.gguf.json"), old), (Path("full.gguf.json"), old)])]
    assert len(found) == 2 and all(
        "sensitivities were measured on, found none; quantise it again" in one for one in found
    )
