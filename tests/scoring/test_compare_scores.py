"""Comparison of evaluations: intervals and tests against hand-computed and scipy's figures, refusals, the page, held-out folds."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

import compare_scores
import pool_heldout
from scoring.eval_protocol import Protocol
from scoring.paired_statistics import (
    difference_interval,
    mcnemar,
    sign_flip_tail,
    smallest_likely,
    smallest_shown,
    wilson,
)
from scoring.score_records import figures

PATCH = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0}


def differences(lost: int, won: int, same: int) -> np.ndarray:
    return np.array([-1] * lost + [1] * won + [0] * same)


def test_the_cards_difference_gives_the_known_figures():
    low, high = wilson(np.array([1.0] * 162 + [0.0] * 36))
    assert (round(100 * low, 1), round(100 * high, 1)) == (75.9, 86.6)
    card = differences(10, 7, 181)
    assert round(mcnemar(card), 2) == 0.63
    assert round(100 * smallest_shown(card, 1), 1) == 4.5  # 13 to 4: p = 0.049; 12 to 5: p = 0.14
    mean, low, high = difference_interval(card)
    # (lost, won) + half a question each, n + 2: -3/200 ± 1.96 sqrt((18/200 - (3/200)^2) / 200)
    half = 1.959964 * math.sqrt((18 / 200 - (3 / 200) ** 2) / 200)
    assert (mean, low, high) == pytest.approx((-3 / 198, -3 / 200 - half, -3 / 200 + half), abs=1e-6)
    assert smallest_likely(card) == pytest.approx(2.801585 * math.sqrt(18 / 200 / 200), abs=1e-6)


@pytest.mark.parametrize("right, total", [(0, 7), (7, 7), (3, 10), (159, 198)])
def test_wilson_is_scipys_for_one_seed(right, total):
    interval = binomtest(right, total).proportion_ci(method="wilson")
    assert wilson(np.array([1.0] * right + [0.0] * (total - right))) == pytest.approx(
        (interval.low, interval.high), abs=1e-9
    )


@pytest.mark.parametrize("lost, won", [(0, 0), (1, 0), (6, 0), (3, 9), (13, 4), (20, 20)])
def test_the_paired_test_is_the_exact_binomial_for_one_seed(lost, won):
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(differences(lost, won, 5)) == pytest.approx(expected)


def test_several_seeds_are_tested_by_question():
    # Sizes 2 and 1: the sums are ±3, ±1, each by one of four signs.
    assert sign_flip_tail(np.array([2, 1, 0])).tolist() == [1.0, 1.0, 0.5, 0.5]
    assert mcnemar(np.array([2, 1, 0])) == 0.5
    once = np.array([1.0, 0.0, 1.0, 1.0, 0.0])
    assert wilson(once) == pytest.approx(wilson((once * 3) / 3))  # the same answer three times says no more than once
    assert wilson(np.array([0.5] * 4 + [1.0, 0.0]))[0] > wilson(np.array([1.0, 0.0] * 3))[0]


def test_too_few_questions_that_differ_can_show_nothing():
    assert smallest_shown(differences(3, 2, 100), 1) is None and smallest_shown(differences(6, 0, 94), 1) == 0.06
    assert (
        smallest_shown(np.array([-2, 0, 2, 3, -2, 0, 2, -2]), 3) == 13 / 24
    )  # 2 2 2 2 2 3 give 13, 9, 7, ..., never 11
    low, high = difference_interval(differences(0, 0, 198))[1:]
    assert low < 0 < high


def summary(name: str, right: str, seed: int = 42, patch: dict | None = PATCH, **changes) -> dict:
    """A run: per question "1" right, "0" wrong, "p" empty and right after the patch, "e" empty and wrong after it."""
    rows = []
    for i, mark in enumerate(right):
        row = {
            "record_id": f"q{i}",
            "order": [0, 1, 2, 3],
            "prompt_sha256": f"{i}",
            "class": "empty" if mark in "pe" else "answered",
            "correct": mark == "1",
            "strict_correct": mark == "1",
            "completion_tokens": 1,
        }
        rows.append(row | ({"patched_correct": mark == "p"} if mark in "pe" and patch else {}))
    protocol = vars(Protocol(seed=seed, choice_order_seed=seed))
    return {
        "name": name,
        "gguf": f"{name}.gguf",
        "gguf_sha256": name,
        "gguf_bytes": 1,
        "experts": 4,
        "protocol": protocol,
        "protocol_sha256": Protocol(**protocol).digest,
        "in_sample": None,
        **figures(rows, patch),
        **changes,
    }


@pytest.fixture
def saved(tmp_path):
    def save(*runs: dict) -> list[str]:
        places = []
        for number, content in enumerate(runs):
            (tmp_path / f"run{number}").mkdir(exist_ok=True)
            (tmp_path / f"run{number}/summary.json").write_text(json.dumps(content))
            places.append(str(tmp_path / f"run{number}"))
        return places

    return save


def test_the_page_says_scores_invalid_answers_chance_and_the_verdict(saved, tmp_path, capsys):
    full = summary("full", "11111111pe")
    pruned = summary("pruned", "1111111000", in_sample={"chosen_on": 10, "scored_and_chosen_on": 10})
    compare_scores.main(["--runs", *saved(full, pruned), "--output", str(tmp_path / "scores.md")])
    text = capsys.readouterr().out
    assert text == (tmp_path / "scores.md").read_text() and (tmp_path / "scores.png").read_bytes().startswith(
        b"\x89PNG"
    )
    assert (
        "| full | 4 | 8/10 = 80.00% | 8/10 = 80.00% | 9/10 = 90.00% |" in text
        and "| 2: 2 empty (0.5) | reference |" in text
    )
    assert (
        "| pruned | 4 | 7/10 = 70.00% | 7/10 = 70.00% | 7/10 = 70.00% |" in text
        and "| 0 (0.0) | -20.00 points |" in text
    )
    assert (
        "2 questions lost, 0 won" in text
        and "p = 0.5" in text
        and "no detectable difference" in text
        and "too few questions" in text
    )
    assert "**In-sample:** 10 of the 10 scored questions also chose the experts of pruned." in text
    result = json.loads((tmp_path / "scores.json").read_text())
    assert result["rows"][1]["lost"] == 2 and result["question_ids"] == sorted(f"q{i}" for i in range(10))


def test_seeds_of_one_file_are_one_model_and_every_pair_is_compared(saved, tmp_path):
    runs = [
        summary(name, right, seed)
        for name, rights in {"a": ("1100", "1000"), "b": ("1111", "0000"), "c": ("0000", "0000")}.items()
        for seed, right in zip((43, 42), rights)
    ]
    compare_scores.main(["--runs", *saved(*runs), "--output", str(tmp_path / "scores.md")])
    result = json.loads((tmp_path / "scores.json").read_text())
    assert [(row["name"], row["seeds"], row["raw_correct"], row["questions"]) for row in result["rows"]] == [
        ("a", [42, 43], 3, 8),
        ("b", [42, 43], 4, 8),
        ("c", [42, 43], 0, 8),
    ]
    first = result["pairs"][0]  # sums over seeds: a 2 1 0 0, b 1 1 1 1: differences -1 0 1 1
    assert (first["lost"], first["won"], first["mcnemar_p"]) == (1, 2, 1.0) and first["difference"] == pytest.approx(
        1 / 8
    )
    assert [(pair["reference"], pair["model"]) for pair in result["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]


def other_order(run: dict) -> dict:
    run["answers"][1]["order"] = [1, 0, 2, 3]
    return run


@pytest.mark.parametrize(
    "other, words",
    [
        (summary("b", "1111", protocol=vars(Protocol(concurrency=4))), "concurrency 1"),
        (summary("b", "1111", seed=7), "the seeds 42"),
        (summary("b", "111"), "the 4 questions"),
        (summary("b", "1111", patch=None), "patch step"),
        (other_order(summary("b", "1111")), "order of choices"),
        (summary("a", "1111", gguf_sha256="x"), "a name of its own"),
        (summary("a", "1111"), "one seed twice"),
    ],
)
def test_what_cannot_be_compared_is_refused(saved, tmp_path, refusal, other, words):
    refusal(
        compare_scores.main, ["--runs", *saved(summary("a", "1100"), other), "--output", tmp_path / "scores.md"], words
    )
    assert not (tmp_path / "scores.md").exists()


def test_unpatched_runs_are_compared_by_raw_scores(saved, tmp_path, capsys):
    compare_scores.main(
        [
            "--runs",
            *saved(summary("a", "11pe", patch=None), summary("b", "1000", patch=None)),
            "--output",
            str(tmp_path / "scores.md"),
        ]
    )
    assert "| a | 4 | 2/4 = 50.00% | 2/4 = 50.00% | - |" in capsys.readouterr().out


def test_what_is_no_summary_is_refused(saved, tmp_path, refusal):
    (run,) = saved(summary("a", "1100"))
    for change, words in (
        ({"answers": 3}, "other values"),
        ({"answers": []}, "4 answered questions"),
        ({"questions": 5}, "5 answered"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(summary("b", "1100") | change))
        refusal(
            compare_scores.main,
            ["--runs", run, tmp_path / "other.json", "--output", tmp_path / "s.md"],
            tmp_path / "other.json",
            words,
        )
    (tmp_path / "other.json").write_text('{"rows": []}')
    refusal(
        compare_scores.main,
        ["--runs", run, tmp_path / "other.json", "--output", tmp_path / "s.md"],
        "a summary of",
        "without 'name'",
    )
    refusal(
        pool_heldout.main,
        ["--name", "x", "--summary", tmp_path / "other.json", "--output", tmp_path / "p.json"],
        "a summary of",
    )
    refusal(compare_scores.main, ["--model", tmp_path / "other.json", "--output", tmp_path / "s.md"], "a summary of")


def test_a_pruned_model_that_does_not_say_what_chose_its_experts_is_labelled(saved, tmp_path, capsys):
    runs = saved(
        summary("full", "1100"),
        summary("pruned", "1000", experts=3),
        summary("pruned", "1000", seed=7, experts=3),
        summary("full", "1100", seed=7),
    )
    compare_scores.main(["--runs", *runs, "--output", str(tmp_path / "s.md")])
    assert "**Perhaps in-sample:** pruned has fewer experts" in capsys.readouterr().out
    known = {"chosen_on": 9, "scored_and_chosen_on": 4}
    runs = saved(
        summary("full", "1100"),
        summary("pruned", "1000", experts=3),
        summary("pruned", "1000", seed=7, experts=3, in_sample=known),
        summary("full", "1100", seed=7),
    )
    compare_scores.main(["--runs", *runs, "--output", str(tmp_path / "s.md")])
    assert "**In-sample:** 4 of the 4 scored questions" in capsys.readouterr().out


def test_folds_are_pooled_and_what_was_not_held_out_is_refused(saved, tmp_path, refusal):
    held = {"chosen_on": 3, "scored_and_chosen_on": 0}
    first, second = summary("f1", "10p", in_sample=held), summary("f2", "11", in_sample=held)
    for number, answer in enumerate(second["answers"]):
        answer["record_id"] = f"r{number}"
    output = tmp_path / "pooled.json"
    pool_heldout.main(
        [
            "--name",
            "held",
            "--summary",
            *(f"{run}/summary.json" for run in saved(first, second)),
            "--output",
            str(output),
        ]
    )
    pooled = json.loads(output.read_text())
    assert (pooled["questions"], pooled["raw_correct"], pooled["patched_correct"], pooled["invalid_total"]) == (
        5,
        3,
        4,
        1,
    )
    assert pooled["in_sample"]["scored_and_chosen_on"] == 0
    for other, words in (
        (summary("f2", "11", in_sample=held), "q0 in"),
        (summary("f2", "11"), "did not choose"),
        (summary("f2", "11", in_sample=held, patch=None), "patch step"),
    ):
        refusal(
            pool_heldout.main,
            [
                "--name",
                "held",
                "--output",
                output,
                "--summary",
                *(f"{run}/summary.json" for run in saved(first, other)),
            ],
            words,
        )
