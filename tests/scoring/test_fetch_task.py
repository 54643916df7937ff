"""The questions of a task: its dataset by lm-eval's definition, fetched from a directory as from the Hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import fetch_task
from conftest import DEMO, REPO
from files.fetched_files import FetchedRecord
from files.input_errors import sha256_file
from files.json_records import read_record
from scoring.eval_protocol import DEFAULT_TASK
from scoring.eval_tasks import TASKS, base_task, task_of

import pytest
import yaml

FILES = DEMO / "tasks"


class Definition(yaml.SafeLoader):
    """Reads lm-eval's definitions, in which a name may stand for a function."""


Definition.add_constructor("!function", lambda loader, node: None)


def of_definition(base: Path) -> dict:
    """Return a definition; what it does not say stands in the one that it includes."""
    content = yaml.load(base.read_text(encoding="utf-8"), Definition)
    return (of_definition(base.parent / content["include"]) if "include" in content else {}) | content


@pytest.mark.parametrize("task", [task for task in TASKS if task != DEFAULT_TASK])  # that is fetch_gpqa.py's
def test_dataset_and_splits_are_those_of_lm_evals_definition(task):
    mine, said = task_of(task), of_definition(base_task(task_of(task)))
    assert (mine.dataset, mine.configuration) == (said["dataset_path"], said.get("dataset_name"))
    assert mine.questions == (said.get("test_split") or said.get("validation_split") or said["training_split"])
    assert mine.examples in ("", said.get("fewshot_split"))


def fetch(folder: Path, task: str, *more: str) -> bytes:
    output = folder.parent / "fetched.jsonl"
    fetch_task.main(["--task", task, "--dataset", str(folder), "--output", str(output), *more])
    return output.read_bytes()


def test_questions_and_shots_of_a_dataset_are_its_rows(tmp_path, refusal, monkeypatch):
    for name in (*fetch_task.CACHES, fetch_task.XET_CACHE):
        monkeypatch.setenv(name, str(tmp_path / "cache"))  # the command sets them; afterwards they are as before
    folder = tmp_path / "dataset"
    folder.mkdir()
    shutil.copyfile(FILES / "mmlu_pro.jsonl", folder / "test.jsonl")
    shutil.copyfile(FILES / "mmlu_pro_examples.jsonl", folder / "validation.jsonl")
    assert fetch(folder, "mmlu_pro_chemistry") == (FILES / "mmlu_pro.jsonl").read_bytes()
    assert fetch(folder, "mmlu_pro_chemistry", "--examples") == (FILES / "mmlu_pro_examples.jsonl").read_bytes()
    # A folder may be called as the Hub's dataset is: https:/huggingface.co/... is a path, too.
    asked = ["--dataset", folder, "--output", tmp_path / "no.jsonl", "--task"]
    record = read_record(tmp_path / "fetched.jsonl.json", FetchedRecord)
    assert record["sha256"] == sha256_file(tmp_path / "fetched.jsonl") and record["url"] == "file:dataset"
    refusal(fetch_task.main, [*asked, "gsm8k_cot_zeroshot", "--examples"], "a task with few shots")
    refusal(fetch_task.main, [*asked, "ifeval"], "split train", "a dataset that can be read", "TASK_DATA=FILE")
    shutil.copyfile(FILES / "mmlu_pro.jsonl", folder / "train.jsonl")
    refusal(fetch_task.main, [*asked, "ifeval"], "the column 'key'")
    (folder / "train.jsonl").write_text('{"key": +1}\n')
    refusal(fetch_task.main, [*asked, "ifeval"], "split train", "a dataset that can be read", "JSON parse error")
    assert not list(tmp_path.glob("no.*"))  # nor a folder with the text of what was refused


def test_only_the_hub_is_asked_for_a_benchmark(tmp_path, script, refused, monkeypatch):
    """Neither a folder of the dataset's name nor a cache is the Hub, and no library has read its place before."""
    asked = ["fetch_task.py", "--task", "gsm8k_cot_zeroshot", "--output", tmp_path / "no.jsonl"]
    refused(script(*asked, HF_HUB_OFFLINE=1), "the Hub: expected to be asked, to fetch openai/gsm8k", "HF_HUB_OFFLINE")
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "openai/gsm8k"
    place.mkdir(parents=True)
    refused(script(*asked, HF_HUB_OFFLINE=0), "openai/gsm8k: expected nothing of the name of the Hub's dataset here")
    assert not list(tmp_path.glob("no.*"))
    early = "import sys; import fetch_task; sys.exit(bool({'huggingface_hub', 'datasets'} & sys.modules.keys()))"
    assert (
        subprocess.run([sys.executable, "-c", early], env={**os.environ, "PYTHONPATH": REPO / "scripts"}).returncode
        == 0
    )
