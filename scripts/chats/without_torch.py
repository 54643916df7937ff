"""transformers without torch, for a process that runs no model."""

import sys


def hide_torch() -> None:
    """Let transformers find no torch: for a process that takes only configurations and tokenizers from it."""
    from transformers import utils

    for module in (utils, utils.import_utils):
        setattr(module, "is_torch_available", lambda: False)  # noqa: B010 (its type is that of a cached function)


def spare_torch() -> None:
    """Keep transformers from importing torch, unless that is there already: a tokenizer needs none of its seconds.

    Whoever runs a model imports torch at the top of a module, so before this.
    """
    if "torch" not in sys.modules:
        hide_torch()
