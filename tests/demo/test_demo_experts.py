"""The demo's experts matter: dropping the most important ones costs more than dropping random ones.

Measured on whole chats (prompt, thought, answer), and on the reply alone, which is what the model was trained to write.
"""

import numpy as np
import pytest
import torch

from analysis.decoder import load_resident
from analysis.expert_observer import ExpertObserver
from chats.chat_sequences import chat_prompt, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions

DROPPED = 19
RANDOM_SEEDS = 10
CALIBRATION_CHATS, EVALUATION_CHATS = 60, 40


@torch.inference_mode()
def log_probabilities(model: torch.nn.Module, chats: list[list[int]], dropped: np.ndarray | None) -> torch.Tensor:
    """Next-token log-probabilities [tokens, vocabulary] with the router logits of `dropped` [layers, n] at -inf."""
    hooks = []
    for row, layer in enumerate(model.model.layers if dropped is not None else []):
        hooks.append(
            layer.router.proj.register_forward_hook(
                lambda module, inputs, output, ids=torch.tensor(dropped[row]): output.index_fill(-1, ids, -torch.inf)
            )
        )
    rows = [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1) for ids in chats]
    for hook in hooks:
        hook.remove()
    return torch.cat(rows)


def divergence(full: torch.Tensor, other: torch.Tensor, reply: torch.Tensor) -> np.ndarray:
    """Mean KL divergence of `other` from `full` in nats a token: over all tokens, and over `reply` [tokens] alone."""
    tokens = (full.exp() * (full - other)).sum(-1)
    return np.array([float(tokens.mean()), float(tokens[reply].mean())])


@pytest.fixture(scope="module")
def divergences(demo_model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """KL divergences [whole chat, reply] after dropping the 19 most important, 19 random ([seeds, 2]) and the 19 least
    important experts of every layer."""
    model, tokenizer = load_resident(demo_model, torch.float32, "eager", None), load_tokenizer(demo_model)
    questions = {
        split: load_questions(demo_model.parent / f"{split}_questions.csv", 42)[:count]
        for split, count in (("calibration", CALIBRATION_CHATS), ("eval", EVALUATION_CHATS))
    }
    token_ids = {
        split: [teacher_forced_sequence(tokenizer, question, 4096, "all").ids for question in chosen]
        for split, chosen in questions.items()
    }
    observer, total = ExpertObserver(model), 0
    with torch.inference_mode():
        for ids in token_ids["calibration"]:
            observer.begin([(0, len(ids))], len(ids))
            model(input_ids=torch.tensor([ids]), use_cache=False)
            total = total + observer.take(list(observer.layers))["weighted_norm_sum"][0]
    order = np.argsort(-total, axis=1, kind="stable")
    model.set_experts_implementation("grouped_mm")
    chats = token_ids["eval"]
    prompts = [
        len(tokenizer(chat_prompt(tokenizer, q), add_special_tokens=False)["input_ids"]) for q in questions["eval"]
    ]
    reply = torch.cat([torch.arange(len(ids)) >= prompt - 1 for ids, prompt in zip(chats, prompts)])
    full = log_probabilities(model, chats, None)

    def cost(dropped: np.ndarray) -> np.ndarray:
        return divergence(full, log_probabilities(model, chats, dropped), reply)

    generators = [np.random.default_rng(seed) for seed in range(RANDOM_SEEDS)]
    random = np.stack(
        [cost(np.stack([generator.permutation(order.shape[1])[:DROPPED] for _ in order])) for generator in generators]
    )
    most, least = cost(order[:, :DROPPED]), cost(order[:, -DROPPED:])
    for column, what in enumerate(("whole chats", "replies alone")):
        print(
            f"mean KLD in nats a token, {what}: 19 most important {most[column]:.4f}; 19 random mean "
            f"{random[:, column].mean():.4f}, median {np.median(random[:, column]):.4f} "
            f"({random[:, column].min():.4f} to {random[:, column].max():.4f}); 19 least important {least[column]:.4f}"
        )
    return most, random, least


def test_dropping_the_most_important_experts_is_worse_than_any_random_drop(divergences):
    most, random, _ = divergences
    assert most[0] > random[:, 0].max()


def test_on_replies_alone_it_is_worse_than_the_mean_random_drop(divergences):
    most, random, _ = divergences
    assert most[1] > 1.5 * random[:, 1].mean()


def test_dropping_the_least_important_experts_is_better_than_the_mean_random_drop(divergences):
    _, random, least = divergences
    assert (least < random.mean(axis=0)).all()
