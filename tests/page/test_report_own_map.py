"""The report of a build whose drop map a user brought: what it is shown over, its label, and no statistics at all."""

import json
import re
from pathlib import Path

from build_report import main
from compare_scores import main as compare_scores
from files.input_errors import sha256_file
from files.json_records import read_json
from makers.synthetic_build import change, options, write_build
from page.records import read_experts
from scoring.run_summary import in_sample

import pytest

LAYERS, EXPERTS, KEEP, QUESTIONS = 2, 20, 16, 12


@pytest.fixture
def build(tmp_path) -> Path:
    write_build(tmp_path, QUESTIONS, LAYERS, EXPERTS, KEEP)
    return tmp_path


def bring_own_map(build: Path) -> Path:
    """Make the map of a build a plain one, which says nothing of questions; metadata and scores follow; return it."""
    drop_map = build / "drop_map.json"
    layers = read_json(drop_map)["layers"]
    drop_map.write_text(json.dumps({layer: entry["drop"] for layer, entry in layers.items()}))
    change(build / "expert_drop_metadata.json", "drop_map_sha256", value=sha256_file(drop_map))
    change(build / "findings.json", "inputs", "drop_map_sha256", value=sha256_file(drop_map))
    change(build / "pruned.json", "in_sample", value=in_sample([], drop_map))
    runs = ["--runs", build / "full.json", build / "pruned.json"]
    compare_scores(list(map(str, [*runs, "--output", build / "scores.md"])))
    return drop_map


def test_it_is_shown_over_all_questions_and_labelled(build):
    stats = build / "expert_stats.safetensors"
    before = read_experts(stats, build / "drop_map.json")[0]
    experts, content, _ = read_experts(stats, bring_own_map(build))
    assert (experts.dropped == before.dropped).all() and (experts.coverage == before.coverage).all()
    assert before.over == "the 12 questions that chose the experts" and experts.over == "all 12 questions analysed"
    assert (content["criterion"], content["keep_count"], content["questions"]) == ("own map", KEEP, QUESTIONS)
    main([*options(build), "--output", str(build / "report.html")])
    page = (build / "report.html").read_text()
    for words in (
        "Over all 12 questions analysed.",
        "16 of 20 experts per layer, by own map",
        "Not known whether in-sample: the drop map of pruned does not say which questions chose the experts.",
    ):
        assert words in page, words
    shown = re.sub(r"<dl.*?</dl>", "", page, flags=re.DOTALL)  # the glossary explains the words for all pages
    assert "Held out:" not in shown and "None of" not in shown


def test_it_is_shown_where_nothing_was_analysed(build, capsys):
    """The drop needs a map and a checkpoint alone."""
    bring_own_map(build)
    given = options(build)
    at = given.index("--stats")
    main([*given[:at], *given[at + 2 :], "--output", str(build / "report.html")])
    assert "missing: What each expert contributes (make analyze)" in capsys.readouterr().out
    page = (build / "report.html").read_text()
    assert "by own map" in page and "None of" not in page
    with pytest.raises(SystemExit):  # statistics without a map say nothing of what was dropped
        main([*given[: at + 2], "--output", str(build / "report.html")])


def test_one_that_does_not_fit_the_statistics_is_refused(build, refusal):
    drop_map = bring_own_map(build)
    change(drop_map, "1", value=[3, 99, 5, 6])
    refusal(main, [*options(build), "--output", build / "report.html"], drop_map, "ids from 0 to 19 in layer 1")
    assert not (build / "report.html").exists()
