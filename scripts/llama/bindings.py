"""llama.cpp's C interface in Python: llama-cpp-python with the libllama of the built tools.

llama-cpp-python (https://github.com/abetlen/llama-cpp-python) declares the interface. It is installed without a library
of its own and loads the libllama that LLAMA_CPP_LIB_PATH names.
"""

import ctypes
import importlib.metadata
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from files.input_errors import InputError

BINDINGS = "llama-cpp-python"
OWN_TOOLS = "unset LLAMA_CPP to use the tools that `make setup` builds"
LIBRARY_VARIABLE = "LLAMA_CPP_LIB_PATH"
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
LOG: list[str] = []
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
    LOG.append(text.decode(errors="replace"))
    del LOG[:-50]
