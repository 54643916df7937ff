"""How the experts were chosen, from the analysis to expert_drop_metadata.json; and what an own map leaves unknown."""

import csv
import json
from pathlib import Path

import copy_drop_map
import expert_drop
import generate_drop_map
import teacher_force_analysis
from calls import call
from choice.drop_metadata import METADATA_NAME, methodology_of, read_metadata
from choice.expert_stats import read_stats
from choice.stats_record import METADATA_KEY
from conftest import DEMO
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from files.written_records import write_json
from ggufs.gguf_drop import metadata_beside
from makers.shared_ggufs import tiny_ggufs
from makers.tiny_models import random_drop_map

import pytest
from safetensors.numpy import load_file, save_file

KEEP = 12
NOT_SAID_BY_A_PLAIN_MAP = ["criterion", "protect_top", "questions", "empty_reasonings", "cut_questions", "cut_tokens"]
NOT_SAID_BY_A_PLAIN_MAP += ["counted_tokens", "reasoning", "chat_template_sha256", "dtype", "attention"]


def odd_questions(path: Path, explained: int) -> Path:
    """Three of the demo's questions as others may write them; the first `explained` of them have a reasoning.

    A byte-order mark, the columns backwards, others beside them, line breaks and commas in quoted fields.
    """
    rows = list(csv.DictReader((DEMO / "eval_questions.csv").read_text().splitlines()))[:3]
    for number, row in enumerate(rows):
        row["Question"] += "\nOne line more, quoted."
        row |= {"Notes": 'a "note",\nof two lines', "Subject": "x"}
        if number >= explained:
            row["Explanation"] = " "
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0])[::-1])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_text_model) -> Path:
    """A folder with statistics of three questions, one of them unexplained, and a map of two of them."""
    folder = tmp_path_factory.mktemp("made")
    analyse(tiny_text_model, odd_questions(folder / "odd.csv", 2), folder / "stats", "--max-tokens", 60)
    how = ["--keep", KEEP, "--protect-top", 3, "--fold", "1/3", "--bootstrap", 0]
    call(generate_drop_map.main, "--stats", folder / "stats", *how, "--output", folder / "map.json")
    return folder


def analyse(model: Path, questions: Path, output: Path, *more: object) -> None:
    call(teacher_force_analysis.main, "--model", model, "--questions", questions, "--output", output, *more)


def methodology(folder: Path, template: str) -> dict:
    """What the metadata of a drop by the map of `made` must say."""
    questions = read_stats(folder / "stats")[1]["questions"][1:]
    return {
        "chosen_by": "statistics of the full model",
        "criterion": "coverage",
        "protect_top": 3,
        "questions": 2,
        "empty_reasonings": 1,
        "cut_questions": sum(question["truncated"] for question in questions),
        "cut_tokens": 60,
        "counted_tokens": "all",
        "reasoning": "column Explanation, a reference's reasoning, not the model's own",
        "chat_template_sha256": template,
        "dtype": "bfloat16",
        "attention": "eager",
        "not_known": [],
    }


def test_what_was_measured_reaches_the_metadata_of_both_drops(made, tiny_text_model, tmp_path, tmp_path_factory):
    wanted = methodology(made, sha256_file(tiny_text_model / "chat_template.jinja"))
    assert wanted["cut_questions"] > 0
    f16, pruned = tiny_ggufs(tmp_path_factory, tiny_text_model) / "F16.gguf", tmp_path / "pruned.gguf"
    for source, output, metadata in (
        (tiny_text_model, tmp_path / "checkpoint", tmp_path / "checkpoint" / METADATA_NAME),
        (f16, pruned, tmp_path / f"pruned.{METADATA_NAME}"),
    ):
        options = ["--source", source, "--drop-map", made / "map.json", "--output", output]
        call(expert_drop.main, *options)
        assert read_metadata(metadata)["methodology"] == wanted
        call(expert_drop.main, *options, "--verify")
    write_json(tmp_path / f"pruned.{METADATA_NAME}", read_metadata(metadata) | {"drop_map_sha256": "0" * 64})
    with pytest.raises(InputError, match="the record of this drop"):
        call(expert_drop.main, *options, "--verify")
    assert metadata_beside(Path("a-00001-of-00002.gguf")).name == f"a.{METADATA_NAME}"


def test_an_own_map_says_what_is_known_and_that_the_rest_is_not(made, tiny_text_model, tmp_path):
    write_json(tmp_path / "mine.json", random_drop_map(KEEP))
    found = {}
    for name, own in (("plain", tmp_path / "mine.json"), ("ours", made / "map.json")):
        output = tmp_path / f"{name}.json"
        call(copy_drop_map.main, "--map", own, "--model", tiny_text_model, "--output", output)
        found[name] = methodology_of(read_json(output))
    assert found["plain"]["chosen_by"] == "own map" and found["plain"]["not_known"] == NOT_SAID_BY_A_PLAIN_MAP
    # Of a map of ours no more: anybody may have edited how its statistics were taken.
    named = {"criterion": "coverage", "questions": 2}
    unknown = [name for name in NOT_SAID_BY_A_PLAIN_MAP if name not in named]
    assert found["ours"] == found["plain"] | named | {"not_known": unknown}
    assert methodology_of({})["not_known"] == NOT_SAID_BY_A_PLAIN_MAP  # a plain map, dropped by without a copy
    by_imatrix = {"criterion": "frequency", "imatrix_sha256": "0", "protect_top": 0}
    assert methodology_of(by_imatrix)["chosen_by"] == "an imatrix's token counts"


def test_questions_without_reasonings_are_counted_and_refused_if_all_are(made, tiny_text_model, tmp_path, capsys):
    none = odd_questions(tmp_path / "none.csv", 0)
    with pytest.raises(
        InputError, match=r"none\.csv: .* 'Explanation' of 3 questions, found none but empty ones; .*yes"
    ):
        analyse(tiny_text_model, none, tmp_path / "stats")
    lacking = tmp_path / "lacking.csv"
    lacking.write_text(none.read_text().replace("Explanation", "Rationale", 1))
    with pytest.raises(InputError, match="found columns 'Subject', .*'Rationale'"):
        analyse(tiny_text_model, lacking, tmp_path / "stats")
    assert not list(tmp_path.glob("stats*"))
    analyse(tiny_text_model, lacking, tmp_path / "stats", "--allow-empty-reasoning", "--reasoning-by", "model")
    assert "3 questions, 3 of them with an empty reasoning, " in capsys.readouterr().out
    metadata = read_stats(tmp_path / "stats")[1]
    assert [question["empty_reasoning"] for question in metadata["questions"]] == [True] * 3
    assert metadata["reasoning"] == "column Explanation, the model's own reasoning"


def test_older_statistics_are_refused_with_what_to_do(made, tmp_path):
    metadata = read_stats(made / "stats")[1]
    del metadata["version"]
    save_file(load_file(made / "stats"), tmp_path / "old", {METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(InputError, match="version 2, found no version; measure again: make analyze REPLACE=statistics"):
        read_stats(tmp_path / "old")
