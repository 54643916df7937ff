"""The questions of a task: its dataset by lm-eval's definition, fetched from a directory as from the Hub."""

import shutil
from pathlib import Path

import fetch_task
from conftest import DEMO
from scoring.eval_tasks import base_task, task_of

import pytest

TASKS = DEMO / "tasks"


@pytest.mark.parametrize(
    "task, dataset",
    [
        ("gpqa_main_cot_zeroshot", ("Idavidrein/gpqa", "gpqa_main")),
        ("gsm8k_cot_zeroshot", ("openai/gsm8k", "main")),
        ("mmlu_pro_law", ("TIGER-Lab/MMLU-Pro", None)),
        ("ifeval", ("google/IFEval", None)),
    ],
)
def test_the_dataset_is_that_of_lm_evals_definition(task, dataset):
    assert fetch_task.dataset_of(base_task(task_of(task))) == dataset


def fetch(folder: Path, task: str, *more: str) -> bytes:
    output = folder.parent / "fetched.jsonl"
    fetch_task.main(["--task", task, "--dataset", str(folder), "--output", str(output), *more])
    return output.read_bytes()


def test_questions_and_shots_of_a_dataset_are_its_rows(tmp_path, refusal, monkeypatch):
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_XET_CHUNK_CACHE_SIZE_BYTES"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))  # the command sets them; afterwards they are as before
    folder = tmp_path / "dataset"
    folder.mkdir()
    shutil.copyfile(TASKS / "mmlu_pro.jsonl", folder / "test.jsonl")
    shutil.copyfile(TASKS / "mmlu_pro_examples.jsonl", folder / "validation.jsonl")
    assert fetch(folder, "mmlu_pro_chemistry") == (TASKS / "mmlu_pro.jsonl").read_bytes()
    assert fetch(folder, "mmlu_pro_chemistry", "--examples") == (TASKS / "mmlu_pro_examples.jsonl").read_bytes()
    asked = ["--dataset", folder, "--output", tmp_path / "no.jsonl", "--task"]
    refusal(fetch_task.main, [*asked, "gsm8k_cot_zeroshot", "--examples"], "a task with few shots")
    refusal(fetch_task.main, [*asked, "ifeval"], "split train", "a dataset that can be read", "TASK_DATA=FILE")
    shutil.copyfile(TASKS / "mmlu_pro.jsonl", folder / "train.jsonl")
    refusal(fetch_task.main, [*asked, "ifeval"], "the column 'key'")
    (folder / "train.jsonl").write_text('{"key": +1}\n')
    refusal(fetch_task.main, [*asked, "ifeval"], "split train", "a dataset that can be read", "JSON parse error")
    assert not list(tmp_path.glob("no.*"))  # nor a folder with the text of what was refused
