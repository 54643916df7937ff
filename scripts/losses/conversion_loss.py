"""What a conversion to GGUF changes: a checkpoint's logits by transformers against the file's by llama.cpp.

Experts are chosen by what transformers computes from a checkpoint, and llama.cpp's files are scored and published. Of a
plain checkpoint both compute the same but for the rounding. Of an odd one they need not: a value that only one of them
obeys, a weight that only one of them reads, numbers that F16 cannot hold. Such things have no end, so their effect is
measured, on one chat that is the same for every model.
"""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

from analysis.checkpoint_logits import checkpoint_logits
from analysis.model_checks import stored_dtype
from chats.chat_sequences import chat_answer, chat_prompt, token_ids
from chats.chat_tokenizer import load_tokenizer
from chats.questions import Question
from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from llama.serve_check import SERVER_FLAGS
from losses.gguf_logits import GgufLogits
from losses.kld_statistics import kl_divergence
from quants.quant_record import KLD_DECIMALS, MOST_CONVERSION_KLD

import numpy as np
import torch
from scipy.special import log_softmax

MOST_TOKENS = 512
SERVED_STEP, LISTED = 8, 1000  # of llama-server: every eighth token is asked for, with so many of the likeliest
LEAST_REST = 1e-12  # of a probability
EXACT = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]

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


def divergence_of_library(wanted: np.ndarray, ids: list[int], gguf: Path, tools: LlamaCpp, named: Path) -> np.ndarray:
    """Return KL(transformers || llama.cpp) after each of `ids` in nats, by libllama.

    wanted: logits of transformers [tokens, vocabulary]; named: the file, in messages.
    """
    with GgufLogits(gguf, tools, context=len(ids), threads=len(os.sched_getaffinity(0))) as converted:
        found = converted.logits(ids)
    if wanted.shape != found.shape:
        raise InputError(named, f"{wanted.shape[1]} logits per token, as transformers has", str(found.shape[1]))
    return kl_divergence(wanted, found)


def divergence_of_server(wanted: np.ndarray, ids: list[int], gguf: Path, tools: LlamaCpp) -> np.ndarray:
    """Return it after every SERVED_STEP-th of `ids`, by llama-server, where the bindings do not know the library.

    An answer lists the likeliest tokens. The others count as one: that is never more than the whole divergence. Where
    the likeliest is a part of a letter, there is no list.
    """
    places = range(SERVED_STEP - 1, len(ids), SERVED_STEP)
    flags = [*SERVER_FLAGS, "-c", str(len(ids) + SERVED_STEP), "--swa-full", *EXACT]
    command = server_command(tools.tool("llama-server"), gguf, "check", 0, flags)
    with tempfile.TemporaryDirectory() as folder, LlamaServer(command, gguf, Path(folder) / "server.log") as server:
        listed = {place: likeliest(server, ids[: place + 1]) for place in places}
    ours = {place: log_softmax(wanted[place].astype(np.float64)) for place, found in listed.items() if found}
    return np.array([divergence_of_listed(ours[place], listed[place]) for place in ours])


def likeliest(server: LlamaServer, ids: list[int]) -> dict[int, float]:
    """Return the log-probabilities of the LISTED likeliest tokens after `ids`, by token; {} where it lists none."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": LISTED, "temperature": 0}
    answered = server.request("/completion", body).get("completion_probabilities") or [{"top_logprobs": []}]
    listed = answered[0]["top_logprobs"]
    return {one["id"]: one["logprob"] if isinstance(one["logprob"], int | float) else math.nan for one in listed}


def divergence_of_listed(ours: np.ndarray, theirs: dict[int, float]) -> float:
    """Return KL(ours || theirs) of the listed tokens, with all others as one; ours: log-probabilities [vocabulary]."""
    tokens, listed = [*theirs], np.array([*theirs.values()])
    mine = np.exp(ours[tokens])
    rest, other = (max(1 - float(values.sum()), LEAST_REST) for values in (mine, np.exp(listed)))
    return float((mine * (ours[tokens] - listed)).sum()) + rest * math.log(rest / other)


def conversion_loss(
    model: Path, config: dict, tensors: dict[str, TensorRange], gguf: Path, tools: LlamaCpp, named: Path, library: bool
) -> dict[str, Any]:
    """Return the `tokens` that were compared, and over them the mean of KL(transformers || llama.cpp) in nats, `kld`.

    config, tensors: of the checkpoint; gguf: its conversion; named: that file, in messages; library: whether the
    bindings know the tools' libllama. Raises InputError where the mean is above MOST_CONVERSION_KLD: two models then.
    """
    ids, dtype = chat_ids(model), stored_dtype(model, config, tensors)
    if dtype == torch.float16:  # whose largest number is 65,504, and a model can need more on its way
        check_finite_logits(model, checkpoint_logits(model, tensors, ids, dtype, computed_in=dtype))
    wanted = checkpoint_logits(model, tensors, ids, dtype)
    if library:
        divergence = divergence_of_library(wanted, ids, gguf, tools, named)
    else:
        divergence = divergence_of_server(wanted, ids, gguf, tools)
    mean = float(divergence.mean())
    if not mean <= MOST_CONVERSION_KLD:
        raise InputError(
            named,
            f"what transformers computes from {model}, with a KL divergence of at most {MOST_CONVERSION_KLD} nats",
            f"{mean:.3f} over {len(divergence)} tokens",
            "something in the checkpoint means another thing to llama.cpp, or F16 cannot hold its numbers",
        )
    return {"tokens": len(divergence), "kld": round(max(mean, 0.0), KLD_DECIMALS)}
