"""Experts ranked by a criterion, and how sure that ranking is: the same choice made again from other questions.

Stability: the questions are drawn anew with replacement many times (bootstrap, Efron 1979) and the choice is made again
each time.
"""

from choice.criteria import BY_ORDER, Arrays, scores_of
from files.input_errors import InputError

import numpy as np

RESAMPLES, BOOTSTRAP_SEED = 200, 42  # of a bootstrap
COIN_TOSS = (0.25, 0.75)  # shares of the resamples in which an expert is kept; in between, chance decides


def rank(is_protected: np.ndarray, score: np.ndarray, total_weighted_norm: np.ndarray) -> np.ndarray:
    """Order one layer's experts, best first: protected ones, then by score, total weighted norm, lower index.

    All arguments: [experts]. Returns expert ids [experts].
    """
    # lexsort sorts by its last key first. Coverage has many ties, so two more keys decide the order on every machine.
    return np.lexsort((np.arange(score.size), -total_weighted_norm, -score, ~is_protected))


def ranks_of(arrays: Arrays, criterion: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scores, protection and expert ids best first, each [layers, experts]; `arrays` as in criteria.py."""
    score = scores_of(criterion, arrays)
    guarded: np.ndarray = np.any(arrays["protected"], axis=0)
    total = arrays["weighted_norm_sum"].sum(axis=0)
    return score, guarded, np.array([rank(*layer) for layer in zip(guarded, score, total)])


def layer_entry(order: np.ndarray, guarded: np.ndarray, score: np.ndarray, keep: int) -> dict:
    """Return one layer's entry of the drop map.

    `margin` is the score of the last kept expert less that of the first dropped one. It is None when nothing is
    dropped, or when protection and not the score separates the two.
    """
    separated = keep < order.size and guarded[order[keep - 1]] == guarded[order[keep]]
    margin = float(score[order[keep - 1]] - score[order[keep]]) if separated else None
    return {
        "keep": sorted(order[:keep].tolist()),
        "drop": sorted(order[keep:].tolist()),
        "score": score.tolist(),
        "margin": margin,
    }


def is_drawn(criterion: str, questions: int, floors: bool) -> bool:
    """Tell whether other questions could change a choice from statistics, and the bootstrap can draw them.

    With floors of domains each resample would need the solver for every layer: minutes for a large model.
    """
    return questions > 1 and not floors and criterion != BY_ORDER and not criterion.startswith("random")


def bootstrap(arrays: Arrays, criterion: str, keep: int, resamples: int, seed: int) -> np.ndarray:
    """Return how often each expert is kept when the questions are drawn anew with replacement.

    arrays: [questions, layers, experts]. Returns shares from 0 to 1, [layers, experts]. Draws: PCG64 seeded by `seed`.
    """
    questions = arrays["token_count"].shape[0]
    # Named, because numpy may give default_rng another generator one day, and the maps would change.
    generator = np.random.Generator(np.random.PCG64(seed))
    kept = np.zeros(arrays["token_count"].shape[1:])
    for _ in range(resamples):
        chosen = generator.integers(questions, size=questions)
        order = ranks_of({name: values[chosen] for name, values in arrays.items()}, criterion)[2]
        best = order[:, :keep]
        np.put_along_axis(kept, best, np.take_along_axis(kept, best, axis=1) + 1, axis=1)
    return kept / resamples


def stability(kept_share: np.ndarray, keep_sets: list[list[int]]) -> list[dict]:
    """Return, per layer, the expected overlap of the kept set with a resampled one, and the experts on the edge.

    kept_share: [layers, experts], from `bootstrap`. Overlap: mean share of the kept experts that are kept again. An
    expert is on the edge, a coin toss, when its share lies within COIN_TOSS.
    """
    low, high = COIN_TOSS
    return [
        {
            "expected_overlap": float(share[keep].mean()),
            "coin_toss": np.nonzero((share >= low) & (share <= high))[0].tolist(),
        }
        for share, keep in zip(kept_share, keep_sets)
    ]


def choose_questions(ids: list[str], wanted: set[str] | None, fold: tuple[int, int] | None) -> list[int]:
    """Return the rows that choose the experts: those in `wanted` (None: all), less those of the fold that is held out.

    fold: (I, K), I from 1 to K. Raises InputError when there are fewer questions than folds.
    """
    rows = [row for row, record_id in enumerate(ids) if wanted is None or record_id in wanted]
    if fold is None:
        return rows
    number, folds = fold
    if folds > len(rows):  # an empty fold would show itself only after all the others have been evaluated
        raise InputError("--fold", f"at most {len(rows)} folds, one per question", str(folds))
    # Every K-th row, not K blocks: question files are often sorted by subject.
    return [row for place, row in enumerate(rows) if place % folds != number - 1]
