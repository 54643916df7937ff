"""Routed experts for training on CPUs: one after another, over tokens sorted by expert, without padding.

One matrix product per used expert is all the work, forwards and backwards.
"""

from typing import Any

import torch
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS


class SortedExperts(torch.autograd.Function):
    """The sum of the chosen experts' outputs, weighted, and its gradients.

    hidden [T, H], index and weight [T, K], gate_up [E, 2F, H], down [E, H, F] -> [T, H].
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        index: torch.Tensor,
        weight: torch.Tensor,
        gate_up: torch.Tensor,
        down: torch.Tensor,
    ) -> torch.Tensor:
        flat = index.reshape(-1)
        order = torch.argsort(flat, stable=True)  # stable: equal inputs are summed in the same order, run after run
        ends = torch.bincount(flat, minlength=len(gate_up)).cumsum(0).tolist()
        spans = [(e, start, end) for e, (start, end) in enumerate(zip([0, *ends], ends)) if end > start]
        rows = hidden[order // index.shape[1]]
        projected = rows.new_empty(len(rows), gate_up.shape[1])
        for e, start, end in spans:
            torch.mm(rows[start:end], gate_up[e].t(), out=projected[start:end])
        gate, up = projected.chunk(2, dim=1)
        scale = weight.reshape(-1)[order].unsqueeze(1)
        inner = functional.gelu(gate, approximate="tanh") * up
        scaled = inner * scale  # weighted before `down`, so that `down`'s gradient needs no weights
        outputs = torch.empty_like(rows)
        for e, start, end in spans:
            torch.mm(scaled[start:end], down[e].t(), out=outputs[start:end])
        ctx.save_for_backward(rows, projected, inner, scaled, scale, order, gate_up, down)
        ctx.spans, ctx.shape = spans, index.shape
        return unsort(outputs, order, index.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = gradients
        rows, projected, inner, scaled, scale, order, gate_up, down = ctx.saved_tensors
        grad_rows = grad[order // ctx.shape[1]]
        grad_inner = torch.empty_like(inner)
        grad_down, grad_gate_up = torch.zeros_like(down), torch.zeros_like(gate_up)
        for e, start, end in ctx.spans:
            torch.mm(grad_rows[start:end], down[e], out=grad_inner[start:end])
            torch.mm(grad_rows[start:end].t(), scaled[start:end], out=grad_down[e])
        grad_weight = torch.empty_like(scale[:, 0])
        grad_weight[order] = (grad_inner * inner).sum(1)
        with torch.enable_grad():  # the activation's gradient from autograd, not a second formula of it
            leaf = projected.detach().requires_grad_()
            gate, up = leaf.chunk(2, dim=1)
            product = functional.gelu(gate, approximate="tanh") * up
        (grad_projected,) = torch.autograd.grad(product, leaf, grad_inner * scale)
        grad_hidden = torch.empty_like(rows)
        for e, start, end in ctx.spans:
            torch.mm(grad_projected[start:end], gate_up[e], out=grad_hidden[start:end])
            torch.mm(grad_projected[start:end].t(), rows[start:end], out=grad_gate_up[e])
        return unsort(grad_hidden, order, ctx.shape), None, grad_weight.view(ctx.shape), grad_gate_up, grad_down


def unsort(outputs: torch.Tensor, order: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Sum sorted expert outputs [T*K, H] back into their tokens [T, H]."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return outputs[place].view(*shape, -1).sum(1)


def sorted_experts(
    module: torch.nn.Module, hidden: torch.Tensor, index: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """Run `SortedExperts` behind transformers' experts interface."""
    return SortedExperts.apply(hidden, index, weight, module.gate_up_proj, module.down_proj)


def prepare_training(threads: int, seed: int) -> None:
    """Set torch up to train the demo's models, which take "sorted_experts" as their experts implementation."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # subnormal gradients slow a step down tenfold
    torch.manual_seed(seed)
    ALL_EXPERTS_FUNCTIONS.register("sorted_experts", sorted_experts)
