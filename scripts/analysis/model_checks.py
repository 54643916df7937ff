"""What a checkpoint must be for the analysis, read from its config and its headers before any weight is."""

from pathlib import Path
from typing import Any

from analysis.layer_reader import TORCH_DTYPES, WEIGHT_DTYPES
from analysis.model_parts import top_k_in
from chats.chat_sequences import Sequence
from checkpoints.checkpoint import TensorRange
from choice.drop_map import check_keep_count
from files.input_errors import InputError, shown

import torch
from transformers import PreTrainedConfig

RUN_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def stored_dtype(
    directory: Path, config: dict, tensors: dict[str, TensorRange], advice: str = "choose one of them with --dtype"
) -> torch.dtype:
    """Return the dtype a checkpoint is meant to run in: its config's, else that of its largest tensor.

    Raises InputError when that is not one of RUN_DTYPES.
    """
    name: Any = None
    for part in (config, config.get("text_config")):
        for key in ("dtype", "torch_dtype"):  # the second is the older name
            if name is None and isinstance(part, dict) and part.get(key):
                name = part[key]
    if name is None:
        largest = max(tensors.values(), key=lambda tensor: tensor.size)
        name = str(TORCH_DTYPES[largest.dtype]).removeprefix("torch.")
    if not isinstance(name, str) or name not in RUN_DTYPES:
        raise InputError(
            directory / "config.json", f"a checkpoint in {', '.join(RUN_DTYPES)}", f"dtype {shown(name)}", advice
        )
    return RUN_DTYPES[name]


def check_unquantised(directory: Path, config: dict, tensors: dict[str, TensorRange]) -> None:
    """Raise InputError when the config names a quantisation, or a tensor is stored in a packed dtype."""
    advice = "quantised checkpoints are not analysed"
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and (found := part.get("quantization_config")):
            raise InputError(directory / "config.json", "no quantization_config", shown(found), advice)
    for name, tensor in tensors.items():
        # GPTQ and AWQ pack eight 4-bit weights into each I32 of a matrix; a vector of I32 is a plain index.
        packed = tensor.dtype == "I32" and len(tensor.shape) > 1
        if tensor.dtype not in TORCH_DTYPES or packed:
            raise InputError(tensor.file, f"{name} in {', '.join(WEIGHT_DTYPES)}", tensor.dtype, advice)


def check_routing(directory: Path, text_config: PreTrainedConfig, experts: int, keep: int | None, batch: int) -> None:
    """Raise InputError when the model cannot route as its config says, or the options do not suit it.

    experts: of the layer that has fewest; keep: experts to be kept later, None when that is not known; batch:
    questions that run together.
    """
    path, top_k = directory / "config.json", top_k_in(text_config)
    if not 0 < top_k <= experts:
        raise InputError(path, f"1 to {experts} experts per token, as many as there are", str(top_k))
    if keep is not None:
        check_keep_count("KEEP", keep, experts, top_k)
    # An indexer picks the positions that attention sees, and counts padded ones among them.
    if batch > 1 and getattr(text_config, "index_topk", None):
        raise InputError(
            path,
            "attention that ignores padding, for --batch-size above 1",
            "index_topk: positions are ranked, padded ones too",
            "analyse it with --batch-size 1",
        )


def check_sequences(directory: Path, text_config: PreTrainedConfig, sequences: list[Sequence]) -> None:
    """Raise InputError when an id has no row in the embedding, or an input is longer than the model's context."""
    largest = max(max(sequence.ids) for sequence in sequences)
    if largest >= text_config.vocab_size:
        raise InputError(
            directory,
            f"token ids below the embedding's {text_config.vocab_size} rows",
            str(largest),
            "is the tokenizer of another model?",
        )
    longest = max(len(sequence.ids) for sequence in sequences)
    context = getattr(text_config, "max_position_embeddings", None)
    if context and longest > context:
        raise InputError(
            directory, f"inputs of at most {context} tokens, the model's context", str(longest), "lower --max-tokens"
        )
