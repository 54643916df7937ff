"""The demo's experts matter: dropping the most important ones costs more than dropping random ones.

Measured on whole chats (prompt, thought, answer), and on the reply alone, which is what the model was trained to write.
"""

from collections.abc import Callable
from typing import NamedTuple

from analysis.decoder import load_resident
from analysis.expert_observer import ExpertObserver
from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

DROPPED = 19
RANDOM_SEEDS = 10
CALIBRATION_CHATS, EVALUATION_CHATS = 60, 40


class Divergences(NamedTuple):
    """KL divergences [whole chats, replies] after dropping 19 experts of every layer."""

    most: np.ndarray  # the most important ones, [2]
    random: np.ndarray  # [seeds, 2]
    least: np.ndarray  # the least important ones, [2]


def expert_importance(model: torch.nn.Module, chats: list[list[int]]) -> np.ndarray:
    """Weighted norms over all chats, [layers, experts]."""
    observer = ExpertObserver(model)
    sums = []
    for ids in chats:
        observer.begin([(0, len(ids))], len(ids))
        model(input_ids=torch.tensor([ids]), use_cache=False)
        sums.append(observer.take(list(observer.layers))["weighted_norm_sum"][0])
    return np.sum(sums, axis=0)


def dropping(ids: torch.Tensor) -> Callable[..., torch.Tensor]:
    """A hook that sets a router's logits of these experts to -inf."""
    return lambda module, inputs, output: output.index_fill(-1, ids, -torch.inf)


def log_probabilities(
    model: torch.nn.Module, padded: torch.Tensor, real: torch.Tensor, dropped: np.ndarray | None
) -> torch.Tensor:
    """Next-token log-probabilities [real tokens, vocabulary] without the experts `dropped` [layers, n].

    All chats in one batch, padded on the right, where a causal model does not look: four times as fast as one by one.
    """
    layers = zip(model.model.layers, [] if dropped is None else dropped)
    hooks = [layer.router.proj.register_forward_hook(dropping(torch.tensor(ids))) for layer, ids in layers]
    logits = model(input_ids=padded, use_cache=False).logits[real]
    for hook in hooks:
        hook.remove()
    return logits.float().log_softmax(-1)


@pytest.fixture(scope="module")
def divergences(demo_model) -> Divergences:
    with torch.inference_mode():
        return measure_divergences(demo_model)


def measure_divergences(demo_model) -> Divergences:
    model, tokenizer = load_resident(demo_model, torch.float32, "eager", None), load_tokenizer(demo_model)
    calibration, evaluation = (
        [
            teacher_forced_sequence(tokenizer, question, 4096, "answer")
            for question in load_questions(demo_model.parent / f"{split}_questions.csv", 42)[:count]
        ]
        for split, count in (("calibration", CALIBRATION_CHATS), ("eval", EVALUATION_CHATS))
    )
    importance = expert_importance(model, [sequence.ids for sequence in calibration])
    order = np.argsort(-importance, axis=1, kind="stable")
    model.set_experts_implementation("grouped_mm")
    padded = pad_sequence([torch.tensor(sequence.ids) for sequence in evaluation], batch_first=True)
    place = torch.arange(padded.shape[1])
    real = place < torch.tensor([[len(sequence.ids)] for sequence in evaluation])
    starts = torch.tensor([[sequence.start] for sequence in evaluation])
    reply = (place >= starts - 1)[real]  # position i predicts token i + 1
    full = log_probabilities(model, padded, real, None)

    def cost(dropped: np.ndarray) -> np.ndarray:
        """Mean KL divergence from the full model, nats per token: of all tokens, and of the replies alone."""
        other = log_probabilities(model, padded, real, dropped)
        tokens = (full.exp() * (full - other)).sum(-1)
        return np.array([float(tokens.mean()), float(tokens[reply].mean())])

    generators = [np.random.default_rng(seed) for seed in range(RANDOM_SEEDS)]
    draws = [[generator.permutation(order.shape[1])[:DROPPED] for _ in order] for generator in generators]
    random = np.stack([cost(np.stack(draw)) for draw in draws])
    found = Divergences(cost(order[:, :DROPPED]), random, cost(order[:, -DROPPED:]))
    print_divergences(found)
    return found


def print_divergences(found: Divergences) -> None:
    """Print the figures of data/README.md (`pytest -s`)."""
    for column, what in enumerate(("whole chats", "replies alone")):
        most, random, least = (values[..., column] for values in found)
        print(
            f"mean KLD in nats per token, {what}: {DROPPED} most important {most:.4f}; {DROPPED} random mean "
            f"{random.mean():.4f}, median {np.median(random):.4f} ({random.min():.4f} to {random.max():.4f}); "
            f"{DROPPED} least important {least:.4f}"
        )


def test_dropping_the_most_important_experts_is_worse_than_any_random_drop(divergences):
    assert divergences.most[0] > divergences.random[:, 0].max()


def test_on_replies_alone_it_is_worse_than_the_mean_random_drop(divergences):
    assert divergences.most[1] > 1.5 * divergences.random[:, 1].mean()


def test_dropping_the_least_important_experts_is_better_than_the_mean_random_drop(divergences):
    assert (divergences.least < divergences.random.mean(axis=0)).all()
