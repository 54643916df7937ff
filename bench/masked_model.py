"""A Gemma 4 or Mixtral checkpoint in memory whose experts are masked instead of dropped, and what that costs on chats.

A mask sets the router's logits of the experts that went to minus infinity, which is the same as dropping them. Nothing
is copied, so a choice is measured in seconds on the demo. All in fp32, where the GGUF files are in F16.
"""

import sys
from collections.abc import Iterator
from collections.abc import Sequence as Several
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from analysis.decoder import load_resident
from analysis.expert_observer import expert_modules
from analysis.reconstruction import layer_tokens, norm_after
from analysis.sampled_tokens import CHOSEN, GIVEN, INPUTS, SAMPLED, SCORES, TokenSample, router_modules
from chats.chat_sequences import Sequence, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, load_questions
from choice.elimination import LayerTokens
from losses.kld_statistics import kl_divergence

from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

COLUMNS = ("tokens", "kld", "reply_tokens", "reply_kld")
Masks = list[np.ndarray]  # of each layer, bool [experts]: those that stay


def one_by_one(module: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Stand in for a layer's experts: each runs once on all its tokens, on a CPU faster than the grouped product."""
    experts, order = torch.sort(index.reshape(-1))
    tokens = order // index.shape[1]
    outputs = hidden[tokens]
    first = 0
    for expert, count in enumerate(torch.bincount(experts, minlength=module.num_experts).tolist()):
        if count:
            inner = module._apply_gate(outputs[first : first + count] @ module.gate_up_proj[expert].T)
            outputs[first : first + count] = inner @ module.down_proj[expert].T
            first += count
    outputs *= weights.reshape(-1)[order, None]
    return torch.zeros_like(hidden).index_add_(0, tokens, outputs)


@dataclass(frozen=True)
class Parts:
    """What of a layer a drop leaves to be set: the layer itself, its experts, its router, the norm that follows.

    router: the module that puts out logits, [tokens, experts]; scale: of the experts' weights, None where there is
    none; norm: None where the expert output is added as it is.
    """

    module: Any
    experts: Any
    router: Any
    scale: torch.nn.Parameter | None
    norm: Any


def parts_of_layers(model: Any, layers: list[Any]) -> list[Parts]:
    """Return the parts of every layer."""
    found = []
    for number, (layer, experts) in enumerate(zip(layers, expert_modules(model).values(), strict=True)):
        router = router_modules(model)[number][0]
        scale = getattr(router, "per_expert_scale", None)
        found.append(Parts(layer, experts, getattr(router, "proj", router), scale, norm_after(model, number)))
    return found


def route_again(router: Any, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what Mixtral's router puts out for logits."""
    weights, chosen = torch.softmax(logits, dim=-1).topk(router.top_k, dim=-1)
    return logits, weights / weights.sum(dim=-1, keepdim=True), chosen


def read_chats(model: Path, questions: Path, limit: int | None = None) -> list[Sequence]:
    """Return teacher-forced chats; `start` is where the reply begins."""
    tokenizer = load_tokenizer(model)
    asked = load_questions(questions, QUESTION_SEED)[:limit]
    return [teacher_forced_sequence(tokenizer, question, 4096, "answer") for question in asked]


def padded(chats: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return chats as one batch, padded on the right, and the mask of real tokens."""
    ids = torch.zeros(len(chats), max(len(chat.ids) for chat in chats), dtype=torch.int64)
    there = torch.zeros_like(ids)
    for row, chat in enumerate(chats):
        ids[row, : len(chat.ids)] = torch.tensor(chat.ids)
        there[row, : len(chat.ids)] = 1
    return ids, there


class MaskedModel:
    """The model, and the chats that it is measured on."""

    def __init__(self, directory: Path, chats: list[Sequence]) -> None:
        """Load the model and run it over the chats, all experts in place."""
        ALL_EXPERTS_FUNCTIONS.register("one_by_one", one_by_one)
        self.model: Any = load_resident(directory, torch.float32, "sdpa", None)
        self.model.set_experts_implementation("one_by_one")
        self.layers = list(self.model.model.layers)
        self.parts = parts_of_layers(self.model, self.layers)
        self.experts: int = self.parts[0].experts.num_experts
        self.kept: list[torch.Tensor | None] = [None] * len(self.layers)
        self.outputs: list[torch.Tensor] = []  # of the layers, in the latest run
        for number, layer in enumerate(self.layers):
            layer.register_forward_hook(lambda _, __, out: self.outputs.append(out))
            self.parts[number].router.register_forward_hook(partial(self._masked, number))
        self.chats = chats
        self.ids, self.there = padded(chats)
        self.scored = self.there.bool() & (torch.arange(self.ids.shape[1]) < self.there.sum(1, keepdim=True) - 1)
        self.model.requires_grad_(False)
        self.full = self.logits()

    def _masked(self, number: int, router: Any, _: object, out: Any) -> Any:
        kept = self.kept[number]
        if kept is None:
            return out
        if isinstance(out, tuple):  # Mixtral's router chooses in the same module
            return route_again(router, out[0].masked_fill(~kept, -torch.inf))
        return out.masked_fill(~kept, -torch.inf)

    def states(self) -> torch.Tensor:
        """Run the chats; return what the head would read, [chats, positions, hidden]."""
        self.outputs = []
        found: torch.Tensor = self.model.model(
            input_ids=self.ids, attention_mask=self.there, use_cache=False
        ).last_hidden_state
        return found

    def logits(self) -> torch.Tensor:
        """Return the logits of every scored position, [positions, vocabulary]."""
        logits = self.model.lm_head(self.states()[self.scored])
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits

    @contextmanager
    def choosing(self, masks: Masks | None, known: Several[torch.Tensor] = ()) -> Iterator[None]:
        """Mask experts while it lasts, and let the lowest layers put out what is known of them."""
        self.kept = [None if masks is None else torch.from_numpy(masks[number]) for number in range(len(self.layers))]
        for layer, output in zip(self.layers, known):
            layer.forward = lambda *_, output=output, **__: output
        try:
            yield
        finally:
            for layer, _ in zip(self.layers, known):
                del layer.forward  # the class's own is left
            self.kept = [None] * len(self.layers)

    @torch.inference_mode()
    def losses(self, masks: Masks, known: Several[torch.Tensor] = ()) -> np.ndarray:
        """Return COLUMNS of every chat, [chats, 4]: counts, and sums of KL(full || masked) in nats.

        known: `outputs` of the lowest layers from a run with the same masks there, so that they need not run again.
        """
        with self.choosing(masks, known):
            logits = self.logits()
        kld = kl_divergence(self.full.numpy(), logits.numpy())
        table, first = np.zeros((len(self.chats), 4)), 0
        for row, chat in enumerate(self.chats):
            count = len(chat.ids) - 1
            values, reply = kld[first : first + count], max(chat.start - 1, 0)
            table[row] = count, values.sum(), count - reply, values[reply:].sum()
            first += count
        return table

    @torch.inference_mode()
    def sampled(self, chats: list[Sequence], sample: TokenSample) -> dict[str, np.ndarray]:
        """Return the arrays of analysis/sampled_tokens.py for chats."""
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in SAMPLED}
        ids, there = padded(chats)
        rows = [n * ids.shape[1] + place for n, own in enumerate(sample.positions) for place in own]

        def look(module: Any, *given: torch.Tensor) -> torch.Tensor:
            for name, values in zip((INPUTS, CHOSEN, GIVEN), given):
                seen[name].append(values[rows])
            return one_by_one(module, *given)

        hooks = [
            router.register_forward_hook(lambda _, __, out, at=at: seen[SCORES].append(out[at][rows]))
            for router, at in router_modules(self.model).values()
        ]
        ALL_EXPERTS_FUNCTIONS.register("one_by_one", look)
        self.model.model(input_ids=ids, attention_mask=there, use_cache=False)
        ALL_EXPERTS_FUNCTIONS.register("one_by_one", one_by_one)
        for hook in hooks:
            hook.remove()
        return {name: torch.stack(values, dim=1).numpy() for name, values in seen.items()}

    def tokens(self, layer: int, sampled: dict[str, np.ndarray], weights: np.ndarray) -> LayerTokens:
        """Return one layer's sampled tokens as the elimination takes them."""
        return layer_tokens(self.model, layer, layer, sampled, weights)
