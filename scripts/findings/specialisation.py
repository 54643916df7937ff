"""Topic specialisation: how far the experts that matter differ between the questions' domains, against shuffled labels.

Each question gives each layer's experts their shares of its weighted norm; a domain's share is the mean over its
questions, so a long question counts as much as a short one. The distance is the Jensen-Shannon divergence of the
domains (Lin, 1991), weighted by their numbers of questions, in bits: 0 where all domains use the same experts alike,
the entropy of the domains' sizes where no two share an expert. A finite sample is never at 0: what shuffled labels give
is chance's part.
"""

from findings.sampling import corrected, draws_within, generator_of, percentiles, tail_p

import numpy as np

LEAST_QUESTIONS = 5  # of a domain: fewer tell nothing of it
COLUMNS = ("High-level domain", "Subdomain")  # of GPQA; the first that a file has is taken


def labels_of(named: dict[str, str], ids: list[str]) -> tuple[dict[str, int], np.ndarray]:
    """Return the domains with their numbers of questions, largest first, and each question's domain.

    named: the domain of each question of the file by Record ID; ids: of the questions analysed. A domain is its number,
    -1 where the question has none or where its domain has fewer than LEAST_QUESTIONS.
    """
    found = [named.get(record_id, "") for record_id in ids]
    counts = {name: found.count(name) for name in sorted(set(found)) if name}
    large = {name: count for name, count in counts.items() if count >= LEAST_QUESTIONS}
    domains = dict(sorted(large.items(), key=lambda each: (-each[1], each[0])))
    numbers = {name: number for number, name in enumerate(domains)}
    return domains, np.array([numbers.get(name, -1) for name in found])


def question_shares(weighted_norm: np.ndarray) -> np.ndarray:
    """Return each expert's share of a question's weighted norm in its layer: [questions, layers, experts].

    A question without any (all its tokens non-finite) has zeros.
    """
    total = weighted_norm.sum(axis=2, keepdims=True)
    return np.divide(weighted_norm, total, out=np.zeros_like(weighted_norm), where=total > 0)


def domain_shares(shares: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean shares of each domain [domains, layers, experts] and its part of the questions [domains].

    labels: int [questions], 0 to domains - 1, each at least once.
    """
    members = np.equal.outer(np.arange(labels.max() + 1), labels).astype(np.float64)
    counts = members.sum(axis=1)
    means = (members @ shares.reshape(len(shares), -1)) / counts[:, None]
    return means.reshape(-1, *shares.shape[1:]), counts / counts.sum()


def entropy(shares: np.ndarray) -> np.ndarray:
    """Return the entropy in bits along the last axis; 0 log 0 is 0."""
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=-1)


def jensen_shannon(shares: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of the domains by layer, in bits [layers].

    shares: [domains, layers, experts]; parts: [domains], adding up to 1.
    """
    mixed = np.tensordot(parts, shares, axes=1)
    return entropy(mixed) - np.tensordot(parts, entropy(shares), axes=1)


def top_differs(shares: np.ndarray, top: int) -> np.ndarray:
    """Return the share of the `top` experts that differ between two domains, mean over pairs of domains [layers].

    shares: [domains, layers, experts]. Ties go to the lower index.
    """
    best = np.argsort(-shares, axis=2, kind="stable")[:, :, :top]
    marked = np.zeros(shares.shape, bool)
    np.put_along_axis(marked, best, True, axis=2)
    one, other = np.triu_indices(len(shares), 1)
    return 1 - (marked[one] & marked[other]).sum(axis=2).mean(axis=0) / top


def tested(value: float, by_chance: np.ndarray) -> dict:
    """Return a value as the record's `Tested`; by_chance: [shuffles]."""
    chance = {"chance": float(by_chance.mean()), "chance_interval": percentiles(by_chance)}
    return {"value": float(value), **chance, "p": tail_p(float(value), by_chance)}


def distance(value: float, by_chance: np.ndarray, drawn: np.ndarray) -> dict:
    """Return a divergence as the record's `Distance`; by_chance: [shuffles]; drawn: [resamples], of questions anew.

    Drawing anew adds to a divergence as much as chance has added already. So the interval is the basic one (Davison and
    Hinkley, 1997, 5.2), which takes that off: twice the value less the percentiles. It may lie below 0.
    """
    low, high = percentiles(drawn)
    found = tested(value, by_chance)
    beyond = {"beyond": found["value"] - found["chance"], "beyond_interval": [2 * value - high, 2 * value - low]}
    return found | {name: np.asarray(number).tolist() for name, number in beyond.items()}


def specialisation(
    weighted_norm: np.ndarray, labels: np.ndarray, layers: list[int], top: int, shuffles: int, resamples: int, seed: int
) -> dict:
    """Return how far the domains differ, in all layers and in each: the first half of the record's `Specialisation`.

    weighted_norm: [questions, layers, experts]; labels: int [questions], every domain at least LEAST_QUESTIONS times.
    """
    shares, generator = question_shares(weighted_norm), generator_of(seed, 1)
    means, parts = domain_shares(shares, labels)
    found, differs = jensen_shannon(means, parts), top_differs(means, top)
    null, null_differs, drawn = (np.empty((count, len(layers))) for count in (shuffles, shuffles, resamples))
    for number in range(shuffles):
        shuffled, _ = domain_shares(shares, generator.permutation(labels))
        null[number], null_differs[number] = jensen_shannon(shuffled, parts), top_differs(shuffled, top)
    for number in range(resamples):
        rows = draws_within(labels, generator)
        drawn[number] = jensen_shannon(*domain_shares(shares[rows], labels[rows]))
    by_layer = [distance(found[row], null[:, row], drawn[:, row]) for row in range(len(layers))]
    p_corrected = corrected(np.array([each["p"] for each in by_layer]))
    return {
        "top": top,
        "largest": float(entropy(parts)),
        "distance": distance(found.mean(), null.mean(axis=1), drawn.mean(axis=1)),
        "top_differs": tested(differs.mean(), null_differs.mean(axis=1)),
        "layers": [
            {
                "layer": layer,
                "distance": by_layer[row],
                "p_corrected": float(p_corrected[row]),
                "top_differs": tested(differs[row], null_differs[:, row]),
            }
            for row, layer in enumerate(layers)
        ],
    }
