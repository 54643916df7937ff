"""What llama.cpp makes of a converted file: the tokens of a text, and how far its logits are from transformers'.

Asked of libllama; where the bindings do not know it, of llama-server.
"""

import math
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from files.input_errors import InputError
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from llama.load_check import vocabulary
from llama.serve_check import SERVER_FLAGS
from losses.gguf_logits import GgufLogits
from losses.kld_statistics import kl_divergence

import numpy as np
from scipy.special import log_softmax

STEP, LISTED = 8, 1000  # llama-server is asked for every eighth token, and lists so many of the likeliest
LEAST_REST = 1e-12  # of a probability
EXACT = ["-fa", "off", "-ctk", "f32", "-ctv", "f32"]


class Converted(NamedTuple):
    """What llama.cpp makes of a text: its tokens, these with what it adds to every text, and the divergence in nats."""

    tokens: list[int]
    framed: list[int]
    divergence: np.ndarray


def by_library(gguf: Path, tools: LlamaCpp, text: str, ids: list[int], wanted: np.ndarray) -> Converted:
    """Return what llama.cpp makes of a text, with KL(transformers || llama.cpp) after each of `ids`.

    text: its special tokens are written out; wanted: logits of transformers after `ids`, [tokens, vocabulary].
    """
    with GgufLogits(gguf, tools, context=len(ids), threads=len(os.sched_getaffinity(0))) as converted:
        found = converted.logits(ids)
    if wanted.shape != found.shape:
        raise InputError(gguf, f"{wanted.shape[1]} logits per token, as transformers has", str(found.shape[1]))
    with vocabulary(tools, gguf) as tokens_of:
        tokens, framed = (tokens_of(text.encode(), so) for so in (False, True))
    return Converted(tokens, framed, kl_divergence(wanted, found))


def by_server(gguf: Path, tools: LlamaCpp, text: str, ids: list[int], wanted: np.ndarray) -> Converted:
    """Return what `by_library` does, but the divergence after every STEP-th of `ids` alone.

    An answer lists the likeliest tokens. The others count as one: that is never more than the whole divergence. Where
    the likeliest is a part of a letter, there is no list.
    """
    flags = [*SERVER_FLAGS, "-c", str(len(ids) + STEP), "--swa-full", *EXACT]
    command = server_command(tools.tool("llama-server"), gguf, "check", 0, flags)
    with tempfile.TemporaryDirectory() as folder, LlamaServer(command, gguf, Path(folder) / "server.log") as server:
        body = {"content": text, "parse_special": True}
        tokens, framed = (server.request("/tokenize", body | {"add_special": so})["tokens"] for so in (False, True))
        listed = {place: likeliest(server, ids[: place + 1]) for place in range(STEP - 1, len(ids), STEP)}
    ours = {place: log_softmax(wanted[place].astype(np.float64)) for place, found in listed.items() if found}
    return Converted(tokens, framed, np.array([divergence_of_listed(ours[place], listed[place]) for place in ours]))


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
