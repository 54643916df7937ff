"""What a conversion to GGUF changes: a checkpoint's logits by transformers against the file's by llama.cpp.

Experts are chosen by what transformers computes from a checkpoint, and llama.cpp's files are scored and published. Of a
plain checkpoint both compute the same but for the rounding. Of an odd one they need not: a value that only one of them
obeys, a weight that only one of them reads, numbers that F16 cannot hold. Such things have no end, so their effect is
measured, on one chat that is the same for every model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any

from analysis.checkpoint_logits import checkpoint_logits, lost_in_f16, round_digits, round_weights, with_digits
from analysis.model_checks import stored_dtype
from chats.chat_sequences import chat_answer, chat_prompt, token_ids
from chats.chat_tokenizer import load_tokenizer
from chats.questions import Question
from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError
from llama.llama_tools import LlamaCpp
from losses.converted_logits import by_library, by_server
from losses.kld_statistics import kl_divergence
from quants.quant_record import KLD_DECIMALS, MOST_OWN_KLD, ROUNDINGS, SAME_KLD

import numpy as np
import torch
from torch import nn

MOST_TOKENS = 512
MATCHED_TOKENS = 2048  # the first ones, of which LEAST_ALIKE must be those of llama.cpp
LEAST_ALIKE = 0.995
OWN_DECIMALS = 3
F16_BITS = 11  # digits of an F16 number
MOST_LOST = 0.01  # of a matrix's norm, by F16's range: no rounding
OTHER_DTYPE = 'name a wider "dtype" in its config.json, and begin again'

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
        "pierre. По-русски: известь легче камня. "
        "中文：石灰石受热分解，放出二氧化碳。日本語：石灰石を焼くと軽くなる。 "
        '{"grams": 4.2, "lost": [1.848, "g"], "exact": false} Nobody weighs the gas itself; wait, is the answer asked '
        "for the gas or for the solid? For the gas, hence the second choice."
    ),
)


@dataclass(frozen=True)
class Reference:
    """A checkpoint that a conversion is held against, and CHAT as it reads it.

    dtype: the one that its weights are loaded in; text: by its chat template; ids: of the text, by its tokenizer.
    """

    model: Path
    tensors: dict[str, TensorRange]
    dtype: torch.dtype
    text: str
    ids: list[int]

    def logits(self, change: Callable[[nn.Module], None], **how: Any) -> np.ndarray:
        """Return the logits after each of the first MOST_TOKENS ids, as `checkpoint_logits` does."""
        return checkpoint_logits(self.model, self.tensors, self.ids[:MOST_TOKENS], change, **how)


def reference_of(model: Path, config: dict, tensors: dict[str, TensorRange]) -> Reference:
    """Return what a checkpoint's conversion is held against; raise InputError when it has no such dtype or template."""
    tokenizer = load_tokenizer(model)
    text = chat_prompt(tokenizer, CHAT) + chat_answer(tokenizer, CHAT)
    return Reference(model, tensors, stored_dtype(model, config, tensors, ""), text, token_ids(tokenizer, text, model))


def alike_tokens(model: Path, ids: list[int], found: list[int]) -> float:
    """Return the share of a chat's tokens that llama.cpp and transformers have alike; found: llama.cpp's.

    Raises InputError where it is below LEAST_ALIKE. Single ones may differ: a blank beside a special token, say. Of a
    chat before which a template writes much, only the first ones are asked: the time grows with the square and more.
    """
    alike = SequenceMatcher(None, ids[:MATCHED_TOKENS], found[:MATCHED_TOKENS], autojunk=False).ratio()
    if alike < LEAST_ALIKE:
        expected = f"a tokenizer that llama.cpp reads as transformers does, {LEAST_ALIKE:.1%} of the tokens of a chat"
        raise InputError(model, expected, f"{alike:.1%}", "llama.cpp obeys only some of what tokenizer.json can say")
    return alike


def check_frame(model: Path, tokens: list[int], framed: list[int]) -> None:
    """Raise InputError unless a chat has already what llama.cpp adds to every text: it is scored with that.

    tokens: of the chat, by llama.cpp; framed: the same as a server reads it, with `<bos>` say, which a server does not
    write twice.
    """
    added = len(framed) - len(tokens)
    if not added:
        return
    first, last = framed[0], framed[-1]
    if framed[added:] != tokens:
        expected, found = "a tokenizer by which llama.cpp ends no chat with a token of its own", f"token {last}"
        raise InputError(model, expected, found, 'say "add_eos_token": false in tokenizer_config.json')
    if framed[:added] != tokens[:added]:
        expected = f"a chat template that begins with token {first}, which llama.cpp puts before each chat"
        raise InputError(model, expected, f"token {tokens[0]}", "begin the template with {{ bos_token }}")


def round_further(part: nn.Module, dtype: torch.dtype, lost: list[float]) -> None:
    """Round the weights that a part has as they are loaded, and then to F16's digits, which changes float32 alone.

    lost: gets what `lost_in_f16` says of the part.
    """
    round_weights(part, dtype)
    lost.append(lost_in_f16(part))
    round_digits(part, F16_BITS)


def own_dtype_loss(reference: Reference, wanted: np.ndarray) -> float:
    """Return the mean KL(fp32 || a checkpoint's own dtype) of transformers in nats; wanted: logits in fp32.

    The analysis runs in that dtype, and so does who takes the checkpoint; llama.cpp adds up in fp32. A dtype may lack
    the range for a model (float16 ends at 65,504) or the digits: raises InputError where it makes another model.
    """
    dtype = reference.dtype
    if dtype == torch.float32:
        return 0.0
    name, own = str(dtype).removeprefix("torch."), reference.logits(lambda part: None, computed_in=dtype)
    if broken := int((~np.isfinite(own)).any(axis=1).sum()):
        expected, found = f"finite logits in {name}, its own dtype", f"others after {broken} of {len(own)} tokens"
        raise InputError(reference.model, expected, found, OTHER_DTYPE)
    if (cost := float(kl_divergence(wanted, own).mean())) > MOST_OWN_KLD:
        expected = f"the same model in {name}, its own dtype, as in float32, to {MOST_OWN_KLD} nats per token"
        raise InputError(reference.model, expected, f"{cost:.3f} (KL divergence over {len(own)} tokens)", OTHER_DTYPE)
    return cost


def conversion_loss(reference: Reference, gguf: Path, tools: LlamaCpp, named: Path, library: bool) -> dict[str, Any]:
    """Return the `tokens` that were compared, and over them the mean of KL(transformers || llama.cpp) in nats, `kld`.

    `own_dtype`: what `own_dtype_loss` returns; `tokens_alike`: what `alike_tokens` does. Where kld is above SAME_KLD,
    also what `rounding` costs in transformers, of matrices and hidden states to F16's digits, as llama.cpp does before
    each product: a model whose router is undecided becomes another one by it. What F16's range loses is no rounding.
    gguf: a conversion of the reference; named: that file, in messages; library: whether the bindings know the tools'
    libllama. Raises InputError where rounding does not explain it.
    """
    model, ids = reference.model, reference.ids[:MOST_TOKENS]
    wanted = reference.logits(partial(round_weights, dtype=reference.dtype))
    own = own_dtype_loss(reference, wanted)
    try:
        tokens, framed, divergence = (by_library if library else by_server)(gguf, tools, reference.text, ids, wanted)
    except InputError as error:
        raise error.of(named) from error  # the file has a temporary name as yet
    check_frame(model, tokens, framed)
    alike = alike_tokens(model, reference.ids, tokens)
    mean = float(divergence.mean())
    loss = {
        "tokens": len(divergence),
        "kld": round(max(mean, 0.0), KLD_DECIMALS),
        "own_dtype": round(own, OWN_DECIMALS),
        "tokens_alike": round(alike, KLD_DECIMALS),
    }
    if mean <= SAME_KLD:
        return loss
    lost: list[float] = []
    change, between = partial(round_further, dtype=reference.dtype, lost=lost), partial(with_digits, bits=F16_BITS)
    rounding = round(float(kl_divergence(wanted, reference.logits(change, between=between)).mean()), KLD_DECIMALS)
    out_of_range = max(lost) > MOST_LOST
    if out_of_range or not mean <= ROUNDINGS * rounding:
        raise InputError(
            named,
            f"what transformers computes from {model}, with a KL divergence of at most {SAME_KLD} nats",
            f"{mean:.3f} over {len(divergence)} tokens, where rounding costs {rounding:.3f}",
            f"F16 cannot hold its numbers: a matrix loses {max(lost):.0%} there"
            if out_of_range
            else "something in the checkpoint means another thing to llama.cpp",
        )
    return loss | {"rounding": rounding}
