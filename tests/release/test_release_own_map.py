"""A release of a model whose drop map a user brought: card, label and gates, with and without question ids."""

from pathlib import Path

import compare_scores
import copy_drop_map
import expert_drop
from choice.drop_map import METADATA_NAME
from conftest import DEMO
from files.safe_files import read_json, sha256_file, write_json
from release.card_sections import how_chosen
from release.gates import GATES, Checked
from release.manifest import read_manifest
from release.sources import read_sources
from release_inputs import (
    EXPERTS,
    KEPT,
    NAME,
    PATCH,
    QUESTIONS,
    answer_rows,
    build,
    call,
    copy_of_quants,
    first_ids,
    write_summary,
)
from scoring.run_summary import in_sample

import pytest


def drop_by(folder: Path, own: dict, checkpoint: Path) -> Path:
    """Copy a user's map for the demo and drop by it as make does; return the user's file."""
    write_json(folder / "mine.json", own)
    call(copy_drop_map.main, "--map", folder / "mine.json", "--model", DEMO / "model", "--output", folder / "map.json")
    call(expert_drop.main, "--source", DEMO / "model", "--drop-map", folder / "map.json", "--output", checkpoint)
    return folder / "mine.json"


def evaluated(folder: Path, ids: list[str], metadata: Path) -> Path:
    """Compare a made-up evaluation of the quant with one of the full model; return the record of scores."""
    rows = {"gemma-4-demo": (folder / "F16.gguf", "1110", EXPERTS), NAME: (folder / f"{NAME}-Q6_K.gguf", "1010", KEPT)}
    runs = [
        write_summary(folder, name, gguf, answer_rows(ids, marks, PATCH), PATCH, count)
        for name, (gguf, marks, count) in rows.items()
    ]
    content = read_json(runs[1] / "summary.json")
    write_json(runs[1] / "summary.json", content | {"in_sample": in_sample(ids, metadata)})
    call(compare_scores.main, "--runs", *runs, "--output", folder / "scores.md")
    return folder / "scores.json"


@pytest.fixture
def inputs(pruned_demo, tmp_path) -> Path:
    """Quants of the demo without its first experts' record of how they were chosen."""
    folder = copy_of_quants(pruned_demo, tmp_path / "inputs", "Q6_K", "Q4_K_M")
    (folder / "checkpoint" / METADATA_NAME).unlink()
    (folder / "checkpoint").rmdir()
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
    more = ["--scores", evaluated(inputs, scored, metadata), "--questions", *QUESTIONS, "--repository", f"{NAME}-GGUF"]
    card = build(inputs, tmp_path / "GGUF", *more, quants=("Q6_K", "Q4_K_M"))
    unknown = "**Not known whether in-sample:** the drop map does not say which questions chose the experts."
    label = "**In-sample:** 1 of the 4 scored questions also chose the experts." if known else unknown
    for words in (
        label,
        "The experts to drop were given as a drop map. How they were chosen is not known.",
        "| Criterion | own map |",
        f"KEEP={KEPT} DROP_MAP=MAP.json CTX=",
        f"| Drop map, as it was given | `{sha256_file(mine)}` |",
    ):
        assert words in card, words
    assert card.count("n-sample") == 1 and "Held out:" not in card and "teacher-forced" not in card
    assert ("- questions that chose the experts: the drop map does not name them" in card) is not known
    checked = Checked(tmp_path / "GGUF", read_manifest(tmp_path / "GGUF"), read_sources(tmp_path / "GGUF"))
    outcomes = {name: gate(checked) for name, gate in GATES.items()}
    assert not [line for outcome in outcomes.values() for line in outcome.deviations]
    assert outcomes["in-sample"].looked_at.endswith(label)
    (tmp_path / "GGUF/README.md").write_text(card.replace(label, "Held out."))
    assert label in GATES["in-sample"](checked).deviations[0]


def test_scores_that_know_more_than_the_metadata_are_told(pruned_demo, inputs, tmp_path):
    """A run may have been given another map of the same drops, one that names its questions."""
    layers = {layer: entry["drop"] for layer, entry in read_json(pruned_demo / "map.json")["layers"].items()}
    drop_by(inputs, layers, inputs / "checkpoint")
    scores = evaluated(inputs, first_ids(QUESTIONS[1], 4), pruned_demo / "map.json")
    card = build(inputs, tmp_path / "GGUF", "--scores", scores, quants=("Q6_K", "Q4_K_M"))
    assert "**Not known whether in-sample:** the drop map" in card
    assert f"**In-sample:** 4 of the 4 scored questions also chose the experts of {NAME}." in card


def test_the_card_tells_how_the_experts_were_chosen_by_what_the_map_says():
    assert how_chosen({"criterion": "reap"}).startswith("The full model is teacher-forced")
    assert "calibration tokens that reach them" in how_chosen({"criterion": "frequency", "imatrix_sha256": "0"})
    assert how_chosen({}).endswith("How they were chosen is not known.")  # a plain map, dropped by without a copy
    own = {"criterion": "own map", "own_map": {"sha256": "0", "criterion": "reap"}}
    assert how_chosen(own).endswith("It names the criterion reap.")
