"""How many times as fast one way of running a model is as another, when both took turns.

A machine's load changes from one start of a server to the next, and all answers of a round change with it: so the
error is one over rounds, not over questions.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, TypeVar

from files.display import digits, plural

import numpy as np
from pydantic import Field

ROUNDS = 4  # as make measures
Way = TypeVar("Way")
Speed = Annotated[float, Field(gt=0, lt=1e9)]  # tokens per second, as a record holds it


def in_turns(ways: Sequence[Way], rounds: int) -> Iterator[Way]:
    """Yield every way once in each round, in every second round from the last: a machine may slow down within one."""
    for number in range(rounds):
        yield from ways if number % 2 == 0 else reversed(ways)


def factor_and_error(speeds: list[float], reference: list[float]) -> tuple[float, float | None]:
    """Return the mean over rounds of speed / reference, and its standard error; None for one round alone."""
    factors = np.array(speeds) / np.array(reference)
    if len(factors) < 2:
        return float(factors.mean()), None
    return float(factors.mean()), float(factors.std(ddof=1) / np.sqrt(len(factors)))


def factor_in_words(speeds: list[float], reference: list[float]) -> str:
    """Return the factor with its standard error, where there is one."""
    factor, error = factor_and_error(speeds, reference)
    return f"{factor:.2f}" if error is None else " ± ".join(digits(factor, max(error, 0.01)))


def where_in_words(results: dict) -> str:
    """Return in what context and on what a record's answers ran; results: of either record of speeds."""
    layers = plural(results["gpu_layers"], "layer")
    return f"in a context of {results['context']} tokens, {layers} on the GPU, if there is one"


def mean_speed(speeds: list[float]) -> str:
    """Return the mean over rounds, in tokens per second."""
    return f"{sum(speeds) / len(speeds):.1f}"
