"""Whether a checkpoint's weights are those that transformers gives to the model, each under one name.

llama.cpp's converter adds endings to names and leaves parts away, so it may take what transformers leaves aside.
"""

import re
from pathlib import Path

from analysis.decoder import build_empty
from analysis.layer_reader import TORCH_DTYPES, pieces_of
from checkpoints.checkpoint import TensorRange
from checkpoints.towers import tower_tensors
from files.input_errors import InputError

import torch

HEAD = "lm_head.weight"
FREQUENCIES = r"\.rotary_emb\.inv_freq$"  # of older checkpoints: both compute them


def check_known_weights(directory: Path, tensors: dict[str, TensorRange]) -> None:
    """Raise InputError for weights that the model does not have, for one that is there twice, and for no head.

    None is read. The converter takes the embedding for a head that is not there, also where the config ties it to none.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in TORCH_DTYPES:
            expected = f"{name} in one of {', '.join(TORCH_DTYPES)}"
            raise InputError(
                tensor.file, expected, tensor.dtype, "a quantised checkpoint is not read: take the whole one"
            )
    model = build_empty(directory, torch.float32, "eager")
    state, passed_by = model.state_dict(), {FREQUENCIES, *(model._keys_to_ignore_on_load_unexpected or ())}
    towers, found = tower_tensors(tensors), pieces_of(model, tensors)
    if HEAD in state and HEAD not in found and HEAD not in model.all_tied_weights_keys:
        raise InputError(directory, f"{HEAD}, as tie_word_embeddings is not true", "none")
    for target, pieces in found.items():
        whole = [piece.name for piece in pieces if target in state and piece.shape == tuple(state[target].shape)]
        if len(whole) > 1:
            raise InputError(directory, "every weight under one name", " and ".join(whole))
        if target not in state and target not in towers and not any(re.search(rule, target) for rule in passed_by):
            wanted = f"only weights that {type(model).__name__} of transformers has"
            raise InputError(directory, wanted, pieces[0].name, "remove that tensor")
        if target in state and len(pieces) == 1 and not whole:
            sizes = [list(shape) for shape in (state[target].shape, pieces[0].shape)]
            raise InputError(directory, f"{pieces[0].name} of shape {sizes[0]}, as config.json says", str(sizes[1]))
