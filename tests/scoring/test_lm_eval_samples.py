"""What lm-eval reads is what was frozen, and what it leaves of a run is taken only when it is whole."""

import glob
import json

from files.input_errors import InputError
from scoring.eval_tasks import task_of
from scoring.frozen_task import task_yaml
from scoring.lm_eval_samples import check_whole

import pytest
import yaml


def test_results_that_a_full_disk_cut_off_are_not_taken(tmp_path):
    """lm-eval goes on where it cannot write, and a folder that had got its name would never be made again."""
    task = task_of("gpqa_diamond_cot_zeroshot")
    row = json.dumps({"doc_id": 0, "filter": task.filter}) + "\n"
    results, samples = tmp_path / "results.json", tmp_path / "samples.jsonl"
    results.write_text("{}")
    samples.write_text(row * 3)
    check_whole(tmp_path, task, 3)
    for content, words in ((row * 2, "expected samples of 3 questions, found 2"), ("", "found 0"), (row[:9], "line 1")):
        samples.write_text(content)
        with pytest.raises(InputError, match=words):
            check_whole(tmp_path, task, 3)
    samples.write_text(row * 3)
    results.write_text("")
    with pytest.raises(InputError, match="results.json"):
        check_whole(tmp_path, task, 3)


def test_a_folder_s_name_is_no_pattern(tmp_path):
    """datasets takes paths for patterns: in a folder named a[1] it found nothing, after an hour of quantising."""
    folder = tmp_path / "a[1]*"
    folder.mkdir()
    (folder / "frozen.jsonl").touch()
    task = "gpqa_diamond_cot_zeroshot"
    files = yaml.safe_load(task_yaml(task, folder, False))["dataset_kwargs"]["data_files"]
    assert [glob.glob(pattern) for pattern in files.values()] == [[str(folder / "frozen.jsonl")]]
