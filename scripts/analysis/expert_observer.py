"""Observe every routed expert of a transformers model during a forward pass, without changing what it computes.

transformers sends the experts of its mixture-of-experts families through one interface
(transformers.integrations.moe.ALL_EXPERTS_FUNCTIONS): `fn(module, hidden [T, H], index [T, K], weights [T, K])`.
The observer registers a function there that computes the K expert outputs of each token once, with the grouped matrix
multiplication of transformers' own `grouped_mm`, takes their norms, and adds them up with the model's own routing
weights: the same bits as `grouped_mm`, in every family, since biases, gates and layouts are told by the interface.
"""

import re

import numpy as np
import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, _grouped_linear

from choice.expert_stats import EXPERT_SUMS, LAYER_SUMS
from files.safe_files import InputError

OBSERVED = "observed_experts"
CPU_CHUNK_TOKENS = 32


def expert_modules(model: nn.Module) -> dict[int, nn.Module]:
    """Return the expert modules of a model's decoder by layer number.

    Raises InputError when there are none, and names experts that do not go through transformers' interface.
    """
    modules: dict[int, nn.Module] = {}
    elsewhere = ""
    for name, module in model.named_modules():
        layer = re.search(r"\.layers\.(\d+)\.", f".{name}.")
        if (
            layer
            and hasattr(module, "has_gate")
            and hasattr(module, "num_experts")
            and hasattr(module, "is_transposed")
        ):
            if int(layer[1]) in modules:
                raise InputError(type(model).__name__, f"one block of experts in layer {layer[1]}", f"a second, {name}")
            modules[int(layer[1])] = module
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
    finite = np.isfinite(norm) & np.isfinite(weight)
    expert, weight, norm = expert[finite], weight[finite], norm[finite]
    weighted = np.abs(weight) * norm
    largest = np.zeros(experts)
    np.maximum.at(largest, expert, norm)
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


def routed_outputs(module: nn.Module, hidden: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute f_e(x) for every token and each of its chosen experts, as transformers' grouped_mm does.

    hidden: [tokens, hidden]; index: [tokens, k]. Returns the outputs [tokens * k, hidden], sorted by expert, and where
    each lies there, [tokens, k]. The flags and `_apply_gate` are the interface's (use_experts_implementation).
    """
    experts, order = torch.sort(index.reshape(-1))
    counts = torch.bincount(experts, minlength=module.num_experts)
    ends = torch.cumsum(counts, dim=0, dtype=torch.int32)
    name = "gate_up_proj" if module.has_gate else "up_proj"
    bias = {part: getattr(module, f"{part}_bias")[experts] if module.has_bias else None for part in (name, "down_proj")}
    inner = _grouped_linear(
        hidden[order // index.shape[1]], getattr(module, name), ends, bias[name], module.is_transposed
    )
    inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)
    outputs = _grouped_linear(inner, module.down_proj, ends, bias["down_proj"], module.is_transposed)
    if module.has_post_expert_norm:
        outputs = module.post_expert_norm(outputs)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return outputs, place.view(index.shape)


class ExpertObserver:
    """Collect the sums of each question of a batch from all mixture-of-experts layers of a model."""

    def __init__(self, model: nn.Module) -> None:
        """Put the observer in the place of `model`'s experts implementation."""
        self.layers = expert_modules(model)
        self.rows = {module: row for row, module in enumerate(self.layers.values())}
        self.experts = max(module.num_experts for module in self.layers.values())
        ALL_EXPERTS_FUNCTIONS.register(OBSERVED, self._forward)
        model.set_experts_implementation(OBSERVED)

    def begin(self, spans: list[tuple[int, int]], padded_tokens: int) -> None:
        """Start to collect a batch: per question the first counted token and the end, each row padded on the right."""
        shape = (len(spans), len(self.layers), self.experts)
        self.spans, self.padded_tokens = spans, padded_tokens
        self.sums = {name: np.zeros(shape, np.int64 if name == "token_count" else np.float64) for name in EXPERT_SUMS}
        self.sums |= {
            name: np.zeros(shape[:2], np.float64 if name == "moe_output_norm_sum" else np.int64) for name in LAYER_SUMS
        }

    def take(self, layers: list[int]) -> dict[str, np.ndarray]:
        """Return the sums since `begin`, [questions, layers, experts] and [questions, layers].

        Raises InputError when a mixture-of-experts layer among `layers` did not see every counted token.
        """
        counted = np.array([end - start for start, end in self.spans])
        seen = self.sums["tokens"] + self.sums["skipped_tokens"]
        for row, layer in enumerate(self.layers):
            if layer in layers and (seen[:, row] != counted).any():
                raise InputError(
                    f"layer {layer}",
                    f"{counted.sum()} tokens to reach its experts through the interface",
                    str(int(seen[:, row].sum())),
                )
        return self.sums

    def _forward(
        self, module: nn.Module, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        outputs, place = routed_outputs(module, hidden, index)
        norms = torch.empty(index.shape, dtype=torch.float32, device=hidden.device)
        mixed = hidden.new_empty(hidden.shape[0], outputs.shape[1], dtype=torch.result_type(outputs, weights))
        step = CPU_CHUNK_TOKENS if hidden.device.type == "cpu" else len(hidden)  # chunks stay in the processor's cache
        for first in range(0, len(hidden), step):
            chunk = slice(first, first + step)
            each = outputs[place[chunk].reshape(-1)].view(*place[chunk].shape, -1)
            norms[chunk] = torch.linalg.vector_norm(each, dim=-1, dtype=torch.float32)
            mixed[chunk] = (each * weights[chunk].unsqueeze(-1)).sum(dim=1)
        result = mixed.to(hidden.dtype)
        self._count(module, hidden, index, weights, norms, mixed, result)
        return result

    def _count(
        self,
        module: nn.Module,
        hidden: torch.Tensor,
        index: torch.Tensor,
        weights: torch.Tensor,
        norms: torch.Tensor,
        mixed: torch.Tensor,
        result: torch.Tensor,
    ) -> None:
        """Add one layer's batch to the sums of its questions."""
        entered = torch.isfinite(hidden).all(dim=-1).cpu().numpy()
        mixed_norms = torch.linalg.vector_norm(mixed, dim=-1, dtype=torch.float32)
        left = torch.isfinite(mixed_norms) & torch.isfinite(result).all(dim=-1)  # sum and cast can overflow as well
        mixed_norms = torch.where(left, mixed_norms, torch.inf).double().cpu().numpy()
        routed = (index.cpu().numpy(), weights.double().cpu().numpy(), norms.double().cpu().numpy())
        for question, (start, end) in enumerate(self.spans):
            counted = slice(question * self.padded_tokens + start, question * self.padded_tokens + end)
            self._add(
                question,
                self.rows[module],
                entered[counted],
                mixed_norms[counted],
                *(values[counted] for values in routed),
            )

    def _add(
        self,
        question: int,
        row: int,
        entered: np.ndarray,
        mixed_norms: np.ndarray,
        index: np.ndarray,
        weights: np.ndarray,
        norms: np.ndarray,
    ) -> None:
        """Add one question's tokens in one layer; shapes [tokens] and [tokens, k]."""
        left = np.isfinite(mixed_norms) & np.isfinite(norms).all(axis=1) & np.isfinite(weights).all(axis=1)
        for name, values in expert_sums(index[entered], weights[entered], norms[entered], self.experts).items():
            if name == "norm_max":
                np.maximum(self.sums[name][question, row], values, out=self.sums[name][question, row])
            else:
                self.sums[name][question, row] += values
        self.sums["tokens"][question, row] += int(entered.sum())
        self.sums["skipped_tokens"][question, row] += int((~entered).sum())
        self.sums["nonfinite_tokens"][question, row] += int((entered & ~left).sum())
        self.sums["moe_output_norm_sum"][question, row] += float(mixed_norms[entered & left].sum())
