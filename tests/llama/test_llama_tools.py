"""Running llama.cpp's tools: the line shown of a failed one says why, and a tool ends with the command that runs it."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from conftest import REPO
from files.input_errors import InputError
from ggufs.gguf_header import read_header, write_header_only
from llama.llama_server import server_environment
from llama.llama_tools import BUILT_TOOLS, LlamaCpp, converter_command, find_llama_cpp, how_ended, last_words, run_tool
from makers.shared_ggufs import demo_ggufs, tiny_ggufs

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
        (
            "terminate called after throwing an instance of 'std::length_error'\n  what():  too long",
            "what():  too long",
        ),
        ("", "no output"),
    ],
)
def test_the_line_shown_of_a_failed_tool_says_why(output, shown):
    assert last_words(output).startswith(shown)


def test_a_line_is_not_shown_without_end():
    assert len(last_words("error " * 1000)) == 300


MISSING = "blk.0.attn_k.weight"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, tiny_text_model) -> Path:
    """A folder with a good F16.gguf of a tiny model and what is wrong: see FAILURES."""
    folder, shared = tmp_path_factory.mktemp("damaged"), tiny_ggufs(tmp_path_factory, tiny_text_model)
    content = (shared / "F16.gguf").read_bytes()
    (folder / "F16.gguf").write_bytes(content)
    shutil.copy(demo_ggufs(tmp_path_factory) / "F16.gguf", folder / "demo.gguf")
    (folder / "cut.gguf").write_bytes(content[:-100_000])
    (folder / "text.gguf").write_text("no GGUF file")
    (folder / "text.txt").write_bytes((shared / "text.txt").read_bytes())
    header = read_header(folder / "F16.gguf")
    rows = [
        (tensor.name, (tensor.dims[0], 9) if tensor.name == "token_embd.weight" else tensor.dims, tensor.kind)
        for tensor in header.tensors
    ]
    write_header_only(header, [pair.raw for pair in header.key_values], rows, folder / "rows.gguf")
    matrix = read_header(demo_ggufs(tmp_path_factory) / "imatrix.gguf")
    lacking = [
        (tensor.name, tensor.dims, tensor.kind) for tensor in matrix.tensors if not tensor.name.startswith(MISSING)
    ]
    write_header_only(matrix, [pair.raw for pair in matrix.key_values], lacking, folder / "imatrix.gguf")
    return folder


SERVE = ("llama-server", "--port", "0", "--no-ui", "-m")
FAILURES = {
    "a cut file, quantised": (("llama-quantize", "cut.gguf", "o.gguf", "Q8_0"), "data is not within the file bounds"),
    "a cut file, served": ((*SERVE, "cut.gguf"), "data is not within the file bounds"),
    "too few rows for the vocabulary": ((*SERVE, "rows.gguf"), "tensor 'token_embd.weight' has wrong shape"),
    "no GGUF file": ((*SERVE, "text.gguf"), "invalid magic characters"),
    "an unknown quant": (("llama-quantize", "F16.gguf", "o.gguf", "Q99"), "invalid ftype 'Q99'"),
    "an unknown type": (("llama-quantize", "--tensor-type", "x=q99", "F16.gguf", "o.gguf", "Q8_0"), "'q99'"),
    "an unknown cache type": ((*SERVE, "F16.gguf", "-ctk", "q99"), "Unsupported cache type: q99"),
    "no memory for the context": (
        (*SERVE, "F16.gguf", "-c", "20000000", "-fit", "off"),
        "llama_init_from_model: failed to initialize the context: ",
    ),
    "no imatrix": (("llama-quantize", "demo.gguf", "o.gguf", "IQ2_XXS"), "requires an imatrix"),
    "a missing entry of the imatrix": (
        ("llama-quantize", "--imatrix", "imatrix.gguf", "demo.gguf", "o.gguf", "IQ2_XXS"),
        f"Missing importance matrix for tensor {MISSING}",
    ),
    "an imatrix that is not there": (
        ("llama-quantize", "--imatrix", "none.gguf", "demo.gguf", "o.gguf", "Q4_K_M"),
        "none.gguf",  # llama-quantize ends before or after its last line, which says the same in other words
    ),
    "no text": (("llama-imatrix", "-m", "F16.gguf", "-f", "none.txt", "-o", "o"), "failed to open file 'none.txt'"),
    "bad JSON": ((*SERVE, "F16.gguf", "--chat-template-kwargs", "{bad"), "syntax error while parsing object key"),
}


def little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))


@pytest.mark.parametrize("failure", FAILURES)
def test_real_failures_of_the_real_tools_show_why(damaged, tools, failure):
    (name, *arguments), reason = FAILURES[failure]
    done = subprocess.run(
        [tools.tool(name), *arguments],
        cwd=damaged,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=little_memory,
        timeout=60,
    )
    assert done.returncode != 0 and reason in last_words(done.stdout), done.stdout[-3000:]


def test_the_converter_s_failure_shows_why_by_its_own_name(tools, tiny_text_model, tmp_path):
    (tmp_path / "config.json").write_text((tiny_text_model / "config.json").read_text().replace("Gemma4", "Nonsense"))
    command = converter_command(tools, tmp_path, "nonsense", tmp_path / "o.gguf", "f16")
    with pytest.raises(InputError, match=r"^convert_hf_to_gguf\.py: .* code 1: .*NonsenseForCausalLM is not supported"):
        run_tool(command, cwd=tmp_path, what="test", step="x")


def run_python(code: str) -> None:
    run_tool([sys.executable, "-c", code], cwd=Path.cwd(), what="test", step=r"\[(\d+)/(\d+)\]")


def test_a_tool_that_fails_is_named_with_its_exit_and_its_reason():
    with pytest.raises(InputError, match=r"^-c: expected success, found exit code 3: out of luck, an error"):
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


def test_the_digest_of_a_build_shows_another_llama_server(tools, tmp_path):
    """A script can print the version of the real one; links to the real tools beside it do not hide it."""
    real, found = find_llama_cpp(None), LlamaCpp(tmp_path)
    (tmp_path / "bin").mkdir()
    for name in BUILT_TOOLS:
        (tmp_path / "bin" / name).symlink_to(real.tool(name))
    assert found.digest() == real.digest()
    server = tmp_path / "bin/llama-server"
    server.unlink()
    server.write_text(f'#!/bin/sh\nexec {real.tool("llama-server")} "$@"\n')
    server.chmod(0o755)
    assert real.version().startswith(found.version()) and found.digest() != real.digest()
    for name in ("llama-quantize", "llama-imatrix"):
        (tmp_path / "bin" / name).unlink()
    assert found.digest()  # of a machine that only answers


def test_options_in_the_environment_change_no_result(tmp_path, monkeypatch):
    monkeypatch.setenv("LLAMA_ARG_ROPE_FREQ_BASE", "10")
    monkeypatch.setenv("LLAMA_ARG_THREADS", "2")
    shown = run_tool(["env"], cwd=tmp_path, what="test", step="no such step")
    assert "LLAMA_ARG_THREADS=2" in shown and "ROPE_FREQ_BASE" not in shown


def test_a_file_of_options_in_the_user_s_home_is_not_looked_for(tmp_path, monkeypatch):
    """llama.cpp/config.ini there: scores were published of a server with another rope."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert f"XDG_CONFIG_HOME={os.devnull}" in run_tool(["env"], cwd=tmp_path, what="test", step="no such step")
    assert server_environment(dict(os.environ))["XDG_CONFIG_HOME"] == os.devnull


def test_a_shell_without_a_path_is_told(monkeypatch):
    """As from a service that sets none."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(InputError, match="build_llama_cpp.sh: expected a shell in which it runs, found .*; set PATH"):
        find_llama_cpp(None)


def test_without_proc_the_tools_are_not_built_anew(without_proc):
    """Their folder's name holds what the processor can do; another name would be another ten minutes of building."""
    done = without_proc(REPO / "scripts/build_llama_cpp.sh", "--where")
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch("error: /proc/cpuinfo: expected what .*, found no such file; mount .*\n", done.stderr)
