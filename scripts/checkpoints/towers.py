"""The towers of a multimodal checkpoint: what sees pictures, and in some models hears, beside the language model.

Names: Gemma 4 in transformers (src/transformers/models/gemma4). A tower's embedder, `embed_vision` or `embed_audio`,
projects what it sees to the width of the language model and belongs to it.
"""

from pathlib import Path

from checkpoints.checkpoint import TensorRange, bytes_digest
from files.input_errors import InputError
from files.json_records import sha256_json

VISION, AUDIO = "vision", "audio"
TOWERS = {VISION: ("model.vision_tower.", "model.embed_vision."), AUDIO: ("model.audio_tower.", "model.embed_audio.")}
READ_BYTES = 16 << 20
TEXT_ONLY = "for a release without pictures set MMPROJ to nothing"


def tower_tensors(tensors: dict[str, TensorRange]) -> dict[str, TensorRange]:
    """Return the tensors of all towers and their embedders, by name."""
    starts = tuple(start for names in TOWERS.values() for start in names)
    return {name: tensor for name, tensor in tensors.items() if name.startswith(starts)}


def configured_towers(config: dict) -> list[str]:
    """Return the towers that a config describes."""
    return [tower for tower in TOWERS if config.get(f"{tower}_config")]


def towers_of(directory: Path, config: dict, tensors: dict[str, TensorRange]) -> list[str]:
    """Return the towers of a checkpoint, [] for a text-only one.

    Raises InputError when its config and its tensors disagree: a converter would write a file that sees nothing.
    """
    described = configured_towers(config)
    for tower, starts in TOWERS.items():
        for start in starts:
            there = any(name.startswith(start) for name in tensors)
            if there != (tower in described):
                expected, found = ("tensors", "none") if tower in described else ("no tensors", "some")
                what = f"{expected} {start}*, as config.json {'has' if tower in described else 'lacks'} {tower}_config"
                raise InputError(directory, what, found, TEXT_ONLY)
    return described


def towers_digest(tensors: dict[str, TensorRange]) -> str:
    """Return the hex sha256 over name, dtype, shape and all bytes of every tower's tensors: 1.2 GB of the 26B."""
    parts = {}
    for name, tensor in sorted(tower_tensors(tensors).items()):
        parts[name] = [tensor.dtype, list(tensor.shape), bytes_digest(tensor, READ_BYTES, READ_BYTES)]
    return sha256_json(parts)
