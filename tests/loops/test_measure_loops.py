"""The measurement with the real llama-server on a tiny random model: its answers never end well, and none is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import measure_loops
import quantize_gguf
from calls import call
from conftest import REPO
from files.json_records import read_json, read_record
from files.seals import BEGUN
from llama.llama_server import LlamaServer, server_command
from loops.loop_answers import loop_flags
from loops.loop_asking import ask_prompt
from loops.loop_classes import LoopAnswer, class_of_answer
from loops.loop_prompts import read_prompts, request_of
from loops.loop_results import LoopResults
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import link_f16, tiny_ggufs
from scoring import asked_servers, server_pool
from scoring.server_pool import AskedServer, ServerPool

import pytest

ASKED = ("rainbow", "one-word", "shopping", "converted", "list-changed")
SEEDS, MOST = 3, 24


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other on a loaded machine are slower than one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLAMA_ARG_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def folder(tiny_text_model, tmp_path_factory) -> Path:
    """A folder with two quants of the tiny model, and a few of the prompts."""
    folder, shared = tmp_path_factory.mktemp("loops"), tiny_ggufs(tmp_path_factory, tiny_text_model)
    link_f16(shared, folder / "F16.gguf")
    for name in ("imatrix.gguf", "imatrix.gguf.json"):
        (folder / name).symlink_to(shared / name)
    for quant in ("Q8_0", "Q4_0"):
        call(quantize_gguf.main, *quantize_arguments(folder, quant, folder / f"{quant}.gguf"))
    prompts = read_json(REPO / "data/loop_prompts.json")
    few = [prompt for prompt in prompts["prompts"] if prompt["id"] in ASKED]
    (folder / "prompts.json").write_text(json.dumps(prompts | {"prompts": few}))
    return folder


def arguments(folder: Path, output: Path, *more: object, seeds: int = SEEDS) -> list[str]:
    files = ["--gguf", folder / "Q8_0.gguf", folder / "Q4_0.gguf", "--prompts", folder / "prompts.json"]
    limits = ["--seeds", seeds, "--max-tokens", MOST, "--context", 1024]
    return list(map(str, [*files, *limits, "--answers", output / "answers", "--output", output / "loops.md", *more]))


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory) -> Path:
    """The output of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("measured")
    measure_loops.main(arguments(folder, output))
    return output


def recorded(output: Path) -> dict[str, bytes]:
    """The bytes of every file that a run has left, by name."""
    files = [path for path in output.rglob("*") if path.is_file() and path.name != BEGUN]  # random by design
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def test_a_random_model_runs_away(measured):
    results = read_record(measured / "loops.json", LoopResults)
    assert results["prompts"] == list(ASKED) and results["seeds"] == SEEDS and len(results["rows"]) == 2
    for row in results["rows"]:
        found = [kind for of_prompt in row["classes"] for kind in of_prompt]
        assert len(found) == len(ASKED) * SEEDS and set(found) <= {"length", "malformed"} and "length" in found
        assert row["rates"]["any failure"]["count"] == len(found) and row["rates"]["same call"]["answers"] == 2 * SEEDS
    assert "| Q8_0 | 100.0% (" in (measured / "loops.md").read_text()
    lines = [path.read_text().splitlines() for path in (measured / "answers").rglob("answers.jsonl")]
    assert len(lines) == 2 and all(len(each) == len(ASKED) * SEEDS for each in lines)
    assert all(json.loads(line)["tokens"] <= MOST for each in lines for line in each)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def lines_in(output: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (output / "answers").rglob("answers.jsonl"))


def wait_for_lines(output: Path, count: int, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while lines_in(output) < count:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def quiet(folder: Path, output: Path, *more: object) -> subprocess.Popen:
    """Start the measurement as the leader of a process group of its own."""
    command = [sys.executable, str(REPO / "scripts/measure_loops.py"), *arguments(folder, output, *more)]
    nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(command, start_new_session=True, **nothing)


@pytest.mark.parametrize("servers", [1, 2])
def test_killed_servers_and_runs_leave_the_same_bytes(folder, measured, tmp_path, servers):
    """One server or two, one of them killed, then the whole group of the run: what goes on ends alike."""
    several = ["--local-servers", servers]
    with quiet(folder, tmp_path, *several) as run:
        wait_for_lines(tmp_path, 2, run)
        os.kill(children(run.pid)[-1], signal.SIGKILL)  # a server: the run starts another
        wait_for_lines(tmp_path, 7, run)
        of_run = children(run.pid)
        os.killpg(run.pid, signal.SIGKILL)
    assert not (tmp_path / "loops.md").exists()
    with open(next((tmp_path / "answers").rglob("answers.jsonl")), "ab") as file:
        file.write(b'{"prompt": "rain')  # half a line
    measure_loops.main(arguments(folder, tmp_path, *several))
    assert recorded(tmp_path) == recorded(measured)
    end = time.monotonic() + 60  # the kernel ends them, and process 1 clears them away when it comes to it
    while left := [pid for pid in of_run if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"servers that outlive their run: {left}"
        time.sleep(0.05)


def test_a_frozen_server_of_two_is_started_again(folder, measured, tmp_path, monkeypatch):
    monkeypatch.setattr(server_pool, "WATCH_SECONDS", 1)
    monkeypatch.setattr(server_pool, "SILENT_SECONDS", 3)
    frozen = []

    def freeze() -> None:
        while lines_in(tmp_path) < 3:
            time.sleep(0.01)
        frozen.append(next(pid for pid in children(os.getpid()) if b"llama-server" in name_of(pid)))
        os.kill(frozen[0], signal.SIGSTOP)

    thread = threading.Thread(target=freeze, daemon=True)
    thread.start()
    measure_loops.main(arguments(folder, tmp_path, "--local-servers", 2))
    thread.join()
    assert recorded(tmp_path) == recorded(measured) and frozen


def test_a_call_of_the_real_server_is_recorded_as_one(folder, tools, tmp_path):
    """Told that it must call, even a random model names an offered tool; what it passes does not fit the tool."""
    prompts = read_prompts(folder / "prompts.json")
    prompt = next(prompt for prompt in prompts.prompts if prompt.id == "shopping")
    flags = loop_flags({"context": 1024, "gpu_layers": 0}, 600)
    gguf, calls = folder / "Q8_0.gguf", []
    command = server_command(tools.tool("llama-server"), gguf, "tiny", 0, flags)

    async def ask(server: LlamaServer) -> list[LoopAnswer]:
        body = {**request_of(prompt, prompts.tools), "tool_choice": "required", "max_tokens": 96}
        async with ServerPool([AskedServer("local 1", own=server)], 1, 600).opened() as pool:
            return [await ask_prompt(pool, {**body, "seed": seed}, prompt, seed) for seed in range(4)]

    with LlamaServer(command, gguf, tmp_path / "server.log") as server:
        for answer in asyncio.run(ask(server)):
            calls += answer.calls
            assert class_of_answer(answer, prompt, prompts.tools) in {"same block", "length", "malformed"}
    assert calls and all(call.name in prompt.tools and call.arguments.startswith("{") for call in calls)


def test_what_is_recorded_is_not_asked_again(folder, measured, tmp_path, monkeypatch):
    subprocess.run(["cp", "-r", f"{measured}/answers", tmp_path], check=True)
    before = recorded(tmp_path)
    monkeypatch.setattr(asked_servers, "LlamaServer", None)  # to start one would fail
    measure_loops.main(arguments(folder, tmp_path))
    assert recorded(tmp_path) == recorded(measured)
    measure_loops.main(arguments(folder, tmp_path, seeds=2))  # fewer seeds are the first of them
    assert {name: recorded(tmp_path)[name] for name in before} == before
    assert read_record(tmp_path / "loops.json", LoopResults)["seeds"] == 2
    with pytest.raises(TypeError):
        measure_loops.main(arguments(folder, tmp_path, "--again"))
    assert lines_in(tmp_path) == len(ASKED) * SEEDS  # those of the second file


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"seed": 42', b'"seed": 43', "line 1: expected the answer to rainbow with seed 42"),
        (b'"tokens": ', b'"tokens": "few", "x": ', "expected a recorded answer whose 'tokens' is"),
        (b'{"prompt"', b'["prompt"', "line 1: expected a recorded answer"),
    ],
)
def test_a_damaged_record_is_refused(folder, measured, tmp_path, refusal, old, new, words):
    subprocess.run(["cp", "-r", f"{measured}/answers", tmp_path], check=True)
    for path in (tmp_path / "answers").rglob("answers.jsonl"):
        path.write_bytes(path.read_bytes().replace(old, new, 1))
    line = refusal(measure_loops.main, arguments(folder, tmp_path), words, "answers.jsonl")
    assert line.endswith("run `make loops REPLACE=loops`") and not (tmp_path / "loops.md").exists()


def test_a_file_without_its_record_is_refused(folder, tmp_path, refusal):
    (tmp_path / "Q8_0.gguf").write_bytes((folder / "Q8_0.gguf").read_bytes())
    asked = [*arguments(folder, tmp_path), "--gguf", str(tmp_path / "Q8_0.gguf")]
    refusal(measure_loops.main, asked, "Q8_0.gguf.json")
