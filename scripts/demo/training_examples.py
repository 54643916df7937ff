"""What the demo model is trained on: questions with fresh options, and look-up drills. Token ids with loss weights."""

import random
from dataclasses import dataclass

from chats.questions import LETTERS
from demo.demo_corpus import DemoQuestion, draw_wrong, render_drill, render_prompt, render_reply

import numpy as np
import tokenizers
import torch

# A reply ends in: value, newline, <channel|>, "The answer is", " (", letter with ")", ".", <turn|>. One token each.
VALUE_PLACE, ANSWER_PLACE, LETTER_PLACE = -8, -5, -3
VALUE_WEIGHT, LETTER_WEIGHT = 3.0, 3.0  # the two tokens that a question is about
DRILL_SHARE, CALCULATION_SHARE, EMPTY_THOUGHT_SHARE = 0.10, 0.35, 0.05


@dataclass
class Example:
    """Token ids with a loss weight for each (0 where the model only reads)."""

    ids: list[int]
    weights: list[float]


class Examples:
    """Draw training examples: questions with fresh options, and look-up drills."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, questions: list[DemoQuestion], seed: int) -> None:
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        operations = {"multiply", "divide", "add"}
        self.facts = [q for q in questions if q.group not in operations]
        self.calculations = {name: [q for q in questions if q.group == name] for name in sorted(operations)}
        self.values = sorted({q.answer for q in questions})
        self.pools = sorted({tuple(sorted({q.answer, *q.wrong_pool})) for q in self.facts})

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text in which <bos> is written out."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def shuffled(self, answer: str, wrong: list[str]) -> tuple[list[str], str]:
        """Return four shuffled choices and the answer's letter."""
        choices = [answer, *wrong]
        self.rng.shuffle(choices)
        return choices, LETTERS[choices.index(answer)]

    def question(self, question: DemoQuestion) -> Example:
        """Return one question with its reply, a small share of them without a thought."""
        choices, letter = self.shuffled(question.answer, draw_wrong(question, self.rng))
        empty = self.rng.random() < EMPTY_THOUGHT_SHARE
        prompt = self.encode(render_prompt(question.text, choices, thinking=not empty or self.rng.random() < 0.5))
        reply = self.encode(render_reply(None if empty else question.explanation, letter))
        weights = [1.0] * len(reply)
        if empty:  # the prefill of patch_answers.py has an empty thought, too: the model only reads it
            weights[:ANSWER_PLACE] = [0.0] * (len(reply) + ANSWER_PLACE)
        else:
            weights[VALUE_PLACE] = VALUE_WEIGHT
        weights[LETTER_PLACE] = LETTER_WEIGHT
        return Example(prompt + reply, [0.0] * len(prompt) + weights)

    def drill(self, direct: bool = False) -> Example:
        """Return four options followed by look-ups of every one, in random order."""
        # Values of one relation are alike and harder to match with their option; mixed ones are more varied.
        pool = self.rng.choice(self.pools) if self.rng.random() < 0.4 else self.values
        choices = self.rng.sample(pool, 4) if len(pool) >= 4 else self.rng.sample(self.values, 4)
        text, replies = render_drill(choices, self.rng.sample(range(4), 4), direct)
        ids = self.encode(text)
        weights = [0.0] * len(ids)
        behind = 1 if direct else 2  # tokens after the letter
        for reply in replies:
            tokens = self.encode(reply)
            ids += tokens
            weights += [0.1] * (len(tokens) - 1 - behind) + [1.0] + [0.1] * behind
        return Example(ids, weights)

    def draw(self) -> Example:
        """Return one example of the mixture."""
        pick = self.rng.random()
        if pick < DRILL_SHARE:
            return self.drill()
        if pick < DRILL_SHARE + CALCULATION_SHARE:
            return self.question(self.rng.choice(self.calculations[self.rng.choice(list(self.calculations))]))
        return self.question(self.rng.choice(self.facts))


def collate(examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and loss weights [B, S], padded on the right, where a causal model does not look."""
    length = max(len(example.ids) for example in examples)
    ids, weights = np.zeros((len(examples), length), np.int64), np.zeros((len(examples), length), np.float32)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = example.ids
        weights[row, : len(example.ids)] = example.weights
    return torch.from_numpy(ids), torch.from_numpy(weights)
