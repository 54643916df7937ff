#!/usr/bin/env python3
"""Run lm-eval's command line, but let it index only the tasks of --include_path, and without torch.

Inputs:  lm-eval's own arguments.
Output:  what lm-eval writes.
Use:     scripts/scoring/lm_eval_own_task.py run --include_path DIR --tasks NAME ...
"""

import functools
import sys
from pathlib import Path


def make_repeatable() -> None:
    """Let IFEval's checks find the same each time, and fetch nothing in the middle of a run."""
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0  # it draws at random which parts of a text it looks at
    nltk.download = lambda *_, **__: False  # lm-eval would ask the network; ifeval.py has said what is missing


def leave_torch_out() -> None:
    """Keep lm-eval from importing torch, which takes most of its start: the model runs in a server of its own."""
    from chats.without_torch import spare_torch

    from lm_eval import utils

    spare_torch()
    utils.is_torch_available = lambda: False


def main() -> None:
    sys.path.append(str(Path(__file__).parents[1]))  # last: lm-eval's own modules are found first
    from files.command_start import collect_garbage_again

    if "ifeval_frozen" in sys.argv:
        make_repeatable()
    leave_torch_out()
    from lm_eval import tasks
    from lm_eval.__main__ import cli_evaluate

    # It would read the 14,000 files of its own tasks first, which takes longer than all the rest of a short run. Its
    # command line has no option for that, only its class.
    tasks.TaskManager = functools.partial(tasks.TaskManager, include_defaults=False)
    collect_garbage_again()
    cli_evaluate()


if __name__ == "__main__":
    main()
