"""A map that a user brings: copied in our form and never written, through the drop, and what is refused of it."""

import json
import shutil
from pathlib import Path

import expert_drop
import generate_drop_map
from calls import call
from choice.drop_map import Shape, criterion_of, read_drop_map
from choice.drop_metadata import METADATA_NAME, read_metadata
from copy_drop_map import main
from files.input_errors import sha256_file
from files.written_records import write_json
from makers.synthetic_build import write_statistics
from makers.tiny_models import EXPERTS, LAYERS, TOP_K, random_drop_map
from scoring.run_summary import in_sample

import pytest

KEEP = 12
QUESTIONS = ["rec000", "rec001"]


@pytest.fixture
def stats(tmp_path) -> Path:
    """Statistics of four questions, with the layers and the experts of the tiny model."""
    write_statistics(tmp_path / "stats", 4, LAYERS, EXPERTS)
    return tmp_path / "stats"


@pytest.fixture
def plain(tmp_path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(random_drop_map(KEEP)))
    return path


def with_questions(plain: Path) -> Path:
    """The same drops in a map that names the questions that chose."""
    layers = json.loads(plain.read_text())
    write_json(plain.with_name("named.json"), {"question_ids": QUESTIONS, "layers": layers})
    return plain.with_name("named.json")


def copied(source: Path, *fits: object) -> dict:
    """Copy a map; return the copy, and see that the user's file is as it was."""
    output, before = source.with_name("run") / "drop_map.json", source.read_bytes()
    call(main, "--map", source, *fits, "--output", output)
    assert source.read_bytes() == before
    return json.loads(output.read_text())


def test_a_plain_map_becomes_ours_and_nothing_is_made_up(stats, plain, tiny_text_model, capsys):
    copy = copied(plain, "--stats", stats, "--keep", KEEP)
    assert "it does not say which questions chose them" in capsys.readouterr().out
    dropped = random_drop_map(KEEP)
    assert copy.pop("layers") == {
        layer: {"keep": sorted(set(range(EXPERTS)) - set(ids)), "drop": ids} for layer, ids in dropped.items()
    }
    own = {"criterion": "own map", "own_map": {"sha256": sha256_file(plain)}, "experts": EXPERTS, "keep_count": KEEP}
    assert copy == {"version": 2, **own, "drop_count": EXPERTS - KEEP, "top_k": 2}
    # Without statistics the checkpoint says what fits: nothing else differs but the experts per token.
    assert copied(plain, "--model", tiny_text_model) == {**copied(plain, "--stats", stats), "top_k": TOP_K}
    named = copied(with_questions(plain), "--model", tiny_text_model)
    assert (named["questions"], named["question_ids"]) == (2, QUESTIONS)
    assert "2 questions chose them" in capsys.readouterr().out


def test_a_map_of_ours_keeps_its_origin_and_not_its_scores(stats, tmp_path):
    ours = tmp_path / "ours.json"
    call(
        generate_drop_map.main,
        "--stats",
        stats,
        "--keep",
        KEEP,
        "--fold",
        "1/4",
        "--criterion",
        "reap",
        "--output",
        ours,
    )
    said, copy = json.loads(ours.read_text()), copied(ours, "--stats", stats)
    assert copy["own_map"] == {"sha256": sha256_file(ours), "criterion": "reap"}
    assert criterion_of(copy) == "own map"
    for key in ("question_ids", "stats_sha256", "weights_sha256", "config_sha256"):
        assert copy[key] == said[key], key
    assert {key for entry in copy["layers"].values() for key in entry} == {"keep", "drop"}
    assert not {"analysis", "bootstrap", "protect_top", "held_out_question_ids", "questions_sha256"} & copy.keys()
    # Of other statistics of the same model: the copy is not chosen from those that it is shown against.
    write_statistics(tmp_path / "others", 5, LAYERS, EXPERTS)
    assert "stats_sha256" not in copied(ours, "--stats", tmp_path / "others")


@pytest.mark.parametrize("named", [False, True])
def test_a_copy_goes_through_the_drop_and_is_labelled_by_what_it_says(plain, tiny_text_model, tmp_path, named):
    copied(with_questions(plain) if named else plain, "--model", tiny_text_model)
    drop_map, output = tmp_path / "run/drop_map.json", tmp_path / "pruned"
    call(expert_drop.main, "--source", tiny_text_model, "--drop-map", drop_map, "--output", output)
    metadata = read_metadata(output / METADATA_NAME)
    assert metadata["method"]["criterion"] == "own map" and metadata["keep_count"] == KEEP
    assert metadata["drop_map_sha256"] == sha256_file(drop_map)
    known = {"chosen_on": 2, "scored_and_chosen_on": 1}
    label = known if named else {"chosen_on": None, "scored_and_chosen_on": None}
    assert in_sample(["rec001", "rec007"], drop_map) == in_sample(["rec001", "rec007"], output / METADATA_NAME) == label
    if not named:  # dropped by as it is, without a copy
        assert in_sample(["rec001"], plain) == label


def test_a_map_that_does_not_fit_is_refused(stats, plain, tiny_text_model, tmp_path, refusal):
    def refuse(source: Path, *words: object, options: tuple = ("--stats", stats)) -> None:
        output = tmp_path / "run/drop_map.json"
        refusal(main, ["--map", source, *options, "--output", output], *words)
        assert not output.exists()

    refuse(plain, plain, "a map that keeps 13 experts", "found 12", "KEEP=12", options=("--stats", stats, "--keep", 13))
    refuse(tmp_path / "gone.json", "gone.json", "nothing")
    for fits in (("--stats", stats), ("--model", tiny_text_model)):
        write_json(tmp_path / "short.json", {"0": [1]})
        refuse(tmp_path / "short.json", "the 3 layers 0 to 2", options=fits)
        write_json(tmp_path / "none.json", {str(layer): [] for layer in range(LAYERS)})
        refuse(tmp_path / "none.json", "to 15 (of 16 experts), found 16", options=fits)
        write_json(tmp_path / "other.json", {"weights_sha256": "9" * 64, "layers": random_drop_map(KEEP)})
        refuse(tmp_path / "other.json", "weights_sha256", "that of another model (999999999999)", options=fits)
    refuse(plain, "a mixture-of-experts", options=("--model", config_without_experts(tiny_text_model, tmp_path)))


def config_without_experts(model: Path, folder: Path) -> Path:
    copy = Path(shutil.copytree(model, folder / "dense"))
    config = json.loads((copy / "config.json").read_text())
    del config["num_experts"]
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def test_the_user_s_file_is_never_the_output(stats, plain, tmp_path, refusal):
    before = plain.read_bytes()
    linked = tmp_path / "linked.json"
    linked.hardlink_to(plain)
    for output in (plain, linked, tmp_path / "mine.json/drop_map.json"):
        refusal(main, ["--map", plain, "--stats", stats, "--output", output], "apart from every input")
    refusal(main, ["--map", plain, "--stats", stats, "--output", stats], "apart from every input")
    assert plain.read_bytes() == before


def test_a_copy_of_a_copy_has_the_same_drops(stats, plain, tmp_path):
    copied(plain, "--stats", stats)
    shape, first = Shape(EXPERTS, 2, tuple(range(LAYERS))), tmp_path / "run/drop_map.json"
    again = tmp_path / "again.json"
    call(main, "--map", first, "--stats", stats, "--output", again)
    assert read_drop_map(again, shape).drop == read_drop_map(first, shape).drop
