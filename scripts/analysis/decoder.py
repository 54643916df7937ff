"""The decoder of a checkpoint in transformers: built without weights, loaded whole, and checked for completeness.

layer_stream.py gives such a model its weights one layer at a time. Both ways compute the same bits, because weights go
through the loader that `from_pretrained` uses (transformers.core_model_loading, pinned), and because of the settings
below. Attention runs in blocks of queries, so that long inputs fit.
"""

import os
import sys
from pathlib import Path
from typing import Any

from analysis.layer_reader import TORCH_DTYPES, WEIGHT_DTYPES, pieces_of
from analysis.model_parts import decoder_of
from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError, reason_of

import torch
import transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, LoadStateDictConfig
from transformers.utils.loading_report import LoadStateDictInfo

# MKL chooses its code by the alignment of its operands and by the number of threads, and sums in another order in each.
# A streamed layer's weights lie elsewhere than a whole model's, so fp32 results differed in the last bits. In this mode
# they depend on neither: oneMKL developer guide, "Obtaining Numerically Reproducible Results". Read at MKL's first use.
os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")
# oneDNN compiles code for each shape of a product and keeps the last 1024 of them in memory. Every expert has another
# number of tokens, so hardly one is used again. Read at oneDNN's first use.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

# Scores of all pairs of tokens in fp32 are 1 GB at 4096 tokens and 16 heads. 256 rows of them are 67 MB, and still
# enough work for one product.
QUERY_ROWS = 256


def eager_in_blocks(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Run a family's own eager attention for QUERY_ROWS queries at a time: memory grows with length, not its square.

    query, key, value: [batch, heads, tokens, head_dim]; mask: [batch, 1 or heads, tokens, tokens]. Each query's
    softmax is its own, so the blocks are independent. Returns [batch, tokens, heads, head_dim].
    """
    eager, rows = sys.modules[type(module).__module__].eager_attention_forward, query.shape[2]
    # What has rows per query must be cut with the queries. Only the mask is known to; anything else runs uncut.
    if (
        attention_mask is None
        or attention_mask.dim() != 4
        or attention_mask.shape[2] != rows
        or any(isinstance(option, torch.Tensor) and option.dim() > 2 for option in options.values())
    ):
        return eager(module, query, key, value, attention_mask, **options)
    blocks = []
    for first in range(0, rows, QUERY_ROWS):
        block = slice(first, first + QUERY_ROWS)
        blocks.append(eager(module, query[:, :, block], key, value, attention_mask[:, :, block], **options)[0])
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1), None


transformers.utils.logging.set_verbosity_error()  # what it warns of and then fails by is one line of ours
# Every family looks its attention up under this name, so none needs a change.
ALL_ATTENTION_FUNCTIONS.register("eager", eager_in_blocks)


def build_empty(directory: Path, dtype: torch.dtype, attention: str) -> PreTrainedModel:
    """Build a checkpoint's model on the meta device: shapes, no weights. Raises InputError when transformers cannot."""
    try:
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False)
        with torch.device("meta"):
            model: Any = transformers.AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation=attention, trust_remote_code=False
            )
    except Exception as error:  # whatever the library makes of a user's file
        raise InputError(
            directory / "config.json", "a causal language model that transformers builds", reason_of(error)
        ) from error
    return model.eval()


def load_resident(directory: Path, dtype: torch.dtype, attention: str, device_map: object) -> PreTrainedModel:
    """Load a checkpoint whole; raise InputError when a weight of its decoder is missing."""
    placement = {"device_map": device_map} if device_map else {}
    try:
        loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,  # the other form of weights is pickle, which can run anything
            **placement,
        )
    except Exception as error:  # whatever the library makes of a user's files
        raise InputError(directory, "a checkpoint that transformers loads", reason_of(error)) from error
    model, report = loaded
    refuse_lacking(model, directory, report["missing_keys"], report["mismatched_keys"])
    return model.eval()


def refuse_lacking(model: PreTrainedModel, directory: Path, missing: set, mismatched: set) -> None:
    """Raise InputError when the decoder lacks a key, or has one in another shape.

    `missing` and `mismatched` are a loader's reports. Keys elsewhere do not matter: the head is not used.
    """
    inside = f"{decoder_of(model)[0]}."
    for kind, keys in (("missing", missing), ("of another shape", mismatched)):
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)  # mismatched: (name, shape, shape)
        if lacking := [name for name in names if name.startswith(inside)]:
            raise InputError(directory, f"every weight of {type(model).__name__}", f"{lacking[0]} {kind}")


def put_weights(model: PreTrainedModel, weights: dict[str, torch.Tensor], device: torch.device) -> LoadStateDictInfo:
    """Put checkpoint tensors into a model as from_pretrained does (renamed, merged, cast); return what did not fit."""
    mapping: Any = get_model_conversion_mapping(model)
    return convert_and_load_state_dict_in_model(
        model,
        weights,
        LoadStateDictConfig(
            device_map={"": device},
            dtype=model.dtype,
            dtype_plan=model._get_dtype_plan(model.dtype),
            weight_mapping=mapping,
        ),
    )[0]


def check_complete(model: PreTrainedModel, directory: Path, tensors: dict[str, TensorRange]) -> None:
    """Raise InputError when the headers of a checkpoint do not give every weight of the decoder in its shape.

    `model` is one from `build_empty`; no weight is read. Floating weights must be stored as such.
    """
    state = model.state_dict()
    for target, pieces in pieces_of(model, tensors).items():
        if target not in state or not state[target].is_floating_point():
            continue
        for source in (source for piece in pieces for source in piece.sources):
            if source.dtype not in WEIGHT_DTYPES:
                raise InputError(source.file, f"{target} in {', '.join(WEIGHT_DTYPES)}", source.dtype)
    # The loader itself says what is missing, so that this check and the loading cannot disagree.
    blank = {
        name: torch.empty(tensor.shape, dtype=TORCH_DTYPES[tensor.dtype], device="meta")
        for name, tensor in tensors.items()
    }
    report = put_weights(model, blank, torch.device("meta"))
    refuse_lacking(model, directory, report.missing_keys, report.mismatched_keys)
