"""The demo's experts matter: dropping the most important ones costs far more than dropping random ones."""

import numpy as np
import pytest
import torch
from chat_tokenizer import load_tokenizer
from expert_observer import ExpertObserver
from questions import load_questions
from teacher_force_analysis import load_model, teacher_forced_ids

DROPPED = 19
RANDOM_SEEDS = 5
CALIBRATION_CHATS, EVALUATION_CHATS = 60, 40


@torch.inference_mode()
def log_probabilities(model: torch.nn.Module, chats: list[list[int]], dropped: np.ndarray | None) -> torch.Tensor:
    """Next-token log-probabilities [tokens, vocabulary] with the router logits of `dropped` [layers, n] at -inf."""
    hooks = []
    for row, layer in enumerate(model.model.layers if dropped is not None else []):
        hooks.append(layer.router.proj.register_forward_hook(
            lambda module, inputs, output, ids=torch.tensor(dropped[row]): output.index_fill(-1, ids, -torch.inf)))
    rows = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1) for ids in chats]
    for hook in hooks:
        hook.remove()
    return torch.cat(rows)


def divergence(full: torch.Tensor, other: torch.Tensor) -> float:
    """Mean KL divergence of `other` from `full`, in nats a token."""
    return float((full.exp() * (full - other)).sum(-1).mean())


@pytest.fixture(scope="module")
def divergences(demo_model) -> tuple[float, list[float], float]:
    """KL divergence after dropping the 19 most important, 19 random (several seeds), the 19 least important experts."""
    model, tokenizer = load_model(demo_model, "float32", "eager"), load_tokenizer(demo_model)
    chats = {split: [teacher_forced_ids(tokenizer, question)
                     for question in load_questions(demo_model.parent / f"{split}_questions.csv", 42)][:count]
             for split, count in (("calibration", CALIBRATION_CHATS), ("eval", EVALUATION_CHATS))}
    observer = ExpertObserver(model)
    with torch.inference_mode():
        for ids in chats["calibration"]:
            model(input_ids=torch.tensor([ids]), use_cache=False)
    order = np.argsort(-observer.take()["weighted_norm_sum"], axis=1, kind="stable")
    model.set_experts_implementation("grouped_mm")
    full = log_probabilities(model, chats["eval"], None)
    random = []
    for seed in range(RANDOM_SEEDS):
        generator = np.random.default_rng(seed)
        dropped = np.stack([generator.permutation(order.shape[1])[:DROPPED] for _ in order])
        random.append(divergence(full, log_probabilities(model, chats["eval"], dropped)))
    most = divergence(full, log_probabilities(model, chats["eval"], order[:, :DROPPED]))
    least = divergence(full, log_probabilities(model, chats["eval"], order[:, -DROPPED:]))
    print(f"mean KLD in nats: 19 most important {most:.4f}, 19 random {np.mean(random):.4f} "
          f"({min(random):.4f} to {max(random):.4f}), 19 least important {least:.5f}")
    return most, random, least


def test_dropping_the_most_important_experts_is_worse_than_any_random_drop(divergences):
    most, random, _ = divergences
    assert most > 1.5 * max(random)


def test_dropping_the_least_important_experts_is_better_than_any_random_drop(divergences):
    _, random, least = divergences
    assert least < min(random)
