"""Loading a GGUF file as llama.cpp does, without its data: a moment and little memory, whatever the file's size.

libllama's own loader reads header and vocabulary and compares the shape and place of every tensor with what the
architecture needs, and a context plans the whole computation, but nothing is allocated (`no_alloc`). It runs in a
process of its own, because a failed assertion of llama.cpp ends the process that it happens in.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from files.input_errors import InputError
from files.safe_files import run
from llama.bindings import LOG, load_bindings
from llama.llama_tools import NO_BACKTRACE, SCRIPTS, LlamaCpp, how_ended, last_words

NOT_LOADED = 3  # exit code of the process that loads
LOADABLE = "a GGUF model that llama.cpp loads"
CONTEXT_TOKENS = 64  # of the planned computation


def check_library_loads(gguf: Path, tools: LlamaCpp, named: Path) -> bool:
    """Raise InputError with llama.cpp's reason when libllama does not load a file; named: the file, in the message.

    Returns whether it was tried: False where the tools have no libllama or one that the bindings do not know.
    """
    try:
        command = [sys.executable, "-m", "llama.load_check", str(tools.library_folder), str(gguf.resolve())]
    except InputError:  # a static build: there is no libllama
        return False
    done = subprocess.run(
        command, cwd=SCRIPTS, env=os.environ | NO_BACKTRACE, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode == NOT_LOADED or done.returncode < 0:
        ended = "" if done.returncode == NOT_LOADED else f"{how_ended(done.returncode)}: "
        raise InputError(named, LOADABLE, ended + last_words(done.stdout + done.stderr))
    return done.returncode == 0


def count_tokens(tools: LlamaCpp, model: Path, text: bytes) -> int:
    """Return the number of tokens of a text file's bytes as llama-imatrix reads them, without a newline at the end.

    Raises InputError when libllama or the model cannot be used.
    """
    with vocabulary(tools, model) as tokens_of:
        return len(tokens_of(text.removesuffix(b"\n"), True))


@contextmanager
def vocabulary(tools: LlamaCpp, model: Path) -> Iterator[Callable[[bytes, bool], list[int]]]:
    """Load a model's vocabulary; yield what gives the tokens of a text whose special tokens are written out.

    Its second argument: with those that llama.cpp adds to every text. Raises InputError when libllama or the model
    cannot be used.
    """
    api = load_bindings(tools.library_folder)
    params = api.llama_model_default_params()
    params.vocab_only = True
    loaded = api.llama_model_load_from_file(os.fsencode(model), params)
    if not loaded:
        raise InputError(model, "a GGUF model whose vocabulary llama.cpp loads", "another one")

    def tokens_of(text: bytes, framed: bool) -> list[int]:
        # With room for no token at all the call returns the number that it would have written, as a negative one.
        of_text = (api.llama_model_get_vocab(loaded), text, len(text))
        tokens = (ctypes.c_int32 * -api.llama_tokenize(*of_text, None, 0, framed, True))()
        api.llama_tokenize(*of_text, tokens, len(tokens), framed, True)
        return list(tokens)

    try:
        yield tokens_of
    finally:
        api.llama_model_free(loaded)


def main() -> None:
    """Load argument 2 with the libllama in argument 1; exit with NOT_LOADED, the log printed, when it is refused."""
    api = load_bindings(Path(sys.argv[1]))
    params = api.llama_model_default_params()
    params.no_alloc, params.load_mode, params.n_gpu_layers = True, api.LLAMA_LOAD_MODE_NONE, 0
    LOG.clear()
    model = api.llama_model_load_from_file(os.fsencode(sys.argv[2]), params)
    of_context = api.llama_context_default_params()
    of_context.n_ctx = of_context.n_batch = of_context.n_ubatch = CONTEXT_TOKENS
    state = api.llama_init_from_model(model, of_context) if model else None
    if not state:
        print("".join(LOG))
        sys.exit(NOT_LOADED)
    api.llama_free(state)
    api.llama_model_free(model)


if __name__ == "__main__":
    run(main)
