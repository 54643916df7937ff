#!/usr/bin/env python3
"""Train the demo's assistant: a small draft model, which foretells the demo model's next tokens.

Inputs:  data/demo/facts.json; the demo model.
Output:  a checkpoint directory (config.json, model.safetensors in bf16, the demo model's tokenizer and template).
Example: .venv/bin/python scripts/train_demo_assistant.py --facts data/demo/facts.json --target data/demo/model \\
             --output build/try/assistant

The demo model stays as it is. On the replies of its training questions the assistant learns the demo model's own
distribution of the next two tokens (mean KL divergence), from the keys, values and states that it will have at work.
Seeds are fixed. Form: google/gemma-4-26B-A4B-it-assistant, and Gemma4AssistantForCausalLM of transformers.
"""

import argparse
import math
import time
from pathlib import Path
from typing import Any

from analysis.decoder import load_resident
from chats.chat_tokenizer import load_tokenizer
from checkpoints.checkpoint import read_checkpoint, read_config
from demo.demo_assistant import assistant_config, drafts, initialise_assistant, write_assistant
from demo.demo_corpus import load_facts, split_questions
from demo.demo_model import LOGIT_CAP
from demo.sorted_experts import prepare_training
from demo.training_examples import Example, Examples, collate
from files.input_errors import InputError
from files.option_types import command_parser, named_path, positive
from files.safe_files import run

import tokenizers
import torch
import transformers
from torch.nn import functional

SEED = 11
STEPS, BATCH_EXAMPLES = 500, 32
RATE, WARM_UP_STEPS, SHOWN_STEPS = 5e-3, 30, 50


def draft_losses(
    assistant: transformers.Gemma4AssistantForCausalLM, target: transformers.Gemma4ForCausalLM, examples: list[Example]
) -> tuple[torch.Tensor, list[float]]:
    """Return the loss over all drafted tokens of the replies, and for each the share where both choose the same."""
    ids, weights = collate(examples)
    losses, shares = [], []
    for step, (mine, theirs) in enumerate(drafts(assistant, target, ids)):
        # Row r foretells the token at r + 2 + step; the last one's next token is not in the text.
        asked = weights[:, 2 + step :] > 0
        drafted = assistant.lm_head(mine[:, :-1][asked]).log_softmax(-1)
        capped = LOGIT_CAP * torch.tanh(target.lm_head(theirs[:, :-1][asked]) / LOGIT_CAP)
        wanted = capped.log_softmax(-1)
        losses.append(functional.kl_div(drafted, wanted, log_target=True, reduction="batchmean"))
        shares.append((drafted.argmax(-1) == wanted.argmax(-1)).float().mean().item())
    return sum(losses[1:], start=losses[0]) / len(losses), shares


def rate_at(step: int, steps: int) -> float:
    """Return the learning rate: a warm-up, then a cosine down to zero."""
    return RATE * min(1.0, (step + 1) / WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * step / steps))


def train_assistant(
    assistant: transformers.Gemma4AssistantForCausalLM,
    target: transformers.Gemma4ForCausalLM,
    examples: Examples,
    steps: int,
) -> list[float]:
    """Train in place; return the shares of the last SHOWN_STEPS steps, one for each drafted token."""
    optimizer = torch.optim.AdamW(assistant.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    begin = time.monotonic()
    recent: list[list[float]] = []
    for step in range(steps):
        loss, shares = draft_losses(assistant, target, [examples.draw() for _ in range(BATCH_EXAMPLES)])
        if not torch.isfinite(loss):
            raise InputError("the target", "a model of which a draft model learns", f"a loss of {loss.item()}")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(assistant.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rate_at(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent = [*recent, shares][-SHOWN_STEPS:]
        if (step + 1) % SHOWN_STEPS == 0 or step + 1 == steps:
            means = [round(sum(column) / len(recent), 4) for column in zip(*recent)]
            print({"step": step + 1, "seconds": round(time.monotonic() - begin), "same_token": means}, flush=True)
    return [sum(column) / len(recent) for column in zip(*recent)]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--facts", type=Path, required=True, help="table of relations and formulas (JSON)")
    add("--target", type=Path, required=True, help="checkpoint of the demo model")
    add("--output", type=named_path, required=True, help="checkpoint directory to write")
    add = parser.add_argument_group("how it is trained").add_argument
    add("--steps", type=positive, default=STEPS, help="optimizer steps")
    add("--threads", type=positive, default=1, help="threads of torch; at this size more gain nothing")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    config = read_config(args.target)
    for read in (read_checkpoint, load_tokenizer):  # a damaged one ends the library in an error of its own
        read(args.target)
    prepare_training(args.threads, SEED)
    target: Any = load_resident(args.target, torch.float32, "sdpa", None)
    target.set_experts_implementation("sorted_experts")
    target.requires_grad_(False)
    assistant = transformers.Gemma4AssistantForCausalLM(assistant_config(config))
    initialise_assistant(assistant)
    tokenizer = tokenizers.Tokenizer.from_file(str(args.target / "tokenizer.json"))
    questions = split_questions(load_facts(args.facts))["training"]
    shares = train_assistant(assistant, target, Examples(tokenizer, questions, SEED), args.steps)
    write_assistant(assistant, args.target, args.output)
    shown = ", then ".join(f"{100 * share:.1f}%" for share in shares)
    print(f"wrote {args.output}: the demo model's own next token in {shown} of the places")


if __name__ == "__main__":
    run(main)
