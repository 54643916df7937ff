"""What dropping by one domain costs the others: a map is chosen by one domain's questions and held against all.

By the statistics alone: what a question loses are the dropped experts' share of its weighted norm, and the share of its
protected experts that are dropped, both as a mean over the layers. No question is held against a map that it chose: of
its own domain, and of the map by all domains, the questions of its fold do not choose.
"""

from choice.criteria import Arrays
from choice.ranking import ranks_of
from findings.sampling import draws_within, generator_of, interval_of_mean, percentiles
from findings.specialisation import question_shares, tested

import numpy as np

FOLDS = 5
ALL = "all domains"
LOST = ("norm_lost", "protected_lost")  # the kinds of losses, in their order in arrays


def dropped_by(arrays: Arrays, criterion: str, keep: int) -> np.ndarray:
    """Return which experts a criterion drops, bool [layers, experts]; arrays: as in choice/criteria.py."""
    order = ranks_of(arrays, criterion)[2]
    dropped = np.zeros(order.shape, bool)
    np.put_along_axis(dropped, order[:, keep:], True, axis=1)
    return dropped


def folds_of(labels: np.ndarray) -> np.ndarray:
    """Return each question's fold, int [questions]: within its domain every FOLDS-th question is of one fold."""
    folds = np.empty_like(labels)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        folds[rows] = np.arange(rows.size) % FOLDS
    return folds


def sums_by_group(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the sums of each group's questions, fp64 [count, layers, experts]; groups: int [questions]."""
    return np.stack([values[groups == group].sum(axis=0, dtype=np.float64) for group in range(count)])


def losses_of(
    arrays: Arrays, measures: np.ndarray, labels: np.ndarray, folds: np.ndarray, criterion: str, keep: int
) -> np.ndarray:
    """Return what every question loses by each domain's map, and last by that of all: [kinds, domains + 1, questions].

    measures: [kinds, questions, layers, experts], shares by layer. A loss is the dropped experts' share, mean over the
    layers.
    """
    domains, layers = labels.max() + 1, measures.shape[2]
    groups = np.arange(domains * FOLDS)
    # Every criterion goes by sums over the questions. So those of a fold are added up once, and not for each map.
    sums = {name: sums_by_group(values, labels * FOLDS + folds, groups.size) for name, values in arrays.items()}
    maps, places = [], []
    for source in range(domains + 1):
        own = labels == source if source < domains else np.ones(labels.size, bool)
        theirs = groups // FOLDS == source if source < domains else np.ones(groups.size, bool)
        for fold in range(-1, FOLDS):  # -1: all of its questions choose, for the questions of other domains
            asked = own & (folds == fold) if fold >= 0 else ~own
            if asked.any():
                choosing = theirs & (groups % FOLDS != fold)
                maps.append(dropped_by({name: each[choosing] for name, each in sums.items()}, criterion, keep))
                places.append((source, asked))
    flat = measures.reshape(*measures.shape[:2], -1)
    # One product for all maps: many small ones wait for each other's threads on a busy machine.
    by_map = flat @ np.reshape(maps, (len(maps), -1)).T.astype(np.float64) / layers
    lost = np.empty((len(measures), domains + 1, labels.size))
    for number, (source, asked) in enumerate(places):
        lost[:, source, asked] = by_map[:, asked, number]
    return lost


def cell_means(lost: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean loss by source and domain asked, [sources, domains]; lost: [sources, questions]."""
    return np.array([lost[:, labels == domain].mean(axis=1) for domain in range(labels.max() + 1)]).T


def penalty_of(lost: np.ndarray, labels: np.ndarray) -> float:
    """Return what a domain loses more by another domain's map than by its own, mean over pairs of domains.

    lost: [domains + 1, questions].
    """
    cells = cell_means(lost, labels)[:-1]
    own = np.diagonal(cells)
    others = (cells.sum(axis=0) - own) / (len(cells) - 1)
    return float((others - own).mean())


def cell_of(source: str, asked: str, lost: np.ndarray, resamples: int, seed: int) -> dict:
    """Return one cell of the matrix as the record's `Cell`; lost: [kinds, questions of the domain asked]."""
    questions = np.arange(lost.shape[1])
    kinds = {name: interval_of_mean(lost[kind], questions, resamples, seed) for kind, name in enumerate(LOST)}
    return {"chosen_by": source, "asked": asked, **kinds}


def domain_drops(
    arrays: Arrays,
    guarded: np.ndarray,
    domains: list[str],
    labels: np.ndarray,
    choice: tuple[str, int],
    draws: tuple[int, int, int],
) -> dict:
    """Return the matrix of domains and the penalty: the second half of the record's `Specialisation`.

    arrays: [questions, layers, experts], as the criterion takes them; guarded: the protected experts whose loss is
    counted, bool of that shape; labels: int [questions]; choice: criterion and experts kept; draws: shuffles,
    resamples, seed.
    """
    (shuffles, resamples, seed), generator = draws, generator_of(draws[2], 2)
    measures = np.stack([question_shares(arrays["weighted_norm_sum"]), question_shares(guarded.astype(np.float64))])
    lost = losses_of(arrays, measures, labels, folds_of(labels), *choice)
    by_chance = np.empty(shuffles)
    for number in range(shuffles):
        shuffled = generator.permutation(labels)
        again = losses_of(arrays, measures[:1], shuffled, folds_of(shuffled), *choice)[0]
        by_chance[number] = penalty_of(again, shuffled)
    drawn = [draws_within(labels, generator) for _ in range(resamples)]
    penalties = np.array([penalty_of(lost[0][:, rows], labels[rows]) for rows in drawn])
    cells = [
        cell_of(source, asked, lost[:, row, labels == column], resamples, seed)
        for row, source in enumerate([*domains, ALL])
        for column, asked in enumerate(domains)
    ]
    return {
        "criterion": choice[0],
        "keep_count": choice[1],
        "cells": cells,
        "penalty": tested(penalty_of(lost[0], labels), by_chance),
        "penalty_interval": percentiles(penalties),
    }
