"""A release with scores of a further task: its card, its gate, and each kind of damage."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import compare_scores
from calls import as_command, call
from conftest import DEMO
from files.fetched_files import HUB, FetchedRecord, dataset_url
from files.input_errors import InputError, sha256_file
from files.json_records import read_json, read_record
from files.seals import MARKER
from files.written_records import write_record
from gates import scored as scored_gate
from gates.checked import Checked, Outcome
from gates.gates import build_gate, made_gate
from gates.seals_gate import seals_gate
from gates.tasks_gate import part_breaks, tasks_gate
from makers.made_up_evidence import write_base_record, write_run
from makers.pruned_models import NAME
from makers.release_copies import edit
from makers.release_inputs import build
from quants.quant_record import record_path
from release.manifest import read_manifest
from release.sources import read_sources
from scoring.score_records import Scores
from scoring.task_tables import task_cells

import pytest

TASK, FOLDER = "gsm8k_cot_zeroshot", "gsm8k_cot_zeroshot-Q6_K-samples"
QUANTS, SEEDS = ("Q6_K", "Q4_K_M"), (42, 43)
MARKS = {"gemma-4-demo-Q6_K": "11110", f"{NAME}-Q6_K": "1110e", f"{NAME}-Q4_K_M": "1000e"}
COPY = f"scores-{FOLDER}.json"


@pytest.fixture(scope="module")
def scored(pruned_demo, tmp_path_factory) -> Path:
    """A folder with made-up runs of the full model and two quants, two seeds each, and the scores of them."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / MARKER).touch()
    lines = (DEMO / "tasks/gsm8k.jsonl").read_text().splitlines(keepends=True)
    (folder / "gsm8k.jsonl").write_text("".join(lines[:5]))
    records = [write_base_record(pruned_demo, folder)]
    records += [record_path(pruned_demo / f"{NAME}-{quant}.gguf") for quant in QUANTS]
    metadata = pruned_demo / "checkpoint/expert_drop_metadata.json"
    for record in records:
        name = record.name.removesuffix(".gguf.json")
        options = {"name": name, "patch": False, "task": TASK, "chosen_by": metadata if name.startswith(NAME) else None}
        for seed in SEEDS:
            write_run(folder / name / str(seed), record, folder / "gsm8k.jsonl", MARKS[name], seed=seed, **options)
    (folder / FOLDER).mkdir()
    call(compare_scores.main, "--runs", *runs_of(folder), "--output", folder / FOLDER / "scores.md")
    return folder


def runs_of(folder: Path) -> list[Path]:
    return [folder / name / str(seed) / "summary.json" for name in MARKS for seed in SEEDS]


def arguments(pruned: Path, scored: Path) -> list[object]:
    made_from = [f"run={run}" for run in runs_of(scored)] + [f"questions={scored / 'gsm8k.jsonl'}"]
    own = [record_path(pruned / f"{NAME}-{quant}.gguf") for quant in QUANTS]
    given = ["--task", next(scored.glob("*/scores.json")), *made_from]
    return [*given, "--quants", scored / "gemma-4-demo-Q6_K.gguf.json", *own]


@pytest.fixture(scope="module")
def released(pruned_demo, scored, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("release") / f"{NAME}-GGUF"
    build(pruned_demo, folder, *arguments(pruned_demo, scored), quants=QUANTS)
    return folder


def outcome_of(folder: Path, gate: Callable[[Checked], Outcome] = tasks_gate) -> Outcome:
    return gate(Checked(folder, read_manifest(folder), read_sources(folder)))


def test_the_card_has_a_table_of_the_task_and_the_gate_makes_it_again(released):
    scores, card = read_record(released / COPY, Scores), (released / "README.md").read_text()
    assert "5 questions, 2 samples each by the seeds 42 to 43." in card
    assert all(f"| {' | '.join(task_cells(row, scores))} |" in card for row in scores["rows"])
    assert "| Model | pass@1 | pass@2 |" in card and "TASK_DATA=gsm8k.jsonl TASK_QUANTS=Q4_K_M" in card
    assert read_manifest(released)["inputs"]["tasks"].keys() == {FOLDER}
    outcome = outcome_of(released)
    assert outcome.applies and not outcome.deviations
    assert outcome.looked_at == "answers of 6 runs of 1 further tasks read and compared again"
    assert not outcome_of(released, build_gate).deviations and not outcome_of(released, made_gate).deviations


FORM = f"a file named `gsm8k.jsonl`, in the form of {TASK}"
GSM8K, MIRRORED = (dataset_url("openai/gsm8k", "main", "test", hub) for hub in (HUB, "https://a-mirror.example"))


@pytest.mark.parametrize(
    ("command", "url", "more", "known"),
    [
        ("", "", "", False),
        ("fetch_task", GSM8K, "", True),
        ("fetch_task", GSM8K, "{}", False),  # the file was exchanged since
        ("fetch_task", MIRRORED, "", False),
        ("fetch_task", dataset_url("other/gsm8k", "main", "test"), "", False),
        ("fetch_task", dataset_url("openai/gsm8k", "main", "train"), "", False),
        ("fetch_gpqa", GSM8K, "", False),
    ],
)
def test_only_questions_that_were_fetched_have_a_benchmark_s_name(
    pruned_demo, scored, tmp_path, command, url, more, known
):
    copy = tmp_path / "scored"
    shutil.copytree(scored, copy)
    path = copy / "gsm8k.jsonl"
    if command:
        with as_command(command):
            said = {"url": url, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
            write_record(Path(f"{path}.json"), said, FetchedRecord)
    given = arguments(pruned_demo, copy)
    folder = tmp_path / f"{NAME}-GGUF"
    if more == "{}":
        path.write_text(path.read_text().rstrip("\n"))  # the same questions in other bytes
        with pytest.raises(InputError, match="gsm8k.jsonl: expected questions that"):
            build(pruned_demo, folder, *given, quants=QUANTS)
        return
    card = build(pruned_demo, folder, *given, quants=QUANTS)
    assert (f"### {FOLDER}\n" in card) == known and ("[openai/gsm8k](https://huggingface.co/" in card) == known
    assert (f"### Questions of {FORM}\n" in card) == (not known)
    assert (f"- Questions: {FORM}." in card) == (not known)
    assert not outcome_of(folder).deviations and not outcome_of(folder, made_gate).deviations


def test_a_task_has_one_question_file(pruned_demo, scored, tmp_path):
    """Of two any can be the one that was asked, and the card's command names one."""
    shutil.copyfile(scored / "gsm8k.jsonl", tmp_path / "other.jsonl")
    given = arguments(pruned_demo, scored)
    given.insert(given.index("--quants"), f"questions={tmp_path / 'other.jsonl'}")
    with pytest.raises(InputError, match=f"other.jsonl: expected one file of questions of {FOLDER}, found 2"):
        build(pruned_demo, tmp_path / f"{NAME}-GGUF", *given, quants=QUANTS)


def test_a_question_file_that_no_run_was_asked_is_refused(pruned_demo, scored, tmp_path):
    """The card would name it and credit it."""
    lines = (DEMO / "tasks/gsm8k.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "hard.jsonl").write_text("".join(lines[5:8]))
    given = arguments(pruned_demo, scored)
    given.insert(given.index("--quants"), f"questions={tmp_path / 'hard.jsonl'}")
    with pytest.raises(InputError, match=f"hard.jsonl: expected questions that {FOLDER} was asked, found others"):
        build(pruned_demo, tmp_path / f"{NAME}-GGUF", *given, quants=QUANTS)


def test_the_few_shots_of_a_task_are_those_that_were_asked(released, scored, tmp_path):
    """A column that no prompt has is not in the frozen ones."""
    copy, shots = Path(shutil.copytree(scored, tmp_path / "scored")), tmp_path / "shots.jsonl"
    shots.write_text('{"question": "What is 1 + 1?"}\n')
    for run in (summary.parent / "run.json" for summary in runs_of(copy)):
        run.write_text(json.dumps(read_json(run) | {"examples_file_sha256": sha256_file(shots)}))
    lineage = Checked(released, read_manifest(released), read_sources(released)).lineage
    own = {"run": runs_of(copy), "questions": [copy / "gsm8k.jsonl"], "examples": [shots]}
    assert not part_breaks(lineage, FOLDER, own, TASK)
    edit(shots, "}", ', "source": "a paper"}')
    errors = part_breaks(lineage, FOLDER, own, TASK)
    assert len(errors) == 6 and "run.json: expected the few shots that it was asked with, as they were" in str(
        errors[0]
    )


def edit_scores(folder: Path, change: Callable[[dict], None]) -> None:
    path = folder / FOLDER / "scores.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def own_run(folder: Path) -> Path:
    return folder / f"{NAME}-Q4_K_M/43"


def another_name(content: dict) -> None:
    for row in content["rows"][1:2]:
        row["gguf_sha256"] = "3" * 64


DAMAGES = {
    "an answer": (
        lambda folder: edit(own_run(folder) / "answers.jsonl", '"answer": "It is 0"', '"answer": "It is 9"'),
        "expected letter 9 against",
    ),
    "a lost answer": (
        lambda folder: (own_run(folder) / "answers.jsonl").write_text(
            "".join((own_run(folder) / "answers.jsonl").read_text().splitlines(keepends=True)[:-1])
        ),
        "the 4 recorded questions",
    ),
    "a lost run": (lambda folder: shutil.rmtree(own_run(folder)), "run.json"),
    "another question file": (
        lambda folder: edit(folder / "gsm8k.jsonl", "?", "!"),
        "the questions of gsm8k.jsonl, all of them",
    ),
    "a file of another model": (lambda folder: edit_scores(folder, another_name), "to be a file of this build"),
    "a score": (
        lambda folder: edit_scores(folder, lambda content: content["rows"][1].update(expected_by_chance=0.5)),
        "rows[1].expected_by_chance",
    ),
    "a folder of another task's name": (
        lambda folder: (folder / FOLDER).rename(folder / "mmlu_pro_law-Q6_K"),
        "a folder whose name begins with gsm8k_cot_zeroshot, found mmlu_pro_law-Q6_K",
    ),
    "a request": (
        lambda folder: edit(own_run(folder) / "answers.jsonl", '"request_sha256": "', '"request_sha256": "0'),
        "to the request of the protocol",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_fails_the_gate_and_no_release_is_made(pruned_demo, scored, tmp_path, damage, refusal):
    from build_release import main
    from makers.release_inputs import release_arguments

    change, words = DAMAGES[damage]
    copy = tmp_path / "scored"
    shutil.copytree(scored, copy)
    change(copy)
    output = tmp_path / f"{NAME}-GGUF"
    refusal(main, release_arguments(pruned_demo, output, *arguments(pruned_demo, copy), quants=QUANTS), words)
    assert not output.exists()


def test_the_gate_sees_an_answer_that_is_changed_later(released, scored, tmp_path):
    sources = read_json(released.with_name(f"{released.name}.sources.json"))
    assert sources["tasks"].keys() >= {f"questions {FOLDER} 6", f"run {FOLDER} 0"}
    answers = own_run(scored) / "answers.jsonl"
    before, lines = answers.read_text(), outcome_of(released, seals_gate).deviations
    assert not [line for line in lines if str(scored.name) in line]
    try:
        edit(answers, '"answer": "It is 0"', '"answer": "It is 9"')
        assert "expected letter 9 against" in outcome_of(released).deviations[0]
        unsealed = [line for line in outcome_of(released, seals_gate).deviations if line not in lines]
        assert len(unsealed) == 1 and "answers.jsonl, line" in unsealed[0] and "REPLACE=tasks" in unsealed[0]
    finally:
        answers.write_text(before)


def test_the_seeds_of_a_task_follow_one_another(released, monkeypatch):
    assert not outcome_of(released).deviations
    monkeypatch.setattr(scored_gate, "in_a_row", lambda seeds: seeds == [42, 44])
    assert "expected seeds that follow one another, found 42, 43" in outcome_of(released).deviations[0]


def test_without_further_tasks_the_gate_does_not_apply(pruned_demo, tmp_path):
    folder = tmp_path / f"{NAME}-GGUF"
    assert "Further tasks" not in build(pruned_demo, folder, quants=QUANTS)
    assert not outcome_of(folder).applies
