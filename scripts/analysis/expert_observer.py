"""Observe every routed expert of a transformers model during a forward pass, without changing what it computes.

transformers sends the experts of its mixture-of-experts families through one interface
(transformers.integrations.moe.ALL_EXPERTS_FUNCTIONS): `fn(module, hidden [T, H], index [T, K], weights [T, K])`.
The observer registers a function there. It computes the K expert outputs of each token once, with the grouped matrix
multiplication of transformers' own `grouped_mm`, takes their norms, and adds the outputs up with the model's own
routing weights. The result has the same bits as that of `grouped_mm`. This holds in every family, because the interface
says whether experts have biases or gates and how their weights are laid out.

A hook on the experts would not do: it sees only the sum of the K outputs.
"""

import re
from collections.abc import Iterable
from typing import Protocol, cast

from choice.stats_record import COUNTS, EXPERT_SUMS, LAYER_SUMS
from files.input_errors import InputError

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

OBSERVED = "observed_experts"
# The outputs of a chunk are gathered and then read twice, for norms and for the sum. 32 tokens x 8 experts x 2816
# values of bf16 are 1.4 MB and stay in the processor's cache. Each token has its own sum, so the size changes no bit.
CPU_CHUNK_TOKENS = 32


class ExpertsModule(Protocol):
    """The experts of one layer, as transformers' decorator `use_experts_implementation` describes them."""

    num_experts: int
    has_gate: bool  # gate_up_proj holds gate and up projection; without a gate there is up_proj
    has_bias: bool
    has_post_expert_norm: bool
    is_transposed: bool
    down_proj: torch.Tensor

    def _apply_gate(self, both: torch.Tensor) -> torch.Tensor: ...

    def act_fn(self, up: torch.Tensor) -> torch.Tensor: ...

    def post_expert_norm(self, outputs: torch.Tensor) -> torch.Tensor: ...


def expert_modules(model: nn.Module) -> dict[int, ExpertsModule]:
    """Return the expert modules of a model's decoder by layer number.

    Raises InputError when there are none, and names experts that do not go through transformers' interface.
    """
    modules: dict[int, ExpertsModule] = {}
    elsewhere = ""
    for name, module in model.named_modules():
        layer = re.search(r"\.layers\.(\d+)\.", f".{name}.")
        # The decorator leaves no common class, only these attributes.
        if layer and all(hasattr(module, flag) for flag in ("has_gate", "num_experts", "is_transposed")):
            if int(layer[1]) in modules:
                raise InputError(type(model).__name__, f"one block of experts in layer {layer[1]}", f"a second, {name}")
            modules[int(layer[1])] = cast(ExpertsModule, module)
        elif "Expert" in type(module).__name__ and not elsewhere:
            elsewhere = f"; {name} is a {type(module).__name__}"
    if not modules:
        raise InputError(
            type(model).__name__, "mixture-of-experts layers behind transformers' experts interface", f"none{elsewhere}"
        )
    return dict(sorted(modules.items()))


def expert_sums(index: np.ndarray, weights: np.ndarray, norms: np.ndarray, experts: int) -> dict[str, np.ndarray]:
    """Sum one layer's routed outputs per expert.

    index: [tokens, k] int64, the chosen experts; weights: [tokens, k] fp64, the routing weights as the model applies
    them; norms: [tokens, k] fp64 of fp32 values, ||f_e(x)||_2 of each chosen expert's output. Returns arrays [experts]:
    fp64, and int64 for token_count. A routed output counts only where its norm is finite; its weighted norm is
    ||w f|| = |w| ||f||.
    """
    expert, weight, norm = index.reshape(-1), weights.reshape(-1), norms.reshape(-1)
    # One overflow would make the sum of its expert inf and rank that expert first, whatever the other tokens say.
    finite = np.isfinite(norm) & np.isfinite(weight)
    expert, weight, norm = expert[finite], weight[finite], norm[finite]
    weighted = np.abs(weight) * norm
    largest = np.zeros(experts)
    np.maximum.at(largest, expert, norm)
    # fp64, because bf16 has 8 significant bits: a sum of 256 equal terms would stop growing there.
    sums = {
        name: np.bincount(expert, values, minlength=experts)
        for name, values in (
            ("routing_weight_sum", weight),
            ("norm_sum", norm),
            ("norm_sq_sum", norm**2),
            ("weighted_norm_sum", weighted),
            ("weighted_norm_sq_sum", weighted**2),
        )
    }
    return {"token_count": np.bincount(expert, minlength=experts), "norm_max": largest, **sums}


def routed_outputs(
    module: ExpertsModule, hidden: torch.Tensor, index: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the output of every chosen expert.

    hidden: [tokens, hidden]; index: [tokens, k]. Returns the outputs [tokens * k, hidden], sorted by expert, and where
    each lies there, [tokens, k]. The steps are those of transformers' `grouped_mm_experts_forward`.
    """
    # The grouped product takes the rows of an expert as one run, hence the order by expert.
    experts, order = torch.sort(index.reshape(-1))
    ends = torch.cumsum(torch.bincount(experts, minlength=module.num_experts), dim=0, dtype=torch.int32)
    up = "gate_up_proj" if module.has_gate else "up_proj"

    def bias(projection: str) -> torch.Tensor | None:
        """Return the bias of each row."""
        return getattr(module, f"{projection}_bias")[experts] if module.has_bias else None

    tokens = order // index.shape[1]  # `order` counts routed outputs, k per token
    inner = _grouped_linear(hidden[tokens], getattr(module, up), ends, bias(up), module.is_transposed)
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    outputs = _grouped_linear(inner, module.down_proj, ends, bias("down_proj"), module.is_transposed)
    if module.has_post_expert_norm:
        outputs = module.post_expert_norm(outputs)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)  # the inverse of the permutation
    return outputs, place.view(index.shape)


def fp64_array(values: torch.Tensor) -> np.ndarray:
    """Return values as an fp64 array on the host."""
    return values.double().cpu().numpy()


def is_integer_sum(name: str) -> bool:
    """Tell whether a sum of the statistics counts tokens (int64) and does not add norms or weights (fp64)."""
    return name in COUNTS


class ExpertObserver:
    """Collect the sums of each question of a batch from all mixture-of-experts layers of a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Put the observer in the place of `model`'s experts implementation."""
        self.layers = expert_modules(model)
        self.rows = {module: row for row, module in enumerate(self.layers.values())}
        self.experts = max(module.num_experts for module in self.layers.values())
        ALL_EXPERTS_FUNCTIONS.register(OBSERVED, self._forward)
        model.set_experts_implementation(OBSERVED)

    def begin(self, spans: list[tuple[int, int]], padded_tokens: int, first: int = 0) -> None:
        """Start to collect a batch.

        spans: first counted token and end of each question; padded_tokens: the length of all its rows with padding,
        which is on the right; first: number of its first question.
        """
        self.spans, self.padded_tokens = spans, padded_tokens
        shape = (len(spans), len(self.layers))
        self.sums: dict[str, np.ndarray] = {}
        for names, axes in ((EXPERT_SUMS, (*shape, self.experts)), (LAYER_SUMS, shape)):
            for name in names:
                self.sums[name] = np.zeros(axes, np.int64 if is_integer_sum(name) else np.float64)

    def take(self, layers: Iterable[int]) -> dict[str, np.ndarray]:
        """Return the sums since `begin`, [questions, layers, experts] and [questions, layers].

        Raises InputError when a mixture-of-experts layer among `layers` did not see every counted token.
        """
        counted = np.array([end - start for start, end in self.spans])
        seen = self.sums["tokens"] + self.sums["skipped_tokens"]
        for row, layer in enumerate(self.layers):
            # A family may send some tokens past the interface; statistics of the other tokens would look whole.
            if layer in layers and (seen[:, row] != counted).any():
                raise InputError(
                    f"layer {layer}",
                    f"{counted.sum()} tokens to reach its experts through the interface",
                    str(int(seen[:, row].sum())),
                )
        return self.sums

    def _forward(
        self, module: ExpertsModule, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        """Stand in for the experts of a layer: return [tokens, hidden], their weighted sum, and count what they did."""
        outputs, place = routed_outputs(module, hidden, index)
        norms = torch.empty(index.shape, dtype=torch.float32, device=hidden.device)
        mixed = hidden.new_empty(hidden.shape[0], outputs.shape[1], dtype=torch.result_type(outputs, weights))
        step = CPU_CHUNK_TOKENS if hidden.device.type == "cpu" else len(hidden)
        for first in range(0, len(hidden), step):
            chunk = slice(first, first + step)
            each = outputs[place[chunk].reshape(-1)].view(*place[chunk].shape, -1)
            # In fp32: squares of fp16 values overflow above 255, and a norm in bf16 would have 8 significant bits.
            norms[chunk] = torch.linalg.vector_norm(each, dim=-1, dtype=torch.float32)
            mixed[chunk] = (each * weights[chunk].unsqueeze(-1)).sum(dim=1)
        result = mixed.to(hidden.dtype)
        self._count(module, hidden, (index, weights, norms), mixed, result)
        self._look(module, hidden, (index, weights, norms), (outputs, place))
        return result

    def _look(
        self,
        module: ExpertsModule,
        hidden: torch.Tensor,
        routed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        found: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """Let a subclass look at a layer's batch: what `_count` gets, and what `routed_outputs` returned."""

    def _count(
        self,
        module: ExpertsModule,
        hidden: torch.Tensor,
        routed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        mixed: torch.Tensor,
        result: torch.Tensor,
    ) -> None:
        """Add one layer's batch to the sums of its questions; routed: index, weights and norms, [tokens, k] each."""
        entered = torch.isfinite(hidden).all(dim=-1).cpu().numpy()
        mixed_norms = torch.linalg.vector_norm(mixed, dim=-1, dtype=torch.float32)
        left = torch.isfinite(mixed_norms) & torch.isfinite(result).all(dim=-1)  # sum and cast can overflow as well
        mixed_sums = fp64_array(torch.where(left, mixed_norms, torch.inf))
        index, weights, norms = routed[0].cpu().numpy(), fp64_array(routed[1]), fp64_array(routed[2])
        for question, (start, end) in enumerate(self.spans):
            # The interface gets all rows of a batch as one list of tokens, padding included.
            counted = slice(question * self.padded_tokens + start, question * self.padded_tokens + end)
            self._add(
                (question, self.rows[module]),
                entered[counted],
                mixed_sums[counted],
                index[counted],
                weights[counted],
                norms[counted],
            )

    def _add(
        self,
        cell: tuple[int, int],
        entered: np.ndarray,
        mixed_norms: np.ndarray,
        index: np.ndarray,
        weights: np.ndarray,
        norms: np.ndarray,
    ) -> None:
        """Add one question's tokens in one layer: [tokens] and [tokens, k]; cell: question and row of the layer."""
        left = np.isfinite(mixed_norms) & np.isfinite(norms).all(axis=1) & np.isfinite(weights).all(axis=1)
        # A token that came in non-finite says nothing about these experts: an earlier layer broke it.
        for name, values in expert_sums(index[entered], weights[entered], norms[entered], self.experts).items():
            sums = self.sums[name][cell]
            if name == "norm_max":
                np.maximum(sums, values, out=sums)
            else:
                sums += values
        self.sums["tokens"][cell] += int(entered.sum())
        self.sums["skipped_tokens"][cell] += int((~entered).sum())
        self.sums["nonfinite_tokens"][cell] += int((entered & ~left).sum())
        self.sums["moe_output_norm_sum"][cell] += float(mixed_norms[entered & left].sum())
