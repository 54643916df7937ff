#!/usr/bin/env python3
"""Train the demo model: a small Gemma 4 mixture of experts that answers the demo's four-choice questions.

Inputs:  data/demo/facts.json; a chat template, which is copied.
Output:  OUTPUT/model/ (config.json, model.safetensors in bf16, generation_config.json, tokenizer.json,
         tokenizer_config.json, chat_template.jinja) and OUTPUT/training_curve.csv (step, seconds, loss, value_accuracy,
         letter_accuracy on a small dev split). All from fixed seeds.
Example: .venv/bin/python scripts/train_demo_model.py --facts data/demo/facts.json \\
             --chat-template data/demo/chat_template.jinja --output build/try/demo

The first steps train a dense twin, without its experts, on look-up drills. They teach attention to match an answer with
its option: first with the letter right behind the value, which needs one attention step after another, then in the form
of a reply. The other steps train the whole model on the questions. With --start the demo becomes the ragged demo, whose
widths are no multiples of 256 (demo/ragged_demo.py); it needs no drills and few steps:

    .venv/bin/python scripts/train_demo_model.py --facts data/demo/facts.json \\
        --chat-template data/demo/chat_template.jinja --start data/demo/model --drill-steps 0 --question-steps 120 \\
        --batch 16 --output build/ragged-demo
"""

import argparse
import math
import random
import time
from pathlib import Path

from chats.template_sandbox import TemplateFailure, render_template
from demo.demo_corpus import DemoQuestion, draw_wrong, load_facts, render_prompt, render_reply, split_questions
from demo.demo_model import LOGIT_CAP, demo_config, initialise, write_model
from demo.demo_tokenizer import train_tokenizer
from demo.ragged_demo import ragged_config, start_from_demo
from demo.sorted_experts import prepare_training
from demo.training_examples import LETTER_PLACE, VALUE_PLACE, Example, Examples, collate
from files.input_errors import InputError, check_bounded, reason_of
from files.option_types import command_parser, named_path, positive, whole_number
from files.safe_files import run, write_csv

import tokenizers
import torch
import transformers
from torch.nn import functional
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRouter

SEED = 7
DEV_QUESTIONS = 160
BATCH_EXAMPLES = 64
DIRECT_STEPS, DRILL_STEPS, QUESTION_STEPS = 150, 500, 1100
ATTENTION_RATE, EXPERT_RATE = 2e-3, 3e-3
BALANCE_WEIGHT = 0.002
WARM_UP_STEPS, CURVE_STEPS = 50, 100


def target_logits(model: transformers.Gemma4ForCausalLM, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return logits [N, V] that predict the N tokens where `mask` [B, S] is true.

    The model's own forward would compute the logits of every position, many times the work.
    """
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][mask[:, 1:]]
    return LOGIT_CAP * torch.tanh(model.lm_head(hidden) / LOGIT_CAP)


class BalanceLoss:
    """Collect the routers' load-balancing loss: experts * sum(share of tokens * mean probability).

    Source: Switch Transformers, Fedus et al. 2021, https://arxiv.org/abs/2101.03961, equation 4.
    """

    def __init__(self, model: transformers.Gemma4ForCausalLM) -> None:
        self.terms: list[torch.Tensor] = []
        for module in model.modules():
            if isinstance(module, Gemma4TextRouter):
                module.register_forward_hook(self.collect)

    def collect(self, module: torch.nn.Module, inputs: object, outputs: tuple[torch.Tensor, ...]) -> None:
        """Add one router's term; a forward hook."""
        if torch.is_grad_enabled():
            probabilities, _, index = outputs
            experts = probabilities.shape[-1]
            share = torch.bincount(index.reshape(-1), minlength=experts) / index.numel()
            self.terms.append(experts * (share * probabilities.mean(0)).sum())

    def take(self) -> torch.Tensor:
        """Return the sum of the terms, at least one, and forget them."""
        total = sum(self.terms[1:], start=self.terms[0])
        self.terms.clear()
        return total


def optimizer_for(model: transformers.Gemma4ForCausalLM) -> torch.optim.AdamW:
    """Return AdamW with a higher rate for experts, routers and embeddings, which are to hold the facts."""
    slow: list[torch.nn.Parameter] = []
    fast: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (fast if any(part in name for part in ("experts.", "router.", "embed_tokens")) else slow).append(parameter)
    groups = [
        {"params": slow, "lr": ATTENTION_RATE, "rate": ATTENTION_RATE},
        {"params": fast, "lr": EXPERT_RATE, "rate": EXPERT_RATE},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01, fused=True)


def rate_factor(step: int, drill_steps: int, total_steps: int) -> float:
    """Return the learning-rate factor: a warm-up, a plateau over the drills, then a cosine down to zero."""
    if step < drill_steps:
        return min(1.0, (step + 1) / WARM_UP_STEPS)
    done = (step - drill_steps) / (total_steps - drill_steps)
    # Warmed up a second time, because the experts come in untrained.
    return min(1.0, (step - drill_steps + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))


def train_step(
    model: transformers.Gemma4ForCausalLM,
    optimizer: torch.optim.AdamW,
    balance: BalanceLoss,
    examples: list[Example],
    factor: float,
) -> float:
    """Take one optimizer step and return the loss: weighted cross-entropy, and balance where experts take part."""
    ids, weights = collate(examples)
    mask = weights > 0
    logits = target_logits(model, ids, mask)
    losses = functional.cross_entropy(logits, ids[:, 1:][mask[:, 1:]], reduction="none")
    picked = weights[:, 1:][mask[:, 1:]]
    loss = (losses * picked).sum() / picked.sum()
    if balance.terms:  # none while the experts are switched off
        loss = loss + BALANCE_WEIGHT * balance.take()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def accuracies(
    model: transformers.Gemma4ForCausalLM, tokenizer: tokenizers.Tokenizer, questions: list[DemoQuestion], seed: int
) -> tuple[float, float]:
    """Return the shares of answer values and letters that are the model's first choice after the true text."""
    examples = Examples(tokenizer, questions, seed)
    hits = []
    for start in range(0, len(questions), BATCH_EXAMPLES):
        batch = []
        for question in questions[start : start + BATCH_EXAMPLES]:
            choices, letter = examples.shuffled(question.answer, draw_wrong(question, examples.rng))
            reply = examples.encode(render_reply(question.explanation, letter))
            prompt = examples.encode(render_prompt(question.text, choices))
            marks = [0.0] * len(prompt + reply)
            marks[VALUE_PLACE] = marks[LETTER_PLACE] = 1.0
            batch.append(Example(prompt + reply, marks))
        ids, weights = collate(batch)
        best = target_logits(model, ids, weights > 0).argmax(-1)
        hits.append((best == ids[:, 1:][weights[:, 1:] > 0]).view(-1, 2).float())
    value, letter = torch.cat(hits).mean(0).tolist()
    return value, letter


def split_dev(questions: list[DemoQuestion]) -> tuple[list[DemoQuestion], list[DemoQuestion]]:
    """Return (training, dev): a dev question's phrasing leaves training, its fact stays."""
    rng = random.Random(SEED)
    dev = set(rng.sample(range(len(questions)), DEV_QUESTIONS))
    return [q for n, q in enumerate(questions) if n not in dev], [questions[n] for n in sorted(dev)]


def train(
    model: transformers.Gemma4ForCausalLM,
    tokenizer: tokenizers.Tokenizer,
    questions: list[DemoQuestion],
    drill_steps: int,
    question_steps: int,
    batch_examples: int,
) -> list[dict[str, float]]:
    """Train in place and return the curve, one row every CURVE_STEPS steps."""
    training, dev = split_dev(questions)
    examples, balance, optimizer = Examples(tokenizer, training, SEED), BalanceLoss(model), optimizer_for(model)
    curve, losses, start = [], [], time.monotonic()
    total = drill_steps + question_steps
    for step in range(total):
        drilling = step < drill_steps
        for layer in model.model.layers:  # without its experts the model is the dense twin, on the same weights
            layer.enable_moe_block = not drilling
        direct = step < DIRECT_STEPS or step % 2 == 1  # later every other batch, so that it is not forgotten
        batch = [examples.drill(direct) if drilling else examples.draw() for _ in range(batch_examples)]
        losses.append(train_step(model, optimizer, balance, batch, rate_factor(step, drill_steps, total)))
        if (step + 1) % CURVE_STEPS == 0 or step + 1 == total:
            value, letter = accuracies(model, tokenizer, dev, SEED)
            curve.append(
                {
                    "step": step + 1,
                    "seconds": round(time.monotonic() - start),
                    "loss": round(sum(losses) / len(losses), 4),
                    "value_accuracy": round(value, 4),
                    "letter_accuracy": round(letter, 4),
                }
            )
            losses.clear()
            print(curve[-1], flush=True)
    return curve


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--facts", type=Path, required=True, help="table of relations and formulas (JSON)")
    add("--chat-template", type=Path, required=True, help="Jinja template that goes with the model")
    add("--start", type=Path, help="the demo's checkpoint, to train the ragged demo from")
    add("--output", type=named_path, required=True, help="directory of model/ and training_curve.csv")
    add = parser.add_argument_group("how it is trained").add_argument
    add("--drill-steps", type=whole_number, default=DRILL_STEPS, help="optimizer steps on look-up drills")
    add("--question-steps", type=positive, default=QUESTION_STEPS, help="optimizer steps on questions")
    add("--batch", type=positive, default=BATCH_EXAMPLES, help="examples per step")
    add("--threads", type=positive, default=2, help="threads of torch")
    return parser.parse_args(argv)


def check_template(path: Path) -> None:
    """Raise InputError unless a chat template renders a chat: it goes into the model as it is, after the training."""
    check_bounded(path)
    try:
        render_template(path.read_text(encoding="utf-8"), [{"role": "user", "content": "?"}], bos_token="<bos>")
    except (UnicodeDecodeError, TemplateFailure) as error:
        raise InputError(path, "a chat template that renders", reason_of(error)) from error


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_template(args.chat_template)
    prepare_training(args.threads, SEED)
    facts = load_facts(args.facts)
    splits = split_questions(facts)
    tokenizer = train_tokenizer(facts, [question for part in splits.values() for question in part])
    shape = ragged_config if args.start else demo_config
    model = transformers.Gemma4ForCausalLM(shape(tokenizer.get_vocab_size()))
    initialise(model)
    if args.start:
        start_from_demo(model, args.start)
    model.set_experts_implementation("sorted_experts")
    curve = train(model, tokenizer, splits["training"], args.drill_steps, args.question_steps, args.batch)
    args.output.mkdir(parents=True, exist_ok=True)
    write_model(model, tokenizer, args.chat_template, args.output / "model")
    write_csv(args.output / "training_curve.csv", curve)
    print(
        f"wrote {args.output / 'model'}: dev values {curve[-1]['value_accuracy']:.3f}, "
        f"letters {curve[-1]['letter_accuracy']:.3f} after {curve[-1]['seconds']} s"
    )


if __name__ == "__main__":
    run(main)
