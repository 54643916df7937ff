"""lm-eval's task over frozen questions: its file, and that no other lies where lm-eval looks for tasks."""

import glob
import json
from pathlib import Path

from files.input_errors import InputError, read_words
from scoring.eval_tasks import base_task, frozen_name, task_of
from scoring.run_files import FROZEN, SHOTS


def task_yaml(task_name: str, folder: Path, with_shots: bool) -> str:
    """Return the task: lm-eval's prompt, filters and metric over the frozen files of a folder."""
    task = task_of(task_name)
    # Absolute: lm-eval reads them from another directory. It takes their paths for patterns.
    files = {task.questions: folder.resolve() / FROZEN}
    if with_shots:
        files[task.examples] = folder.resolve() / SHOTS
    # `include` and not a copy, so that the task follows lm-eval. JSON is also YAML, so any path can be written as one.
    lines = [f"    {split}: {json.dumps(glob.escape(str(path)))}\n" for split, path in files.items()]
    text = (
        f"include: {json.dumps(str(base_task(task)))}\ntask: {frozen_name(task_name)}\n"
        f"dataset_path: json\ndataset_name: null\ndataset_kwargs:\n  data_files:\n{''.join(lines)}"
    )
    # lm-eval's own task of GPQA shuffles there. GSM8K without shots has a split for them nevertheless.
    text += "process_docs: null\n" if task.is_gpqa else ""
    return text + ("training_split: null\nfewshot_split: null\n" if not task.is_gpqa and not with_shots else "")


def check_frozen_task(folder: Path, task_name: str) -> None:
    """Raise InputError unless the only task that lm-eval finds in a folder is the one that was written there.

    It reads every task file below it, and runs the functions that one names: any file there could be a program.
    """
    own = folder / f"{frozen_name(task_name)}.yaml"
    if other := next((path for path in sorted(folder.glob("**/*.yaml")) if path != own), None):
        raise InputError(other, f"no task but {own.name}", "another", "remove it")
    if read_words(own) != task_yaml(task_name, folder, (folder / SHOTS).is_file()):
        raise InputError(own, "the task as it was written", "another", "freeze the questions again")
