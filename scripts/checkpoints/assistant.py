"""Assistant checkpoints: small models that draft for a Gemma 4 by reading its context cache.

Names of the classes: transformers (src/transformers/models/gemma4_assistant, gemma4_unified_assistant).
"""

from pathlib import Path

from checkpoints.checkpoint import read_checkpoint, read_config
from files.input_errors import InputError

ASSISTANTS = ("Gemma4AssistantForCausalLM", "Gemma4UnifiedAssistantForCausalLM")


def check_states(config: dict, width: int, named: object, model: object) -> None:
    """Raise InputError unless an assistant reads states of `width` values, as the model's are.

    config, named: of the assistant; model: in the message.
    """
    reads = config.get("backbone_hidden_size", width)
    if reads != width:  # build_draft.py compares the rest
        raise InputError(named, f"states of {width} values, as {model} has", str(reads), "it is of another model")


def check_assistant(model: Path) -> dict:
    """Return the config of an assistant checkpoint; raise InputError for another model, and for one that is cut."""
    config = read_config(model)
    named = config.get("architectures")
    found = named[0] if named and isinstance(named, list) else "none"
    if not isinstance(found, str) or found not in ASSISTANTS:
        raise InputError(model / "config.json", f"an assistant ({', '.join(ASSISTANTS)})", str(found))
    read_checkpoint(model)
    return config
