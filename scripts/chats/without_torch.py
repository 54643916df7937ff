"""transformers without torch, for a process that runs no model."""

import sys
from pathlib import Path
from typing import Any


def hide_torch() -> None:
    """Let transformers find no torch: for a process that takes only configurations and tokenizers from it."""
    from transformers import utils

    if "transformers.models" not in sys.modules:
        read_models_once(utils.import_utils)
    for module in (utils, utils.import_utils):
        setattr(module, "is_torch_available", lambda: False)  # noqa: B010 (its type is that of a cached function)


def read_models_once(import_utils: Any) -> None:
    """Spare a fifth of a second: transformers has read the files of all its models, and would read them once more.

    It keeps what it found by the name of their folder, and then looks for it by that of a file in the folder.
    """
    known = import_utils.create_import_structure_from_path
    import_utils.create_import_structure_from_path = lambda path: known(
        Path(path) if Path(path).is_dir() else Path(path).parent
    )


def spare_torch() -> None:
    """Keep transformers from importing torch, unless that is there already: a tokenizer needs none of its seconds.

    Whoever runs a model imports torch at the top of a module, so before this.
    """
    if "torch" not in sys.modules:
        hide_torch()
