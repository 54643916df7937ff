"""A release of a model whose drop map a user brought: card, label and gates, with and without question ids."""

import shutil
from pathlib import Path

import build_release
import copy_drop_map
import expert_drop
from calls import call
from cards.card_sections import how_chosen
from checkpoints.checkpoint import source_digest
from choice.drop_metadata import METADATA_NAME
from conftest import DEMO
from files.input_errors import sha256_file
from files.json_records import read_json
from files.written_records import write_json
from gates.checked import Checked
from gates.gates import GATES
from makers.made_up_evidence import QUESTIONS, write_scores
from makers.pruned_models import KEPT, NAME, copy_of_quants, first_ids
from makers.release_copies import change_json
from makers.release_inputs import build, release_arguments
from release.manifest import read_manifest
from release.sources import read_sources

import pytest


def drop_by(folder: Path, own: dict, checkpoint: Path) -> Path:
    """Copy a user's map for the demo and drop by it as make does; return the user's file."""
    write_json(folder / "mine.json", own)
    call(copy_drop_map.main, "--map", folder / "mine.json", "--model", DEMO / "model", "--output", folder / "map.json")
    call(expert_drop.main, "--source", DEMO / "model", "--drop-map", folder / "map.json", "--output", checkpoint)
    # As converted from this checkpoint, whose weights are those of the shared build and whose map is another.
    change_json(folder / "F16.gguf.json", source_sha256=source_digest(checkpoint))
    return folder / "mine.json"


@pytest.fixture
def inputs(pruned_demo, tmp_path) -> Path:
    """Quants of the demo without its first experts' record of how they were chosen."""
    folder = copy_of_quants(pruned_demo, tmp_path / "inputs", "Q6_K", "Q4_K_M")
    shutil.rmtree(folder / "checkpoint")
    (folder / "statistics.safetensors").unlink()
    return folder


@pytest.mark.parametrize("known", [False, True])
def test_an_own_map_goes_all_the_way_to_a_release(pruned_demo, inputs, tmp_path, known):
    layers = {layer: entry["drop"] for layer, entry in read_json(pruned_demo / "map.json")["layers"].items()}
    scored = first_ids(QUESTIONS[0], 4)
    mine = drop_by(
        inputs, {"question_ids": [scored[2], "x"], "layers": layers} if known else layers, inputs / "checkpoint"
    )
    metadata = inputs / "checkpoint" / METADATA_NAME
    # The same experts as in the shared build, whose map was chosen: the checkpoint is the same to the byte.
    assert read_json(metadata)["shards"] == read_json(pruned_demo / "checkpoint" / METADATA_NAME)["shards"]
    more = ["--scores", write_scores(inputs, inputs, scored, marks="1010"), "--repository", f"{NAME}-GGUF"]
    card = build(inputs, tmp_path / "GGUF", *more, quants=("Q6_K", "Q4_K_M"))
    unknown = "**Not known whether in-sample:** the drop map does not say which questions chose the experts."
    label = "**In-sample:** 1 of the 4 scored questions also chose the experts." if known else unknown
    for words in (
        label,
        "The experts to drop were given as a drop map. How they were chosen is not known.",
        "| Criterion | own map |",
        f"KEEP={KEPT} \\\n    DROP_MAP=MAP.json \\\n    CTX=",
        f"| Drop map, as it was given | `{sha256_file(mine)}` |",
    ):
        assert words in card, words
    assert card.count("n-sample") == 2 and "Held out:" not in card and "teacher-forced" not in card
    assert ("- The drop map does not name the questions that chose the experts." in card) is not known
    checked = Checked(tmp_path / "GGUF", read_manifest(tmp_path / "GGUF"), read_sources(tmp_path / "GGUF"))
    outcomes = {name: gate(checked) for name, gate in GATES.items()}
    assert not [line for outcome in outcomes.values() for line in outcome.deviations]
    assert outcomes["in-sample"].looked_at.endswith(label)
    (tmp_path / "GGUF/README.md").write_text(card.replace(label, "Held out."))
    assert label in GATES["in-sample"](checked).deviations[0]


def test_a_card_names_the_map_that_was_given_and_no_other(pruned_demo, inputs, tmp_path, refusal):
    layers = {layer: entry["drop"] for layer, entry in read_json(pruned_demo / "map.json")["layers"].items()}
    mine = drop_by(inputs, layers, inputs / "checkpoint")
    named = ["--settings", "DROP_MAP=best.json", "--own-map"]
    card = build(inputs, tmp_path / "GGUF", *named, mine, quants=("Q6_K",))
    assert "DROP_MAP=mine.json" in card and "best.json" not in card
    write_json(tmp_path / "best.json", dict(reversed(layers.items())))
    arguments = release_arguments(inputs, tmp_path / "other", *named, tmp_path / "best.json", quants=("Q6_K",))
    refusal(build_release.main, arguments, "best.json: expected the drop map that was given, sha256", "give that one")
    (tmp_path / "best.json").unlink()
    (tmp_path / "best.json").mkdir()
    refusal(build_release.main, arguments, "best.json: expected the drop map that was given", "found a folder")
    (tmp_path / "best.json").rmdir()
    refusal(build_release.main, arguments, "best.json: expected what the release was made of", "found nothing")
    mine.unlink()  # the name was held to it while it was there
    checked = Checked(tmp_path / "GGUF", read_manifest(tmp_path / "GGUF"), read_sources(tmp_path / "GGUF"))
    assert not GATES["build"](checked).deviations


def test_a_run_that_was_given_another_map_is_refused(pruned_demo, inputs, tmp_path, refusal):
    """The label of its score would be by questions that this build's map does not name."""
    layers = {layer: entry["drop"] for layer, entry in read_json(pruned_demo / "map.json")["layers"].items()}
    drop_by(inputs, layers, inputs / "checkpoint")
    scores = write_scores(inputs, inputs, first_ids(QUESTIONS[1], 4))
    summary = inputs / "run-pruned/summary.json"
    change_json(summary, in_sample={"chosen_on": 6, "scored_and_chosen_on": 0})
    arguments = release_arguments(inputs, tmp_path / "GGUF", "--scores", scores, quants=("Q6_K", "Q4_K_M"))
    refusal(build_release.main, arguments, summary, "in_sample.chosen_on None, found 6")


def test_the_card_tells_how_the_experts_were_chosen_by_what_the_map_says():
    assert how_chosen({"criterion": "reap"}).startswith("The full model is teacher-forced")
    by_imatrix = {"criterion": "frequency", "imatrix_sha256": "0"}
    assert "calibration tokens that reach them" in how_chosen(by_imatrix)
    assert "ranked first are dropped" in how_chosen(by_imatrix | {"worst_first": True})
    counted = {"criterion": "frequency", "imatrix_sha256": "0", "calibration": "exam.txt", "calibration_sha256": "a1"}
    assert how_chosen(counted).endswith("The tokens are those of `exam.txt`, sha256 `a1`.")
    assert how_chosen({}).endswith("How they were chosen is not known.")  # a plain map, dropped by without a copy
    own = {"criterion": "own map", "own_map": {"sha256": "0", "criterion": "reap"}}
    assert how_chosen(own).endswith("It names the criterion `reap`.")
