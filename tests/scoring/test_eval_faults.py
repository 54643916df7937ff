"""Faults of an evaluation, with the real llama-server and lm-eval on the demo model: the same scores, or one line."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path

import convert_to_gguf
import freeze_questions
from calls import ON_A_PORT
from conftest import REPO
from files.json_records import read_record
from llama.llama_server import LlamaServer, authorization, request_json, server_command, server_environment
from makers.asked_pool import answers_of
from makers.damaged_models import always_saying, never_saying
from makers.shared_ggufs import demo_ggufs, link_f16
from scoring import server_pool
from scoring.answer_proxy import AnswerProxy
from scoring.answer_record import Answer, prompt_sha256, read_answers
from scoring.eval_protocol import Protocol
from scoring.lm_eval_samples import read_frozen
from scoring.run_files import ANSWERS
from scoring.score_records import Summary
from scoring.server_pool import AskedServer, ServerPool
from servers.faulty_server import PARSER

import aiohttp
import psutil
import pytest

FEW, QUESTIONS = 2, 24  # the demo answers ten per second: with fewer a kill may come too late
# A key would have every request turned away; a proxy (here: none listens) would get them instead of the server.
HOSTILE = {"LLAMA_API_KEY": "x", **dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")}


def convert(model: Path, gguf: Path) -> Path:
    convert_to_gguf.main(["--model", str(model), "--name", gguf.stem, "--output", str(gguf)])
    return gguf


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Path:
    """A directory with the demo's F16 GGUF and its first questions."""
    directory = tmp_path_factory.mktemp("faults")
    lines = (REPO / "data/demo/eval_questions.csv").read_text().splitlines(keepends=True)
    for count in (FEW, QUESTIONS):
        (directory / f"{count}.csv").write_text("".join(lines[: count + 1]))
    link_f16(demo_ggufs(tmp_path_factory), directory / "demo.gguf")
    return directory


def environment(workshop: Path, output: Path, questions: int, tokenizer: Path, **changes: object) -> dict[str, str]:
    values = {
        "QUESTIONS": workshop / f"{questions}.csv",
        "TOKENIZER": tokenizer,
        "OUTPUT": output,
        "CTX": 1024,
        "REASONING_BUDGET": 512,
        "MAX_GEN_TOKS": 64,
        "PYTHON": sys.executable,
        **changes,
    }
    return {**os.environ, **{key: str(value) for key, value in values.items()}}


def start(gguf: Path, variables: dict[str, str], **how: object) -> psutil.Popen:
    return psutil.Popen(
        [REPO / "scripts/eval_gpqa_v3.sh", gguf.stem, gguf],
        env=variables,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **how,
    )


def finish(process: psutil.Popen) -> subprocess.CompletedProcess:
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def wait_for_answers(process: psutil.Popen, output: Path, count: int) -> list[psutil.Process]:
    """Wait until so many answers are recorded; return the processes that the evaluation has started."""
    path = output / "answers.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    return process.children(recursive=True)


def name_of(process: psutil.Process) -> str:
    """A process's name, "" for one that has ended since it was listed."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def servers(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if name_of(process) == "llama-server"]


def summary_of(output: Path) -> dict:
    content = read_record(output / "summary.json", Summary)
    for answer in content["answers"]:
        del answer["seconds"], answer["attempts"]
    return content


@pytest.fixture(scope="session")
def undisturbed(workshop, demo_model, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """An evaluation that nothing disturbs but keys and proxies in its environment: its directory, and how it ended."""
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    variables = environment(workshop, output, QUESTIONS, demo_model, **HOSTILE)
    return output, finish(start(workshop / "demo.gguf", variables))


def test_keys_and_proxies_of_the_environment_change_nothing(undisturbed):
    output, done = undisturbed
    assert done.returncode == 0 and "0 invalid" in done.stdout, done.stderr
    for word in (f"answered {QUESTIONS}/{QUESTIONS}", "right", "invalid", "tokens/s", "left"):
        assert word in done.stderr
    assert summary_of(output)["questions"] == QUESTIONS
    assert not any(answer.errors for answer in read_answers(output / "answers.jsonl").values())


def test_a_killed_server_and_a_killed_evaluator_change_nothing(undisturbed, workshop, demo_model, tmp_path, tools):
    gguf, run = workshop / "demo.gguf", tmp_path / "run"
    variables = environment(workshop, run, QUESTIONS, demo_model)
    # A server of somebody else's, on the same model, must outlive all of it.
    command = server_command(tools.tool("llama-server"), gguf, "other", 0, [*ON_A_PORT, "-c", "256"])
    with LlamaServer(command, gguf, tmp_path / "bystander.log") as bystander:
        with pytest.raises(urllib.error.HTTPError, match="401"):  # who does not know its key
            request_json(f"{bystander.url}/completion", {"prompt": "x", "n_predict": 1})
        process = start(gguf, variables)
        (server,) = servers(wait_for_answers(process, run, 6))
        server.kill()
        running = wait_for_answers(process, run, 12)
        assert len(servers(running)) == 1 and server.pid != servers(running)[0].pid
        process.kill()
        process.wait()
        assert not psutil.wait_procs(running, timeout=10)[1]
        before = (run / "answers.jsonl").read_bytes()
        assert not (run / "summary.json").exists() and not (run / "lm_eval").exists()
        (run / "answers.jsonl").write_bytes(before + b'{"record_id": "cut')  # as a kill amid a line leaves it
        done = finish(start(gguf, variables))
        assert done.returncode == 0, done.stderr
        assert bystander.alive
    assert (run / "answers.jsonl").read_bytes().startswith(before)  # nothing was asked again
    assert answers_of(run / ANSWERS) == answers_of(undisturbed[0] / ANSWERS) and summary_of(run) == summary_of(
        undisturbed[0]
    )
    assert any(answer.errors for answer in read_answers(run / "answers.jsonl").values())


def test_ctrl_c_ends_it_in_silence_and_leaves_nothing_running(workshop, demo_model, tmp_path):
    """As a terminal does it: SIGINT to every process of the foreground."""
    process = start(
        workshop / "demo.gguf",
        environment(workshop, tmp_path / "run", QUESTIONS, demo_model),
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    running = wait_for_answers(process, tmp_path / "run", 3)
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr
    assert not psutil.wait_procs(running, timeout=10)[1]
    answers = read_answers(tmp_path / "run/answers.jsonl").values()
    assert len(answers) >= 3 and not any(answer.errors for answer in answers)


def test_a_second_run_is_refused_and_a_terminated_one_leaves_no_server(workshop, demo_model, tmp_path, refused):
    gguf, run = workshop / "demo.gguf", tmp_path / "run"
    variables = environment(workshop, run, FEW, demo_model)
    process = start(gguf, variables)
    while not servers(running := process.children(recursive=True)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    for other in (variables, environment(workshop, run, QUESTIONS, demo_model)):
        refused(finish(start(gguf, other)), run, "no other run is writing")
    process.terminate()
    process.wait()
    assert not psutil.wait_procs(running, timeout=10)[1]


def ask_directly(
    workshop: Path,
    gguf: Path,
    output: Path,
    tools,
    protocol: Protocol,
    count: int,
    on_answer: Callable[[Answer, LlamaServer], None] = lambda answer, server: None,
) -> tuple[list[int], int]:
    """Serve a model and ask it as `ask_server` does."""
    command = server_command(tools.tool("llama-server"), gguf, "demo", 0, protocol.server_flags)
    return ask_server(workshop, command, gguf, output, protocol, count, on_answer)


def ask_server(
    questions: Path,
    command: list[str],
    gguf: Path,
    output: Path,
    protocol: Protocol,
    count: int,
    on_answer: Callable[[Answer, LlamaServer], None] = lambda answer, server: None,
) -> tuple[list[int], int]:
    """Send every question of COUNT.csv to the proxy at once, without lm-eval; return HTTP states and server starts."""
    freeze_questions.main(["--questions", str(questions / f"{count}.csv"), "--output", str(output)])
    documents = {prompt_sha256(document["prompt"]): document for document in read_frozen(output)}

    async def ask(server: LlamaServer) -> list[int]:
        record = output / "answers.jsonl"
        pool = ServerPool([AskedServer("local 1", own=server)], protocol.concurrency, protocol.timeout_seconds)
        proxy = AnswerProxy(pool, protocol.attempts, documents, record, lambda answer: on_answer(answer, server))
        key = authorization(proxy.key)
        async with (
            proxy.listening() as url,
            aiohttp.ClientSession() as stranger,
            aiohttp.ClientSession(headers=key) as session,
        ):

            async def post(prompt: str) -> int:
                body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": 64, "seed": 42}
                async with session.post(url, json=body) as reply:
                    return reply.status

            prompts = [document["prompt"] for document in documents.values()]
            for header in ({}, authorization(server.key), authorization("é")):
                async with stranger.post(url, json={"messages": []}, headers=header) as reply:
                    assert reply.status == 401
            return await asyncio.gather(*map(post, [*prompts, "no question of ours"]))

    with LlamaServer(command, gguf, output / "server.log") as server:
        return asyncio.run(ask(server)), server.starts


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_killed_among_several_requests_costs_nobody_an_answer(workshop, tmp_path, tools, how, monkeypatch):
    """Whoever is asked again is asked alone, so that no question can use up the attempts of another.

    A server that is terminated while it answers never ends and never answers: its closed port gives it away.
    """
    answers: list[Answer] = []

    def kill_twice(answer: Answer, server: LlamaServer) -> None:
        answers.append(answer)
        if len(answers) in (4, 12):
            server.process.send_signal(how)

    monkeypatch.setattr(server_pool, "WATCH_SECONDS", 1)
    protocol, begin = Protocol(context=1024, concurrency=4), time.monotonic()
    states, starts = ask_directly(workshop, workshop / "demo.gguf", tmp_path, tools, protocol, QUESTIONS, kill_twice)
    assert states == [200] * QUESTIONS + [400] and starts == 3
    assert len(answers) == QUESTIONS and {answer.kind for answer in answers} <= {"answered", "no letter", "truncated"}
    assert time.monotonic() - begin < 300 < protocol.timeout_seconds
    assert 2 in {answer.attempts for answer in answers} and max(answer.attempts for answer in answers) <= 3
    assert list(read_answers(tmp_path / "answers.jsonl").values()) == answers


@pytest.mark.parametrize("kind", ["empty", "truncated"])
def test_models_that_answer_nothing_or_never_stop_thinking(
    workshop, demo_model, tiny_text_model, tmp_path, tools, kind
):
    if kind == "empty":
        model = always_saying("<turn|>", tiny_text_model, tmp_path / "model")
    else:
        model = never_saying(["<channel|>", "<turn|>", "<eos>"], demo_model, tmp_path / "model")
    gguf = convert(model, tmp_path / "damaged.gguf")
    ask_directly(workshop, gguf, tmp_path, tools, Protocol(context=1024, reasoning_budget=512), FEW)
    answers = list(read_answers(tmp_path / "answers.jsonl").values())
    outcomes = [(answer.kind, answer.answer, answer.attempts, answer.letter) for answer in answers]
    assert outcomes == [(kind, "", 1, None)] * FEW
    assert all(bool(answer.reasoning) == (kind == "truncated") for answer in answers)
    # All were sent at once; the server got one after the other.
    ends = [answer.asked_at + answer.seconds for answer in answers]
    assert all(later.asked_at > end - 0.01 for end, later in zip(ends, answers[1:]))


def test_a_parser_error_is_asked_once_counts_as_invalid_and_is_patched(workshop, demo_model, tiny_text_model, tmp_path):
    """The parser of Gemma 4's format answers HTTP 500 to a channel that is no thought."""
    gguf = convert(always_saying("<|channel>", tiny_text_model, tmp_path / "model"), tmp_path / "damaged.gguf")
    done = finish(start(gguf, environment(workshop, tmp_path / "run", FEW, demo_model)))
    assert done.returncode == 0 and "2 invalid (2 parser error), chance alone would add 0.5" in done.stdout, done.stderr
    summary = summary_of(tmp_path / "run")
    assert summary["invalid"] == {"parser error": FEW}
    assert (summary["raw_correct"], summary["patch_expected_by_chance"]) == (0, 0.5)
    assert all("patched_letter" in answer for answer in summary["answers"])
    for answer in read_answers(tmp_path / "run/answers.jsonl").values():
        assert answer.attempts == len(answer.errors) == 1 and PARSER in answer.errors[0]


def test_other_http_500s_are_tried_again(tmp_path):
    """A server that fails by the question's word: what is deterministic is asked once, all else three times."""
    words, counts = ("parser", "busy", "broken"), tmp_path / "counts"
    columns = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\n"
    (tmp_path / "3.csv").write_text(columns + "".join(f"{word},a {word} question,a,b,c,d\n" for word in words))
    command = [sys.executable, str(REPO / "tests/servers/faulty_server.py"), str(counts), *ON_A_PORT]
    states, starts = ask_server(tmp_path, command, tmp_path / "no.gguf", tmp_path, Protocol(), 3)
    assert states == [200] * 3 + [400] and 3 <= starts <= 5  # two questions may share a restart
    answers = read_answers(tmp_path / "answers.jsonl")
    found = {word: (answer.kind, answer.attempts, len(answer.errors)) for word, answer in answers.items()}
    assert found == {"parser": ("parser error", 1, 1), "busy": ("answered", 3, 2), "broken": ("server error", 3, 3)}
    assert sorted(counts.read_text().split()) == ["broken"] * 3 + ["busy"] * 3 + ["parser"]
    # An older version asked three times and called it a server error.
    lines = (tmp_path / "answers.jsonl").read_text().replace('"kind": "parser error"', '"kind": "server error"')
    (tmp_path / "answers.jsonl").write_text(lines)
    assert read_answers(tmp_path / "answers.jsonl") == answers


def test_a_port_that_is_taken_is_refused_and_its_owner_left_alone(workshop, demo_model, tmp_path, refused):
    with socket.create_server(("127.0.0.1", 0)) as owner:
        variables = environment(workshop, tmp_path / "run", FEW, demo_model, PORT=owner.getsockname()[1])
        refused(finish(start(workshop / "demo.gguf", variables)), "a free port of 127.0.0.1", "taken")


# A dozen or so answers fit on the small disk, and nothing else of the run is on it.
FULL_DISK = """
mount -t tmpfs -o size=8k none "$SMALL"
touch "$SMALL/answers.jsonl" "$OUTPUT/answers.jsonl"
mount --bind "$SMALL/answers.jsonl" "$OUTPUT/answers.jsonl"
"$@" || wc -l <"$SMALL/answers.jsonl"
"""


def test_a_full_disk_ends_in_one_line(workshop, demo_model, tmp_path):
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode != 0:
        pytest.skip("this system lets no user mount a small disk of his own (unshare -rm mount)")
    output, small = tmp_path / "run", tmp_path / "small"
    output.mkdir()
    small.mkdir()
    command = [REPO / "scripts/eval_gpqa_v3.sh", "demo", workshop / "demo.gguf"]
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", FULL_DISK, "bash", *command],
        text=True,
        capture_output=True,
        env={**environment(workshop, output, QUESTIONS, demo_model), "SMALL": str(small)},
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "answers.jsonl" in errors[0] and "the disk full" in errors[0], done.stderr
    assert 0 < int(done.stdout.split()[-1]) < QUESTIONS and "Traceback" not in done.stderr  # what was answered is kept
    assert not (output / "summary.json").exists()


def test_options_in_the_environment_cannot_change_the_protocol():
    kept = {"LLAMA_ARG_THREADS": "2", "PATH": "/bin"}
    others = {"LLAMA_ARG_TOP_K": "1", "LLAMA_ARG_CTX_SIZE": "9", "LLAMA_API_KEY": "x"}
    # Nor can a file of options in the user's home (llama.cpp/config.ini): the server looks for it where nothing is.
    assert server_environment(kept | others) == kept | {"XDG_CONFIG_HOME": "/dev/null"}
