"""Criteria of how much each expert matters, each computed from the statistics file alone.

Every function takes the arrays [questions, layers, experts] of expert_stats.py and returns a score [layers, experts]
in fp64; experts with larger scores are kept. `reconstruction` alone takes an array [layers, experts]. Notation: x is a
token that the router sends to expert e, w_e(x) its routing weight, f_e(x) the expert's output, n_e the number of such
tokens.
"""

import hashlib
from collections.abc import Callable

from files.input_errors import InputError

import numpy as np

Arrays = dict[str, np.ndarray]
BY_ORDER = "reconstruction"  # the criterion whose order the analysis makes, for all its questions at once
RANK = "elimination_rank"  # [layers, experts], where the analysis made an order by reconstruction


def coverage(arrays: Arrays) -> np.ndarray:
    """Count the questions that protect each expert; `arrays["protected"]` holds what expert_stats.protected marks.

    Source: the model card, which protects the top 16 of each question and ranks experts by coverage.
    """
    return arrays["protected"].sum(axis=0).astype(np.float64)


def weighted_norm(arrays: Arrays) -> np.ndarray:
    """Sum of w_e(x) ||f_e(x)|| over all tokens of all questions.

    Source: the model card's contribution of an expert; the sum whose mean over tokens is REAP.
    """
    return arrays["weighted_norm_sum"].sum(axis=0)


def reap(arrays: Arrays) -> np.ndarray:
    """Mean of w_e(x) ||f_e(x)|| over the tokens routed to e (0 for an expert that is never used).

    Source: REAP, Lasby et al. 2025, https://arxiv.org/abs/2510.13999.
    """
    return _mean(arrays["weighted_norm_sum"], arrays["token_count"])


def ean(arrays: Arrays) -> np.ndarray:
    """Sum of ||f_e(x)|| over the tokens routed to e: expert activation norm.

    Source: EAN, Jaiswal et al. 2025, https://arxiv.org/abs/2504.05586.
    """
    return arrays["norm_sum"].sum(axis=0)


def man(arrays: Arrays) -> np.ndarray:
    """Mean of ||f_e(x)|| over the tokens routed to e (0 for an expert that is never used): mean activation norm.

    Source: Liu et al. 2026, https://arxiv.org/abs/2606.15716.
    """
    return _mean(arrays["norm_sum"], arrays["token_count"])


def frequency(arrays: Arrays) -> np.ndarray:
    """Number of tokens routed to e, n_e.

    Source: usage-based pruning, e.g. Muzio et al. 2024 (SEER-MoE), https://arxiv.org/abs/2404.05089, hard counting.
    """
    return arrays["token_count"].sum(axis=0).astype(np.float64)


def gate(arrays: Arrays) -> np.ndarray:
    """Sum of w_e(x) over the tokens routed to e.

    Source: SEER-MoE's soft counting, https://arxiv.org/abs/2404.05089.
    """
    return arrays["routing_weight_sum"].sum(axis=0)


def norm_plus_count(arrays: Arrays) -> np.ndarray:
    """2 x the sum of w_e(x) ||f_e(x)|| + n_e, over all tokens of all questions.

    Source: what the model card's author really ran (his repository, August 2026): the sum over prompts of
    2 x weighted norm + token count. Assumed: the plain sums of each prompt, scaled by nothing. How much the count
    weighs beside the norm then depends on how large the model's norms are.
    """
    return (2 * arrays["weighted_norm_sum"] + arrays["token_count"]).sum(axis=0)


def reconstruction(arrays: Arrays) -> np.ndarray:
    """Rank of e in its layer's backward elimination: how many experts went before it; `arrays["elimination_rank"]`.

    Source: choice/elimination.py. Each time the expert goes whose loss changes the layer's output least, once the
    router takes the next-best experts instead; layer-wise reconstruction error, as Lu et al. 2024,
    https://arxiv.org/abs/2402.14800. Raises InputError when the statistics have no such order.
    """
    if RANK not in arrays:
        advice = "analyse with --reconstruction (make: RECONSTRUCTION=all)"
        raise InputError("--criterion reconstruction", "statistics with an order of elimination", "none", advice)
    return arrays[RANK].astype(np.float64)


def random_scores(arrays: Arrays, seed: int) -> np.ndarray:
    """Scores in [0, 1) that depend on seed, layer and expert alone: the control that a criterion must beat.

    They are the first 8 bytes of sha256("seed layer expert") over 2**64, so they are the same on any machine and with
    any version of numpy.
    """
    _, layers, experts = arrays["token_count"].shape

    def score(layer: int, expert: int) -> float:
        digest = hashlib.sha256(f"{seed} {layer} {expert}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    return np.array([[score(layer, expert) for expert in range(experts)] for layer in range(layers)])


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    # Over all tokens at once, not the mean of the questions' means: a question of few tokens must not weigh more.
    total, count = total.sum(axis=0), count.sum(axis=0)
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)


CRITERIA: dict[str, Callable[[Arrays], np.ndarray]] = {
    "coverage": coverage,
    "weighted-norm": weighted_norm,
    "reap": reap,
    "ean": ean,
    "man": man,
    "frequency": frequency,
    "gate": gate,
    "norm-plus-count": norm_plus_count,
    "reconstruction": reconstruction,
}
NAMES = (*CRITERIA, "random:SEED")
PROTECTING = ("coverage", "norm-plus-count")  # used with a protected top of each question, unless told otherwise


def answerable(arrays: Arrays) -> list[str]:
    """Return the names of the criteria that statistics can answer."""
    return [name for name in CRITERIA if name != BY_ORDER or RANK in arrays]


def check_criterion(name: str) -> None:
    """Raise InputError when no criterion has that name."""
    if name not in CRITERIA and not (name.startswith("random:") and name.removeprefix("random:").isdecimal()):
        raise InputError("--criterion", f"one of {', '.join(NAMES)}", name)


def scores_of(name: str, arrays: Arrays) -> np.ndarray:
    """Return the score [layers, experts] of the criterion `name`."""
    check_criterion(name)
    return CRITERIA[name](arrays) if name in CRITERIA else random_scores(arrays, int(name.removeprefix("random:")))
