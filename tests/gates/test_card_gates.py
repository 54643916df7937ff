"""The gates on what a card says and must not say: each kind of damage fails its own gate in one line."""

import csv
import json
from pathlib import Path

import check_release
from gates.checked import Checked, Outcome
from gates.gates import GATES
from makers.made_up_evidence import QUESTIONS
from makers.pruned_models import NAME
from makers.release_copies import change_json, failing, reseal
from makers.release_inputs import DOMINATED
from release.manifest import read_manifest
from release.order import exceptions, must_exceed, size_exceptions

import pytest


def test_order_by_hand():
    sizes = {"Q8_0": 90, "Q6_K_L": 70, "Q6_K": 71, "Q4_K_S": 40, "Q4_1": 45, "Q3_K_XL": 35, "Q3_K_L": 34}
    records = {name: {"type": name, "bytes": size, "sha256": name} for name, size in sizes.items()}
    assert must_exceed(records) == [("Q6_K_L", "Q6_K", False), ("Q3_K_XL", "Q3_K_L", True)]
    assert size_exceptions(records) == [
        "Q6_K is larger than Q6_K_L, although its name ranks lower.",
        "Q4_1 is larger than Q4_K_S, although its name ranks lower.",
    ]
    quality = {
        "conclusions": {"quantisation": {"dominated": DOMINATED}, "total": {"dominated": {}}},
        "files": [{"sha256": name, "label": name} for name in ("Q8_0", "Q6_K")],
    }
    assert exceptions(records, quality)[2:] == [
        "Q6_K has a significantly higher quantisation KLD than Q4_K_M (not in this repository), which is no larger."
    ]


def test_a_quant_that_must_be_larger_than_another_and_is_not_fails(copied):
    records = read_manifest(copied)["records"]
    record = records[f"{NAME}-Q6_K_L.gguf"]
    record.update(bytes=1, bits_per_weight=8 / record["parameters"])
    reseal(copied, records=records)
    assert any("expected Q6_K_L to be larger than Q6_K" in line for line in failing(copied, "order")["order"])


@pytest.mark.parametrize(
    "gate, words", [("order", "Q6_K has a significantly higher"), ("in-sample", "**In-sample:** 4 of the 4")]
)
def test_what_the_card_must_say_it_must_say(copied, gate, words):
    card = (copied / "README.md").read_text()
    assert words in card and not failing(copied, gate)
    (copied / "README.md").write_text(card.replace(words, "all is well"))
    reseal(copied)
    assert words in failing(copied)[gate][0] and set(failing(copied)) == {gate, "made"}


def test_another_models_in_sample_score_must_be_labelled_too(copied):
    rows = json.loads((copied / "scores.json").read_text())["rows"]
    rows[0]["in_sample"] = {"chosen_on": 4, "scored_and_chosen_on": 3}
    change_json(copied / "scores.json", rows=rows)
    sentence = "3 of the 4 scored questions also chose the experts of gemma-4-demo."
    assert sentence in failing(copied, "in-sample")["in-sample"][0]


def test_a_card_without_front_matter_or_file_fails(copied):
    card = (copied / "README.md").read_text()
    (copied / "README.md").write_text(card.replace("license: gemma\n", ""))
    assert "expected license in the front matter" in failing(copied, "card")["card"][0]
    (copied / "README.md").write_text(card.replace(f"{NAME}-Q4_K_M.gguf", "it"))
    assert failing(copied, "card")["card"] == [
        f"{copied / 'README.md'}: expected {NAME}-Q4_K_M.gguf in the card, found it missing"
    ]


@pytest.mark.parametrize(
    "gate, text",
    [
        ("private", "token hf_" + "aB3" * 10),
        ("private", "built in /home/ann/models"),
        ("private", "from http://10.0.0.7:3000/"),
        ("questions", None),
    ],
)
def test_what_must_not_be_published_fails(copied, gate, text):
    with open(QUESTIONS[0], newline="") as file:
        row = max(csv.DictReader(file), key=lambda row: len(row["Question"]))
    with open(copied / "template", "a") as file:
        file.write(text or row["Question"])
    reseal(copied)
    lines = failing(copied)[gate]
    assert len(lines) == 1 and lines[0].startswith("template: expected no") and "aB3" not in lines[0]
    assert list(failing(copied)) == ["build", gate] and (text or "found that of demo" in lines[0])


def test_without_questions_the_release_does_not_pass(release):
    def outcome_with(questions: dict[str, Path]) -> Outcome:
        sources = {"questions": questions}
        return check_release.outcome_of(GATES["questions"], Checked(release, read_manifest(release), sources))

    assert "expected question files to compare with" in outcome_with({}).deviations[0]
    assert "gone.csv: expected a question file" in outcome_with({"0": release / "gone.csv"}).deviations[0]


def test_many_deviations_are_cut_and_a_broken_form_is_one_line(copied):
    lines = check_release.check_lines("files", Outcome("x", [f"line {i}" for i in range(25)]))
    assert len(lines) == 22 and lines[-1].endswith("and 5 more")
    whole = (copied / "scores.json").read_text()
    change_json(copied / "scores.json", question_ids=[[]])
    line = failing(copied, "in-sample")["in-sample"][0]
    assert "question_ids" in line and "\n" not in line
    change_json(copied / "scores.json", question_ids=["a"], rows=[{}])
    assert "with the field 'rows.0.name', found none" in failing(copied, "in-sample")["in-sample"][0]
    (copied / "scores.json").write_text(whole)
    change_json(copied / "quality.json", conclusions={})
    assert "with conclusions of total and quantisation, found others" in failing(copied, "made")["made"][0]
