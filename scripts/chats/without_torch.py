"""transformers without torch, for a process that runs no model."""

import sys


def spare_torch() -> None:
    """Keep transformers from importing torch, unless that is there already: a tokenizer needs none of its seconds.

    Whoever runs a model imports torch at the top of a module, so before this.
    """
    from transformers import utils

    if "torch" not in sys.modules:
        for module in (utils, utils.import_utils):
            setattr(module, "is_torch_available", lambda: False)  # noqa: B010 (its type is that of a cached function)
