"""Logits of a GGUF model at every position of given tokens.

llama-perplexity reads special tokens as plain text, so its figures for chats are about other tokens. Here the caller
gives the tokens. llama-cpp-python (https://github.com/abetlen/llama-cpp-python) declares llama.cpp's C interface. It is
installed without a library of its own and loads the libllama of the built tools, which LLAMA_CPP_LIB_PATH names.
"""

import ctypes
import importlib.metadata
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

from files.safe_files import InputError
from ggufs.gguf_header import read_header, split_paths
from llama.llama_tools import LlamaCpp, last_words

import numpy as np

BINDINGS = "llama-cpp-python"
OWN_TOOLS = "unset LLAMA_CPP to use the tools that `make setup` builds"
LIBRARY_VARIABLE = "LLAMA_CPP_LIB_PATH"
CHUNK_TOKENS = 512  # decoded at once: their logits are held together, 4 bytes per token and vocabulary entry
TYPE_F32, FLASH_ATTENTION_OFF = 0, 0  # ggml.h, llama.h
# Defaults of llama.h that the bindings were written for. Structs are passed by value, so a library of another version
# would read garbage without an error. These fields lie all along both structs: one at least then holds another value.
MODEL_DEFAULTS = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "main_gpu": 0,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
}
CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_orig_ctx": 0,
    "type_k": 1,
    "type_v": 1,
    "embeddings": False,
    "offload_kqv": True,
    "op_offload": True,
    "kv_unified": False,
    "n_samplers": 0,
}

# State of this process, for llama.cpp has one log and one backend in a process: the last lines of the log, the
# library's folder, and the log's callback. C holds only a pointer to the callback, so Python must keep it alive.
_log: list[str] = []
_loaded: dict[str, object] = {}


def load_bindings(folder: Path) -> ModuleType:
    """Import llama-cpp-python with the libllama in `folder`; llama.cpp's log is kept and not printed.

    Raises InputError when the library does not load or is not of the bindings' version, or when this process has
    loaded one from another folder.
    """
    if _loaded.setdefault("folder", folder) != folder:
        raise InputError(folder, "one libllama in a process", f"that of {_loaded['folder']} loaded before")
    os.environ[LIBRARY_VARIABLE] = str(folder)
    try:
        import llama_cpp  # here and not above: the import itself loads the library that the variable names
    except (OSError, RuntimeError, AttributeError) as error:  # not there, not loadable, a function is missing
        raise InputError(
            folder, f"libllama as {bindings_version()} knows it", str(error).splitlines()[0][:200], OWN_TOOLS
        ) from error
    if "callback" not in _loaded:
        _loaded["callback"] = llama_cpp.llama_log_callback(_keep_log)
        llama_cpp.llama_log_set(_loaded["callback"], None)
        llama_cpp.llama_backend_init()
    check_defaults(folder, llama_cpp.llama_model_default_params(), MODEL_DEFAULTS)
    check_defaults(folder, llama_cpp.llama_context_default_params(), CONTEXT_DEFAULTS)
    return llama_cpp


def check_defaults(folder: Path, params: ctypes.Structure, defaults: Mapping[str, float]) -> None:
    """Raise InputError when a default of the library in `folder` is not the one that the bindings were written for."""
    for name, value in defaults.items():
        if getattr(params, name) != value:
            raise InputError(
                folder,
                f"libllama as {bindings_version()} knows it ({name} {value})",
                f"one of another version ({name} {getattr(params, name)})",
                OWN_TOOLS,
            )


def bindings_version() -> str:
    """Return the name and version of the bindings."""
    return f"{BINDINGS} {importlib.metadata.version(BINDINGS)}"


def _keep_log(level: int, text: bytes, _: object) -> None:
    _log.append(text.decode(errors="replace"))
    del _log[:-50]


class GgufLogits:
    """A loaded GGUF model that returns its logits: exact attention, fp32 cache, one text at a time."""

    def __init__(self, path: Path, tools: LlamaCpp, *, context: int, threads: int, gpu_layers: int = 0) -> None:
        """Load a model for texts of up to `context` tokens; raise InputError when it is damaged or does not load."""
        self.path, self.context, self.model, self.state = path, context, None, None
        for part in split_paths(path):
            read_header(part)  # names what is wrong with a damaged file; llama.cpp says only that it cannot load it
        self.api = load_bindings(tools.library_folder)
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        _log.clear()
        self.model = self.api.llama_model_load_from_file(os.fsencode(path), params)
        if self.model:
            self.state = self.api.llama_init_from_model(self.model, self._context_params(context, threads))
        if not self.state:
            self.close()
            raise InputError(path, "a GGUF model that llama.cpp loads", last_words("".join(_log)))
        self.vocabulary: int = self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model))

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
            _log.clear()
            if code := self.api.llama_decode(self.state, batch):
                raise InputError(self.path, "logits", f"llama_decode code {code}: {last_words(''.join(_log))}")
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
