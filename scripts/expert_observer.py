"""Observe every routed expert of a transformers model during a forward pass, without changing what it computes.

transformers sends the experts of its mixture-of-experts families through one interface
(transformers.integrations.moe.ALL_EXPERTS_FUNCTIONS): `fn(module, hidden [T, H], index [T, K], weights [T, K])`.
The observer registers a function there that asks the wrapped implementation for the K expert outputs of each token
one by one (each as a token of its own with weight 1), takes their norms, and adds them up with the model's own routing
weights. So the experts run once, and families with biases or other activations need no code here.
"""

import re

import numpy as np
import torch
from torch import nn
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from safe_files import InputError

OBSERVED = "observed_experts"
EXPERT_SUMS = ("token_count", "routing_weight_sum", "norm_sum", "norm_sq_sum", "weighted_norm_sum",
               "weighted_norm_sq_sum", "norm_max")
LAYER_SUMS = ("tokens", "nonfinite_tokens", "skipped_tokens", "moe_output_norm_sum")


def expert_modules(model: nn.Module) -> dict[int, nn.Module]:
    """Return the expert modules of a model by layer number; raise InputError when there are none."""
    modules: dict[int, nn.Module] = {}
    for name, module in model.named_modules():
        if hasattr(module, "has_gate") and hasattr(module, "num_experts") and hasattr(module, "is_transposed"):
            modules[int(re.search(r"\.layers\.(\d+)\.", f".{name}.")[1])] = module
    if not modules:
        raise InputError(type(model).__name__, "mixture-of-experts layers behind transformers' experts interface",
                         "none")
    return dict(sorted(modules.items()))


def expert_sums(index: torch.Tensor, weights: torch.Tensor, norms: torch.Tensor, experts: int) -> dict[str, np.ndarray]:
    """Sum one layer's routed outputs per expert.

    index: [tokens, k] int64, the chosen experts; weights: [tokens, k], the routing weights as the model applies them;
    norms: [tokens, k] fp32, ||f_e(x)||_2 of each chosen expert's output. Returns arrays [experts]: fp64, and int64
    for token_count. A routed output counts only where its norm is finite. The weighted norm is ||w f|| = |w| ||f||.
    """
    expert = index.reshape(-1).cpu().numpy()
    weight = weights.detach().reshape(-1).double().cpu().numpy()
    norm = norms.reshape(-1).double().cpu().numpy()
    finite = np.isfinite(norm) & np.isfinite(weight)
    expert, weight, norm = expert[finite], weight[finite], norm[finite]
    weighted = np.abs(weight) * norm
    largest = np.zeros(experts)
    np.maximum.at(largest, expert, norm)
    sums = {name: np.bincount(expert, values, minlength=experts) for name, values in (
        ("routing_weight_sum", weight), ("norm_sum", norm), ("norm_sq_sum", norm**2),
        ("weighted_norm_sum", weighted), ("weighted_norm_sq_sum", weighted**2))}
    return {"token_count": np.bincount(expert, minlength=experts), "norm_max": largest, **sums}


class ExpertObserver:
    """Collect the sums of one question at a time from all mixture-of-experts layers of a model."""

    def __init__(self, model: nn.Module, implementation: str = "grouped_mm") -> None:
        """Put the observer between `model` and its experts; `implementation` is the one that computes them."""
        self.layers = expert_modules(model)
        self.rows = {module: row for row, module in enumerate(self.layers.values())}
        self.experts = max(module.num_experts for module in self.layers.values())
        self.compute = ALL_EXPERTS_FUNCTIONS[implementation]
        ALL_EXPERTS_FUNCTIONS.register(OBSERVED, self._forward)
        model.set_experts_implementation(OBSERVED)
        self.reset()

    def reset(self) -> None:
        """Forget what has been collected."""
        shape = (len(self.layers), self.experts)
        self.sums = {name: np.zeros(shape, np.int64 if name == "token_count" else np.float64) for name in EXPERT_SUMS}
        self.sums |= {name: np.zeros(shape[:1], np.float64 if name == "moe_output_norm_sum" else np.int64)
                      for name in LAYER_SUMS}

    def take(self) -> dict[str, np.ndarray]:
        """Return the sums since the last reset, [layers, experts] and [layers], and reset."""
        sums = self.sums
        self.reset()
        return sums

    def _forward(self, module: nn.Module, hidden: torch.Tensor, index: torch.Tensor,
                 weights: torch.Tensor) -> torch.Tensor:
        tokens, k = index.shape
        outputs = self.compute(module, hidden.repeat_interleave(k, dim=0), index.reshape(-1, 1),
                               torch.ones_like(weights).reshape(-1, 1))
        norms = torch.linalg.vector_norm(outputs, dim=-1, dtype=torch.float32).view(tokens, k)
        mixed = (outputs.view(tokens, k, -1) * weights.unsqueeze(-1)).sum(dim=1)
        self._add(self.rows[module], hidden, index, weights, norms, mixed)
        return mixed.to(hidden.dtype)

    def _add(self, row: int, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor, norms: torch.Tensor,
             mixed: torch.Tensor) -> None:
        entered = torch.isfinite(hidden).all(dim=-1)
        left = torch.isfinite(norms).all(dim=-1)
        for name, values in expert_sums(index[entered], weights[entered], norms[entered], self.experts).items():
            if name == "norm_max":
                np.maximum(self.sums[name][row], values, out=self.sums[name][row])
            else:
                self.sums[name][row] += values
        good = entered & left
        self.sums["tokens"][row] += int(entered.sum())
        self.sums["skipped_tokens"][row] += int((~entered).sum())
        self.sums["nonfinite_tokens"][row] += int((entered & ~left).sum())
        output_norms = torch.linalg.vector_norm(mixed[good], dim=-1, dtype=torch.float32)
        self.sums["moe_output_norm_sum"][row] += float(output_norms.double().sum())
