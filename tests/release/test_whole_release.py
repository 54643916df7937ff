"""One release with all that a Gemma 4 has: model, files for pictures, draft model; found by -hf, seen and drafted."""

import os
import re
from pathlib import Path

import build_draft
import build_release
import check_release
import measure_draft
import quantize_gguf
from calls import call
from conftest import DEMO
from files.seals import MARKER
from gates.running_gates import QUESTION
from gates.sight_gate import ask_about_picture, picture_png
from ggufs.mmproj import mmproj_name
from ggufs.sibling_choice import draft_pick, mmproj_pick
from llama.drafting import DRAFT_TOKENS
from llama.llama_server import LlamaServer, server_command
from makers.made_up_evidence import QUESTIONS
from makers.pruned_models import NAME
from makers.release_inputs import LICENCE, SIDECARS
from makers.seeing_model import TYPES, seeing_model
from ollama.ollama_files import wraps
from quants.quant_record import record_path
from release.manifest import read_manifest
from servers.hub_server import Downloads, Hub
from speed.greedy_answers import ask_greedily

import pytest

MODEL, DRAFT = f"{NAME}-Q8_0.gguf", f"mtp-{NAME}-Q8_0.gguf"
PICTURES = [mmproj_name(NAME, kind) for kind in TYPES]
ASKED = ["--questions", DEMO / "eval_questions.csv", "--limit", 2, "--rounds", 1, "--max-tokens", 64]


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    """A release of the pruned multimodal twin, whose draft model was built for the twin's own F16 file."""
    seeing, folder = seeing_model(tmp_path_factory), tmp_path_factory.mktemp("whole")
    (folder / MARKER).touch()
    f16, model, draft = seeing / "F16.gguf", folder / MODEL, folder / DRAFT
    call(quantize_gguf.main, "--input", f16, "--type", "Q8_0", "--output", model)
    call(build_draft.main, "--model", DEMO / "assistant", "--target", f16, "--name", NAME, "--output", draft)
    measured = ["--draft", draft, "--gguf", f"{NAME}={model}", "--output", folder / "draft.md"]
    call(measure_draft.main, *measured, *ASKED)
    named = ["--name", NAME, "--base", "gemma-4-demo-twin", "--repository", f"{NAME}-GGUF", "--license", LICENCE]
    made_of = ["--metadata", seeing / "pruned/expert_drop_metadata.json", "--map", seeing / "plain.json"]
    made_of += ["--source", seeing / "twin", "--f16", record_path(f16), "--questions", *QUESTIONS]
    beside = [word for name in PICTURES for word in ("--mmproj", seeing / name)]
    beside += ["--draft", draft, "--draft-results", folder / "draft.json"]
    output = folder / f"{NAME}-GGUF"
    call(build_release.main, "--gguf", model, *named, *made_of, *beside, *SIDECARS, "--output", output)
    return output


def test_the_folder_holds_all_of_it_and_every_gate_passes(release, capsys):
    there = sorted(path.name for path in release.glob("*.gguf"))
    assert there == sorted([MODEL, DRAFT, *PICTURES])
    lines = (release / "Modelfile").read_text().splitlines()
    wrapped = [f"FROM ./{MODEL}", f"FROM ./{PICTURES[1]}", f"DRAFT ./{DRAFT}"]
    assert [line for line in lines if line.startswith(("FROM", "DRAFT"))] == wrapped
    (wrap,) = wraps(NAME, there, {}, folder=release)
    assert [line.split("/")[-1] for line in wrap.modelfile.splitlines()[:3]] == [MODEL, PICTURES[1], DRAFT]
    assert (mmproj_pick(there, MODEL), draft_pick(there, MODEL, "")) == (PICTURES[1], DRAFT)
    call(check_release.main, release)
    shown = capsys.readouterr().out
    assert "loaded by llama-server, which says of a picture" in shown
    assert re.search(r"with and without the draft model: [1-9]\d* of \d+ drafted tokens accepted", shown)


def test_llama_server_fetches_all_of_it_by_hf_sees_and_drafts(release, tools, tmp_path, monkeypatch):
    """By llama.cpp's own rules, from a server that hands out the folder as the Hub would."""
    repository = f"me/{read_manifest(release)['repository']}"
    with Hub() as hub:
        hub.RequestHandlerClass = Downloads
        hub.repositories[repository] = {path.name: {"content": path.read_bytes()} for path in release.iterdir()}
        monkeypatch.setenv("MODEL_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        flags = ["-hf", f"{repository}:Q8_0", "-c", "4096", "-np", "1", "--reasoning-format", "deepseek"]
        flags += ["--spec-type", "draft-mtp", "--spec-draft-n-max", str(DRAFT_TOKENS), "--reasoning-budget", "64"]
        command = server_command(tools.tool("llama-server"), Path(MODEL), "release", 0, flags)
        at = command.index("-m")
        del command[at : at + 2]
        with LlamaServer(command, Path(MODEL), tmp_path / "server.log") as server:
            assert ask_about_picture(server, picture_png())
            drafted = ask_greedily(server, QUESTION, 64)
        assert drafted.text and drafted.accepted > 0
        fetched = {os.path.basename(request) for request in hub.requests if "/resolve/" in request}
        assert fetched == {MODEL, DRAFT, mmproj_name(NAME, "Q8_0")}
        hub.shutdown()
