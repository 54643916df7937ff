"""Whether llama.cpp loads a GGUF file: asked of libllama by load_check.py where it can be, else of llama-server."""

import tempfile
from pathlib import Path

from files.input_errors import InputError
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp, last_words
from llama.load_check import LOADABLE, check_library_loads

# A server on the CPU with next to no context, for a llama.cpp of another version than the bindings'.
SERVER_FLAGS = ["-c", "64", "-b", "64", "-np", "1", "-ngl", "0", "--device", "none", "-fit", "off", "--no-warmup"]


def check_loads(gguf: Path, tools: LlamaCpp, named: Path) -> bool:
    """Raise InputError with llama.cpp's reason when it does not load a file; named: the file, in the message.

    Where the bindings do not know the tools' libllama, llama-server loads the file, data included. Returns whether they
    know it.
    """
    known = check_library_loads(gguf, tools, named)
    if not known:
        _check_serves(gguf, tools, named)
    return known


def _check_serves(gguf: Path, tools: LlamaCpp, named: Path) -> None:
    command = server_command(tools.tool("llama-server"), gguf, "check", 0, SERVER_FLAGS)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        try:
            with LlamaServer(command, gguf, log):
                pass
        except InputError as error:
            # Without a log the server was never started: what we look at before it has refused the file.
            found = last_words(log.read_text(errors="replace")) if log.exists() else str(error)
            raise InputError(named, LOADABLE, found) from error
