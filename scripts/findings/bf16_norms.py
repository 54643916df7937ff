"""What changes when the norms are taken in bf16: the protected experts of each question, and the experts dropped."""

from choice.expert_stats import protected
from findings.domain_drops import dropped_by
from findings.sampling import interval_of_mean

import numpy as np


def protected_differ(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return, by question and layer, the share of the protected experts that are no longer; NaN without any.

    before, after: bool [questions, layers, experts]. Returns [questions, layers].
    """
    there = before.sum(axis=2).astype(np.float64)
    lost = (before & ~after).sum(axis=2)
    return np.divide(lost, there, out=np.full(there.shape, np.nan), where=there > 0)


def dropped_differ(arrays: dict[str, np.ndarray], norms: str, top: int, keep: int) -> float:
    """Return the share of the dropped experts that change when coverage goes by other norms; norms: their name."""
    maps = []
    for name in ("weighted_norm_sum", norms):
        given = {"weighted_norm_sum": arrays[name], "protected": protected(arrays[name], top)}
        maps.append(dropped_by(given, "coverage", keep))
    return float((maps[0] & ~maps[1]).sum() / maps[0].sum())


def bf16_figures(arrays: dict[str, np.ndarray], layers: list[int], top: int, keep: int, draws: tuple[int, int]) -> dict:
    """Return the record's `Bf16`; arrays: as findings_observer.py collects them; draws: resamples and seed."""
    guarded = protected(arrays["weighted_norm_sum"], top)
    differ = {
        name: protected_differ(guarded, protected(arrays[array], top))
        for name, array in (("", "weighted_norm_bf16"), ("sums_", "weighted_norm_bf16_sums"))
    }
    questions = np.arange(len(guarded))
    every = np.repeat(questions, len(layers))
    names = {"norms": "norms", "nonfinite": "nonfinite_norms", "bf16_nonfinite": "bf16_nonfinite_norms"}
    counts = {name: arrays[array] for name, array in names.items()}
    return {
        "top": top,
        "keep_count": keep,
        **{name: int(values.sum()) for name, values in counts.items()},
        **{f"{kind}protected_differ": interval_of_mean(v.reshape(-1), every, *draws) for kind, v in differ.items()},
        "dropped_differ": dropped_differ(arrays, "weighted_norm_bf16", top, keep),
        "sums_dropped_differ": dropped_differ(arrays, "weighted_norm_bf16_sums", top, keep),
        "layers": [
            {
                "layer": layer,
                **{name: int(values[:, row].sum()) for name, values in counts.items()},
                **{
                    f"{kind}protected_differ": interval_of_mean(values[:, row], questions, *draws)
                    for kind, values in differ.items()
                },
            }
            for row, layer in enumerate(layers)
        ],
    }
