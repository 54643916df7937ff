"""What a command does before it imports a package of others: every room that imports one comes by here first.

Ctrl-C ends it at once, nothing looks for garbage, and an environment that lacks a package is refused in one line. It
can be made to end with the process that started it.

Modes of libraries and options of llama.cpp's tools that the environment can set change results, not records. They are
taken out of it before a library reads them, so they reach no tool, either. What says where the work is done, with how
much memory, or what is logged stays. So does what loads other code (LD_PRELOAD, PYTHONPATH, GGML_BACKEND_PATH), or
takes that of another processor (ATEN_CPU_CAPABILITY): docs/release-and-ollama.md says why.
"""

import ctypes
import gc
import importlib.util
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from pathlib import Path

# oneDNN's products in bf16, TF32 of NVIDIA's libraries, MKL's branches and llama.cpp's options among others.
FAMILIES = ("LLAMA_", "GGML_", "ONEDNN_", "DNNL_", "CUBLAS_", "NVIDIA_TF32_", "TQDM_")
# Those of the second line end an import where they are odd; pictures are drawn without a screen anyhow.
MODES = (
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
    *("MPLBACKEND", "TORCH_LOGS", "PYTORCH_JIT"),
)
PLACEMENT = {
    f"LLAMA_ARG_{name}"
    for name in ("THREADS", "DEVICE", "MAIN_GPU", "SPLIT_MODE", "TENSOR_SPLIT", "CPU_MOE", "N_CPU_MOE", "MLOCK", "FIT")
}
PLACEMENT |= {"GGML_CUDA_ENABLE_UNIFIED_MEMORY", "GGML_CUDA_NO_PINNED", "GGML_VK_VISIBLE_DEVICES"}
KEPT = PLACEMENT | {
    *("LLAMA_CPP", "LLAMA_CPP_LIB_PATH", "GGML_BACKEND_PATH", "GGML_NO_BACKTRACE", "CUBLAS_WORKSPACE_CONFIG"),
    *("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "ONEDNN_VERBOSE", "DNNL_VERBOSE"),
    "TQDM_DISABLE",  # whether there are bars; odd ones of the others end the import of tqdm
}
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # of the user, for the Hub alone
PR_SET_PDEATHSIG = 1  # of prctl(2)


def is_mode(name: str) -> bool:
    """Tell whether a variable of the environment could change a result behind its record's back."""
    return name in MODES or name.startswith(FAMILIES) and name not in KEPT


def without_modes(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a tool; llama.cpp finds no file of options in it (llama.cpp/config.ini)."""
    kept = {name: value for name, value in environment.items() if not is_mode(name)}
    return kept | {"XDG_CONFIG_HOME": os.devnull}


def remove_modes(environment: MutableMapping[str, str]) -> None:
    """Take the modes out of the environment of this process."""
    for name in [name for name in environment if is_mode(name)]:
        del environment[name]


def die_with_parent(number: int = signal.SIGKILL, parent: int | None = None) -> None:
    """Ask Linux to send this process a signal when its parent dies, so that a killed command leaves none at work.

    parent: which one that is, where it is known: if it has died before it could be asked, this process ends.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def dying_with_parent() -> Callable[[], None]:
    """Return what a process that this one starts calls first (preexec_fn), so that it dies with this one."""
    return partial(die_with_parent, parent=os.getpid())


def is_command() -> bool:
    """Tell whether this process is one of our commands, and no other program that imports a room."""
    started = getattr(sys.modules["__main__"], "__file__", None)
    return started is not None and Path(started).resolve().is_relative_to(Path(__file__).resolve().parents[1])


remove_modes(os.environ)
IS_COMMAND = is_command()
# Nothing is open yet that needs tidying up, and an exception in the midst of an import would print a stack. `run` turns
# Ctrl-C into KeyboardInterrupt again. Where it is ignored (nohup), it stays so, and pytest keeps its own handler.
if INTERRUPTIBLE := IS_COMMAND and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# All that is imported stays. With torch and transformers, a quarter of the time went into going through it again and
# again for what could be freed.
if IS_COMMAND:
    gc.disable()
# What the commands import: `make setup` installs all of it. Another project's environment
# may have some of these. Looked up and not imported, so nothing is loaded for it.
PACKAGES = (
    *("aiohttp", "bokeh", "gguf", "httpx2", "huggingface_hub", "jinja2", "langdetect", "llama_cpp", "lm_eval"),
    *("markupsafe", "matplotlib", "nltk", "numpy", "pyarrow", "pydantic", "safetensors", "scipy", "tokenizers"),
    *("torch", "tqdm", "transformers", "yaml"),
)
if absent := [package for package in PACKAGES if importlib.util.find_spec(package) is None]:
    more = "" if len(absent) == 1 else f" and {len(absent) - 1} more"
    sys.exit(
        f"error: {sys.executable}: expected this project's environment, found one without {absent[0]}{more}; "
        f"run `make setup`, then .venv/bin/python {sys.argv[0]}"
    )


# Of a Hub: scheme, host, port, path.
ADDRESS = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?(?:/[A-Za-z0-9._~/-]*)?")
PROXIES = [name for upper in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY") for name in (upper, upper.lower())]
# Of a proxy, with the signs that RFC 3986 lets a user's name and password have. Another one in a password would end it
# early, and the rest would stand in a library's message.
PROXY = re.compile(
    r"(?:(?i:(?:https?|socks5h?)://)?(?:[A-Za-z0-9._~!$&'()*+,;=:%-]*@)?|[A-Za-z0-9]+://)"  # GNOME: socks://host
    r"(?:[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>\d{1,5}))?/?"
)


def is_proxy(text: str) -> bool:
    """Tell whether a proxy is written so that every library reads it, and none shows its password in a message."""
    if not (found := PROXY.fullmatch(text)) or int(found["port"] or 0) >= 1 << 16:
        return False
    try:
        socket.inet_pton(socket.AF_INET6, found["v6"] or "::1")
    except OSError:
        return False
    return True


def unreadable_setting(environment: Mapping[str, str]) -> str:
    """Return what is wrong with a variable of the Hub's client, nothing where all can be read and shown.

    Some would end its import, and of some a library's message would show a password.
    """
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        if not (environment.get(name) or "0").isdecimal():
            return f"{name}: expected whole seconds, found something else"
    # No other form is safe to show, and this one stands in messages, and as the source of what is downloaded.
    address = ADDRESS.fullmatch(environment.get("HF_ENDPOINT") or "https://huggingface.co")
    if not address or int(address["port"] or 0) >= 1 << 16:
        form = "an address such as https://hub.example:8443/path, without a user's name, password or query"
        return f"HF_ENDPOINT: expected {form}, found another"
    for name in PROXIES:
        if (proxy := environment.get(name)) and not is_proxy(proxy):
            form = "a proxy as http://HOST:PORT, signs of a password as %2F and the like"
            return f"{name}: expected {form}, found another"
    return ""


# torch makes this folder when a model is imported, also where it compiles nothing: in the temporary directory, where it
# stays, has the user's name, and may be a neighbour's.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", sys.prefix)
if IS_COMMAND and (wrong := unreadable_setting(os.environ)):
    sys.exit(f"error: {wrong}")


def collect_garbage_again() -> None:
    """Free what nobody can reach from now on; what was imported is not looked at again."""
    if IS_COMMAND:
        gc.freeze()
        gc.enable()
