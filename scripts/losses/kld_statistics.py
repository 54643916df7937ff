"""How one model's logits differ from another's at every position, and means and quantiles of that with their errors.

Tokens of one chat are not independent, so every error is a standard error over chats. The measures are those of
llama-perplexity's --kl-divergence (llama.cpp tools/perplexity/README.md); its errors take tokens for independent.
"""

from collections.abc import Iterator

from scoring.paired_statistics import mean_and_error

import numpy as np

PERCENT = 100
# fp64 values per temporary array: 32 MiB. A vocabulary has 262,144 entries, so whole chats would take gigabytes.
BLOCK_VALUES = 1 << 22
MEASURES = ("kld", "same_top", "delta_p")
QUANTILES = {"median": 0.5, "99": 0.99, "99.9": 0.999}


def log_probability_blocks(full: np.ndarray, other: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the log-probabilities of both models, a block of positions at a time, fp64 [block, vocabulary].

    full, other: logits [tokens, vocabulary].
    """
    from scipy.special import log_softmax  # here: its import takes a quarter of a second, and most need only the names

    rows = max(1, BLOCK_VALUES // full.shape[1])
    for first in range(0, len(full), rows):
        # fp64: between two good quants the divergence is a small difference of large logarithms, lost in fp32.
        mine, theirs = (
            log_softmax(values[first : first + rows].astype(np.float64), axis=1) for values in (full, other)
        )
        yield mine, theirs


def divergence_of_blocks(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return the sum over the vocabulary of p_mine (log p_mine - log p_theirs), fp64 [tokens].

    mine, theirs: log-probabilities [tokens, vocabulary].
    """
    return (np.exp(mine) * (mine - theirs)).sum(axis=1)


def kl_divergence(full: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return KL(full || other) of each position in nats, fp64 [tokens]; full, other: logits [tokens, vocabulary].

    Source: Kullback and Leibler 1951.
    """
    return np.concatenate([divergence_of_blocks(*block) for block in log_probability_blocks(full, other)])


def logit_differences(full: np.ndarray, other: np.ndarray, following: list[int]) -> dict[str, np.ndarray]:
    """Return the MEASURES of each position, all fp64 [tokens].

    full, other: logits [tokens, vocabulary]; following: the token after each position [tokens]. kld: KL(full || other)
    in nats; same_top: 1 where both have the same most likely token; delta_p: the probability that `other` gives the
    next token, less that of `full`, in percentage points.
    """
    parts: dict[str, list[np.ndarray]] = {measure: [] for measure in MEASURES}
    at = 0
    for mine, theirs in log_probability_blocks(full, other):
        each, tokens = np.arange(len(mine)), following[at : at + len(mine)]
        parts["kld"].append(divergence_of_blocks(mine, theirs))
        parts["same_top"].append(mine.argmax(axis=1) == theirs.argmax(axis=1))
        parts["delta_p"].append(PERCENT * (np.exp(theirs[each, tokens]) - np.exp(mine[each, tokens])))
        at += len(mine)
    return {measure: np.concatenate(values).astype(np.float64) for measure, values in parts.items()}


def per_chat(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the sum of each chat's values, [chats]; values: [tokens] in the order of the chats, counts: [chats]."""
    return np.add.reduceat(values, np.cumsum(counts) - counts)


def quantile_and_error(values: np.ndarray, counts: np.ndarray, share: float) -> tuple[float, float]:
    """Return a quantile of all tokens and its standard error over chats; arguments as in `per_chat`.

    The error is half the distance between the quantiles at share ± e, where e is the standard error of the share of
    tokens at or below the quantile (Woodruff 1952, Confidence intervals for medians and other position measures). It is
    rough near 100%, where few tokens lie above.
    """
    value = np.quantile(values, share)
    _, error = mean_and_error(per_chat((values <= value).astype(np.float64), counts), counts)
    # Near 100% the upper end would lie beyond all tokens.
    low, high = np.quantile(values, np.clip([share - error, share + error], 0, 1))
    return float(value), float(high - low) / 2


def rms_and_error(values: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the root of the mean square and its standard error over chats; arguments as in `per_chat`."""
    mean, error = mean_and_error(per_chat(values**2, counts), counts)
    root = np.sqrt(mean)
    # d sqrt(m) = dm / (2 sqrt(m)). A file without any loss has root 0, and no error.
    return float(root), float(error / (2 * root)) if root else 0.0


def summary(values: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, list[float]]:
    """Return [value, standard error over chats] of mean, median, 99% and 99.9% KLD in nats, same top, RMS delta p.

    values: the MEASURES [tokens]; counts: [chats]. Same top is a share, RMS delta p in percentage points.
    """
    return {
        "kld": list(mean_and_error(per_chat(values["kld"], counts), counts)),
        **{f"kld_{name}": list(quantile_and_error(values["kld"], counts, share)) for name, share in QUANTILES.items()},
        "same_top": list(mean_and_error(per_chat(values["same_top"], counts), counts)),
        "rms_delta_p": list(rms_and_error(values["delta_p"], counts)),
    }
