"""The tokenizer of a checkpoint: it comes without torch and reads no file twice, and is the same."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import render_calibration
from chats.chat_tokenizer import load_tokenizer
from conftest import DEMO, REPO
from files.input_errors import RECORD_MIB, InputError

import pytest
import torch  # noqa: F401 (here it is loaded)

TEXT = "Ein Satz, é \U0001f600 <b>| and 12.5 % of it"
ALONE = """
import json, sys
reads = []
sys.addaudithook(lambda event, args: reads.append(str(args[0])) if event == "os.scandir" else None)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from chats.chat_tokenizer import load_tokenizer
tokenizer = load_tokenizer(Path(sys.argv[2]))
found = [type(tokenizer).__name__, tokenizer(sys.argv[3])["input_ids"], "torch" in sys.modules]
import transformers
print(json.dumps([*found, reads.count(str(Path(transformers.__file__).with_name("models") / "llama"))]))
"""


def test_a_tokenizer_alone_brings_no_torch_and_has_the_same_ids(demo_model: Path):
    command = [sys.executable, "-c", ALONE, REPO / "scripts", demo_model, TEXT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    tokenizer = load_tokenizer(demo_model)
    assert json.loads(done.stdout) == [type(tokenizer).__name__, tokenizer(TEXT)["input_ids"], False, 1]


@pytest.mark.parametrize(
    ("other", "refused"),
    [("the same", False), ("another", True), ([{"name": "default", "template": "another"}], True), (None, False)],
)
def test_a_checkpoint_has_one_chat_template(demo_model, tmp_path, other, refused):
    """transformers takes one place, llama.cpp's converter the other."""
    folder = shutil.copytree(demo_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = (folder / "chat_template.jinja").read_text()
    config["chat_template"] = f"{template}\n" if other == "the same" else other
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if refused:
        with pytest.raises(InputError, match="_config.json: expected the chat template of chat_template.jinja"):
            load_tokenizer(folder)
    else:
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "merges.txt", "added_tokens.json", "additional_chat_templates/a.jinja"]
)
def test_a_file_that_the_library_would_read_whole_has_a_bound(demo_model, tmp_path, name):
    """A sparse one needs no disk; transformers would take several times its size of memory."""
    folder = shutil.copytree(demo_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / name).parent.mkdir(exist_ok=True)
    with open(folder / name, "ab") as file:
        file.truncate((RECORD_MIB << 20) + 1)
    with pytest.raises(InputError, match=f"{name}: expected at most {RECORD_MIB} MiB to be read as a whole, found 256"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("file", "place", "value", "words"),
    [
        ("tokenizer_config.json", ["model_max_length"], "x", "a text that the tokenizer reads"),
        ("tokenizer_config.json", ["eos_token"], "x" * 1001, "eos_token of at most 1000 characters, found 1001"),
        # The library panics: its exception is none of Python's.
        ("tokenizer.json", ["normalizer"], {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "that loads"),
        ("tokenizer.json", ["pre_tokenizer"], {"type": "FixedLength", "length": 0}, "a text that the tokenizer reads"),
        ("tokenizer.json", ["model", "vocab", ";"], 1 << 31, "token ids below 2147483648"),
    ],
)
def test_a_tokenizer_that_loads_and_then_fails_is_refused(
    demo_model, tmp_path, refusal, capfd, file, place, value, words
):
    model = Path(shutil.copytree(demo_model, tmp_path / "model"))
    content = part = json.loads((model / file).read_text())
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (model / file).write_text(json.dumps(content))
    questions = (DEMO / "eval_questions.csv").read_text().replace("?", ";")
    (tmp_path / "questions.csv").write_text(questions)
    arguments = ["--model", model, "--questions", tmp_path / "questions.csv", "--output", tmp_path / "text.txt"]
    refusal(render_calibration.main, arguments, model, words)
    assert not (tmp_path / "text.txt").exists() and not capfd.readouterr().err  # a panic has words of its own


@pytest.mark.parametrize("template", [5, True, [[]], [{"name": []}], {"default": 5}])
def test_a_chat_template_of_another_kind_is_no_traceback(demo_model, tmp_path, template):
    folder = shutil.copytree(demo_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    with suppress(InputError):  # transformers may take the file beside it
        load_tokenizer(folder)
