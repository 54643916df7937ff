"""A model of which only one decoder layer at a time has weights, so that a checkpoint larger than the memory can run.

`LayerStream` takes a model without weights and gives each layer its own only while it runs. Masks, position embeddings
and whatever else a layer takes come from the model's own forward pass, in which every other layer returns its input. To
compute them here would mean a copy of each family's forward pass, and a copy could differ from it.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from analysis.decoder import put_weights
from analysis.layer_reader import Piece, memory_size, pieces_of, read_pieces
from analysis.model_parts import decoder_of, layers_of
from checkpoints.checkpoint import TensorRange
from files.input_errors import InputError

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

EMBEDDING, REST, HEAD = "embedding", "rest", "head"
# Layers that take keys and values, or an embedding of the ids, from elsewhere than the layer before.
SHARING_KEYS = ("num_kv_shared_layers", "hidden_size_per_layer_input")
NOT_STREAMED = "analyse it without --stream-layers"


def tensors_in(values: list) -> list[torch.Tensor]:
    """Return the tensors among values, those in lists, tuples and dictionaries included."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, dict)):
            found += tensors_in(list(value.values() if isinstance(value, dict) else value))
    return found


def release_free_memory() -> None:
    """Give freed heap memory back to the system where the C library can (glibc): long inputs leave holes of 300 MB."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def read_ahead(pieces: list[Piece]) -> None:
    """Have the kernel read stored tensors into its own cache, which is not this process's memory."""
    for source in (source for piece in pieces for source in piece.sources):
        with open(source.file, "rb") as file:
            os.posix_fadvise(file.fileno(), source.offset, source.size, os.POSIX_FADV_WILLNEED)


def check_independent(directory: Path, text_config: PreTrainedConfig) -> None:
    """Raise InputError when a config says that layers need more than the layer before."""
    for key in SHARING_KEYS:
        if value := getattr(text_config, key, 0):
            raise InputError(
                directory / "config.json", f"{key} 0 (layers that need only the layer before)", str(value), NOT_STREAMED
            )


class LayerStream:
    """A model of which only one decoder layer at a time has weights."""

    def __init__(
        self,
        directory: Path,
        tensors: dict[str, TensorRange],
        model: PreTrainedModel,
        device: torch.device,
        prefetch: bool | None = None,
    ) -> None:
        """Take a model from `build_empty`; the parts other than layers and embedding get their weights at once.

        `prefetch` reads the next layer while one computes (by default on a GPU only: it holds two layers in memory).
        Raises InputError when layers depend on more than the hidden states of the layer before.
        """
        check_independent(directory, model.config.get_text_config())
        self.model, self.device = model, device
        self.pinned = device.type == "cuda"  # only from pinned memory does a copy to the GPU run at full speed
        self.prefetch = self.pinned if prefetch is None else prefetch
        self.name, self.decoder = decoder_of(model)
        self.layers = layers_of(self.decoder)
        self.pieces = self._pieces(tensors)
        self.reader = ThreadPoolExecutor(1)
        self.ahead: dict[int | str, Future[dict[str, torch.Tensor]]] = {}
        self.buffers: list[torch.Tensor | None] = [None, None]
        self.running: int | str | None = None  # the layer whose turn it is, or HEAD
        self.state: torch.Tensor | None = None  # the hidden states that enter or have left it
        self.given: list[torch.Tensor] | None = None
        self._load(REST)
        self._initialize_buffers()
        for number, layer in enumerate(self.layers):
            layer.forward = partial(self._visit, number, layer.forward)
        self._check_layers(directory)

    def embed(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states that enter layer 0, [batch, tokens, hidden], on the host."""
        self.running = None
        self.decoder(input_ids=ids.to(self.device), attention_mask=self._on_device(mask), use_cache=False)
        return self._take_state()

    def run_layer(self, number: int, hidden: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return the hidden states that leave layer `number`, on the host; the layer must be loaded."""
        self.running, self.state = number, hidden.to(self.device, non_blocking=True)
        self._pass(hidden.shape[0], hidden.shape[1], mask)
        release_free_memory()
        return self._take_state()

    def logits(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits after each token, [batch, tokens, vocabulary], of hidden states that left the last layer.

        ids: of these tokens, [batch, tokens]. Embedding and head must be loaded.
        """
        self.running, self.state = HEAD, hidden.to(self.device)
        return self.model(input_ids=ids.to(self.device), use_cache=False).logits

    def hold(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return hidden states as they wait on the host for the next layer (pinned for a GPU)."""
        return hidden.pin_memory() if self.pinned else hidden

    def load_embedding(self) -> None:
        """Give the token embedding its weights."""
        self._load(EMBEDDING)

    def free_embedding(self) -> None:
        """Take them away again."""
        self._free(self.decoder.get_input_embeddings())

    def load_head(self) -> None:
        """Give embedding and head their weights, which may be the same."""
        for part in (EMBEDDING, HEAD):
            self._load(part)
        self.model.tie_weights()

    def load_layer(self, number: int, following: int | None) -> None:
        """Give one layer its weights, and have those of the `following` layer read meanwhile."""
        self._load(number)
        if following is None:
            return
        if self.prefetch:
            self.ahead[following] = self.reader.submit(self._read, following)
        else:
            read_ahead(self.pieces[following])

    def free_layer(self, number: int) -> None:
        """Take a layer's weights away."""
        self._free(self.layers[number])

    def _pass(self, batch: int, tokens: int, mask: torch.Tensor | None, value: float = 0.0) -> None:
        """Run the decoder on blank embeddings: all layers return them but the one whose turn it is."""
        size = self.model.config.get_text_config().hidden_size
        blank = torch.full((batch, tokens, size), value, dtype=self.model.dtype, device=self.device)
        self.decoder(inputs_embeds=blank, attention_mask=self._on_device(mask), use_cache=False)

    @torch.inference_mode()
    def _check_layers(self, directory: Path) -> None:
        """Raise InputError when a layer takes or returns more than hidden states and what depends on positions.

        What the layers are given beside the hidden states must be the same for two different inputs.
        """
        given: list[list[torch.Tensor]] = []
        try:
            for value in (0.0, 1.0):
                self.given = []
                self._pass(1, 2, None, value)
                given.append(self.given)
            alike = len(given[0]) == len(given[1]) and all(map(torch.equal, *given))
        # A forward pass that unpacks, indexes or adds up more than hidden states stumbles over what `_visit` returns.
        except (ValueError, TypeError, AttributeError, IndexError, RuntimeError):
            alike = False
        self.given = None
        if not alike:
            raise InputError(
                directory / "config.json",
                "layers that take and return hidden states only",
                f"{type(self.layers[0]).__name__}, which does not",
                NOT_STREAMED,
            )

    def _visit(self, number: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Stand in for a layer's forward: run it if it is its turn, and return the input."""
        incoming = args[0] if args else kwargs.pop("hidden_states")
        if self.given is not None:
            if "input_ids" in kwargs:
                raise ValueError("a layer that reads the token ids")
            self.given += tensors_in([*args[1:], *kwargs.values()])
        if self.running is None and number == 0:
            self.state = incoming
        if self.running == number:
            # `incoming` is blank. It goes on as it came, so that the layers after this one get blanks as well.
            self.state = forward(self.state, *args[1:], **kwargs)
            if not isinstance(self.state, torch.Tensor):
                raise InputError(
                    type(self.layers[number]).__name__,
                    "a layer that returns hidden states",
                    f"a {type(self.state).__name__}",
                    NOT_STREAMED,
                )
        if self.running == HEAD and number == len(self.layers) - 1:
            assert self.state is not None, "`logits` has put it there"
            return self.state
        return incoming

    def _on_device(self, mask: torch.Tensor | None) -> torch.Tensor | None:
        return None if mask is None else mask.to(self.device)

    def _take_state(self) -> torch.Tensor:
        """Return the hidden states of the last pass on the host, and forget them here."""
        state, self.state = self.state, None
        assert state is not None, "every pass visits layer 0 and the running layer"
        if not self.pinned:
            return state
        return torch.empty(state.shape, dtype=state.dtype, pin_memory=True).copy_(state)

    def _pieces(self, tensors: dict[str, TensorRange]) -> dict[int | str, list[Piece]]:
        """Return what the checkpoint holds of each part: layer numbers, EMBEDDING and REST of the decoder, HEAD."""
        embedding, head = self.decoder.get_input_embeddings(), self.model.get_output_embeddings()
        names = {module: name for name, module in self.model.named_modules()}
        state, embedding_name = self.model.state_dict(), names[embedding]
        parts: dict[int | str, list[Piece]] = {part: [] for part in (EMBEDDING, REST, HEAD, *range(len(self.layers)))}
        for target, pieces in pieces_of(self.model, tensors).items():
            if target not in state:
                continue
            if target.startswith(f"{self.name}.layers."):
                parts[int(target.removeprefix(f"{self.name}.layers.").partition(".")[0])].extend(pieces)
            elif target.startswith(f"{embedding_name}."):
                parts[EMBEDDING].extend(pieces)
            elif target.startswith(f"{self.name}."):  # a vision tower lies elsewhere and is not read
                parts[REST].extend(pieces)
            elif head is not None and target.startswith(f"{names[head]}."):
                parts[HEAD].extend(pieces)
        return parts

    def _read(self, part: int | str) -> dict[str, torch.Tensor]:
        """Read a part from disk; a layer goes into a buffer that an earlier layer had."""
        pieces = self.pieces[part]
        if isinstance(part, str):
            return read_pieces(pieces, torch.empty(memory_size(pieces), dtype=torch.uint8, pin_memory=self.pinned))
        # On a CPU the weights are views of the buffer. So a layer that is read ahead must not lie where the one that
        # computes does. Layers run in order, hence even ones take the first buffer and odd ones the second.
        slot = part % 2 if self.prefetch else 0
        buffer = self.buffers[slot]
        if buffer is None:
            # Of the largest layer's size and used for all: fresh memory for each costs more than the copy itself.
            largest = max(memory_size(self.pieces[layer]) for layer in range(len(self.layers)))
            buffer = self.buffers[slot] = torch.empty(largest, dtype=torch.uint8, pin_memory=self.pinned)
        return read_pieces(pieces, buffer)

    def _load(self, part: int | str) -> None:
        ahead = self.ahead.pop(part, None)
        put_weights(self.model, ahead.result() if ahead else self._read(part), self.device)

    def _initialize_buffers(self) -> None:
        """Compute the buffers that no checkpoint holds, such as rotary frequencies, as from_pretrained does."""
        none_missing: Any = set()  # annotated as a list there, but used as a set
        self.model._move_missing_keys_from_meta_to_device(none_missing, {"": self.device}, None, None)
        self.model._initialize_missing_keys(False)

    @staticmethod
    def _free(part: nn.Module) -> None:
        """Put a part's weights back on the meta device; buffers that no checkpoint holds stay."""
        for module in part.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)
            for name, buffer in module._buffers.items():
                if buffer is not None and name not in module._non_persistent_buffers_set:
                    module._buffers[name] = buffer.to("meta")
