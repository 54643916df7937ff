"""Comparison of evaluations: the page and its figures, refusals, sizes of quants, and folds that were held out."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import compare_scores
import pool_heldout
from calls import as_command
from files.json_records import read_record, sha256_json
from files.seals import MARKER, seal_file
from files.written_records import write_record
from quants.quant_record import QuantRecord
from scoring.eval_protocol import Protocol
from scoring.score_records import Scores, Summary, figures

import pytest

PATCH = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0}
GIB = 1 << 30


def summary(name: str, right: str, seed: int = 42, patch: dict | None = PATCH, **changes: object) -> dict:
    """A run. Per question "1" right, "0" wrong, "p" empty and right after the patch, "e" empty and wrong after it."""
    rows = []
    for i, mark in enumerate(right):
        row = {
            "record_id": f"q{i}",
            "order": [0, 1, 2, 3],
            "prompt_sha256": f"{i:064x}",
            "target": "A",
            "class": "empty" if mark in "pe" else "answered",
            "correct": mark == "1",
            "strict_correct": mark == "1",
            "completion_tokens": 1,
        }
        patched = {"patched_letter": "A" if mark == "p" else "B", "patched_correct": mark == "p"}
        rows.append(row | (patched if mark in "pe" and patch else {}))
    protocol = Protocol(seed=seed, choice_order_seed=seed)
    return {
        "version": Summary.current,
        "name": name,
        "gguf": f"{name}.gguf",
        "gguf_sha256": sha256_json(name),
        "gguf_bytes": 1,
        "experts": 4,
        "protocol": asdict(protocol),
        "protocol_sha256": protocol.digest,
        "in_sample": None,
        **figures(rows, patch),
        **changes,
    } | digest_of(changes)


def digest_of(changes: dict) -> dict:
    """The digest that goes with another protocol."""
    return {"protocol_sha256": sha256_json(changes["protocol"])} if "protocol" in changes else {}


def quant(kind: str, size: int) -> dict:
    return {
        "type": kind,
        "base": kind,
        "arguments": [],
        "note": "",
        "llama_cpp": "test",
        "parameters": 1,
        "experts": 4,
        "bytes": size,
        "bits_per_weight": 8.0 * size,
        "tensors_per_type": {kind: 1},
        "source_sha256": "0" * 64,
        "imatrix_sha256": None,
        "calibration_sha256": None,
        "sha256": "0" * 64,
    }


@pytest.fixture
def saved(tmp_path) -> Callable[..., list[str]]:
    """Save summaries as they are, each in a run directory of its own; return the directories."""

    def save(*runs: dict) -> list[str]:
        places = [tmp_path / f"run{number}" for number in range(len(runs))]
        for place, content in zip(places, runs):
            place.mkdir(exist_ok=True)
            (place / "summary.json").write_text(json.dumps(content))
        return list(map(str, places))

    return save


@pytest.fixture
def compared(saved, tmp_path, capsys) -> Callable[..., tuple[str, dict]]:
    """Compare runs; return what was printed and the record."""

    def call(*runs: dict) -> tuple[str, dict]:
        compare_scores.main(["--runs", *saved(*runs), "--output", str(tmp_path / "scores.md")])
        return capsys.readouterr().out, read_record(tmp_path / "scores.json", Scores)

    return call


def test_the_page_has_scores_invalid_answers_chance_and_the_verdict(compared, tmp_path):
    full = summary("full", "11111111pe")
    pruned = summary("pruned", "1111111000", in_sample={"chosen_on": 10, "scored_and_chosen_on": 10})
    text, result = compared(full, pruned)
    assert text == (tmp_path / "scores.md").read_text()
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")
    for words in (
        "| full | 4 | 8/10 = 80.00% | 8/10 = 80.00% | 9/10 = 90.00% |",
        "| 2: 2 empty (0.5) | reference |",
        "| pruned | 4 | 7/10 = 70.00% | 7/10 = 70.00% | 7/10 = 70.00% |",
        "| 0 (0.0) | -20.00 points |",
        "2 questions lost, 0 won",
        "p = 0.5",
        "no detectable difference",
        "too few questions",
        "**In-sample:** 10 of the 10 scored questions also chose the experts of pruned.",
    ):
        assert words in text, words
    assert result["rows"][1]["lost"] == 2 and result["question_ids"] == sorted(f"q{i}" for i in range(10))


def test_seeds_of_one_file_are_one_model_and_every_pair_is_compared(compared):
    rights = {"a": ("1100", "1000"), "b": ("1111", "0000"), "c": ("0000", "0000")}
    runs = [summary(name, right, seed) for name in rights for seed, right in zip((43, 42), rights[name])]
    text, result = compared(*runs)
    assert "Scores are sums over the seeds 42, 43" in text
    assert [(row["name"], row["seeds"], row["raw_correct"], row["questions"]) for row in result["rows"]] == [
        ("a", [42, 43], 3, 8),
        ("b", [42, 43], 4, 8),
        ("c", [42, 43], 0, 8),
    ]
    assert [row["pass_at"] for row in result["rows"][:2]] == [{"1": 3 / 8, "2": 0.5}, {"1": 0.5, "2": 1.0}]
    assert "pass@2" in text and "pass@" not in compared(summary("a", "10"), summary("b", "01"))[0]
    first = result["pairs"][0]  # sums over seeds: a 2 1 0 0, b 1 1 1 1: differences -1 0 1 1
    assert (first["lost"], first["won"], first["mcnemar_p"]) == (1, 2, 1.0)
    assert first["difference"] == pytest.approx(1 / 8)
    assert [(pair["reference"], pair["model"]) for pair in result["pairs"]] == [("a", "b"), ("a", "c"), ("b", "c")]


def other_order(run: dict) -> dict:
    run["answers"][1]["order"] = [1, 0, 2, 3]
    return run


@pytest.mark.parametrize(
    "other, words",
    [
        (summary("b", "1111", protocol=asdict(Protocol(concurrency=4))), "concurrency 1"),
        (summary("b", "1111", seed=7), "the seeds 42"),
        (summary("b", "111"), "the 4 questions"),
        (summary("b", "1111", patch=None), "patch step"),
        (other_order(summary("b", "1111")), "order of choices"),
        (summary("a", "1111", gguf_sha256="0" * 64), "a name of its own"),
        (summary("a", "1111"), "one seed twice"),
        (summary("a", "111", seed=7), "the same questions in every run of one model"),
    ],
)
def test_what_cannot_be_compared_is_refused(saved, tmp_path, refusal, other, words):
    runs = saved(summary("a", "1100"), other)
    refusal(compare_scores.main, ["--runs", *runs, "--output", tmp_path / "scores.md"], words)
    assert not list(tmp_path.glob("scores.*"))


def test_unpatched_runs_are_compared_by_raw_scores(compared):
    text, _ = compared(summary("a", "11pe", patch=None), summary("b", "1000", patch=None))
    assert "| a | 4 | 2/4 = 50.00% | 2/4 = 50.00% | - |" in text


@pytest.mark.parametrize(
    "change, words",
    [
        ({"answers": 3}, "whose 'answers' is a valid list, found 3"),
        ({"answers": []}, "4 answered questions"),
        ({"questions": 5}, "5 answered"),
        ({"version": 0}, "a summary of eval_gpqa_v3.sh, version 1, found version 0"),
        ({"name": ...}, "a summary of eval_gpqa_v3.sh with the field 'name', found none"),
    ],
)
def test_what_is_no_summary_is_refused(saved, tmp_path, refusal, change, words):
    (run,) = saved(summary("a", "1100"))
    content = {key: value for key, value in (summary("b", "1100") | change).items() if value is not ...}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content))
    refusal(compare_scores.main, ["--runs", run, other, "--output", tmp_path / "s.md"], other, words)
    refusal(compare_scores.main, ["--model", other, "--output", tmp_path / "s.md"], other, words)
    refusal(pool_heldout.main, ["--name", "x", "--summary", other, "--output", tmp_path / "p.json"], other, words)


def test_quant_records_beside_a_model_s_summaries_are_known_by_their_file_names(saved, tmp_path, capsys, refusal):
    """--model takes both; rows have the sizes in bytes by type, the table in GiB, the largest type first."""
    full, pruned = saved(summary("full", "1100"), summary("pruned", "1000"))
    sizes = {"full-Q4_K_M": ("Q4_K_M", GIB), "full-Q8_0": ("Q8_0", 2 * GIB), "pruned-Q4_K_M": ("Q4_K_M", GIB // 2)}
    records = {}
    for name, (kind, size) in sizes.items():
        records[name] = tmp_path / f"{name}.gguf.json"
        write_record(records[name], quant(kind, size), QuantRecord)
    models = [
        ["--model", records["full-Q4_K_M"], f"{full}/summary.json", records["full-Q8_0"]],
        ["--model", f"{pruned}/summary.json", records["pruned-Q4_K_M"]],
    ]
    output = ["--output", tmp_path / "scores.md"]
    compare_scores.main(list(map(str, [*models[0], *models[1], *output])))
    result = read_record(tmp_path / "scores.json", Scores)
    assert [row["bytes"] for row in result["rows"]] == [{"Q4_K_M": GIB, "Q8_0": 2 * GIB}, {"Q4_K_M": GIB // 2}]
    text = capsys.readouterr().out
    for words in ("| Experts | Q8_0 GiB | Q4_K_M GiB |", "| full | 4 | 2.00 | 1.00 |", "| pruned | 4 | - | 0.5000 |"):
        assert words in text, words

    scored = tmp_path / "scored.gguf.json"
    write_record(scored, quant("Q6_K", 2) | {"sha256": sha256_json("full")}, QuantRecord)
    refusal(compare_scores.main, [*models[0], scored, *output], scored, "1 bytes and 4 experts", "found 2 and 4")
    renamed = records["full-Q8_0"].rename(tmp_path / "full-Q8_0.json")
    refusal(compare_scores.main, [*models[0][:3], renamed, *output], renamed, "a summary of eval_gpqa_v3.sh")
    named_so = Path(f"{full}/summary.json").rename(tmp_path / "summary.gguf.json")
    refusal(compare_scores.main, ["--model", named_so, *output], "a summary of eval_gpqa_v3.sh for every model")
    refusal(compare_scores.main, [*models[1], named_so, *output], named_so, "a record of quantize_gguf.py")


def test_a_pruned_model_that_does_not_say_what_chose_its_experts_is_labelled(compared):
    def runs(known: dict | None) -> list[dict]:
        return [
            summary("full", "1100"),
            summary("pruned", "1000", experts=3),
            summary("pruned", "1000", seed=7, experts=3, in_sample=known),
            summary("full", "1100", seed=7),
        ]

    assert "**Not known whether in-sample:** pruned has fewer experts" in compared(*runs(None))[0]
    own_map = {"chosen_on": None, "scored_and_chosen_on": None}
    text, result = compared(*runs(own_map))
    assert "**Not known whether in-sample:** the drop map of pruned does not say which questions" in text
    assert result["rows"][1]["in_sample"] == own_map and "Held out" not in text and "**In-sample" not in text
    known = {"chosen_on": 9, "scored_and_chosen_on": 4}
    both = runs(known)
    both[1]["in_sample"] = own_map  # the run that knows decides, whatever the other one was given
    assert "**In-sample:** 4 of the 4 scored questions" in compared(*both)[0]
    assert "**In-sample:** 4 of the 4 scored questions" in compared(*runs(known))[0]


def test_folds_are_pooled_and_what_was_not_held_out_is_refused(saved, tmp_path, refusal):
    held = {"chosen_on": 3, "scored_and_chosen_on": 0}
    first, second = summary("f1", "10p", in_sample=held), summary("f2", "11", in_sample=held)
    for number, answer in enumerate(second["answers"]):
        answer["record_id"] = f"r{number}"

    (tmp_path / MARKER).touch()

    def arguments(*folds: dict) -> list[str]:
        summaries = [f"{run}/summary.json" for run in saved(*folds)]
        for path in summaries:
            with as_command("summarize_scores"):
                seal_file(Path(path), Path(path))
        return ["--name", "held", "--summary", *summaries, "--output", str(tmp_path / "pooled.json")]

    pool_heldout.main(arguments(first, second))
    pooled = read_record(tmp_path / "pooled.json", Summary)
    counts = [pooled[key] for key in ("questions", "raw_correct", "patched_correct", "invalid_total")]
    assert counts == [5, 3, 4, 1] and pooled["in_sample"]["scored_and_chosen_on"] == 0
    for other, words in (
        (summary("f2", "11", in_sample=held), "q0 in"),
        (summary("f2", "11"), "did not choose"),
        (summary("f2", "11", in_sample={"chosen_on": None, "scored_and_chosen_on": None}), "did not choose"),
        (summary("f2", "11", in_sample=held, patch=None), "patch step"),
    ):
        refusal(pool_heldout.main, arguments(first, other), words)
    by_hand = arguments(first, second)
    (tmp_path / "run1/summary.json").write_text(json.dumps({**second, "name": "f3"}))
    refusal(pool_heldout.main, by_hand, "run1/summary.json", "what summarize_scores wrote, found one edited")
