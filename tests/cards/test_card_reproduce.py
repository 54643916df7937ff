"""How a card says to make its files again: the command, and what is known of the calibration text."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

from cards.card_reproduce import builds_text, calibration_text, full_name, reproduce_section, variables_of
from cards.card_sections import Release, limits_section, method_section
from cards.made_texts import release_of
from choice.ranking import choose_questions
from conftest import DEMO, REPO
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from gates.checked import Checked
from gates.gates import GATES
from makers.made_up_evidence import write_scores
from makers.pruned_models import BASE, KEPT, NAME, first_ids
from makers.release_inputs import build, shared_release
from release.input_facts import plain_files
from release.make_settings import fold_of
from release.manifest import read_manifest
from release.recorded_settings import shares
from release.said_settings import LEFT_OUT, NAMED, RECORDED, is_own, named_wrongly, settings_of_make
from release.sources import read_sources

import pytest


@pytest.fixture
def release(pruned_demo) -> Release:
    """What the card of the shared release is made of."""
    folder = shared_release(pruned_demo)
    return release_of(folder, read_manifest(folder))


def test_a_card_has_the_digests_of_the_base_and_of_the_scored_files(release):
    """Another repository can have a file of one's name."""
    text = reproduce_section(release)
    # Samples alone do not tell an edited base.
    for what, key in (("name and sha256 of every file that was read", "source"), ("samples of its weights", "weights")):
        assert f"| Base checkpoint, {what} | `{release.metadata['source'][f'{key}_sha256']}` |" in text
    for row in release.scores["rows"]:
        assert f"| Scored file `{row['gguf']}` | `{row['gguf_sha256']}` |" in text


def test_a_score_is_in_sample_by_a_text_only_where_the_imatrix_made_the_file(release):
    held = release.inputs | {"calibration": {"calibration": "a.txt", "held": release.scores["question_ids"]}}
    name = release.row["gguf"]
    for plain, begin in (([], "In-sample in a second way: the"), ([name], "The")):
        text = limits_section(replace(release, inputs=held | {"plain": plain}))
        assert f"- {begin} calibration text holds the scored questions" in text
        assert (f"but `{name}` was made without an importance matrix" in text) == bool(plain)


@pytest.mark.parametrize("released", ["Q6_K", "Q4_K_M"])
def test_how_a_scored_file_was_made_is_known_where_it_is_not_released(pruned_demo, tmp_path, released):
    folder = shared_release(pruned_demo)
    sources = read_sources(folder)
    place = sources["records"][f"{NAME}-Q6_K.gguf"]
    plain = tmp_path / place.name
    plain.write_text(json.dumps(read_json(place) | {"imatrix_sha256": None}))
    for record, names in ((place, []), (plain, [f"{NAME}-Q6_K.gguf"])):
        records = {released: record if released == "Q6_K" else sources["records"][f"{NAME}-Q4_K_M.gguf"]}
        assert plain_files(sources | {"records": records, "quants": {"0": record}}) == names


@pytest.mark.parametrize(
    "records, wrong", [({}, "no QUANTS, of which the release has no record"), ({"a.gguf": {}}, None)]
)
def test_the_command_of_a_checkpoint_names_no_quants(records, wrong):
    assert named_wrongly("QUANTS", "Q6_K", {"records": records, "inputs": {}}, {}) == wrong


def test_the_command_to_reproduce_names_all_that_differs(release):
    settings = {"RUN": "mine", "QUESTIONS": "a.csv", "EVAL_QUESTIONS": "b.csv", "CD_CUTS": "1/3"}
    settings["DRAFT"] = ""  # emptied: the command falls back to a run that has one
    text = reproduce_section(replace(release, settings=settings, project_version="9.9.9"))
    assert "version 9.9.9. The run was `RUN=mine` (`runs/mine.mk`)" in text
    command = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1]
    words = dict(word.split("=", 1) for word in shlex.split(command.replace("\\\n", ""))[3:])
    assert words | {"QUANTS": ""} == {
        "MODEL": BASE,
        "NAME": release.scores["rows"][0]["name"],
        "PRUNED_NAME": NAME,
        "KEEP": str(KEPT),
        "CRITERION": "coverage",
        "PROTECT_TOP": "16",
        "CTX": "32768",
        "REASONING_BUDGET": "16384",
        "MAX_GEN_TOKS": "24576",
        "SEED": "42",
        "NP": "1",
        "LICENSE": "gemma",
        "QUANTS": "",
        "QUESTIONS": "a.csv",
        "EVAL_QUESTIONS": "b.csv",
        "CALIBRATION": "text.txt",  # of the imatrix record, whatever was asked for
        "CD_CUTS": "1/3",
        "DRAFT": "",
    }
    row, *others = release.scores["rows"]
    named = replace(release, scores=release.scores | {"rows": [row | {"name": "full"}, *others]})
    assert "NAME=full " in reproduce_section(named)  # as its files and rows are called
    of_full, of_pruned = {"name": "full", "gguf": "full-CD-Q4_K_M.gguf"}, {"name": NAME, "gguf": f"{NAME}-Q8_0.gguf"}
    bare = replace(release, scores=None)
    assert full_name(bare) is None
    for records in (
        {"draft": {"models": [of_full, of_pruned]}},
        {"loops": {"rows": [of_full, of_pruned]}},
        {"tasks": {"a": {"rows": [of_full, of_pruned]}}},
    ):
        assert full_name(replace(bare, **records)) == "full"
    assert full_name(replace(bare, draft={"models": [of_pruned]})) is None
    assert {*words["QUANTS"].split()} == {record["type"] for record in release.records.values()}
    # Its conclusions are of all files that were measured, those of another repository among them.
    measured = replace(release, quality={**release.quality, "files": [{"label": "CD-Q2_K"}, {"label": "Q6_K"}]})
    assert {*variables_of(measured)["QUANTS"].split()} == {*words["QUANTS"].split(), "CD-Q2_K"}
    method = {**release.metadata["method"], "held_out_question_ids": ["a", "b"]}
    held_out = replace(release, base="some model", metadata={**release.metadata, "method": method})
    text = reproduce_section(held_out)
    assert "MODEL=DIRECTORY" in text and "Questions that were analysed, as they were asked" in text
    assert "| Questions held out of the choice | 2 |" in method_section(held_out)


def test_settings_are_those_of_the_records_and_places_have_no_folders(pruned_demo, tmp_path):
    asked = {"RUN": "demo", "DRAFT": "", "QUESTIONS": "data/demo/calibration_questions.csv", "CRITERION": "reap"}
    asked |= {"EVAL_QUESTIONS": "/home/GPQA-99/eval_questions.csv", "CALIBRATION": "v5", "CD_CUTS": "1/99,1/2"}
    asked |= dict.fromkeys(("LOOP_TOKENS", "DRAFT_QUESTIONS", "QUALITY_CHATS", "MIN_EXPERT_TOKENS"), "4321")
    asked |= dict.fromkeys(("QUALITY_SCORE", "NO_IMATRIX", "EVAL_NAME", "TASK", "FOLD", "DROP_MAP"), "GPQA-99")
    more = ["--settings", *(f"{name}={value}" for name, value in asked.items())]
    card = build(pruned_demo, tmp_path / "r", *more, quants=("Q6_K", "Q4_K_M"))
    assert read_manifest(tmp_path / "r")["settings"] == {
        "RUN": "demo",
        "DRAFT": "",
        "QUESTIONS": "data/demo/calibration_questions.csv",
        "KEEP": str(KEPT),
        "CRITERION": "coverage",
        "PROTECT_TOP": "16",
        "SCORED": "no",  # so no file was asked
        "CALIBRATION": "text.txt",
        "OLLAMA_PARAMS": "card",
    }
    assert "GPQA-99" not in card and "4321" not in card and "DRAFT=" in card


def test_each_setting_of_make_is_recorded_or_a_name_or_left_out():
    kinds = (RECORDED, set(NAMED), LEFT_OUT)
    assert set().union(*kinds) == settings_of_make() and sum(map(len, kinds)) == len(settings_of_make())


def test_only_the_project_s_own_file_has_its_folder_in_a_command(tmp_path):
    own = "data/demo/calibration_questions.csv"
    digest = sha256_file(REPO / own)
    assert is_own(own, {"calibration_questions.csv": digest}) and not is_own("data/demo/no.csv", {"no.csv": digest})
    assert not is_own(own, {"calibration_questions.csv": "0" * 64})  # another file that is called so
    laid = DEMO / "chat_template.jinja"  # in its place, and no file of questions that the project has
    assert not is_own(f"data/demo/{laid.name}", {laid.name: sha256_file(laid)})


def test_the_fold_that_a_choice_held_out_is_known_by_the_order_of_the_statistics():
    ids = [f"q{number}" for number in range(11)]

    def method(fold: tuple[int, int]) -> dict:
        kept = [ids[row] for row in choose_questions(ids, None, fold)]
        return {"question_ids": kept, "held_out_question_ids": [one for one in ids if one not in kept]}

    for number, folds in ((1, 5), (5, 5), (2, 3), (1, 2), (4, 11)):
        assert fold_of(method((number, folds)), ids) == f"{number}/{folds}"
    assert fold_of(method((2, 5)), [*reversed(ids)]) != "2/5" and fold_of({"question_ids": ids}, ids) is None
    assert fold_of(method((2, 5)) | {"question_ids": ids[:3]}, ids) is None


def test_cuts_are_printed_as_make_takes_them():
    assert shares([1 / 30, 11 / 30]) == "1/30,11/30" and shares([0.0333, 1.0]) == "333/10000,1"
    assert shares([0.123456789, 0.5]) == "0.123456789,1/2"


def with_calibration(pruned: Path, folder: Path, *more: object) -> str:
    """Build a release that knows its imatrix's record and text; return its card."""
    known = ["--imatrix-record", pruned / "imatrix.gguf.json", "--calibration", pruned / "text.txt"]
    return build(pruned, folder, *known, *more, quants=("Q6_K", "Q4_K_M"))


def test_the_card_names_the_calibration_text_and_says_what_it_holds(pruned_demo, tmp_path, refusal):
    questions = ["--questions", DEMO / "calibration_questions.csv", DEMO / "eval_questions.csv"]
    # The first 20 calibration questions are the text: four of them scored, then four that it does not hold.
    inside = write_scores(pruned_demo, tmp_path / "in", first_ids(DEMO / "calibration_questions.csv", 4))
    card = with_calibration(pruned_demo, tmp_path / "r", "--scores", inside, *questions, tmp_path / "in/scored.csv")
    digest = sha256_file(pruned_demo / "text.txt")
    assert (
        f"measured on `text.txt`, sha256 `{digest}`. It holds 6 of the 6 questions that chose the experts. "
        "The calibration text holds the scored questions: 4 of 4." in card
    )
    assert "- In-sample in a second way: the calibration text holds the scored questions (4 of 4)." in card
    manifest = read_manifest(tmp_path / "r")
    assert len(manifest["inputs"]["calibration"]["held"]) == 20
    outside = write_scores(pruned_demo, tmp_path / "out", first_ids(DEMO / "eval_questions.csv", 4))
    card = with_calibration(pruned_demo, tmp_path / "s", "--scores", outside, *questions, tmp_path / "out/scored.csv")
    assert "It holds none of the 4 scored questions." in card and "second way" not in card
    with_calibration(pruned_demo, tmp_path / "r", *questions)
    manifest = read_manifest(tmp_path / "r")
    # A list of held questions that was made shorter by hand is not the build's.
    checked = Checked(tmp_path / "r", manifest, read_sources(tmp_path / "r"))
    assert not GATES["build"](checked).deviations
    manifest["inputs"]["calibration"]["held"] = []
    assert "expected the calibration of this build under 'inputs'" in GATES["build"](checked).deviations[0]
    other = tmp_path / "text.txt"
    other.write_text("another text")
    arguments = ["--calibration", other, *questions]
    with pytest.raises(InputError, match="expected the text"):
        with_calibration(pruned_demo, tmp_path / "t", *arguments)
    assert not (tmp_path / "t").exists()


def test_the_card_says_whether_the_build_that_quantised_has_answered(release):
    digest = next(iter(release.records.values()))["tools_sha256"]
    one, other = [[row | {"tools_sha256": [build]} for row in release.scores["rows"]] for build in (digest, "9" * 64)]
    said = builds_text(replace(release, scores=release.scores | {"rows": one}))
    assert f"| evaluation | `{digest}` |" in said and said.endswith("One build did all of these.")
    said = builds_text(replace(release, scores=release.scores | {"rows": other}))
    assert f"| quants | `{digest}` |" in said and f"| evaluation | `{'9' * 64}` |" in said
    assert said.endswith("Another build than the one that quantised did this: evaluation.")
    assert builds_text(replace(release, records={}, scores=None)) == ""


def test_what_is_not_known_of_a_calibration_text_is_said(release):
    assert "a text whose name is not recorded" in calibration_text(replace(release, inputs={}))
    known = {"calibration": "x.txt", "calibration_sha256": "a" * 64, "imatrix_sha256": "b" * 64, "held": None}
    unknown = replace(release, inputs={"questions": {}, "calibration": known})
    assert "It is not known whether it holds the scored questions." in calibration_text(unknown)
    assert "- It is not known whether the calibration text holds" in limits_section(unknown)
