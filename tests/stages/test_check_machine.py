"""The checks of a machine: a local server in the Hub's place, a closed port, too little room, damaged models."""

import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import check_machine
from chats.questions import GPQA_DATASET
from checkpoints.licence import licence_of
from conftest import DEMO
from files.safe_files import GIB
from servers.hub_server import TOKEN, Handler, Hub
from stages import machine_checks
from stages.checks import Check
from stages.needs import RunSizes, disk_of_run, disk_of_step, estimated_quant, memory_of_analysis, sizes_of_plan

import pytest

MODEL = "someone/model"
LOCAL = ["--model", DEMO / "model", "--questions", DEMO / "calibration_questions.csv"]
FROM_HUB = ["--model", MODEL, "--questions", "gpqa", "--gguf-needed", "no"]


class GatedHub(Handler):
    """The Hub with heads of files: of `gated` repositories only those with the token get any, `broken` answers 503;
    where it `hides`, it says 401 of every model."""

    gated: set[str] = set()
    broken: set[str] = set()
    slow = hides = False

    def do_HEAD(self) -> None:
        self.server.requests.append(f"HEAD {self.path}")
        repository = "/".join(self.path.removeprefix("/datasets").split("/")[1:3])
        refused = repository in self.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        code = 503 if repository in self.broken else 403 if refused else 200
        self.send_response(code)
        for name, text in {"ETag": '"01"', "X-Repo-Commit": "0" * 40, "Content-Length": "0"}.items():
            self.send_header(name, text)
        if refused:
            self.send_header("X-Error-Code", "GatedRepo")
        self.end_headers()

    def do_GET(self) -> None:
        if self.slow:
            time.sleep(60)
        if self.hides:
            self.answer({"error": "Invalid username or password."}, 401)
        else:
            super().do_GET()


@pytest.fixture
def hub(monkeypatch):
    """A Hub that has MODEL, with a card, a tokenizer and 3 GiB of weights by its list; GPQA is gated."""
    with Hub() as server:
        server.RequestHandlerClass = GatedHub
        monkeypatch.setattr(GatedHub, "gated", {GPQA_DATASET})
        files = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 3000}
        server.repositories[MODEL] = {name: {"content": text, "blob": "0", "lfs": None} for name, text in files.items()}
        yield server
        server.shutdown()


def checks_in(stdout: str) -> dict[str, str]:
    """Return the printed checks: state, found and advice by name."""
    *lines, last = stdout.splitlines()
    assert f"{len(lines)} checks: " in last
    return {line[6:21].strip(): f"{line[:4].strip()} {line[23:]}" for line in lines}


@pytest.fixture
def from_hub(script, tmp_path):
    """Return exit code, error line and checks of a run of the command against a Hub, in a process of its own."""

    def check(arguments: list, endpoint: str, token: str = "") -> tuple[int, str, dict]:
        done = script(
            *("check_machine.py", *arguments, "--build", tmp_path / "build"),
            HF_HUB_OFFLINE=0,
            HF_ENDPOINT=endpoint,
            HF_HOME=tmp_path / "home",
            HF_TOKEN=token,
        )
        assert "Traceback" not in done.stderr and not (tmp_path / "build").exists(), done.stderr
        assert not token or token not in done.stdout + done.stderr
        return done.returncode, done.stderr, checks_in(done.stdout)

    return check


@pytest.fixture
def checked(capsys, tmp_path):
    """Return the error line and the checks of a local run; in this process, where the tokenizer's library is loaded."""

    def check(arguments: list) -> tuple[str, dict]:
        error = ""
        try:
            check_machine.main([*map(str, arguments), "--build", str(tmp_path / "build")])
        except SystemExit as end:
            error = str(end.code)
        return error, checks_in(capsys.readouterr().out)

    return check


def test_a_local_run_asks_nothing_of_the_hub_and_is_ready(from_hub, hub):
    code, error, found = from_hub([*LOCAL, "--keep", "109", "--quants", "Q6_K"], hub.url)
    assert code == 0 and not error and not hub.requests and "Hub token" not in found and "GPQA" not in found
    assert found["model"] == "ok Gemma 4, 128 experts in 3 layers, 0.0212 GiB"
    assert found["tokenizer"].startswith("ok") and "196 questions" in found["questions"]
    assert found["disk"].startswith("ok 0.0") and "an estimate" in found["disk"]
    assert found["memory"].startswith("ok 1.02 GiB for the analysis (the whole model)")
    assert found["licence"] == "ok cc0-1.0 (by README.md)"


def test_with_a_token_and_access_all_of_the_hub_is_ok(from_hub, hub):
    code, error, found = from_hub(FROM_HUB, hub.url, TOKEN)
    assert code == 0, error
    assert found["licence"].startswith(
        "warn not known: nothing names one that can be taken; make release will be refused: look up"
    )
    hub.cards[MODEL] = {"license": "apache-2.0", "license_link": "https://example.org/terms"}
    assert from_hub(FROM_HUB, hub.url, TOKEN)[2]["licence"] == (
        "ok apache-2.0 (https://example.org/terms) (by its card on the Hub)"
    )
    assert found["Hub token"] == "ok the Hub takes it" and found["model"] == f"ok {MODEL} can be downloaded"
    assert found["GPQA"].startswith("ok") and "after the download" in found["tokenizer"]
    assert "0.0000 GiB for the whole run (an estimate" in found["disk"]
    assert all(request.split()[0] in ("GET", "HEAD") for request in hub.requests)  # nothing is sent or fetched


def test_an_assistant_of_another_size_is_told_before_the_analysis(checked, tmp_path):
    other = shutil.copytree(DEMO / "assistant", tmp_path / "other")
    config = other / "config.json"
    config.write_text(config.read_text().replace('"backbone_hidden_size": 256', '"backbone_hidden_size": 320'))
    error, found = checked([*LOCAL, "--draft", other])
    assert "states of 256 values" in error and found["draft model"].startswith("FAIL")


def test_the_draft_model_is_looked_for_here_or_on_the_hub(from_hub, hub, checked):
    _, found = checked([*LOCAL, "--draft", DEMO / "assistant"])
    assert found["draft model"].startswith("ok ") and found["draft model"].endswith("assistant: gemma4_assistant")
    error, found = checked([*LOCAL, "--draft", DEMO / "model"])
    assert "expected an assistant" in error and found["draft model"].startswith("FAIL")
    _, _, found = from_hub([*LOCAL, "--draft", "../x"], hub.url)
    assert found["draft model"].startswith("FAIL ../x: no directory and no Hub id OWNER/NAME")
    _, _, found = from_hub([*LOCAL, "--draft", MODEL], hub.url)
    assert found["draft model"] == f"ok {MODEL} can be downloaded"


def test_a_missing_permission_says_where_to_get_it(from_hub, hub, monkeypatch):
    monkeypatch.setattr(GatedHub, "gated", {GPQA_DATASET, MODEL})
    code, error, found = from_hub(FROM_HUB, hub.url)
    assert code == 1 and error.startswith("error: model: ") and "(failed, too: GPQA)" in error
    assert found["Hub token"].startswith("warn none; ") and "hf auth login" in found["Hub token"]
    for what, place in (("model", MODEL), ("GPQA", f"datasets/{GPQA_DATASET}")):
        assert found[what].startswith("FAIL") and "no permission: it is gated, and without a token" in found[what]
        assert f"accept its terms at {hub.url}/{place}" in found[what] and "network" not in found[what]
    assert "QUESTIONS=FILE" in found["GPQA"]


def test_a_token_that_the_hub_refuses(from_hub, hub):
    _, _, found = from_hub(FROM_HUB, hub.url, "hf_" + "wrong" * 6)
    assert found["Hub token"].startswith("FAIL no permission: the Hub refuses this token (401)")
    assert "this token has no access" in found["GPQA"]


def test_a_name_that_does_not_exist(from_hub, hub):
    code, error, found = from_hub(["--model", "someone/mode1", *FROM_HUB[2:]], hub.url, TOKEN)
    assert code == 1 and found["model"].startswith("FAIL someone/mode1: not there: ") and "spelling" in found["model"]
    assert "permission" not in found["model"] and found["GPQA"].startswith("ok")
    assert found["disk and memory"].startswith("warn")


def test_without_a_token_a_private_name_is_as_good_as_none(from_hub, hub, monkeypatch):
    monkeypatch.setattr(GatedHub, "hides", True)
    code, _, found = from_hub(FROM_HUB, hub.url)
    assert code == 1 and found["model"].startswith(f"FAIL {MODEL}: not there or private: ")
    assert "check the spelling; for a private one run `hf auth login`" in found["model"]


def test_a_server_that_is_down_is_no_question_of_permission(from_hub, hub, monkeypatch):
    monkeypatch.setattr(GatedHub, "broken", {MODEL})
    code, _, found = from_hub(FROM_HUB, hub.url, TOKEN)
    assert code == 1 and found["model"] == f"FAIL {MODEL}: server fault: the Hub answered 503; try again later"


def test_network_faults_are_named_and_nothing_more_is_asked(from_hub, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        code, error, found = from_hub(FROM_HUB, f"http://127.0.0.1:{closed.getsockname()[1]}", TOKEN)
    assert code == 1 and "connection refused" in error and "a token would not help" in error
    assert found["Hub token"].startswith("FAIL network fault: http://127.0.0.1:")
    assert found["model"] == f"warn {MODEL}: not asked: the Hub was not reached" and "not asked" in found["GPQA"]
    _, error, found = from_hub(FROM_HUB, "http://nowhere.invalid")
    assert "its name is not found (DNS)" in found["model"] and found["Hub token"].startswith("warn none")


def test_a_server_that_is_silent_is_left_after_seconds(from_hub, hub, monkeypatch):
    monkeypatch.setattr(GatedHub, "slow", True)
    began = time.monotonic()
    _, error, _ = from_hub(FROM_HUB, hub.url, TOKEN)
    assert "network fault" in error and "no answer in 6 seconds" in error
    assert 6 <= time.monotonic() - began < 30


def test_a_damaged_model_and_questions_that_are_none(checked, model_copy, tmp_path):
    (model_copy / "tokenizer.json").unlink()
    (model_copy / "README.md").write_text("---\nlicense: apache-2.0\n---\nA card.\n")
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    error, found = checked(["--model", model_copy, "--questions", tmp_path / "text.csv", "--keep", "2"])
    assert error and "KEEP: expected a number of kept experts from 4" in found["model"]
    assert found["tokenizer"].startswith("FAIL") and "'Record ID'" in found["questions"]
    assert found["licence"] == "ok apache-2.0 (by README.md)"
    assert "failed, too: tokenizer, questions" in error
    shard = next(model_copy.glob("*.safetensors"))
    with open(shard, "r+b") as file:
        file.truncate(5000)
    _, found = checked(["--model", model_copy, *LOCAL[2:]])
    assert found["model"].startswith("FAIL") and shard.name in found["model"]


@pytest.mark.parametrize(
    "given, files, state, words",
    [
        (
            "",
            {"LICENSE.txt": "..."},
            "warn",
            "nothing names one that can be taken, though there is LICENSE.txt; make release will",
        ),
        ("mit", {}, "ok", "mit (by LICENSE)"),
        ("mit", {"README.md": "---\nlicense: gemma\n---\n"}, "ok", "mit (by LICENSE, where README.md says gemma)"),
        ("other", {}, "warn", "expected license_name in the front matter"),
    ],
)
def test_the_licence_of_a_run_is_said_early(tmp_path, given, files, state, words):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    check = check_machine.check_licence(str(tmp_path), given, licence_of(tmp_path), False)
    assert check.line(0).startswith(state) and words in check.line(0)
    assert (check_machine.check_licence(str(tmp_path), given, licence_of(tmp_path), True).state == "FAIL") == (
        state == "warn"
    )


def test_too_little_disk_fails_by_plan_and_only_warns_by_a_close_estimate(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert machine_checks.check_disk(tmp_path, free // 2, "by the plan", True).state == "ok"
    assert machine_checks.check_disk(tmp_path, 2 * free, "an estimate", False).state == "FAIL"
    assert machine_checks.check_disk(tmp_path, free * 11 // 10, "an estimate", False).state == "warn"
    assert machine_checks.check_disk(tmp_path, free * 11 // 10, "by the plan", True).state == "FAIL"
    with open(tmp_path / "there", "wb") as file:
        file.truncate(free)  # a hole: what a run has made already is not needed again
    assert machine_checks.check_disk(tmp_path, free * 11 // 10, "by the plan", True).state == "ok"


def test_too_little_memory_proposes_one_layer_at_a_time():
    def check(resident: int, streamed: int | None, streams: bool) -> Check:
        return machine_checks.check_memory(resident, streamed, streams, (10 * GIB, 8 * GIB))

    assert check(8 * GIB, GIB, False).state == "ok"
    assert check(9 * GIB, GIB, False).advice == "end other programs first"
    assert check(11 * GIB, 2 * GIB, False).advice == "give STREAM_LAYERS=yes, which takes 2.00 GiB"
    assert check(11 * GIB, None, False).advice == "give STREAM_LAYERS=yes"
    assert check(11 * GIB, 2 * GIB, True).state == "ok"
    assert check(30 * GIB, 11 * GIB, False).advice == check(30 * GIB, 11 * GIB, True).advice
    assert check(11 * GIB, None, True).state == "warn"


def test_disk_and_memory_of_a_run_by_hand():
    sizes = RunSizes(full=1000, pruned=800, layer=100, rest=50, quants={"Q6_K": 400, "Q2_K": 100})
    # pruned checkpoint and F16 800 each, full F16 1000, quants 500, the full model's Q6_K 400 x 1000 / 800
    assert disk_of_run(sizes, False, True, ["Q6_K", "F16"]) == 2 * 800 + 1000 + 500 + 500
    assert disk_of_run(sizes, True, True, []) == 2 * 800 + 2 * 1000 + 500
    assert disk_of_run(sizes, True, False, ["Q6_K"]) == 800 + 1000
    # with LOW_DISK: the pruned model's files with the full one's quant; with fewer quants the full model's come first
    assert disk_of_run(sizes, True, True, ["Q6_K"], low_disk=True) == 2 * 800 + 500 + 500
    few = replace(sizes, quants={"Q6_K": 400})
    assert disk_of_run(few, True, True, ["Q6_K"], low_disk=True) == 2 * 1000 + 500
    assert memory_of_analysis(sizes, False) == 1000 + GIB and memory_of_analysis(sizes, True) == 180 + GIB
    beside = replace(sizes, companions={"mmproj-F16": 30, "mtp-Q8_0": 7})
    assert disk_of_run(beside, True, True, []) == disk_of_run(sizes, True, True, []) + 37
    steps = {"mmproj-m-109e-F16.gguf": 30, "mmproj-m-109e-BF16.gguf": 0, "mtp-m-109e-Q8_0.gguf": 7, "m-F16.gguf": 800}
    assert {name: disk_of_step(Path("109e", name), beside) for name in steps} == steps


def test_an_estimate_by_a_quants_name_is_near_its_plan():
    # 26B with 109 experts: F16 40.70 GiB; planned 18.22, 13.53 and 8.38 GiB
    for name, gib in (("Q6_K", 18.22), ("Q4_K_M", 13.53), ("IQ2_M", 8.38), ("CD-Q4_K_M", 11.04)):
        assert estimated_quant(name, 4070) / 100 == pytest.approx(gib, rel=0.25), name
    assert estimated_quant("AUTO-10.5", 4070) == int(10.5 * GIB)


def test_a_plan_is_exact_and_counts_what_is_there(checked, script, tmp_path):
    plan = tmp_path / "plan.json"
    arguments = ("--keep", "109", "--types", "F16", "Q6_K", "Q4_K_M", "--output", plan)
    done = script("plan_quants.py", "--shape", "gemma-4-26b-a4b", *arguments)
    assert done.returncode == 0, done.stderr
    sizes = sizes_of_plan(plan)
    assert sizes.quants.keys() == {"Q6_K", "Q4_K_M"} and sizes.pruned < sizes.full
    assert 1.5 < sizes.layer / GIB < 1.6 and 1.3 < sizes.rest / GIB < 1.4  # the bench measured a layer of 1.54 GiB
    wanted = disk_of_run(sizes, False, True, ["Q6_K"])
    _, found = checked([*LOCAL, "--plan", plan, "--reference-quants", "Q6_K"])
    assert f"{wanted / GIB:.2f} GiB for the whole run (by the plan)" in found["disk"]
    _, found = checked([*LOCAL, "--plan", plan, "--needed-bytes", "1000"])
    assert "0.0000 GiB for the whole run (given)" in found["disk"]


def test_a_model_that_was_fetched_counts_on_both_sides(capsys, tmp_path):
    model = tmp_path / "x/full/checkpoint"
    shutil.copytree(DEMO / "model", model)
    size = (model / "model.safetensors").stat().st_size
    wanted = []
    for path in (DEMO / "model", model):
        check_machine.main(
            ["--model", str(path), *map(str, LOCAL[2:]), "--build", str(tmp_path), "--gguf-needed", "no"]
        )
        wanted.append(float(checks_in(capsys.readouterr().out)["disk"].split()[1]))
    assert wanted[1] - wanted[0] == pytest.approx(size / GIB, abs=2e-4)


def test_with_a_gpu_the_memory_only_warns():
    sizes = RunSizes(full=10**18, pruned=1, layer=1, rest=1, quants={})
    assert check_machine.check_analysis(sizes, False, gpu=False).state == "FAIL"
    assert check_machine.check_analysis(sizes, False, gpu=True).state == "warn"


def test_tools_that_are_not_there(checked, tmp_path):
    (tmp_path / "llama.cpp").mkdir()
    error, found = checked([*LOCAL, "--llama-cpp", tmp_path / "llama.cpp"])
    assert error and "no llama-quantize" in found["llama.cpp tools"] and "LLAMA_CPP" in found["llama.cpp tools"]


def test_tools_that_are_not_built_yet(checked, tmp_path, monkeypatch):
    monkeypatch.setenv("MOE_TOOLS_CACHE", str(tmp_path / "cache"))
    error, found = checked(LOCAL)
    assert not error and found["llama.cpp tools"].startswith("warn not built yet; `make setup`")
    monkeypatch.setenv("CXX", "no-such-compiler")
    error, found = checked(LOCAL)
    assert "error: C++ compiler: not found; install one" in error
    error, found = checked([*LOCAL, "--gguf-needed", "no"])
    assert not error and found["C++ compiler"] == "ok none, and none is needed"


def test_a_gpu_that_the_tools_do_not_use(checked, tmp_path, monkeypatch):
    program = tmp_path / "bin/nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path(sys.executable).parent}:/usr/bin:/bin")
    error, found = checked(LOCAL)
    assert not error and found["GPU"].startswith("warn NVIDIA H200, 143771 MiB, but llama.cpp is built without it")
    assert "CMAKE_ARGS=-DGGML_CUDA=ON" in found["GPU"]


def test_only_problems(capsys, tmp_path):
    check_machine.main([*map(str, LOCAL), "--build", str(tmp_path), "--problems-only"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("12 checks: ") and lines[-1].endswith(" 0 FAIL")
    assert not [line for line in lines if line.startswith("ok")]


def test_programs_and_their_versions(monkeypatch, tmp_path):
    assert machine_checks.numbers_of("GNU Make 4.3") == (4, 3) and machine_checks.numbers_of("none") == ()
    assert machine_checks.check_make().state == "ok" and machine_checks.check_python().state == "ok"
    (tmp_path / "make").write_text("#!/bin/sh\necho GNU Make 3.81\n")
    (tmp_path / "make").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine_checks.check_make().state == "FAIL" and "4.3" in machine_checks.check_make().advice
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert machine_checks.check_make().found == "not found"
