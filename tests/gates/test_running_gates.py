"""The gates on what Ollama and llama.cpp take from a release: sidecars, template, tokens, a model that answers."""

import struct
from collections.abc import Callable
from pathlib import Path

import check_release
from choice.drop_metadata import METADATA_NAME
from conftest import REPO
from gates.remade_gates import COMMAND_GATES
from gates.running_gates import running_gates, smallest
from gates.text_ends_gate import tokens_gate
from ggufs.gguf_header import UINT32
from makers.pruned_models import NAME
from makers.release_copies import change_json, checked, edit, reseal
from release.manifest import read_manifest
from release.sources import sources_path

import pytest


def running(folder: Path, tools, name: str) -> list[str]:
    """Return the deviations of a gate that runs something."""
    return check_release.outcome_of({**COMMAND_GATES, **running_gates(tools, 0)}[name], checked(folder)).deviations


@pytest.mark.parametrize(
    "name, damage, words",
    [
        ("params", Path.unlink, "params: expected Ollama's params, found nothing"),
        ("Modelfile", Path.unlink, "Modelfile: expected Ollama's Modelfile, found nothing"),
        ("params", lambda path: edit(path, "<turn|>", "<turn_over>"), "<turn_over>"),
        ("params", lambda path: edit(path, "4096", "8192"), "8192"),
        ("Modelfile", lambda path: edit(path, f"{NAME}-Q8_0", "gone"), "found gone.gguf"),
        ("Modelfile", lambda path: edit(path, "PARSER gemma4", ""), "'PARSER gemma4'"),
    ],
)
def test_sidecars_are_checked(copied, tools, name, damage: Callable[[Path], object], words):
    assert running(copied, tools, "sidecars") == []
    damage(copied / name)
    lines = running(copied, tools, "sidecars")
    assert len(lines) == 1 and words in lines[0]


def test_a_file_that_ends_elsewhere_than_its_checkpoint_fails(copied, tmp_path):
    gguf, eos = smallest(checked(copied)), b"tokenizer.ggml.eos_token_id" + struct.pack("<I", UINT32)
    whole = tokens_gate(checked(copied))
    assert whole.deviations == [] and "against the tokens of the checkpoint: bos 2, ends 1, 6" in whole.looked_at
    content = gguf.read_bytes()
    assert content.count(eos + struct.pack("<I", 1)) == 1
    gguf.write_bytes(content.replace(eos + struct.pack("<I", 1), eos + struct.pack("<I", 5)))
    (line,) = tokens_gate(checked(copied)).deviations
    assert line.startswith(
        f"{gguf}: expected eos among 1 (<eos>), 6 (<turn|>), as the checkpoint says, found 5 (<|turn>)"
    )
    # A GGUF file that was pruned itself has no checkpoint: then the files of the release must agree.
    alone = checked(copied)
    alone.sources["copies"][METADATA_NAME] = tmp_path / METADATA_NAME
    outcome = tokens_gate(alone)
    assert "as there is no checkpoint" in outcome.looked_at and outcome.deviations


def test_a_vision_tower_and_a_draft_of_the_modelfile_must_be_there(copied, tools):
    edit(copied / "Modelfile", "RENDERER", "FROM ./mmproj-a-F16.gguf\nDRAFT ./draft-a.gguf\nRENDERER")
    (copied / "mmproj-a-F16.gguf").touch()
    assert running(copied, tools, "sidecars") == [
        f"{copied / 'Modelfile'}: expected DRAFT ./FILE of this folder, found draft-a.gguf"
    ]


def test_params_of_another_source_than_the_project_s_fail(copied, tools):
    own = copied.with_name("own.params.json")
    own.write_text((REPO / "modelfiles/gemma4-current.params.json").read_text())
    change_json(sources_path(copied), params={"params": str(own)})
    assert "modelfiles/gemma4-card.params.json, as OLLAMA_PARAMS says" in running(copied, tools, "sidecars")[0]
    reseal(copied, settings={**read_manifest(copied)["settings"], "OLLAMA_PARAMS": "current"})
    assert not [line for line in running(copied, tools, "sidecars") if "OLLAMA_PARAMS" in line]


def test_a_template_edited_or_gone_fails_its_gate(copied, tools):
    edit(copied / "template", "<|tool>", "<|tools>")
    assert "the Ollama template 's>declaration" in running(copied, tools, "template")[0]
    assert "template: expected a template of modelfiles/, found another" in running(copied, tools, "sidecars")[0]
    (copied / "template").unlink()
    assert running(copied, tools, "template") == [f"{copied / 'template'}: expected Ollama's template, found nothing"]


def test_a_file_that_does_not_load_fails(copied, tools):
    gguf = smallest(checked(copied))
    gguf.write_bytes(gguf.read_bytes().replace(b"gemma4.block_count", b"gemma4.block_cound"))
    assert "a model that llama-server loads" in running(copied, tools, "answer")[0]
