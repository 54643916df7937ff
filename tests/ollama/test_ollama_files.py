"""What Ollama reads beside a GGUF file: params against its options and the GGUF, the Modelfile, the wrap commands."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import release_ollama
from conftest import REPO
from files.input_errors import InputError
from makers.release_inputs import write_manifest
from ollama.ollama_files import (
    OPTIONS,
    companions_of,
    fitted_params,
    modelfile,
    ollama_note,
    ollama_params,
    source_params,
    wrap_commands,
    wraps,
)

import pytest
from gguf import GGUFWriter

PARAMS = REPO / "modelfiles/gemma4-card.params.json"
CURRENT_PARAMS = REPO / "modelfiles/gemma4-current.params.json"
CURRENT = {"repeat_penalty": 1.1, "temperature": 0.8, "min_p": 0.05, "num_ctx": 8192}
CARD = {
    "repeat_penalty": 1.15,
    "stop": ["<turn|>", "<|tool_response>"],
    "temperature": 0.6,
    "top_p": 0.95,
    "num_ctx": 131072,
}


def header_only(
    path: Path, context: int | None = 262144, tokens: tuple[str, ...] = ("<turn|>", "<|tool_response>")
) -> Path:
    """Write a GGUF header with tokens and a context length."""
    writer = GGUFWriter(path, "gemma4")
    writer.add_token_list(["<pad>", *tokens])
    if context is not None:
        writer.add_context_length(context)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


@pytest.fixture
def gguf(tmp_path) -> Path:
    return header_only(tmp_path / "tiny-12e-Q8_0.gguf")


def written(folder: Path, **changes: object) -> Path:
    path = folder / "params"
    path.write_text(json.dumps({key: value for key, value in {**CARD, **changes}.items() if value is not ...}))
    return path


@pytest.mark.parametrize("source, expected", [(PARAMS, CARD), (CURRENT_PARAMS, CURRENT)])
def test_the_params_are_the_card_s_or_current_ones_and_the_gguf_takes_them(source, expected, gguf):
    assert source_params(source) == expected
    assert fitted_params(source, source_params(source), gguf) == expected
    assert all(option["why"] for option in json.loads(source.read_text()).values())


def test_the_context_is_lowered_to_the_model_s(tmp_path):
    gguf = header_only(tmp_path / "a.gguf", 4096)
    assert ollama_params(written(tmp_path), gguf) == {**CARD, "num_ctx": 4096}


def test_no_stop_is_needed(gguf, tmp_path):
    assert "stop" not in ollama_params(written(tmp_path, stop=...), gguf)


@pytest.mark.parametrize("option", [0.6, {"value": 0.6}, {"value": 0.6, "why": " "}, {"value": 0.6, "why": 1}])
def test_a_source_that_gives_no_reason_is_one_line(option, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"temperature": option}))
    with pytest.raises(InputError, match='"why": "the reason"} for temperature'):
        source_params(path)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"repetition_penalty": 1.1}, ("options of Ollama", "repetition_penalty")),
        ({"temperature": "0.6"}, ("a number for temperature", '"0.6"')),
        ({"top_k": 64.5}, ("a whole number for top_k", "64.5")),
        ({"top_k": True}, ("a whole number for top_k", "true")),
        ({"top_p": True}, ("a number for top_p",)),
        ({"top_p": float("nan")}, ("a finite number", "NaN")),
        ({"use_mmap": 1}, ("true or false for use_mmap",)),
        ({"stop": "<turn|>"}, ("a list of texts for stop",)),
        ({"stop": [""]}, ("a list of texts",)),
        ({"stop": ["<end_of_turn>"]}, ("stops that are tokens of tiny-12e-Q8_0.gguf", "<end_of_turn>")),
        ({"typical_p": 0.9}, ("options of Ollama", "typical_p")),
        ({"num_ctx": ...}, ("num_ctx", "none")),
        ({"num_ctx": -1}, ("num_ctx above 0", "-1")),
        ({"num_ctx": "4096"}, ("a whole number for num_ctx",)),
    ],
)
def test_params_that_ollama_would_not_take_are_one_line(gguf, tmp_path, changes, words):
    with pytest.raises(InputError) as caught:
        ollama_params(written(tmp_path, **changes), gguf)
    line = str(caught.value)
    assert "\n" not in line and all(word in line for word in (str(tmp_path / "params"), *words)), line


def test_a_gguf_without_context_or_tokens_is_one_line(tmp_path):
    with pytest.raises(InputError, match="gemma4.context_length, found none"):
        ollama_params(written(tmp_path), header_only(tmp_path / "a.gguf", None))
    with pytest.raises(InputError, match="stops that are tokens of b.gguf, found <turn|>"):
        ollama_params(written(tmp_path), header_only(tmp_path / "b.gguf", tokens=("a",)))


def test_every_kind_of_option_is_accepted(gguf, tmp_path):
    samples = {int: 1, float: 0.5, bool: True, list: ["<turn|>"]}
    options = {name: samples[kind] for name, kind in OPTIONS.items()}
    assert ollama_params(written(tmp_path, **options), gguf) == options
    assert ollama_params(written(tmp_path, temperature=1), gguf)["temperature"] == 1


def test_the_modelfile_wraps_and_sets_every_param():
    assert modelfile("a.gguf", CARD).splitlines() == [
        "FROM ./a.gguf",
        "RENDERER gemma4",
        "PARSER gemma4",
        "REQUIRES 0.30.0",
        "PARAMETER repeat_penalty 1.15",
        'PARAMETER stop "<turn|>"',
        'PARAMETER stop "<|tool_response>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.95",
        "PARAMETER num_ctx 131072",
    ]


def test_a_vision_tower_and_a_draft_model_go_into_the_modelfile():
    assert modelfile("a.gguf", {"draft_num_predict": 2}, "mmproj-a-F16.gguf", "/d/draft-a.gguf").splitlines() == [
        "FROM ./a.gguf",
        "FROM ./mmproj-a-F16.gguf",
        "DRAFT /d/draft-a.gguf",
        "RENDERER gemma4",
        "PARSER gemma4",
        "REQUIRES 0.31.1",
        "PARAMETER draft_num_predict 2",
    ]


def test_companions_of_a_release_are_wrapped_with_every_quant():
    names = ["a-Q8_0.gguf", "mmproj-a-Q8_0.gguf", "mmproj-a-F16.gguf", "mtp-a-Q8_0.gguf", "a-Q4_K_M.gguf"]
    assert companions_of(["a.gguf", "mmproj-a.txt"], "a.gguf") == ("", "")
    made = wraps("a", names, {}, folder=Path("r"))
    assert [wrap.model for wrap in made] == ["a:Q8_0", "a:Q4_K_M"]
    assert made[1].modelfile.startswith(
        "FROM ./r/a-Q4_K_M.gguf\nFROM ./r/mmproj-a-Q8_0.gguf\nDRAFT ./r/mtp-a-Q8_0.gguf\nRENDERER"
    )
    # A pull brings the mmproj; a draft must lie on the disk, so the commands fetch it first.
    (first, *_) = wraps("a", names, {}, "me/a-GGUF")
    assert first.modelfile.startswith("FROM hf.co/me/a-GGUF:a-Q8_0.gguf\nDRAFT ./mtp-a-Q8_0.gguf\nRENDERER")
    commands = wrap_commands("a", names, {}, "me/a-GGUF").splitlines()
    assert commands[0] == "hf download me/a-GGUF mtp-a-Q8_0.gguf --local-dir ." and len(commands) == 5
    assert "hf download" not in wrap_commands("a", names, {})


def test_each_file_is_wrapped_under_its_own_tag_and_files_in_parts_are_left_out():
    names = ["tiny-12e-Q8_0.gguf", "tiny-12e-CD-Q4_K_M.gguf", "tiny-12e-F16-00001-of-00002.gguf"]
    assert [wrap.model for wrap in wraps("Tiny-12e", names, CARD)] == [
        "tiny-12e:tiny-12e-Q8_0",
        "tiny-12e:tiny-12e-CD-Q4_K_M",
    ]
    made = wraps("tiny-12e", names, CARD, "me/tiny")
    assert [wrap.model for wrap in made] == ["tiny-12e:Q8_0", "tiny-12e:CD-Q4_K_M"]
    assert (
        made[1].modelfile
        == "FROM hf.co/me/tiny:tiny-12e-CD-Q4_K_M.gguf\nRENDERER gemma4\nPARSER gemma4\nREQUIRES 0.30.0\n"
    )


def recorder(folder: Path, code: int = 0) -> Path:
    """Put a program named ollama into a folder. It stands for Ollama, which no package brings, and keeps its input."""
    folder.mkdir(exist_ok=True)
    program = folder / "ollama"
    program.write_text(
        f'#!/bin/sh\nif [ $1 != create ] || [ $3 != -f ] || [ ! -f "$4" ]; then exit 9; fi\n'
        f'{{ echo "$2"; cat "$4"; }} >>{folder}/given\necho "no room" >&2\nexit {code}\n'
    )
    program.chmod(0o755)
    return folder


def test_a_shell_runs_the_printed_commands(tmp_path):
    bin_folder = recorder(tmp_path / "bin")
    names = ["tiny-Q8_0.gguf", "tiny-it's.gguf"]
    done = subprocess.run(
        ["bash", "-eu"],
        input=wrap_commands("tiny", names, CARD, folder=Path("release")),
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
    )
    assert done.returncode == 0
    wanted = "".join(f"{wrap.model}\n{wrap.modelfile}" for wrap in wraps("tiny", names, CARD, folder=Path("release")))
    assert (bin_folder / "given").read_text() == wanted and "FROM ./release/tiny-it's.gguf\n" in wanted


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "release"
    folder.mkdir()
    for label in ("Q8_0", "Q4_K_M"):
        header_only(folder / f"tiny-12e-{label}.gguf", 4096)
    (folder / "params").write_text(json.dumps({**CARD, "num_ctx": 4096}))
    for name in ("README.md", "template", "Modelfile"):
        (folder / name).write_text("x\n")
    write_manifest(folder)
    return folder


@pytest.fixture
def with_ollama(tmp_path, monkeypatch) -> Callable[[int], Path]:
    """Put a recorder on PATH that ends with an exit code; return its folder."""

    def call(code: int = 0) -> Path:
        folder = recorder(tmp_path / "bin", code)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return folder

    return call


def test_release_ollama_prints_without_an_ollama_and_runs_with_one(release, with_ollama, capsys):
    files = set(release.iterdir())
    release_ollama.main([str(release)])
    printed = capsys.readouterr().out
    assert printed.count("ollama create tiny-12e:") == 2 and "no ollama on PATH" in printed
    bin_folder = with_ollama()
    release_ollama.main([str(release), "--print"])
    assert "asked to print only" in capsys.readouterr().out and not (bin_folder / "given").exists()
    release_ollama.main([str(release)])
    assert "created tiny-12e:Q4_K_M" in capsys.readouterr().out
    given = (bin_folder / "given").read_text()
    assert given.startswith(f"tiny-12e:Q4_K_M\nFROM {release}/tiny-12e-Q4_K_M.gguf\nRENDERER gemma4\n")
    assert "PARAMETER num_ctx 4096" in given
    release_ollama.main([str(release), "--repo", "me/tiny-12e-GGUF"])
    assert "FROM hf.co/me/tiny-12e-GGUF:tiny-12e-Q8_0.gguf\n" in (bin_folder / "given").read_text().removeprefix(given)
    assert set(release.iterdir()) == files  # a release folder holds what its manifest lists, and no Modelfile of ours


def test_release_ollama_refuses_in_one_line(script, refused, refusal, release, with_ollama, tmp_path):
    refused(script("release_ollama.py", tmp_path / "nowhere"), "nowhere", "a release folder")
    refusal(release_ollama.main, [release, "--repo", "me"], "REPO", "USER/NAME")
    refusal(release_ollama.main, [release, "--repo", "me/other"], "REPO", "USER/tiny-12e-GGUF", "found me/other")
    with_ollama(3)
    refusal(release_ollama.main, [release], "ollama create tiny-12e", "no room")
    for path in release.glob("*.gguf"):
        path.unlink()
    write_manifest(release)
    refusal(release_ollama.main, [release], "GGUF files, not in parts", "none")


def test_the_note_says_what_needs_the_wrap():
    for words in ("`template`", "`params`", "RENDERER gemma4", "PARSER gemma4", "tool_calls", "ollama create"):
        assert words in ollama_note(), words


def test_the_note_names_the_ollama_that_the_modelfile_requires():
    for draft in ("", "mtp-a.gguf"):
        (required,) = re.findall(r"^REQUIRES (.+)$", modelfile("a.gguf", {}, draft=draft), re.MULTILINE)
        assert f"This needs Ollama {required} or newer" in ollama_note(bool(draft))
