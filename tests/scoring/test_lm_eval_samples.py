"""What lm-eval leaves of a run is taken only when it is whole."""

import json

from files.input_errors import InputError
from scoring.eval_tasks import task_of
from scoring.lm_eval_samples import check_whole

import pytest


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
