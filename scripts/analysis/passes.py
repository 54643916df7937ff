"""All questions through the model, each batch saved when it is done: whole model, or layer after layer."""

import sys
from collections.abc import Callable

from analysis.analysis_state import AnalysisState
from analysis.batches import Batch
from analysis.expert_observer import ExpertObserver
from analysis.layer_stream import LayerStream
from analysis.model_parts import decoder_of, layers_of

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

Observe = Callable[[PreTrainedModel], ExpertObserver]
TERMINAL_PAUSE_S, LOG_PAUSE_S = 0.1, 10  # between two lines of progress: in a log each one stays


def report_resumed(
    state: AnalysisState, done: dict[int, int], batches: list[Batch], layers: int, progress: tqdm
) -> None:
    """Print what an earlier run has finished, and set the progress bar there; `done` holds layers by first question."""
    if not any(done.values()):
        return
    counts = [done.get(batch.first, 0) for batch in batches for _ in batch.sequences]
    least = "" if min(counts) == layers else f", the least one has {min(counts)} of {layers} layers"
    progress.write(
        f"{state.directory}: going on; {counts.count(layers)} of {len(counts)} questions are done{least}",
        file=sys.stdout,
    )
    progress.update(sum(batch.tokens * done.get(batch.first, 0) / layers for batch in batches))
    progress.initial = progress.n  # the rate is this run's


@torch.inference_mode()
def analyze_resident(
    model: PreTrainedModel, batches: list[Batch], state: AnalysisState, progress: tqdm, observe: Observe
) -> None:
    """Run every batch through the whole model."""
    decoder = decoder_of(model)[1]
    device = decoder.get_input_embeddings().get_parameter("weight").device
    if device.type == "meta":  # offloaded by device_map: its hook brings the ids to where it computes
        device = torch.device("cpu")
    observer = observe(model)
    layers = len(layers_of(decoder))
    found = {batch.first: state.load(batch.first, with_hidden=False) for batch in batches}
    # A batch that a streamed run left between two layers starts again: the whole model cannot be entered there.
    done = {first: layers for first, batch_state in found.items() if batch_state and batch_state[1] == layers}
    report_resumed(state, done, batches, layers, progress)
    for batch in batches:
        if batch.first not in done:
            ids, mask = batch.tensors()
            observer.begin(batch.spans, batch.longest, batch.first)
            # The decoder without its head: nobody reads logits, and 262,144 of them per token are most of the memory.
            decoder(input_ids=ids.to(device), attention_mask=None if mask is None else mask.to(device), use_cache=False)
            state.save(batch.first, observer.take(observer.layers), layers)
            progress.update(batch.tokens)


@torch.inference_mode()
def analyze_streamed(
    stream: LayerStream, batches: list[Batch], state: AnalysisState, spill: bool, progress: tqdm, observe: Observe
) -> None:
    """Run all batches through layer 0, then layer 1, ...; with `spill` hidden states are only on the disk."""
    observer = observe(stream.model)
    layers = len(stream.layers)
    done, held = embed_batches(stream, observer, batches, state, spill)
    report_resumed(state, done, batches, layers, progress)
    left = [layer for layer in range(layers) if any(count <= layer for count in done.values())]
    for layer, following in zip(left, [*left[1:], None]):
        stream.load_layer(layer, following)
        for batch in batches:
            if done[batch.first] != layer:  # an earlier run brought it further
                continue
            hidden = pass_layer(stream, observer, batch, layer, state, held.pop(batch.first, None))
            done[batch.first] = layer + 1
            if not spill and layer + 1 < layers:
                held[batch.first] = hidden
            # Shares of layers do not add up to whole tokens exactly, and a bar past its end loses its shape.
            progress.update(min(batch.tokens / layers, progress.total - progress.n))
        stream.free_layer(layer)


def pass_layer(
    stream: LayerStream,
    observer: ExpertObserver,
    batch: Batch,
    layer: int,
    state: AnalysisState,
    held: torch.Tensor | None,
) -> torch.Tensor:
    """Bring one batch through a loaded layer and save it; `held` None takes the hidden states from the disk."""
    sums, _, stored = state.reload(batch.first, with_hidden=held is None)
    hidden = stored if held is None else held
    assert hidden is not None, "a state with layers left holds them"
    observer.begin(batch.spans, batch.longest, batch.first)
    hidden = stream.run_layer(layer, hidden, batch.tensors()[1])
    new = observer.take([layer])
    # Each layer has its own rows in the sums, and those of the other layers are 0 in `new`. So it changes no bit in
    # which order layers are added, and the result is that of the whole model.
    total = {name: sums[name] + new[name] for name in sums}
    state.save(batch.first, total, layer + 1, None if layer + 1 == len(stream.layers) else hidden)
    return hidden


def embed_batches(
    stream: LayerStream, observer: ExpertObserver, batches: list[Batch], state: AnalysisState, spill: bool
) -> tuple[dict[int, int], dict[int, torch.Tensor]]:
    """Return the layers done and the hidden states of every batch, by first question; embed those without a state."""
    done, held = {}, {}
    for batch in batches:
        if found := state.load(batch.first, with_hidden=not spill):
            done[batch.first] = found[1]
            if found[2] is not None:
                held[batch.first] = stream.hold(found[2])
    missing = [batch for batch in batches if batch.first not in done]
    if missing:
        stream.load_embedding()
    for batch in missing:
        hidden = stream.embed(*batch.tensors())
        observer.begin(batch.spans, batch.longest, batch.first)
        state.save(batch.first, observer.take([]), 0, hidden)
        done[batch.first] = 0
        if not spill:
            held[batch.first] = hidden
    stream.free_embedding()
    return done, held


def analyze_batches(
    model: PreTrainedModel | LayerStream,
    batches: list[Batch],
    state: AnalysisState,
    spill: bool,
    quiet: bool,
    observe: Observe = ExpertObserver,
) -> None:
    """Bring this process's batches through the model, whole or streamed; the results are in the state.

    observe: makes the observer of a model, whose sums the state holds.
    """
    with tqdm(
        total=sum(batch.tokens for batch in batches),
        unit="tok",
        unit_scale=True,
        desc="teacher-forced",
        mininterval=TERMINAL_PAUSE_S if sys.stderr.isatty() else LOG_PAUSE_S,
        disable=quiet,
    ) as progress:
        if isinstance(model, LayerStream):
            analyze_streamed(model, batches, state, spill, progress, observe)
        else:
            analyze_resident(model, batches, state, progress, observe)
