"""What llama.cpp's converter writes into a header of a model's people and history: only what this project vouches for.

By itself it takes author, description, version, size, tags and more from the front matter of the base's card, from the
config and from the folder's name. All of it would be published as if it were of the pruned model.
"""

from pathlib import Path
from typing import Any

from checkpoints.licence import licence_of


def card_of(model: Path | None = None) -> dict[str, str]:
    """Return what the converter may know of a model's card: the licence, as the release reads it."""
    licence = licence_of(model) if model and model.is_dir() else None
    said = (
        {"license": licence.identifier, "license_name": licence.name, "license_link": licence.link} if licence else {}
    )
    return {key: value for key, value in said.items() if value}


def keep_vouched(metadata: Any) -> None:
    """Let gguf-py's Metadata find nothing but the licence and the sampling numbers of generation_config.json."""
    load_settings = metadata.load_generation_config

    def numbers(model: Path | None = None) -> dict[str, int | float]:
        return {key: value for key, value in load_settings(model).items() if type(value) in (int, float)}

    metadata.load_generation_config = staticmethod(numbers)
    metadata.load_model_card = staticmethod(card_of)
    metadata.load_hf_parameters = staticmethod(lambda model=None: {})
    metadata.get_model_id_components = staticmethod(lambda model_id=None, total_params=0: (None,) * 6)
