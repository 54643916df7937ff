"""A checkpoint that brings code: whatever it names or holds, none of it is run."""

import json
import pickle
import shutil
import types
from pathlib import Path

import convert_to_gguf
import expert_drop
import fetch_model
import plan_quants
import render_calibration
import teacher_force_analysis
from chats.chat_tokenizer import load_tokenizer
from llama.start_converter import refuse_code_of_checkpoints

import pytest
from transformers import AutoConfig, AutoTokenizer, dynamic_module_utils

CODE = "from pathlib import Path\nPath({!r}).touch()\n"


class Touch:
    """What touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture
def hostile(demo_model, tmp_path) -> types.SimpleNamespace:
    """A copy of the demo model with code and a pickle in it, and the file that shows that either was run."""
    model, canary = Path(shutil.copytree(demo_model, tmp_path / "model")), tmp_path / "canary"
    (model / "own.py").write_text(CODE.format(str(canary)))
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(canary)))
    return types.SimpleNamespace(model=model, canary=canary, output=tmp_path / "output")


def name_code(path: Path, classes: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes}))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_checkpoint_that_names_code_is_refused_by_every_command(name, hostile, few_questions, refusal, tmp_path):
    name_code(
        hostile.model / name, {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M", "AutoTokenizer": ["own.T", None]}
    )
    model, output = ["--model", hostile.model], ["--output", hostile.output]
    asked = ["--questions", few_questions]
    drop_map = tmp_path / "map.json"
    drop_map.write_text("{}")
    for main, arguments in (
        (fetch_model.main, [*model, *output]),
        (teacher_force_analysis.main, [*model, *asked, *output]),
        (convert_to_gguf.main, [*model, *output, "--name", "own"]),
        (expert_drop.main, ["--source", hostile.model, "--drop-map", drop_map, *output]),
        (plan_quants.main, ["--source", hostile.model, "--name", "own", "--types", "Q8_0", *output]),
    ):
        refusal(main, arguments, hostile.model / name, "found auto_map")
    assert not hostile.canary.exists() and not hostile.output.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "_experts_implementation"])
@pytest.mark.parametrize("value", ["evil/kernel", {"text_config": "evil/kernel:fast"}])
def test_an_implementation_from_the_hub_is_refused(hostile, refusal, key, value):
    """transformers asks a package for it, which loads code of that repository."""
    path = hostile.model / "config.json"
    config = json.loads(path.read_text())
    arguments = ["--model", hostile.model, "--output", hostile.output]
    path.write_text(json.dumps(config | {key: value}))
    refusal(fetch_model.main, arguments, path, f"found {key} ")
    path.write_text(json.dumps(config | {key: "eager"}))
    fetch_model.main([str(word) for word in arguments])


@pytest.mark.parametrize("loader", [AutoConfig, AutoTokenizer])
def test_the_converter_runs_no_code_whatever_it_allows(loader, hostile, monkeypatch):
    """For some families it says trust_remote_code=True."""
    monkeypatch.setattr(dynamic_module_utils, "get_class_in_module", dynamic_module_utils.get_class_in_module)
    refuse_code_of_checkpoints()
    for name, kind in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        name_code(hostile.model / name, {kind: "own.C" if kind == "AutoConfig" else ["own.T", None]})
    with pytest.raises(ValueError, match="expected a checkpoint without code of its own"):
        loader.from_pretrained(hostile.model, trust_remote_code=True)
    assert not hostile.canary.exists()


@pytest.mark.parametrize(
    "name, key, files",
    [
        ("config.json", "configuration_files", ["config.4.0.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", ["../other/tokenizer.0.1.json"]),
    ],
)
def test_a_file_in_place_of_one_that_was_checked_is_refused(name, key, files, hostile, few_questions, refusal):
    """transformers reads the other one: our checks see neither what that says nor its code, no digest its bytes."""
    path = hostile.model / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: files}))
    arguments = ["--model", hostile.model, "--questions", few_questions, "--output", hostile.output]
    refusal(teacher_force_analysis.main, arguments, path, f"{key} {files}")


@pytest.mark.parametrize("nested", [False, True])
def test_weights_that_the_config_names_elsewhere_are_refused(nested, hostile, few_questions, refusal):
    """transformers would read them, pickles among them, and no digest of ours covers them."""
    path, named = hostile.model / "config.json", {"transformers_weights": "sub/other.safetensors"}
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | ({"text_config": config.get("text_config", {}) | named} if nested else named)))
    arguments = ["--model", hostile.model, "--questions", few_questions, "--output", hostile.output]
    refusal(teacher_force_analysis.main, arguments, path, "transformers_weights 'sub/other.safetensors'")


def test_a_tokenizer_s_code_is_not_run_where_only_the_tokenizer_is_read(hostile, few_questions):
    name_code(hostile.model / "tokenizer_config.json", {"AutoTokenizer": ["own.T", "own.T"]})
    arguments = ["--model", hostile.model, "--questions", few_questions, "--output", hostile.output]
    render_calibration.main(list(map(str, arguments)))
    assert hostile.output.exists() and not hostile.canary.exists()


def test_a_tokenizer_that_is_only_code_is_refused(hostile, refusal):
    name_code(hostile.model / "tokenizer_config.json", {"AutoTokenizer": ["own.T", "own.T"]})
    settings = json.loads((hostile.model / "tokenizer_config.json").read_text()) | {"tokenizer_class": "OwnTokenizer"}
    (hostile.model / "tokenizer_config.json").write_text(json.dumps(settings))
    settings = json.loads((hostile.model / "config.json").read_text()) | {"model_type": "own"}
    (hostile.model / "config.json").write_text(json.dumps(settings))
    refusal(lambda _: load_tokenizer(hostile.model), [], hostile.model)
    assert not hostile.canary.exists()


def test_weights_in_pickle_are_not_read(hostile, few_questions, refusal):
    for path in hostile.model.glob("*.safetensors*"):
        path.unlink()
    model, output = ["--model", hostile.model], ["--output", hostile.output]
    for main, arguments in (
        (fetch_model.main, [*model, *output]),
        (teacher_force_analysis.main, [*model, "--questions", few_questions, *output]),
        (convert_to_gguf.main, [*model, *output, "--name", "own"]),
    ):
        refusal(main, arguments, "model.safetensors")
    assert not hostile.canary.exists()
