"""Comparing criteria: its numbers by hand and from transformers, kill and resume, equal bytes, refusals, make."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from chats.chat_sequences import Sequence, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from choice.criteria import CRITERIA
from compare_criteria import Choice, choices_at, domain_inputs, main, protection, question_row, read_result
from conftest import REPO
from expert_drop import main as drop
from files.input_errors import InputError, sha256_file
from files.json_records import check_record, read_json
from files.written_records import write_json
from generate_drop_map import main as choose
from losses import criteria_report as report
from losses.domain_losses import add_domain_losses, domain_lines, domain_sentence, domain_table
from losses.kld_statistics import kl_divergence
from makers.shared_ggufs import link_f16, tiny_ggufs
from teacher_force_analysis import main as analyse

import numpy as np
import pytest
import torch
import transformers
from matplotlib import image

KEEP, SEEDS = 10, 1
FILES = ("table.md", "table.json", "table.png")


@pytest.fixture(scope="module")
def inputs(tiny_text_model, few_questions, tmp_path_factory) -> dict[str, Path]:
    """A tiny model's GGUF, its statistics over four calibration questions, and questions to measure on."""
    folder = tmp_path_factory.mktemp("inputs")
    model, gguf, stats = str(tiny_text_model), folder / "tiny.gguf", folder / "stats.safetensors"
    lines = (REPO / "data/demo/calibration_questions.csv").read_text().splitlines(keepends=True)
    (folder / "chose.csv").write_text("".join(lines[:5]))
    order = ["--reconstruction", "all"]
    analyse(["--model", model, "--questions", str(folder / "chose.csv"), "--output", str(stats), *order])
    link_f16(tiny_ggufs(tmp_path_factory, tiny_text_model), gguf)
    return {"--gguf": gguf, "--stats": stats, "--model": tiny_text_model, "--questions": few_questions}


def arguments(inputs: dict[str, Path], output: Path, **changes: object) -> list[str]:
    """The command line of a small comparison."""
    flags = {
        **inputs,
        "--keep": KEEP,
        "--seeds": SEEDS,
        "--threads": 1,
        "--output": output,
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return [str(part) for flag, value in flags.items() for part in ([flag] if value is True else [flag, value])]


@dataclass(frozen=True)
class Finished:
    """The directory of a finished comparison, what it printed, and the line that it failed with, if any."""

    folder: Path
    printed: str
    failure: str | None


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory) -> Finished:
    folder, printed, failure = tmp_path_factory.mktemp("finished"), io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            main(arguments(inputs, folder / "table.md"))
        except SystemExit as error:  # a random model's experts are alike: the control may well not cost most
            failure = str(error)
    return Finished(folder, printed.getvalue(), failure)


def test_every_criterion_random_choices_and_the_control_are_compared():
    labels = [choice.label for choice in choices_at(109, 5)]
    assert labels == [*CRITERIA, *(f"random:{seed}" for seed in range(1, 6)), "worst first"]
    assert len({choice.file for choice in choices_at(109, 5) + choices_at(64, 5)}) == 2 * len(labels)
    assert Choice("coverage", 64, worst_first=True).flags == [
        "--keep",
        "64",
        "--criterion",
        "coverage",
        "--worst-first",
        "--bootstrap",
        "0",
    ]


def test_few_protected_experts_are_asked_for_where_a_criterion_protects_any():
    assert protection("coverage", 4) == protection("norm-plus-count", 4) == ["--protect-top", "4"]
    assert protection("reap", 4) == protection("coverage", None) == []


def test_a_choice_by_domains_is_one_more():
    domains = ("--domains", "Physics:1:0.5", "--domain-questions", "questions.csv")
    choices = choices_at(64, 1, "reap", domains)
    assert [choice.label for choice in choices if choice.domains] == ["reap by domains"]
    assert len(choices) == len(choices_at(64, 1)) + 1 == len({choice.file for choice in choices})
    assert choices[0].flags == ["--keep", "64", "--criterion", "reap", *domains, "--bootstrap", "0"]


def test_a_state_by_domains_is_of_one_file_of_domains(tmp_path):
    """The same names of domains with other questions behind them choose other experts."""
    path = tmp_path / "questions.csv"
    path.write_text("one")
    args = Namespace(domains=["Physics:1"], criterion="reap", domain_questions=path)
    first = domain_inputs(args)
    path.write_text("other")
    assert first != domain_inputs(args) and first | domain_inputs(args) == domain_inputs(args)
    assert domain_inputs(Namespace(domains=None)) == {}


def test_losses_by_domain_by_hand():
    results = {9: made_up(coverage=[1.0, 3.0, 8.0], reap=[2.0, 2.0, 6.0], random1=[0.5, 0.5, 0.5])}
    names = ["Physics", "Physics", "alone"]
    for entry in results[9].values():  # of three questions, and not of two
        entry["per_question"] |= {"tokens": [2, 2, 2], "reply_tokens": [1, 1, 1]}
    add_domain_losses(results, names)
    # Sums 1 and 3 over 2 tokens each: mean 1, deviations -1 and 1, so the error is sqrt(2 x 2 / 1) / 4.
    assert results[9]["coverage"]["by_domain"]["kld"] == {"Physics": [1.0, 0.5]}
    assert domain_lines(results, names) == []  # one domain is none to compare
    four = {9: made_up(coverage=[1.0, 3.0, 8.0, 8.0], reap=[2.0, 2.0, 6.0, 7.0])}
    for entry in four[9].values():
        entry["per_question"] |= {"tokens": [2] * 4, "reply_tokens": [1] * 4}
    names = ["Physics", "Physics", "Biology", "Biology"]
    add_domain_losses(four, names)
    page = "\n".join(domain_lines(four, names))
    assert "(Biology 2, Physics 2 chats)" in page and "### 9 experts kept, replies alone" in page
    assert "**9 experts kept, all tokens:** reap costs least in its worst domain (Biology, 3.25 ± 0.25)" in page
    entries = {
        label: {"by_domain": {"kld": dict(zip(("Biology", "Physics"), pairs))}}
        for label, pairs in {
            "coverage": [[1.0, 0.1], [4.0, 0.1]],
            "reap": [[3.0, 0.1], [2.0, 0.1]],
            "random:1": [[0.5, 0.1], [0.5, 0.1]],
        }.items()
    }
    table = domain_table(entries, "kld").splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| random:1", "| reap", "| coverage (default)"]
    assert table[-1].endswith("| Physics |")
    assert "reap costs least in its worst domain (Biology, 3.00 ± 0.10)" in domain_sentence(9, "kld", entries)


def test_positions_by_hand():
    sequence = Sequence([5, 6, 7, 8, 9], 3, False)  # 3 tokens of prompt, then the reply 8, 9; predicted: 6, 7, 8, 9
    row = question_row(np.array([1.0, 2.0, 4.0, 8.0, 100.0]), np.array([True, False, True, False, True]), sequence)
    assert row == {"tokens": 4, "kld": 15.0, "same_top": 2, "reply_tokens": 2, "reply_kld": 12.0, "reply_same_top": 1}


def test_mean_and_error_by_hand():
    assert report.mean_and_error(np.array([2.0, 4.0]), np.array([1, 1])) == (3.0, 1.0)  # as std / sqrt(2)
    mean, error = report.mean_and_error(np.array([3.0, 3.0, 6.0]), np.array([1, 2, 3]))  # residuals 1, -1, 0 about 2
    assert mean == 2.0 and error == pytest.approx(np.sqrt(2 * 3 / 2) / 6)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"protect_top": None}, "'protect_top' is a valid integer, found None"),
        ({"pruned_sha256": "0"}, "'pruned_sha256' is 64 hex digits, found '0'"),
        ({"per_question": {}}, "with the field 'per_question.tokens', found none"),
    ],
)
def test_a_damaged_result_of_a_choice_is_refused(tmp_path, change, words):
    digests = {"drop_map_sha256": "0" * 64, "pruned_sha256": "1" * 64}
    columns: dict[str, list] = {name: [1] for name in ("tokens", "same_top", "reply_tokens", "reply_same_top")}
    columns |= {"kld": [0.5], "reply_kld": [0.25]}
    content = {"criterion": "reap", "worst_first": False, "protect_top": 0, **digests, "per_question": columns}
    write_json(tmp_path / "result.json", content)
    assert read_result(tmp_path / "result.json") == content
    comparison = {"version": 1, "inputs": {}, "truncated": 0, "seeds": 1, "conclusions": {}}
    check_record("criteria.json", comparison | {"keep": {"9": {"reap": content}}}, report.Criteria)
    write_json(tmp_path / "result.json", content | change)
    with pytest.raises(InputError) as caught:
        read_result(tmp_path / "result.json")
    assert words in str(caught.value)
    with pytest.raises(InputError):
        check_record("criteria.json", comparison | {"keep": {"9": {"reap": content | change}}}, report.Criteria)


def made_up(**sums: list[float]) -> dict[str, dict]:
    """Results of two questions with two tokens each, one of them in the reply."""
    labels = {
        name.replace("_", " ") if name == "worst_first" else name.replace("random", "random:"): values
        for name, values in sums.items()
    }
    return {
        label: {
            "per_question": {
                "tokens": [2, 2],
                "kld": values,
                "same_top": [2, 1],
                "reply_tokens": [1, 1],
                "reply_kld": values,
                "reply_same_top": [1, 0],
            }
        }
        for label, values in labels.items()
    }


def test_what_came_out_by_hand():
    results = {
        9: made_up(
            coverage=[1.0, 3.2],
            reap=[1.0, 3.0],
            gate=[2.0, 4.0],
            random1=[2.5, 4.5],
            random2=[0.9, 2.9],
            worst_first=[9.0, 9.0],
        )
    }
    report.add_comparisons(results)
    assert results[9]["coverage"]["kld"] == pytest.approx(1.05) and results[9]["coverage"]["same_top"] == 0.75
    assert results[9]["coverage"]["kld_above_best"] == pytest.approx(0.05)
    assert results[9]["coverage"]["kld_above_best_error"] == pytest.approx(0.05)  # differences 0 and 0.2 over 2 tokens
    found = report.criteria_conclusions(results)
    kld = found["keep"]["9"]["kld"]
    assert kld["best"] == "reap" and kld["default_rank"] == 2 and kld["criteria"] == 3
    assert kld["not_significantly_worse"] == ["coverage"]  # gate differs by the same 0.5 in both questions
    assert (kld["random_worse_than_default"], kld["random_better_than_best"]) == (1, 1)
    assert found["control_last"]
    text = report.sentence("9", "kld", kld, results[9])
    assert "number 2 of 3 and not significantly worse than reap" in text and "costs most of all 6 choices" in text
    assert "1 of the random choices cost less than reap" in text


def test_a_control_that_does_not_cost_most_is_said_aloud():
    results = {9: made_up(coverage=[1.0, 1.0], reap=[2.0, 3.0], random1=[2.5, 4.5], worst_first=[3.0, 3.9])}
    report.add_comparisons(results)
    found = report.criteria_conclusions(results)
    assert not found["control_last"]
    assert "does NOT cost most: random:1 costs more" in report.sentence(
        "9", "kld", found["keep"]["9"]["kld"], results[9]
    )


def test_the_outcome_is_whole_and_says_how_it_ended(finished, inputs):
    assert sorted(path.name for path in finished.folder.iterdir()) == sorted(FILES)
    content = read_json(finished.folder / "table.json")
    assert (finished.failure is None) == content["conclusions"]["control_last"]
    assert finished.failure is None or "expected worst first to cost most" in finished.failure
    assert content["inputs"]["gguf_sha256"] == sha256_file(inputs["--gguf"]) and content["inputs"]["in_sample"] == 0
    table = (finished.folder / "table.md").read_text()
    assert finished.printed == table and "None of the chats is among the 4 questions" in table
    for label in (*CRITERIA, *(f"random:{seed}" for seed in range(1, SEEDS + 1)), "worst first"):
        assert f"| {label} " in table
    # One of the six chats is of biology, which gives no error: so there is one domain, and nothing to compare.
    assert sorted(content["domains"]) == ["Biology", *["Chemistry"] * 5] and "## By domain" not in table
    assert set(content["keep"][str(KEEP)]["reap"]["by_domain"]["kld"]) == {"Chemistry"}
    assert image.imread(finished.folder / "table.png").shape[1] == 1200
    for name in FILES:
        assert str(finished.folder).encode() not in (finished.folder / name).read_bytes()


@pytest.mark.parametrize("label", ["coverage", "worst first"])
def test_divergence_is_that_of_transformers_on_the_pruned_checkpoint(finished, inputs, label, tmp_path):
    entry = read_json(finished.folder / "table.json")["keep"][str(KEEP)][label]
    drop_map, pruned = str(tmp_path / "map.json"), str(tmp_path / "p")
    flags = Choice("coverage", KEEP, label == "worst first").flags
    choose(["--stats", str(inputs["--stats"]), *flags, "--output", drop_map])
    assert sha256_file(tmp_path / "map.json") == entry["drop_map_sha256"]
    drop(["--source", str(inputs["--model"]), "--drop-map", drop_map, "--output", pruned])
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
        for path in (inputs["--model"], tmp_path / "p")
    ]
    tokenizer, rows = load_tokenizer(inputs["--model"]), []
    for question in load_questions(inputs["--questions"], 42):
        sequence = teacher_forced_sequence(tokenizer, question, 4096, "answer")
        with torch.inference_mode():
            full, pruned = (model(input_ids=torch.tensor([sequence.ids])).logits[0].numpy() for model in models)
        rows.append(question_row(kl_divergence(full, pruned), full.argmax(1) == pruned.argmax(1), sequence))
    assert [row["tokens"] for row in rows] == entry["per_question"]["tokens"]
    assert [row["reply_tokens"] for row in rows] == entry["per_question"]["reply_tokens"]
    for name in ("kld", "reply_kld"):
        np.testing.assert_allclose(entry["per_question"][name], [row[name] for row in rows], rtol=0.05)


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(finished, inputs, tmp_path, script, refusal):
    flags = arguments(inputs, tmp_path / "table.md", recompute_full=True)  # the logits of the other run, without files
    state = tmp_path / "table.md.state"
    process = subprocess.Popen(
        [sys.executable, REPO / "scripts/compare_criteria.py", *flags],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list(state.glob(f"{KEEP}-*.json"))) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [state.name]
    measured = len([path for path in state.glob(f"{KEEP}-*.json") if "partial" not in path.name])
    refusal(main, arguments(inputs, tmp_path / "table.md", limit=3), state, "question_ids")
    done = script("compare_criteria.py", *flags)
    assert done.returncode == (finished.failure is not None), done.stderr
    assert finished.failure is None or done.stderr.splitlines()[-1].startswith("error: ")
    assert f"/{len(choices_at(KEEP, SEEDS)) - measured} [" in done.stderr and not state.exists()  # of the progress bar
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_bad_input_is_refused_before_anything_is_measured(inputs, demo_model, tmp_path, refusal):
    def refuse(*words: object, **changes: object) -> None:
        refusal(main, arguments(inputs, tmp_path / "table.md", **changes), *words)

    refuse("--keep", "4 (experts per token) to 15", "16", keep=16)
    refuse("--keep", "3", keep=3)
    refuse("two questions or more", limit=1)
    refuse("none.gguf", "nothing", gguf=tmp_path / "none.gguf")
    refuse("none", "nothing", stats=tmp_path / "none")
    refuse(demo_model, "another config.json", model=demo_model)
    refuse("raise --max-tokens", max_tokens=10)
    (tmp_path / "cut.gguf").write_bytes(inputs["--gguf"].read_bytes()[:-1000])
    refuse("cut.gguf", "truncated", gguf=tmp_path / "cut.gguf")
    (tmp_path / "table.md.state").mkdir()
    (tmp_path / "table.md.state/letter.txt").write_text("mine")
    refuse("table.md.state", "something else")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.gguf", "table.md.state"]


def test_floors_that_cannot_be_met_are_refused_before_anything_is_measured(inputs, tmp_path, refusal):
    questions = inputs["--stats"].parent / "chose.csv"
    more = {"domain-questions": questions, "domains": "Chemistry:1"}
    refusal(main, arguments(inputs, tmp_path / "table.md", **more), "generate_drop_map.py", "in one domain")
    assert not list(tmp_path.rglob("*.npy"))


def test_chats_that_chose_are_called_in_sample():
    results = {9: made_up(coverage=[1.0, 3.2], reap=[1.0, 3.0], random1=[2.5, 4.5], worst_first=[9.0, 9.0])}
    report.add_comparisons(results)
    content = {
        "inputs": {"question_ids": ["a", "b"], "questions_that_chose": 7, "in_sample": 1},
        "conclusions": report.criteria_conclusions(results),
    }
    assert "In-sample: 1 of the 2 chats are among the 7 questions" in report.criteria_page(content, results)


def test_make_compares_on_the_demo_where_no_model_is_given(tiny_text_model, few_questions, tmp_path):
    def dry_run(*variables: str) -> str:
        done = subprocess.run(
            ["make", "--no-print-directory", "-n", "compare-criteria", f"BUILD={tmp_path}", *variables],
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    shown = dry_run()
    assert "--questions data/demo/eval_questions.csv --keep 109 96 64 --seeds 5" in shown
    assert "gemma-4-demo/full/criteria/eval_questions/criteria.md" in shown
    own = dry_run(
        f"MODEL={tiny_text_model}",
        "NAME=tiny",
        f"QUESTIONS={few_questions}",
        f"EVAL_QUESTIONS={few_questions}",
        "COMPARE_KEEP=12 8",
        "COMPARE_SEEDS=7",
        "RECOMPUTE_FULL=yes",
        "DRAFT=",
    )
    assert f"--questions {few_questions} --keep 12 8 --seeds 7" in own and "criteria/few/criteria.md" in own
    assert "--recompute-full" in own and "data/demo" not in own
