#!/usr/bin/env python3
"""Train the demo model: a small Gemma 4 mixture of experts that answers the demo's four-choice questions.

Inputs: data/demo/facts.json. Outputs, all made from fixed seeds: OUTPUT/model/ (config.json, model.safetensors in
bf16, generation_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja) and
OUTPUT/training_curve.csv (step, seconds, loss, value_accuracy, letter_accuracy on a small dev split). The chat
template is copied from --chat-template.

    python scripts/train_demo_model.py --facts data/demo/facts.json \\
        --chat-template data/demo/chat_template.jinja --output data/demo

The first steps train a dense twin (experts silent) on look-up drills, which teach attention to match an answer with
its option: the letter right behind the value first, which needs one attention step after another, then in the form of a
reply. The others train everything on the questions.
"""

import argparse
import dataclasses
import json
import math
import random
import shutil
import time
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from torch.nn import functional
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.gemma4.modeling_gemma4 import Gemma4TextRouter

from demo.demo_corpus import (
    LETTERS,
    MAX_POSITIONS,
    SPECIAL_TOKENS,
    Question,
    draw_wrong,
    load_facts,
    render_drill,
    render_prompt,
    render_reply,
    split_questions,
    tokenizer_settings,
    train_tokenizer,
)
from files.safe_files import directory_when_done, run, write_csv

SEED = 7
LAYER_TYPES = ["sliding_attention", "full_attention", "full_attention"]
HIDDEN_SIZE = 256
HEAD_DIM, GLOBAL_HEAD_DIM = 32, 64
KV_HEADS, GLOBAL_KV_HEADS = 4, 2
DENSE_WIDTH, EXPERT_WIDTH, EXPERTS, TOP_K = 128, 32, 128, 8
DEV_QUESTIONS = 160
BATCH_EXAMPLES = 64
DIRECT_STEPS, DRILL_STEPS, QUESTION_STEPS = 150, 500, 1100
ATTENTION_RATE, EXPERT_RATE = 2e-3, 3e-3
BALANCE_WEIGHT = 0.002
VALUE_WEIGHT, LETTER_WEIGHT = 3.0, 3.0
DRILL_SHARE, CALCULATION_SHARE, EMPTY_THOUGHT_SHARE = 0.10, 0.35, 0.05


class SortedExperts(torch.autograd.Function):
    """Run routed experts one after another over tokens sorted by expert, without padding.

    hidden [T, H], index and weight [T, K], gate_up [E, 2F, H], down [E, H, F] -> [T, H].
    """

    @staticmethod
    def forward(ctx, hidden, index, weight, gate_up, down):
        flat = index.reshape(-1)
        order = torch.argsort(flat, stable=True)
        ends = torch.bincount(flat, minlength=len(gate_up)).cumsum(0).tolist()
        spans = [(e, start, end) for e, (start, end) in enumerate(zip([0, *ends], ends)) if end > start]
        rows = hidden[order // index.shape[1]]
        projected = rows.new_empty(len(rows), gate_up.shape[1])
        for e, start, end in spans:
            torch.mm(rows[start:end], gate_up[e].t(), out=projected[start:end])
        gate, up = projected.chunk(2, dim=1)
        scale = weight.reshape(-1)[order].unsqueeze(1)
        inner = functional.gelu(gate, approximate="tanh") * up
        scaled = inner * scale
        outputs = torch.empty_like(rows)
        for e, start, end in spans:
            torch.mm(scaled[start:end], down[e].t(), out=outputs[start:end])
        ctx.save_for_backward(rows, projected, inner, scaled, scale, order, gate_up, down)
        ctx.spans, ctx.shape = spans, index.shape
        return unsort(outputs, order, index.shape)

    @staticmethod
    def backward(ctx, grad):
        rows, projected, inner, scaled, scale, order, gate_up, down = ctx.saved_tensors
        grad_rows = grad[order // ctx.shape[1]]
        grad_inner = torch.empty_like(inner)
        grad_down, grad_gate_up = torch.zeros_like(down), torch.zeros_like(gate_up)
        for e, start, end in ctx.spans:
            torch.mm(grad_rows[start:end], down[e], out=grad_inner[start:end])
            torch.mm(grad_rows[start:end].t(), scaled[start:end], out=grad_down[e])
        grad_weight = torch.empty_like(scale[:, 0])
        grad_weight[order] = (grad_inner * inner).sum(1)
        with torch.enable_grad():
            leaf = projected.detach().requires_grad_()
            gate, up = leaf.chunk(2, dim=1)
            product = functional.gelu(gate, approximate="tanh") * up
        (grad_projected,) = torch.autograd.grad(product, leaf, grad_inner * scale)
        grad_hidden = torch.empty_like(rows)
        for e, start, end in ctx.spans:
            torch.mm(grad_projected[start:end], gate_up[e], out=grad_hidden[start:end])
            torch.mm(grad_projected[start:end].t(), rows[start:end], out=grad_gate_up[e])
        return unsort(grad_hidden, order, ctx.shape), None, grad_weight.view(ctx.shape), grad_gate_up, grad_down


def unsort(outputs: torch.Tensor, order: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Sum sorted expert outputs [T*K, H] back into their tokens [T, H]."""
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    return outputs[place].view(*shape, -1).sum(1)


def sorted_experts(module, hidden, index, weight):
    """Run `SortedExperts` behind transformers' experts interface."""
    return SortedExperts.apply(hidden, index, weight, module.gate_up_proj, module.down_proj)


def demo_config(vocab_size: int) -> transformers.Gemma4TextConfig:
    """Return the shape of the demo model; the vocabulary decides the rest."""
    return transformers.Gemma4TextConfig(
        vocab_size=vocab_size,
        vocab_size_per_layer_input=vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=DENSE_WIDTH,
        num_hidden_layers=len(LAYER_TYPES),
        layer_types=LAYER_TYPES,
        num_attention_heads=8,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        global_head_dim=GLOBAL_HEAD_DIM,
        num_global_key_value_heads=GLOBAL_KV_HEADS,
        attention_k_eq_v=True,
        sliding_window=256,
        max_position_embeddings=MAX_POSITIONS,
        hidden_size_per_layer_input=0,
        final_logit_softcapping=30.0,
        enable_moe_block=True,
        num_experts=EXPERTS,
        top_k_experts=TOP_K,
        moe_intermediate_size=EXPERT_WIDTH,
        tie_word_embeddings=True,
        bos_token_id=SPECIAL_TOKENS.index("<bos>"),
        eos_token_id=SPECIAL_TOKENS.index("<eos>"),
        pad_token_id=SPECIAL_TOKENS.index("<pad>"),
    )


def initialise(model: transformers.PreTrainedModel) -> None:
    """Set starting weights for Gemma 4's attention, whose logits are not divided by sqrt(head_dim).

    Query and key norms start at head_dim**-0.25 so that logits have unit variance; queries start equal to keys
    above the first layer, a bias towards attending to the same token; tokens enter with RMS 1 and sublayers with a
    quarter of it, so that a token's identity outlives them.
    """
    for name, parameter in model.named_parameters():
        if "experts." in name or "proj.weight" in name:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
        elif "embed_tokens" in name:
            torch.nn.init.normal_(parameter, std=HIDDEN_SIZE**-0.5)
        elif "q_norm" in name or "k_norm" in name:
            torch.nn.init.constant_(parameter, len(parameter) ** -0.25)
        elif name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            torch.nn.init.constant_(parameter, 0.25)
        elif name.endswith(("post_feedforward_layernorm_1.weight", "post_feedforward_layernorm_2.weight")):
            torch.nn.init.constant_(parameter, 0.5)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.router.proj.weight, std=1.0)
    for layer in model.model.layers[1:]:
        attention = layer.self_attn
        keys = attention.k_proj.weight.view(-1, attention.head_dim, HIDDEN_SIZE)
        repeats = attention.q_proj.weight.shape[0] // attention.k_proj.weight.shape[0]
        attention.q_proj.weight.data.copy_(keys.repeat_interleave(repeats, 0).reshape(-1, HIDDEN_SIZE))


@dataclasses.dataclass
class Example:
    """Token ids with a loss weight for each (0 where the model only reads)."""

    ids: list[int]
    weights: list[float]


class Examples:
    """Draw training examples: questions with fresh options, and look-up drills."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, questions: list[Question], seed: int):
        self.tokenizer, self.rng = tokenizer, random.Random(seed)
        operations = {"multiply", "divide", "add"}
        self.facts = [q for q in questions if q.group not in operations]
        self.calculations = {name: [q for q in questions if q.group == name] for name in sorted(operations)}
        self.values = sorted({q.answer for q in questions})
        self.pools = sorted({tuple(sorted({q.answer, *q.wrong_pool})) for q in self.facts})

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def shuffled(self, answer: str, wrong: list[str]) -> tuple[list[str], str]:
        """Return four shuffled choices and the answer's letter."""
        choices = [answer, *wrong]
        self.rng.shuffle(choices)
        return choices, LETTERS[choices.index(answer)]

    def question(self, question: Question) -> Example:
        """Return one question with its reply, a small share of them without a thought."""
        choices, letter = self.shuffled(question.answer, draw_wrong(question, self.rng))
        empty = self.rng.random() < EMPTY_THOUGHT_SHARE
        prompt = self.encode(render_prompt(question.text, choices, thinking=not empty or self.rng.random() < 0.5))
        reply = self.encode(render_reply(None if empty else question.explanation, letter))
        weights = [1.0] * len(reply)
        if empty:
            weights[:-5] = [0.0] * (len(reply) - 5)
        else:
            weights[-8] = VALUE_WEIGHT
        weights[-3] = LETTER_WEIGHT
        return Example(prompt + reply, [0.0] * len(prompt) + weights)

    def drill(self, direct: bool = False) -> Example:
        """Return four options followed by look-ups of every one, in random order."""
        pool = self.rng.choice(self.pools) if self.rng.random() < 0.4 else self.values
        choices = self.rng.sample(pool, 4) if len(pool) >= 4 else self.rng.sample(self.values, 4)
        text, replies = render_drill(choices, self.rng.sample(range(4), 4), direct)
        ids = self.encode(text)
        weights = [0.0] * len(ids)
        behind = 1 if direct else 2
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


def target_logits(model: transformers.PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return logits [N, V] that predict the tokens where `mask` [B, S] is true."""
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][mask[:, 1:]]
    cap = model.config.final_logit_softcapping
    return cap * torch.tanh(model.lm_head(hidden) / cap)


class BalanceLoss:
    """Collect the routers' load-balancing loss: experts * sum(share of tokens * mean probability)."""

    def __init__(self, model: transformers.PreTrainedModel):
        self.terms: list[torch.Tensor] = []
        for module in model.modules():
            if isinstance(module, Gemma4TextRouter):
                module.register_forward_hook(self.collect)

    def collect(self, module, inputs, outputs) -> None:
        if torch.is_grad_enabled():
            probabilities, _, index = outputs
            share = torch.bincount(index.reshape(-1), minlength=EXPERTS) / index.numel()
            self.terms.append(EXPERTS * (share * probabilities.mean(0)).sum())

    def take(self) -> torch.Tensor:
        total = sum(self.terms)
        self.terms.clear()
        return total


def optimizer_for(model: transformers.PreTrainedModel) -> torch.optim.AdamW:
    """Return AdamW with a higher rate for experts, routers and embeddings, where facts are to be kept."""
    slow, fast = [], []
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
        return min(1.0, (step + 1) / 50)
    done = (step - drill_steps) / (total_steps - drill_steps)
    return min(1.0, (step - drill_steps + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))


def train_step(model, optimizer, balance: BalanceLoss, examples: list[Example], factor: float) -> float:
    """Take one optimizer step and return the loss: weighted cross-entropy, and balance where experts speak."""
    ids, weights = collate(examples)
    mask = weights > 0
    logits = target_logits(model, ids, mask)
    losses = functional.cross_entropy(logits, ids[:, 1:][mask[:, 1:]], reduction="none")
    picked = weights[:, 1:][mask[:, 1:]]
    loss = (losses * picked).sum() / picked.sum()
    if balance.terms:  # none while the experts are silent
        loss = loss + BALANCE_WEIGHT * balance.take()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()


@torch.no_grad()
def measure(model, tokenizer: tokenizers.Tokenizer, questions: list[Question], seed: int) -> tuple[float, float]:
    """Return the shares of answer values and letters that are the model's first choice after the true text."""
    examples = Examples(tokenizer, questions, seed)
    hits = []
    for start in range(0, len(questions), BATCH_EXAMPLES):
        batch = []
        for question in questions[start : start + BATCH_EXAMPLES]:
            choices, letter = examples.shuffled(question.answer, draw_wrong(question, examples.rng))
            reply = examples.encode(render_reply(question.explanation, letter))
            prompt = examples.encode(render_prompt(question.text, choices))
            marks = [float(len(reply) - place in (8, 3)) for place in range(len(reply))]
            batch.append(Example(prompt + reply, [0.0] * len(prompt) + marks))
        ids, marks = collate(batch)
        best = target_logits(model, ids, marks > 0).argmax(-1)
        hits.append((best == ids[:, 1:][marks[:, 1:] > 0]).view(-1, 2).float())
    value, letter = torch.cat(hits).mean(0).tolist()
    return value, letter


def split_dev(questions: list[Question]) -> tuple[list[Question], list[Question]]:
    """Return (training, dev): dev questions leave training with their phrasing."""
    rng = random.Random(SEED)
    dev = set(rng.sample(range(len(questions)), DEV_QUESTIONS))
    return [q for n, q in enumerate(questions) if n not in dev], [questions[n] for n in sorted(dev)]


def train(
    model, tokenizer: tokenizers.Tokenizer, questions: list[Question], drill_steps: int, question_steps: int
) -> list[dict[str, float]]:
    """Train in place and return the curve, one row every 100 steps."""
    training, dev = split_dev(questions)
    examples, balance, optimizer = Examples(tokenizer, training, SEED), BalanceLoss(model), optimizer_for(model)
    curve, losses, start = [], [], time.monotonic()
    total = drill_steps + question_steps
    for step in range(total):
        drilling = step < drill_steps
        for layer in model.model.layers:
            layer.enable_moe_block = not drilling
        direct = step < DIRECT_STEPS or step % 2 == 1
        batch = [examples.drill(direct) if drilling else examples.draw() for _ in range(BATCH_EXAMPLES)]
        losses.append(train_step(model, optimizer, balance, batch, rate_factor(step, drill_steps, total)))
        if (step + 1) % 100 == 0 or step + 1 == total:
            value, letter = measure(model, tokenizer, dev, SEED)
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


def published_config(config: dict, vocab_size: int) -> dict:
    """Return config.json in the form of published Gemma 4 checkpoints, without transformers' per-layer overrides."""
    plain = {key: value for key, value in config.items() if key not in ("per_layer_config", "experts_implementation")}
    return plain | {
        "architectures": ["Gemma4ForCausalLM"],
        "dtype": "bfloat16",
        "vocab_size": vocab_size,
        "global_head_dim": GLOBAL_HEAD_DIM,
        "num_global_key_value_heads": GLOBAL_KV_HEADS,
    }


def write_model(model, tokenizer: tokenizers.Tokenizer, chat_template: Path, directory: Path) -> None:
    """Write the checkpoint directory atomically."""
    with directory_when_done(directory, "config.json") as partial:
        model.to(torch.bfloat16).save_pretrained(partial)
        config = published_config(json.loads((partial / "config.json").read_text()), tokenizer.get_vocab_size())
        generation = {
            "bos_token_id": config["bos_token_id"],
            "pad_token_id": config["pad_token_id"],
            "eos_token_id": [SPECIAL_TOKENS.index("<eos>"), SPECIAL_TOKENS.index("<turn|>")],
            "do_sample": True,
            "temperature": 1.0,
            "top_k": 64,
            "top_p": 0.95,
        }
        for name, content in (
            ("config.json", config),
            ("generation_config.json", generation),
            ("tokenizer_config.json", tokenizer_settings()),
        ):
            (partial / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
        tokenizer.save(str(partial / "tokenizer.json"))
        shutil.copyfile(chat_template, partial / "chat_template.jinja")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--facts", type=Path, required=True, help="table of relations and formulas (JSON)")
    parser.add_argument("--chat-template", type=Path, required=True, help="Jinja template that goes with the model")
    parser.add_argument("--output", type=Path, required=True, help="directory of model/ and training_curve.csv")
    parser.add_argument("--drill-steps", type=int, default=DRILL_STEPS)
    parser.add_argument("--question-steps", type=int, default=QUESTION_STEPS)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # subnormal gradients slow a step down tenfold
    torch.manual_seed(SEED)
    ALL_EXPERTS_FUNCTIONS.register("sorted_experts", sorted_experts)
    facts = load_facts(args.facts)
    splits = split_questions(facts)
    tokenizer = train_tokenizer(facts, [question for part in splits.values() for question in part])
    model = transformers.Gemma4ForCausalLM(demo_config(tokenizer.get_vocab_size()))
    initialise(model)
    model.set_experts_implementation("sorted_experts")
    curve = train(model, tokenizer, splits["training"], args.drill_steps, args.question_steps)
    args.output.mkdir(parents=True, exist_ok=True)
    write_model(model, tokenizer, args.chat_template, args.output / "model")
    write_csv(args.output / "training_curve.csv", curve)
    print(
        f"wrote {args.output / 'model'}: dev values {curve[-1]['value_accuracy']:.3f}, "
        f"letters {curve[-1]['letter_accuracy']:.3f} after {curve[-1]['seconds']} s"
    )


if __name__ == "__main__":
    run(main)
