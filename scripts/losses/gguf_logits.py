"""Logits of a GGUF model at every position of given tokens.

llama-perplexity reads special tokens as plain text, so its figures for chats are about other tokens. Here the caller
gives the tokens. The calls are those of llama.cpp's C interface (llama/bindings.py).
"""

import ctypes
import math
import os
from collections.abc import Iterator
from pathlib import Path

from files.input_errors import InputError
from ggufs.gguf_header import experts_used_key, read_header, split_paths
from llama.bindings import LOG, load_bindings
from llama.llama_tools import LlamaCpp, last_words
from llama.load_check import check_library_loads

import numpy as np

CHUNK_TOKENS = 512  # decoded at once: their logits are held together, 4 bytes per token and vocabulary entry
TYPE_F32, FLASH_ATTENTION_OFF = 0, 0  # ggml.h, llama.h


TRIED: set[tuple] = set()  # headers that llama.cpp is known to load


def check_loadable(path: Path, tools: LlamaCpp) -> None:
    """Raise InputError when a file is damaged, or has a header at which llama.cpp ends the process that loads it.

    Asked once for all files of one shape: a measurement of sensitivities loads one after the other.
    """
    parts = [read_header(part) for part in split_paths(path)]  # names what is wrong; llama.cpp only that it cannot load
    header, begin = parts[0], f"{parts[0].architecture}."
    for pair in header.key_values:
        if isinstance(pair.value, float) and not math.isfinite(pair.value):
            raise InputError(path, f"a finite {pair.key}", str(pair.value))
    numbers = tuple(pair.raw for pair in header.key_values if pair.key.startswith(begin))
    shape = (*numbers, *((tensor.name, tuple(tensor.dims)) for part in parts for tensor in part.tensors))
    if shape not in TRIED:
        check_library_loads(path, tools, path)
        TRIED.add(shape)


class GgufLogits:
    """A loaded GGUF model that returns its logits: exact attention, fp32 cache, one text at a time."""

    def __init__(
        self,
        path: Path,
        tools: LlamaCpp,
        *,
        context: int,
        threads: int,
        gpu_layers: int = 0,
        active_experts: int | None = None,
    ) -> None:
        """Load a model for texts of up to `context` tokens; raise InputError when it is damaged or does not load.

        active_experts: per token, in place of the number that the file says.
        """
        self.path, self.context, self.model, self.state = path, context, None, None
        check_loadable(path, tools)
        self.api = load_bindings(tools.library_folder)
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        if active_experts is not None:
            params.kv_overrides = self.override = self._experts_override(active_experts)
        LOG.clear()
        self.model = self.api.llama_model_load_from_file(os.fsencode(path), params)
        if self.model:
            self.state = self.api.llama_init_from_model(self.model, self._context_params(context, threads))
        if not self.state:
            self.close()
            raise InputError(path, "a GGUF model that llama.cpp loads", last_words("".join(LOG)))
        self.vocabulary: int = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))

    def _experts_override(self, count: int) -> ctypes.Array:
        # llama.cpp reads entries up to one without a key. They are kept with the object: it holds a bare pointer.
        entries = (self.api.llama_model_kv_override * 2)()
        entries[0].tag = self.api.LLAMA_KV_OVERRIDE_TYPE_INT
        entries[0].key = experts_used_key(read_header(split_paths(self.path)[0])).encode()
        entries[0].value.val_i64 = count
        return entries

    def _context_params(self, context: int, threads: int) -> ctypes.Structure:
        # Flash attention and the default 16-bit cache round keys and values, an error that the losses would hold. A
        # chunk is one micro-batch: the last bits of the logits depend on how a text is split, so that must not vary.
        params = self.api.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = params.n_ubatch = min(context, CHUNK_TOKENS)
        params.n_outputs_max = params.n_outputs_max_per_seq = params.n_batch
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type, params.type_k, params.type_v = FLASH_ATTENTION_OFF, TYPE_F32, TYPE_F32
        return params

    def chunks(self, ids: list[int]) -> Iterator[np.ndarray]:
        """Yield the logits after each of `ids` in pieces, fp32 [at most 512, vocabulary].

        A piece is llama.cpp's own memory: the next piece overwrites it. Raises InputError when there are no ids or more
        than the context holds, when an id is outside of the vocabulary, or when a logit is not finite.
        """
        if not 0 < len(ids) <= self.context:
            raise InputError(self.path, f"texts of 1 to {self.context} tokens", f"one of {len(ids)}")
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise InputError(
                self.path,
                f"token ids from 0 to {self.vocabulary - 1}, as its vocabulary has",
                f"{min(ids)} to {max(ids)}",
                "is it another model's tokenizer?",
            )
        self.api.llama_memory_clear(self.api.llama_get_memory(self.state), True)
        for first in range(0, len(ids), CHUNK_TOKENS):
            yield self._decode(ids[first : first + CHUNK_TOKENS], first)

    def _decode(self, ids: list[int], first: int) -> np.ndarray:
        batch = self.api.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for place, token in enumerate(ids):
                batch.token[place], batch.pos[place], batch.logits[place] = token, first + place, True
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            LOG.clear()
            if code := self.api.llama_decode(self.state, batch):
                raise InputError(self.path, "logits", f"llama_decode code {code}: {last_words(''.join(LOG))}")
        finally:
            self.api.llama_batch_free(batch)
        logits = np.ctypeslib.as_array(self.api.llama_get_logits(self.state), (len(ids), self.vocabulary))
        # Damaged weights that load give these; every mean after them would be "nan".
        if not np.isfinite(logits).all():
            raise InputError(
                self.path,
                "finite logits",
                f"others after {(~np.isfinite(logits)).any(axis=1).sum()} of {len(ids)} tokens",
            )
        return logits

    def logits(self, ids: list[int]) -> np.ndarray:
        """Return the logits after each of `ids`, fp32 [tokens, vocabulary]; raises as `chunks` does."""
        return np.concatenate([chunk.copy() for chunk in self.chunks(ids)])

    def close(self) -> None:
        """Free the model."""
        if self.state:
            self.api.llama_free(self.state)
        if self.model:
            self.api.llama_model_free(self.model)
        self.model = self.state = None

    def __enter__(self) -> "GgufLogits":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
