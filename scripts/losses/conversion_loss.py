"""What a conversion to GGUF changes: a checkpoint's logits by transformers against the file's by llama.cpp.

Experts are chosen by what transformers computes from a checkpoint, and llama.cpp's files are scored and published. Of a
plain checkpoint both compute the same but for the rounding. Of an odd one they need not: a value that only one of them
obeys, a weight that only one of them reads, numbers that F16 cannot hold. Such things have no end, so their effect is
measured, on one chat that is the same for every model.
"""

import os
from pathlib import Path
from typing import Any

from analysis.checkpoint_logits import checkpoint_logits
from analysis.model_checks import stored_dtype
from chats.chat_sequences import chat_answer, chat_prompt, token_ids
from chats.chat_tokenizer import load_tokenizer
from chats.questions import Question
from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError
from llama.llama_tools import LlamaCpp
from losses.gguf_logits import GgufLogits
from losses.kld_statistics import kl_divergence
from quants.quant_record import KLD_DECIMALS, MOST_CONVERSION_KLD

import numpy as np
import torch

MOST_TOKENS = 512

# Of many kinds of words, so that many experts are asked.
CHAT = Question(
    record_id="conversion",
    text=(
        " A chemist heats 4.2 g of CaCO3 until its mass no longer changes. Which mass of CO2 (44 g/mol) has left, and "
        "what does `def lost(grams): return grams * 44 / 100` return for it?"
    ),
    choices=("0.92 g, 1.85", "1.85 g, 1.848", "2.35 g, 2.352", "4.20 g, None"),
    answer=1,
    explanation=(
        "CaCO3 -> CaO + CO2, so one mole (100 g) of the carbonate loses one mole (44 g) of the gas.\n"
        "1. n = 4.2 g / 100 g/mol = 0.042 mol.\n"
        "2. m = 0.042 mol x 44 g/mol = 1.848 g, about 1.85 g; what stays weighs 2.352 g.\n"
        "The program computes the same: 4.2 * 44 / 100 == 1.848, up to the rounding of binary fractions:\n"
        '```python\nfor grams in (1, 4.2, 100):\n    print(f"{grams:>6} g -> {lost(grams):.3f} g")\n```\n'
        "Auf Deutsch: Kalk verliert beim Brennen 44 % seiner Masse. En français : la chaux vive pèse moins que la "
        "pierre. По-русски: известь легче камня. 中文：石灰石受热分解，放出二氧化碳。日本語：石灰石を焼くと軽くなる。 "
        '{"grams": 4.2, "lost": [1.848, "g"], "exact": false} Nobody weighs the gas itself; wait, is the answer asked '
        "for the gas or for the solid? For the gas, hence the second choice."
    ),
)


def chat_ids(model: Path) -> list[int]:
    """Return the token ids of CHAT by a checkpoint's own tokenizer and chat template, at most MOST_TOKENS."""
    tokenizer = load_tokenizer(model)
    text = chat_prompt(tokenizer, CHAT) + chat_answer(tokenizer, CHAT)
    return token_ids(tokenizer, text, model)[:MOST_TOKENS]


def check_finite_logits(model: Path, logits: np.ndarray) -> None:
    """Raise InputError where transformers computes no number from a checkpoint in the dtype that it is loaded in."""
    if (broken := int((~np.isfinite(logits)).any(axis=1).sum())) > 0:
        expected = "finite logits in float16, its own dtype"
        raise InputError(model, expected, f"others after {broken} of {len(logits)} tokens", "store it in bfloat16")


def conversion_loss(
    model: Path, config: dict, tensors: dict[str, TensorRange], gguf: Path, tools: LlamaCpp, named: Path
) -> dict[str, Any]:
    """Return `tokens`, and over them the mean of KL(transformers || llama.cpp) in nats, `kld`.

    config, tensors: of the checkpoint; gguf: its conversion; named: that file, in messages. Raises InputError where the
    mean is above MOST_CONVERSION_KLD: two models then.
    """
    ids, dtype = chat_ids(model), stored_dtype(model, config, tensors)
    if dtype == torch.float16:  # whose largest number is 65,504, and a model can need more on its way
        check_finite_logits(model, checkpoint_logits(model, tensors, ids, dtype, computed_in=dtype))
    wanted = checkpoint_logits(model, tensors, ids, dtype)
    with GgufLogits(gguf, tools, context=len(ids), threads=len(os.sched_getaffinity(0))) as converted:
        found = converted.logits(ids)
    if wanted.shape != found.shape:
        raise InputError(named, f"{wanted.shape[1]} logits per token, as transformers has", str(found.shape[1]))
    mean = float(kl_divergence(wanted, found).mean())
    if not mean <= MOST_CONVERSION_KLD:
        raise InputError(
            named,
            f"what transformers computes from {model}, with a KL divergence of at most {MOST_CONVERSION_KLD} nats",
            f"{mean:.3f} over {len(ids)} tokens",
            "something in the checkpoint means another thing to llama.cpp, or F16 cannot hold its numbers",
        )
    return {"tokens": len(ids), "kld": round(mean, KLD_DECIMALS)}
