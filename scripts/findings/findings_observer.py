"""What the findings need of a forward pass, beside the sums of the analysis: norms in bf16, and some experts' inputs.

Taken in bf16 means as torch takes the norm of a bf16 tensor: the output times its routing weight in bf16, the sum of
squares inside in fp32, the result rounded to bf16. Added up in bf16 means one token after the other, as a running total
in bf16 does: it stops growing once a term is less than half of its last place.
"""

from analysis.batches import Batch
from analysis.expert_observer import CPU_CHUNK_TOKENS, ExpertsModule, expert_modules, fp64_array
from analysis.sampled_tokens import CHOSEN, INPUTS, InputObserver, input_widths, kept_arrays
from findings.sampling import generator_of

import numpy as np
import torch
from transformers import PreTrainedModel

# Arrays [questions, layers, experts] fp64, and [questions, layers] int64.
BF16_SUMS = ("weighted_norm_bf16", "weighted_norm_bf16_sums")
COUNTS = ("norms", "nonfinite_norms", "bf16_nonfinite_norms")


def sampled_positions(span: tuple[int, int], count: int, seed: int) -> list[int]:
    """Return `count` different positions of a question's counted tokens, drawn by seed; all of them if there are fewer.

    span: first counted token and end.
    """
    start, end = span
    drawn = generator_of(seed, start, end).choice(end - start, min(count, end - start), replace=False)
    return sorted((drawn + start).tolist())


def added_in_bf16(experts: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    """Return the sums per expert, each a running total in bf16, as fp64 [count].

    experts: int [n], values: fp64 [n] of bf16 numbers, in the order in which they are added.
    """
    order = np.argsort(experts, kind="stable")
    sizes = np.bincount(experts, minlength=count)
    starts = sizes.cumsum() - sizes
    place = np.arange(experts.size) - starts[experts[order]]
    # A row for the first value of every expert, one for the second, ...: 0 where it has no more, which adds nothing.
    table = torch.zeros(int(sizes.max(initial=0)), count, dtype=torch.bfloat16)
    table[torch.from_numpy(place), torch.from_numpy(experts[order])] = torch.from_numpy(values[order]).bfloat16()
    total = torch.zeros(count, dtype=torch.bfloat16)
    for row in table:
        total += row
    return total.double().numpy()


class FindingsObserver(InputObserver):
    """Collect what the analysis collects, norms in bf16, and the inputs of every layer's experts for some tokens."""

    def __init__(self, model: PreTrainedModel, tokens: int, seed: int) -> None:
        """Observe a model; tokens: of each question whose inputs are kept."""
        super().__init__(model, input_widths(model))
        self.tokens, self.seed = tokens, seed

    def positions_of(self, spans: list[tuple[int, int]], first: int) -> list[list[int]]:
        """Return those of each question, drawn by its span and the seed alone."""
        return [sampled_positions(span, self.tokens, self.seed) for span in spans]

    def begin(self, spans: list[tuple[int, int]], padded_tokens: int, first: int = 0) -> None:
        """Start to collect a batch, as ExpertObserver does."""
        super().begin(spans, padded_tokens, first)
        shape = (len(spans), len(self.layers))
        self.sums |= {name: np.zeros((*shape, self.experts)) for name in BF16_SUMS}
        self.sums |= {name: np.zeros(shape, np.int64) for name in COUNTS}

    def _look(
        self,
        module: ExpertsModule,
        hidden: torch.Tensor,
        routed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        found: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        (index, weights, norms), (outputs, place) = routed, found
        self.keep(module, {INPUTS: hidden, CHOSEN: index})
        taken = torch.empty(index.shape, dtype=torch.bfloat16, device=hidden.device)
        step = CPU_CHUNK_TOKENS if hidden.device.type == "cpu" else len(hidden)
        for first in range(0, len(hidden), step):
            chunk = slice(first, first + step)
            each = outputs[place[chunk].reshape(-1)].view(*place[chunk].shape, -1).bfloat16()
            taken[chunk] = (each * weights[chunk].bfloat16().unsqueeze(-1)).norm(dim=-1)
        chosen, values, whole = index.cpu().numpy(), fp64_array(taken), fp64_array(norms * weights)
        for question, (start, end) in enumerate(self.spans):
            counted = slice(question * self.padded_tokens + start, question * self.padded_tokens + end)
            cell = (question, self.rows[module])
            self._add_bf16(cell, *(part[counted].reshape(-1) for part in (chosen, values, whole)))

    def _add_bf16(self, cell: tuple[int, int], experts: np.ndarray, values: np.ndarray, whole: np.ndarray) -> None:
        """Add one question's routed outputs in one layer, each [n]: expert, weighted norm in bf16 and in fp32."""
        finite = np.isfinite(values)
        sums = self.sums
        sums["norms"][cell] += values.size
        sums["nonfinite_norms"][cell] += int((~np.isfinite(whole)).sum())
        sums["bf16_nonfinite_norms"][cell] += int((~finite & np.isfinite(whole)).sum())
        experts, values = experts[finite], values[finite]
        sums["weighted_norm_bf16"][cell] += np.bincount(experts, values, minlength=self.experts)
        sums["weighted_norm_bf16_sums"][cell] += added_in_bf16(experts, values, self.experts)


def observed_arrays(batch: Batch, model: PreTrainedModel, tokens: int, seed: int) -> dict[str, tuple[str, list[int]]]:
    """Return what a state holds of a batch beside the analysis's arrays: dtypes as safetensors names them, shapes."""
    modules = expert_modules(model)
    rows, most = [len(batch.sequences), len(modules)], max(module.num_experts for module in modules.values())
    sampled = sum(len(sampled_positions(span, tokens, seed)) for span in batch.spans)
    arrays = {name: ("F64", [*rows, most]) for name in BF16_SUMS} | dict.fromkeys(COUNTS, ("I64", rows))
    return arrays | kept_arrays(input_widths(model), sampled, rows[1])
