"""A model is known by its digests: the same one from another place passes, another one is refused or replaced."""

import shutil

import fetch_model
from checkpoints.checkpoint import source_digest
from checkpoints.model_record import ModelRecord
from conftest import DEMO
from files.json_records import read_json, read_record
from servers.hub_server import Downloads, Hub

import pytest


@pytest.fixture
def fetched(tiny_text_model, tmp_path):
    fetch_model.main(arguments(tiny_text_model, tmp_path))
    return tmp_path


def arguments(model, folder, *more: str) -> list[str]:
    return [
        "--model",
        str(model),
        "--output",
        str(folder / "checkpoint"),
        "--record",
        str(folder / "model.json"),
        *more,
    ]


def test_a_copy_elsewhere_is_the_same_model(fetched, tiny_text_model, capsys):
    record = fetched / "model.json"
    before = record.stat().st_mtime_ns
    copy = shutil.copytree(tiny_text_model, fetched / "elsewhere")
    fetch_model.main(arguments(copy, fetched))
    assert (fetched / "checkpoint").resolve() == copy and record.stat().st_mtime_ns == before
    assert capsys.readouterr().out.endswith("gemma4_text, 16 experts in 3 layers\n")


def test_another_model_is_refused_unless_it_is_to_replace_the_first(fetched, tiny_text_model, demo_model, refusal):
    refusal(fetch_model.main, arguments(demo_model, fetched), "model.json", "those of another model", "REPLACE=model")
    assert (fetched / "checkpoint").resolve() == tiny_text_model.resolve()
    assert read_json(fetched / "model.json")["experts"] == 16
    fetch_model.main(arguments(demo_model, fetched, "--replace"))
    assert (fetched / "checkpoint").resolve() == demo_model.resolve()
    assert read_json(fetched / "model.json")["experts"] == 128


def test_a_place_that_something_else_has_leaves_no_record(tiny_text_model, tmp_path, refusal):
    (tmp_path / "checkpoint").write_text("mine")
    refusal(fetch_model.main, arguments(tiny_text_model, tmp_path), "a link to replace, found something else")
    assert not (tmp_path / "model.json").exists()


def test_an_assistant_and_the_card_of_a_model_come_from_the_hub(script, refused, tmp_path):
    """By one process each, as the Hub's address is read once."""
    with Hub() as hub:
        hub.RequestHandlerClass = Downloads
        files = {path.name: path.read_bytes() for path in (DEMO / "assistant").iterdir()}
        files |= {
            "README.md": b"---\nlicense: mit\n---\n",
            "pytorch_model.bin": b"x",
            "docs/README.md": b"x",
            "LICENSE": b"x",
        }
        hub.repositories["google/an-assistant"] = {name: {"content": content} for name, content in files.items()}
        here = {"HF_HUB_OFFLINE": 0, "HF_ENDPOINT": hub.url, "HF_HOME": tmp_path / "home", "HF_HUB_DISABLE_XET": 1}
        asked = ["--model", "google/an-assistant", "--output", tmp_path / "there"]
        done = script("fetch_model.py", "--assistant", *asked, **here)
        assert done.returncode == 0, (done.stderr, hub.requests)
        assert done.stdout == f"{tmp_path / 'there'}: gemma4_assistant, an assistant\n"
        fetched = {path.name: path.read_bytes() for path in (tmp_path / "there").iterdir() if path.is_file()}
        assert fetched == {name: files[name] for name in files if name not in ("pytorch_model.bin", "docs/README.md")}
        refused(script("fetch_model.py", *asked, **here), "there", "gemma4_assistant")
        hub.shutdown()


def test_a_model_is_known_by_all_its_bytes(fetched, script, tiny_text_model, tmp_path_factory):
    """An edit between the samples of its weights could pass for it."""
    digest, tmp_path = source_digest(tiny_text_model), tmp_path_factory.mktemp("download")
    assert read_record(fetched / "model.json", ModelRecord)["source_sha256"] == digest
    with Hub() as hub:
        hub.RequestHandlerClass = Downloads
        files = {path.name: {"content": path.read_bytes()} for path in tiny_text_model.iterdir()}
        hub.repositories["google/a-model"] = files
        here = {"HF_HUB_OFFLINE": 0, "HF_ENDPOINT": hub.url, "HF_HOME": tmp_path / "home", "HF_HUB_DISABLE_XET": 1}
        done = script("fetch_model.py", *arguments("google/a-model", tmp_path), **here)
        assert done.returncode == 0, (done.stderr, hub.requests)
        hub.shutdown()
    record = read_record(tmp_path / "model.json", ModelRecord)
    assert record["source_sha256"] == digest == source_digest(tmp_path / "checkpoint")


def test_another_model_is_no_assistant(demo_model, tmp_path, refusal):
    asked = ["--assistant", *arguments(demo_model, tmp_path)[:4]]
    refusal(fetch_model.main, asked, "config.json: expected an assistant (Gemma4AssistantForCausalLM")
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("name", ["LICENSE", "NOTICE", "LICENSE.md", "additional_chat_templates/a.jinja"])
def test_what_a_drop_copies_is_part_of_the_model(tiny_text_model, tmp_path, name):
    """Else a licence could be put beside a model that was fetched without one."""
    model = shutil.copytree(tiny_text_model, tmp_path / "model")
    digest = source_digest(model)
    (model / name).parent.mkdir(exist_ok=True)
    (model / name).write_text("MIT License")
    (model / "notes").write_text("no part of it")
    assert source_digest(model) != digest
    (model / name).unlink()
    assert source_digest(model) == digest
