"""A second opinion on the statistics: every routed expert of every token, recomputed one at a time in fp32."""

from analysis.expert_observer import expert_modules

import numpy as np
import torch

NAMES = (
    "token_count",
    "routing_weight_sum",
    "norm_sum",
    "norm_sq_sum",
    "weighted_norm_sum",
    "weighted_norm_sq_sum",
    "norm_max",
)


def expert_output(module: torch.nn.Module, expert: int, x: torch.Tensor) -> torch.Tensor:
    """Return f_e(x) [hidden] in fp32, from the published formulas: a gated MLP, or gpt-oss's clamped one."""
    up_weight, down_weight = module.gate_up_proj[expert].float(), module.down_proj[expert].float()
    if module.is_transposed:
        up_weight, down_weight = up_weight.T, down_weight.T
    both = up_weight @ x
    if module.has_bias:
        both = both + module.gate_up_proj_bias[expert].float()
    if type(module).__name__ == "GptOssExperts":
        # Gate and up rows alternate. 7.0 and 1.702 are `swiglu_limit` and `swiglu_alpha` of the config.
        gate, up = both[0::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
        inner = (up + 1) * gate * torch.sigmoid(1.702 * gate)
    else:
        gate, up = both.chunk(2)
        inner = module.act_fn(gate) * up
    output = down_weight @ inner
    return output + module.down_proj_bias[expert].float() if module.has_bias else output


@torch.inference_mode()
def naive_sums(model: torch.nn.Module, ids: list[int], start: int = 0) -> dict[str, np.ndarray]:
    """Return the sums [layers, experts] of one question, over its tokens from `start` on."""
    modules = expert_modules(model)
    experts = next(iter(modules.values())).num_experts
    sums = {name: np.zeros((len(modules), experts)) for name in NAMES}
    sums["moe_output_norm_sum"] = np.zeros(len(modules))
    seen = []
    hooks = [
        module.register_forward_pre_hook(lambda module, inputs: seen.append((module, *inputs)))
        for module in modules.values()
    ]
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    for row, (module, hidden, index, weights) in enumerate(seen):
        for token in range(start, len(ids)):
            mixed = torch.zeros(hidden.shape[1])
            for expert, weight in zip(index[token].tolist(), weights[token].tolist()):
                output = expert_output(module, expert, hidden[token].float())
                mixed += weight * output
                norm = float(torch.sqrt((output.double() ** 2).sum()))
                values = (1, weight, norm, norm**2, weight * norm, (weight * norm) ** 2)
                for name, value in zip(NAMES, values):
                    sums[name][row, expert] += value
                sums["norm_max"][row, expert] = max(sums["norm_max"][row, expert], norm)
            sums["moe_output_norm_sum"][row] += float(mixed.norm())
    return sums
