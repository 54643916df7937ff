"""What the findings need of the model itself, measured once and kept in a file; a killed measurement goes on.

First all questions pass the layers as in the analysis (findings_observer.py looks on). Then each layer's experts are
compared: weights with weights, outputs on the sampled tokens with outputs. Either way one layer is in memory, where the
layers are streamed. What is finished is kept in FILE.state: a file per batch, then one per layer.

The file is in safetensors format: `weighted_norm_sum` and the arrays of findings_observer.py but the inputs, and a
metadata key "measured" with `inputs` (what it was measured from) and `layers` (figures by layer).
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from analysis.analysis_state import AnalysisState, batch_arrays
from analysis.batches import Batch
from analysis.expert_observer import expert_modules
from analysis.layer_stream import LayerStream
from analysis.model_parts import decoder_of, layers_of
from analysis.passes import analyze_batches
from analysis.sampled_tokens import CHOSEN, INPUTS
from chats.chat_sequences import Sequence
from files.input_errors import InputError
from files.json_records import parse_json, read_json
from files.safe_files import replace_when_done, require_disk_space
from files.seals import check_kept, is_kept
from files.written_records import write_json
from findings.findings_observer import BF16_SUMS, COUNTS, FindingsObserver, observed_arrays, sampled_positions
from findings.similarity import matrices_of, output_cosines, output_figures, weight_figures

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from tqdm import tqdm
from transformers import PreTrainedModel

METADATA_KEY = "measured"
NORMS = ("weighted_norm_sum", *BF16_SUMS)
KEPT = (*NORMS, *COUNTS)
STATE_SLACK_BYTES = 64 << 20

Measured = tuple[dict[str, np.ndarray], list[dict]]  # the arrays KEPT, and the figures of each layer


def check_measured(arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError unless norms are [questions, layers, experts], counts [questions, layers], all finite."""
    shape = arrays[NORMS[0]].shape
    for name in KEPT:
        wanted, kind = (shape, "f") if name in NORMS else (shape[:2], "i")
        if len(shape) != 3 or arrays[name].shape != wanted or arrays[name].dtype.kind != kind:
            raise ValueError(f"{name} of shape {list(arrays[name].shape)} beside {NORMS[0]} of {list(shape)}")
        if not np.isfinite(arrays[name]).all() or (arrays[name] < 0).any():
            raise ValueError(f"{name} with values that no sum of norms and no count has")


def read_measured(path: Path, inputs: dict, but: tuple[str, ...] = ()) -> Measured | None:
    """Return what was measured from `inputs`; None when there is no file, or one of other inputs.

    but: inputs that may differ. Raises InputError when the file is none of ours.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            described = parse_json((file.metadata() or {})[METADATA_KEY])
            arrays = {name: file.get_tensor(name) for name in KEPT}
        check_measured(arrays)
        found, layers = dict(described["inputs"]), list(described["layers"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            path, "measurements of measure_findings.py, or nothing", str(error)[:100], "remove it"
        ) from error
    same = {key: value for key, value in json.loads(json.dumps(inputs)).items() if key not in but}
    return (arrays, layers) if {key: value for key, value in found.items() if key not in but} == same else None


def write_measured(path: Path, inputs: dict, measured: Measured) -> None:
    """Write measurements atomically; equal ones give equal bytes."""
    described = {METADATA_KEY: json.dumps({"inputs": inputs, "layers": measured[1]}, sort_keys=True)}
    with replace_when_done(path) as partial_path:
        partial_path.write_bytes(save(measured[0], described))


def open_measurement(
    directory: Path, inputs: dict, batches: list[Batch], model: PreTrainedModel, keeps_hidden: bool, spilled: bool
) -> AnalysisState:
    """Open the state of a measurement; raise InputError when the disk cannot hold it, or as RunState does."""
    modules = expert_modules(model)
    most = max(module.num_experts for module in modules.values())
    size = model.config.get_text_config().hidden_size
    tokens, seed = inputs["tokens_per_question"], inputs["seed"]
    sampled = sum(len(batch.sequences) for batch in batches) * tokens * len(modules) * size * 4
    hidden = sum(batch.tokens for batch in batches) * size * model.dtype.itemsize
    require_disk_space(directory, STATE_SLACK_BYTES + sampled + (hidden if keeps_hidden else 0))
    arrays = {}
    for batch in batches:
        own = batch_arrays(batch, len(modules), most, model.dtype)
        arrays[batch.first] = own | observed_arrays(batch, model, tokens, seed)
    return AnalysisState(directory, inputs, True, len(layers_of(decoder_of(model)[1])), arrays, spilled)


def layer_figures(
    stream: LayerStream | None, model: PreTrainedModel, tokens: dict[str, np.ndarray], state: AnalysisState, draws: dict
) -> list[dict]:
    """Return the figures of every layer; those that the state has are not computed again.

    tokens: INPUTS, CHOSEN and `groups`, the question of each token; draws: what `output_figures` takes of chance.
    """
    modules, found = expert_modules(model), []
    paths = {layer: state.directory / f"layer-{layer:06d}.json" for layer in modules}
    left = [layer for layer in modules if not is_kept(paths[layer])]
    for row, (layer, module) in enumerate(tqdm(modules.items(), desc="experts compared", unit="layer")):
        if layer in left:
            if stream:
                # The stream reads the next layer meanwhile; those that are done are not read at all.
                following = left.index(layer) + 1
                stream.load_layer(layer, left[following] if following < len(left) else None)
            write_json(paths[layer], compared(layer, module, row, tokens, draws))
            if stream:
                stream.free_layer(layer)
        check_kept(paths[layer])
        found.append(read_json(paths[layer]))
    return found


@torch.inference_mode()
def compared(layer: int, module: Any, row: int, tokens: dict[str, np.ndarray], draws: dict) -> dict:
    """Return the figures of one layer whose weights are in memory, as the record's `WeightLayer` and `OutputLayer`."""
    matrices = matrices_of(module)
    like = next(iter(matrices.values()))
    pairs, chosen = output_cosines(module, tokens[INPUTS][:, row], tokens[CHOSEN][:, row], like)
    drawn = (draws["resamples"], draws["seed"])
    return {
        "weights": [weight_figures(layer, name, weights) for name, weights in matrices.items()],
        "outputs": output_figures(layer, pairs, chosen, tokens["groups"], module.num_experts, drawn),
    }


def measure_model(
    runner: PreTrainedModel | LayerStream, batches: list[Batch], state: AnalysisState, spill: bool, inputs: dict
) -> Measured:
    """Return what is measured of a model, whole or streamed; inputs: `tokens_per_question`, `resamples`, `seed`, ..."""
    stream = runner if isinstance(runner, LayerStream) else None
    model = runner.model if isinstance(runner, LayerStream) else runner
    tokens, seed = inputs["tokens_per_question"], inputs["seed"]
    observe = partial(FindingsObserver, tokens=tokens, seed=seed)
    analyze_batches(runner, batches, state, spill, quiet=False, observe=observe)
    parts = [state.reload(batch.first, with_hidden=False)[0] for batch in batches]
    sequences: list[Sequence] = [sequence for batch in batches for sequence in batch.sequences]
    counts = [len(sampled_positions((each.start, len(each.ids)), tokens, seed)) for each in sequences]
    sampled = {name: np.concatenate([part[name] for part in parts]) for name in (INPUTS, CHOSEN)}
    sampled["groups"] = np.repeat(np.arange(len(sequences)), counts)
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in KEPT}
    return arrays, layer_figures(stream, model, sampled, state, inputs)
