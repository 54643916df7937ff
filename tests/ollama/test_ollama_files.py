"""What Ollama reads beside a GGUF file: params against its options and the GGUF, the Modelfile, the wrap commands."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import release_ollama
from conftest import REPO
from files.safe_files import InputError
from ollama.ollama_files import OPTIONS, modelfile, ollama_note, ollama_params, wrap_commands, wraps
from release_inputs import write_manifest

import pytest
from gguf import GGUFWriter

PARAMS = REPO / "modelfiles/gemma4.params.json"
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


def test_the_params_are_the_card_s_and_the_gguf_takes_them(gguf):
    assert ollama_params(PARAMS, gguf) == CARD


def test_the_context_is_lowered_to_the_model_s(tmp_path):
    assert ollama_params(PARAMS, header_only(tmp_path / "a.gguf", 4096)) == {**CARD, "num_ctx": 4096}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"repetition_penalty": 1.1}, ("options of Ollama", "repetition_penalty")),
        ({"temperature": "0.6"}, ("a number for temperature", '"0.6"')),
        ({"top_k": 64.5}, ("a whole number for top_k", "64.5")),
        ({"top_k": True}, ("a whole number for top_k", "true")),
        ({"top_p": True}, ("a number for top_p",)),
        ({"top_p": float("nan")}, ("a number for top_p", "NaN")),
        ({"use_mmap": 1}, ("true or false for use_mmap",)),
        ({"stop": "<turn|>"}, ("a list of texts for stop",)),
        ({"stop": [""]}, ("a list of texts",)),
        ({"stop": ["<end_of_turn>"]}, ("stops that are tokens of tiny-12e-Q8_0.gguf", "<end_of_turn>")),
        ({"stop": ...}, ("stop", "none")),
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
        ollama_params(PARAMS, header_only(tmp_path / "a.gguf", None))
    with pytest.raises(InputError, match="stops that are tokens of b.gguf, found <turn|>"):
        ollama_params(PARAMS, header_only(tmp_path / "b.gguf", tokens=("a",)))


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
        "PARAMETER repeat_penalty 1.15",
        'PARAMETER stop "<turn|>"',
        'PARAMETER stop "<|tool_response>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_p 0.95",
        "PARAMETER num_ctx 131072",
    ]


def test_each_file_is_wrapped_under_its_own_tag_and_files_in_parts_are_left_out():
    names = ["tiny-12e-Q8_0.gguf", "tiny-12e-CD-Q4_K_M.gguf", "tiny-12e-F16-00001-of-00002.gguf"]
    assert [wrap.model for wrap in wraps("Tiny-12e", names, CARD)] == [
        "tiny-12e:tiny-12e-Q8_0",
        "tiny-12e:tiny-12e-CD-Q4_K_M",
    ]
    made = wraps("tiny-12e", names, CARD, "me/tiny")
    assert [wrap.model for wrap in made] == ["tiny-12e:Q8_0", "tiny-12e:CD-Q4_K_M"]
    assert made[1].modelfile == "FROM hf.co/me/tiny:tiny-12e-CD-Q4_K_M.gguf\nRENDERER gemma4\nPARSER gemma4\n"


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
