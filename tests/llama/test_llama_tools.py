"""Running llama.cpp's tools: the line shown of a failed one says why, and a tool ends with the command that runs it."""

import subprocess
import sys
import time
from pathlib import Path

from conftest import REPO
from files.safe_files import InputError
from llama.llama_tools import how_ended, last_words, run_tool

import pytest

CONTROL = (
    "load: control-looking token:     14 '<|tool_response>' was not control-type; this is probably a bug in the model. "
    "its type will be overridden"
)
# What the tools print, shortened.
TOO_SHORT = f"""
0.00.039.675 W {CONTROL}
0.00.051.463 I
0.00.051.797 I compute_imatrix: tokenizing the input ..
0.00.054.645 E compute_imatrix: you need at least 1024 tokens for a context of 512 tokens
0.00.054.670 E compute_imatrix: the data file you provided tokenizes to only 1004 tokens
0.00.054.701 W common_memory: unable to print the breakdown
"""
NOT_LOADED = """
0.00.002.579 W srv  llama_server: security: no API key is set and CORS allows all origins
0.00.015.283 E llama_model_load: error loading model: unknown model architecture: 'nonsense'
0.00.015.313 E llama_model_load_from_file_impl: failed to load model
0.00.015.354 E common_fit_params: encountered an error while trying to fit params to free device memory: failed to load
0.00.016.997 E cmn  common_init_: failed to load model 'arch.gguf'
0.00.017.003 E srv    load_model: failed to load model, 'arch.gguf'
0.00.017.653 E srv  llama_server: exiting due to model loading error
"""
NOT_QUANTISED = """
warning: blk.0.ffn_down_exps.weight - ncols 704 not divisible by 256 (required for type q4_K) - failed to keep it
llama_model_quantize: failed to quantize: tensor 'blk.2.attn_q.weight' data is not within the file bounds
llama_quantize: failed to quantize model from 'cut.gguf'
"""
ABORTED = """
0.00.011.802 I load: special tokens cache size = 17
/src/ggml/src/ggml.c:1234: GGML_ASSERT(ne > 0) failed
#0  0x00007f in ggml_abort () error
#1  0x00007f in main ()
"""
NO_LEVELS = f"""
{CONTROL}
load: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect
load: control token:     10 '<|tool>' is not marked as EOG
llama_init_from_model: failed to initialize the context: no memory
load: special_eog_ids contains an invalid token: missing
"""


@pytest.mark.parametrize(
    "output, shown",
    [
        (TOO_SHORT, "compute_imatrix: the data file you provided tokenizes to only 1004 tokens"),
        (NOT_LOADED, "llama_model_load: error loading model: unknown model architecture: 'nonsense'"),
        (
            NOT_QUANTISED,
            "llama_model_quantize: failed to quantize: tensor 'blk.2.attn_q.weight' data is not within the file bounds",
        ),
        (ABORTED, "/src/ggml/src/ggml.c:1234: GGML_ASSERT(ne > 0) failed"),
        (NO_LEVELS, "llama_init_from_model: failed to initialize the context: no memory"),
        ("0.00.1.1 E srv  llama_server: exiting due to model loading error", "srv  llama_server: exiting due to model"),
        (f"0.00.0.1 I loading\n0.00.0.2 W {CONTROL}", "loading"),  # no error: a warning only if there is nothing else
        (f"first\n{CONTROL}", "first"),
        (CONTROL, CONTROL),
        ("", "no output"),
    ],
)
def test_the_line_shown_of_a_failed_tool_says_why(output, shown):
    assert last_words(output).startswith(shown)


def test_a_line_is_not_shown_without_end():
    assert len(last_words("error " * 1000)) == 300


def run_python(code: str) -> None:
    run_tool([sys.executable, "-c", code], cwd=Path.cwd(), what="test", step=r"\[(\d+)/(\d+)\]")


def test_a_tool_that_fails_is_named_with_its_exit_and_its_reason():
    with pytest.raises(InputError, match=r"python.*: expected success, found exit code 3: out of luck, an error"):
        run_python(f"print('[1/2] out of luck, an error'[6:]); print({CONTROL!r}); raise SystemExit(3)")
    with pytest.raises(InputError, match=r"an end by SIGTERM \(Terminated\): no output"):
        run_python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
    run_python("print('[1/2] error: only a word'); print('[2/2]')")
    assert how_ended(1) == "exit code 1"


def test_a_tool_ends_with_the_command_that_runs_it(tmp_path):
    pid_file = tmp_path / "pid"
    tool = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom llama.llama_tools import run_tool\n"
        "run_tool([sys.executable, '-c', sys.argv[2]], cwd=Path.cwd(), what='test', step='x')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, REPO / "scripts", tool], stderr=subprocess.DEVNULL)
    while not pid_file.exists() or not pid_file.read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    status, deadline = Path(f"/proc/{pid_file.read_text()}/status"), time.monotonic() + 30
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
