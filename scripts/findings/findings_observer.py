"""What the findings need of a forward pass, beside the sums of the analysis: norms in bf16, and some experts' inputs.

Taken in bf16 means as torch takes the norm of a bf16 tensor: the output times its routing weight in bf16, the sum of
squares inside in fp32, the result rounded to bf16. Added up in bf16 means one token after the other, as a running total
in bf16 does: it stops growing once a term is less than half of its last place.
"""

from analysis.batches import Batch
from analysis.expert_observer import CPU_CHUNK_TOKENS, ExpertObserver, ExpertsModule, expert_modules, fp64_array
from analysis.model_checks import top_k_in
from findings.sampling import generator_of

import numpy as np
import torch
from transformers import PreTrainedModel

# Arrays [questions, layers, experts] fp64, and [questions, layers] int64.
BF16_SUMS = ("weighted_norm_bf16", "weighted_norm_bf16_sums")
COUNTS = ("norms", "nonfinite_norms", "bf16_nonfinite_norms")
INPUTS, CHOSEN = "expert_inputs", "chosen_experts"  # [tokens, layers, hidden] fp32 and [tokens, layers, k] int64


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


class FindingsObserver(ExpertObserver):
    """Collect what the analysis collects, norms in bf16, and the inputs of every layer's experts for some tokens."""

    def __init__(self, model: PreTrainedModel, tokens: int, seed: int) -> None:
        """Observe a model; tokens: of each question whose inputs are kept."""
        super().__init__(model)
        self.tokens, self.seed = tokens, seed
        text_config = model.config.get_text_config()
        self.widths = {INPUTS: text_config.hidden_size, CHOSEN: top_k_in(text_config)}

    def begin(self, spans: list[tuple[int, int]], padded_tokens: int, first: int = 0) -> None:
        """Start to collect a batch, as ExpertObserver does."""
        super().begin(spans, padded_tokens, first)
        self.sampled = [
            question * padded_tokens + position
            for question, span in enumerate(spans)
            for position in sampled_positions(span, self.tokens, self.seed)
        ]
        shape = (len(spans), len(self.layers))
        self.sums |= {name: np.zeros((*shape, self.experts)) for name in BF16_SUMS}
        self.sums |= {name: np.zeros(shape, np.int64) for name in COUNTS}
        for name, dtype in ((INPUTS, np.float32), (CHOSEN, np.int64)):
            self.sums[name] = np.zeros((len(self.sampled), len(self.layers), self.widths[name]), dtype)

    def _look(
        self,
        module: ExpertsModule,
        hidden: torch.Tensor,
        routed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        found: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        (index, weights, norms), (outputs, place) = routed, found
        self._keep_inputs(self.rows[module], hidden, index)
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

    def _keep_inputs(self, row: int, hidden: torch.Tensor, index: torch.Tensor) -> None:
        """Keep the inputs of the sampled tokens in one layer, and the experts that the router chose for them."""
        for name, values in ((INPUTS, hidden.float()), (CHOSEN, index)):
            self.sums[name][:, row] = values[self.sampled].cpu().numpy()

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
    text_config = model.config.get_text_config()
    inputs, chosen = [sampled, rows[1], text_config.hidden_size], [sampled, rows[1], top_k_in(text_config)]
    return arrays | {INPUTS: ("F32", inputs), CHOSEN: ("I64", chosen)}
