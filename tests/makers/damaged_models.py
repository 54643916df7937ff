"""Copies of models with a known defect of behaviour, for the evaluation's faults."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

EMBEDDING = "model.embed_tokens.weight"


def edit_tensors(source: Path, directory: Path, edit: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """Copy a checkpoint; `edit(name, tensor)` returns what takes a tensor's place."""
    shutil.copytree(source, directory)
    for path in directory.glob("*.safetensors"):
        tensors = load_file(path)
        save_file({name: edit(name, tensor).contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})
    return directory


def always_saying(token: str, source: Path, directory: Path) -> Path:
    """A model that says one token whatever it reads: attention and experts add nothing, and its row is the longest."""
    ident = AutoTokenizer.from_pretrained(source).convert_tokens_to_ids(token)

    def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == EMBEDDING:
            rows = torch.full_like(tensor, 0.1)
            rows[ident] = 1.0
            return rows
        return torch.zeros_like(tensor) if "o_proj" in name or "down_proj" in name else tensor

    return edit_tensors(source, directory, edit)


def never_saying(tokens: list[str], source: Path, directory: Path) -> Path:
    """A model that cannot say some tokens: their rows of the (tied) embedding are 0."""
    idents = AutoTokenizer.from_pretrained(source).convert_tokens_to_ids(tokens)

    def edit(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.index_fill(0, torch.tensor(idents), 0.0) if name == EMBEDDING else tensor

    return edit_tensors(source, directory, edit)
