"""Some tokens of all questions, and what reaches the experts of every layer for them, kept beside the analysis's sums.

Which tokens is drawn before the model runs, over all questions. So it depends neither on batches nor on how many
processes share the questions.
"""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import Any

from analysis.batches import Batch
from analysis.expert_observer import ExpertObserver, ExpertsModule, expert_modules
from analysis.model_parts import decoder_of, top_k_in
from files.input_errors import InputError

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

INPUTS, CHOSEN, GIVEN, SCORES = "sampled_inputs", "sampled_experts", "sampled_weights", "sampled_scores"
SAMPLED = (INPUTS, CHOSEN, GIVEN, SCORES)
DTYPES = {INPUTS: "F32", CHOSEN: "I64", GIVEN: "F32", SCORES: "F32"}


@dataclass(frozen=True)
class TokenSample:
    """Positions of the sampled tokens by question, ascending, and [tokens] fp64, how much each counts: 1 in all."""

    positions: list[list[int]]
    weights: np.ndarray

    @property
    def digest(self) -> str:
        """The hex sha256 of both."""
        return hashlib.sha256(json.dumps(self.positions).encode() + self.weights.tobytes()).hexdigest()


def draw_tokens(
    spans: list[tuple[int, int]], replies: list[int], share: float | None, count: int, factors: np.ndarray, seed: int
) -> TokenSample:
    """Draw `count` of the counted tokens, all of them if there are fewer.

    spans: first counted token and end of each question; replies: where its reply begins; share: how much the tokens of
    replies count together, from 0 to 1, None: as much as there are; factors: [questions] fp64, how much a token of each
    question counts against one of another. Raises InputError when no token is left that counts.
    """
    question = np.repeat(np.arange(len(spans)), [end - start for start, end in spans])
    position = np.concatenate([np.arange(start, end) for start, end in spans])
    counts = factors[question] > 0
    is_reply = position >= np.array(replies)[question]
    pools = [(counts, 1.0)] if share is None else [(counts & is_reply, share), (counts & ~is_reply, 1 - share)]
    # Named, and not default_rng: numpy may change what that is, and the order of elimination with it.
    generator = np.random.Generator(np.random.PCG64(seed))
    rows, weights = [], []
    for pool, part in pools:
        there = np.flatnonzero(pool)
        if part == 0:
            continue
        if there.size == 0:
            raise InputError("--reconstruction", "tokens on both sides of the mixture", "none on one of them")
        drawn = generator.choice(there, min(there.size, max(1, round(count * part))), replace=False)
        rows.append(drawn)
        # Each side of the mixture sums to its part, however many of its tokens there were to draw.
        weights.append(factors[question[drawn]] / factors[question[drawn]].sum() * part)
    row, weight = np.concatenate(rows), np.concatenate(weights)
    # As the model will read them, so that rows of the kept arrays and of the sample are in one order.
    order = np.argsort(row)
    row = row[order]
    positions = [position[row[question[row] == number]].tolist() for number in range(len(spans))]
    return TokenSample(positions, weight[order])


def router_modules(model: PreTrainedModel) -> dict[int, tuple[nn.Module, int]]:
    """Return the router of each layer, and which of its outputs are the scores of all experts.

    transformers names both in each family, for `output_router_logits`. Raises InputError when it does not.
    """
    decoder = decoder_of(model)[1]
    recorded: Any = (getattr(decoder, "_can_record_outputs", None) or {}).get("router_logits")
    recorder = recorded[0] if isinstance(recorded, list) and recorded else recorded
    kind, index = getattr(recorder, "target_class", None), getattr(recorder, "index", 0)
    found: dict[int, tuple[nn.Module, int]] = {}
    for name, module in model.named_modules():
        layer = re.search(r"\.layers\.(\d+)\.", f".{name}.")
        if kind is not None and layer and isinstance(module, kind):
            found[int(layer[1])] = (module, index)
    if missing := expert_modules(model).keys() - found.keys():
        wanted = f"a router in layer {min(missing)} whose scores transformers records"
        raise InputError(type(model).__name__, wanted, "none", "choose by another criterion")
    return found


class InputObserver(ExpertObserver, ABC):
    """Collect what the analysis collects, and for some tokens what reaches the experts of every layer."""

    def __init__(self, model: PreTrainedModel, widths: dict[str, int]) -> None:
        """Observe a model; widths: the last axis of each array that is kept, by its name."""
        super().__init__(model)
        self.widths = widths

    @abstractmethod
    def positions_of(self, spans: list[tuple[int, int]], first: int) -> list[list[int]]:
        """Return the positions of the kept tokens in each question of a batch; first: the number of its first one."""

    def begin(self, spans: list[tuple[int, int]], padded_tokens: int, first: int = 0) -> None:
        """Start to collect a batch, as ExpertObserver does."""
        super().begin(spans, padded_tokens, first)
        positions = enumerate(self.positions_of(spans, first))
        self.rows_kept = [number * padded_tokens + place for number, own in positions for place in own]
        for name, width in self.widths.items():
            shape = (len(self.rows_kept), len(self.layers), width)
            self.sums[name] = np.zeros(shape, np.int64 if name == CHOSEN else np.float32)

    def keep(self, module: ExpertsModule, arrays: dict[str, torch.Tensor]) -> None:
        """Keep the rows of the sampled tokens in one layer; arrays: [tokens of the batch, width] by their names."""
        for name, values in arrays.items():
            # Picked on the device first: a whole batch of inputs would go over the bus for a few rows.
            kept = values[self.rows_kept]
            kept = kept if name == CHOSEN else kept.float()
            self.sums[name][:, self.rows[module], : kept.shape[1]] = kept.cpu().numpy()


class SampleObserver(InputObserver):
    """Collect what the analysis collects, and for sampled tokens inputs, scores, chosen experts and their weights."""

    def __init__(self, model: PreTrainedModel, sample: TokenSample) -> None:
        """Observe a model."""
        super().__init__(model, sampled_widths(model))
        self.sample = sample
        self.scores: dict[int, torch.Tensor] = {}
        self.numbers = {module: layer for layer, module in self.layers.items()}
        for layer, (router, index) in router_modules(model).items():
            router.register_forward_hook(partial(self._take_scores, layer, index))

    def _take_scores(self, layer: int, index: int, _: nn.Module, __: Any, output: Any) -> None:
        scores = output[index] if isinstance(output, tuple) else output
        self.scores[layer] = scores.reshape(-1, scores.shape[-1])

    def positions_of(self, spans: list[tuple[int, int]], first: int) -> list[list[int]]:
        """Return those that were drawn before."""
        return self.sample.positions[first : first + len(spans)]

    def _look(
        self,
        module: ExpertsModule,
        hidden: torch.Tensor,
        routed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        found: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        scores = self.scores.pop(self.numbers[module])
        self.keep(module, {INPUTS: hidden, CHOSEN: routed[0], GIVEN: routed[1], SCORES: scores})


def input_widths(model: PreTrainedModel) -> dict[str, int]:
    """Return the last axis of the experts' inputs and of the chosen experts."""
    text_config = model.config.get_text_config()
    return {INPUTS: text_config.hidden_size, CHOSEN: top_k_in(text_config)}


def sampled_widths(model: PreTrainedModel) -> dict[str, int]:
    """Return the last axis of each sampled array."""
    widths, most = input_widths(model), max(module.num_experts for module in expert_modules(model).values())
    return widths | {GIVEN: widths[CHOSEN], SCORES: most}


def kept_arrays(widths: dict[str, int], tokens: int, layers: int) -> dict[str, tuple[str, list[int]]]:
    """Return what an InputObserver keeps of so many tokens: dtypes as safetensors names them, shapes."""
    return {name: (DTYPES[name], [tokens, layers, width]) for name, width in widths.items()}


def sampled_arrays(batch: Batch, model: PreTrainedModel, sample: TokenSample) -> dict[str, tuple[str, list[int]]]:
    """Return what a state holds of a batch beside the analysis's arrays: dtypes as safetensors names them, shapes."""
    tokens = sum(map(len, sample.positions[batch.first : batch.first + len(batch.sequences)]))
    return kept_arrays(sampled_widths(model), tokens, len(expert_modules(model)))
