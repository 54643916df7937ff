"""A model is known by its digests: the same one from another place passes, another one is refused or replaced."""

import json
import os
import shutil

import fetch_model
from calls import as_command
from checkpoints.checkpoint import source_digest
from checkpoints.model_record import ModelRecord, seal_fetched
from conftest import DEMO
from files.input_errors import InputError
from files.json_records import read_json, read_record
from files.seals import MARKER
from release.given_places import check_hub_ids
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


def test_a_download_is_held_against_the_hub_and_sealed_so(script, refused, tiny_text_model, tmp_path, monkeypatch):
    """What lies there already counts as downloaded, by a note and a time beside it that anybody can write."""
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "seal.key"))
    full = tmp_path / "build/m/full"
    full.mkdir(parents=True)
    (tmp_path / "build" / MARKER).touch()
    with Hub() as hub:
        hub.RequestHandlerClass = Downloads
        files = {path.name: {"content": path.read_bytes()} for path in tiny_text_model.iterdir()}
        hub.repositories["google/a-model"] = files
        here = {"HF_HUB_OFFLINE": 0, "HF_ENDPOINT": hub.url, "HF_HOME": tmp_path / "home", "HF_HUB_DISABLE_XET": 1}
        asked = ("fetch_model.py", *arguments("google/a-model", full))
        assert script(*asked, **here).returncode == 0, hub.requests
        check_hub_ids({"MODEL": "google/a-model"}, full / "model.json", None)
        check_hub_ids({"MODEL": "a-folder"}, full / "model.json", None)
        with pytest.raises(InputError, match="expected that of google/another, held against the Hub, found no"):
            check_hub_ids({"MODEL": "google/another"}, full / "model.json", None)
        assert script(*asked, **here).returncode == 0
        edited = full / "checkpoint/config.json"
        times, content = edited.stat(), edited.read_bytes()
        edited.write_bytes(content.replace(b"\n", b" ", 1))
        os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
        refused(script(*asked, **here), "config.json: expected the file of google/a-model on the Hub, found another")
        edited.write_bytes(content)
        (full / "checkpoint/LICENSE").write_text("MIT")
        refused(script(*asked, **here), "LICENSE: expected the file of google/a-model on the Hub, found a file that is")
        hub.shutdown()


def test_an_assistant_of_the_hub_is_sealed_by_its_folder(demo_model, tmp_path, monkeypatch):
    monkeypatch.setenv("SEAL_KEY", str(tmp_path / "seal.key"))
    assistant = shutil.copytree(DEMO / "assistant", tmp_path / "build/m/full/assistants/google-helper")
    (tmp_path / "build" / MARKER).touch()
    with pytest.raises(InputError, match="google-helper: expected that of google/helper, held against the Hub"):
        check_hub_ids({"DRAFT": "google/helper"}, None, assistant)
    (tmp_path / "helper").symlink_to(assistant)  # what google/helper may be in the folder that make runs in
    with pytest.raises(InputError):
        check_hub_ids({"DRAFT": "google/helper"}, None, tmp_path / "helper")
    check_hub_ids({"DRAFT": "models/helper"}, None, assistant)  # another folder's name: given as a path
    with as_command("fetch_model"):
        seal_fetched(assistant, "google/helper", source_digest(assistant))
    check_hub_ids({"DRAFT": "google/helper"}, None, assistant)


def test_another_model_is_no_assistant(demo_model, tmp_path, refusal):
    asked = ["--assistant", *arguments(demo_model, tmp_path)[:4]]
    refusal(fetch_model.main, asked, "config.json: expected an assistant (Gemma4AssistantForCausalLM")
    assert not (tmp_path / "checkpoint").exists()
    for architectures in (256, [], [["x"]]):
        shutil.copytree(DEMO / "assistant", tmp_path / "odd", dirs_exist_ok=True)
        config = json.loads((tmp_path / "odd/config.json").read_text()) | {"architectures": architectures}
        (tmp_path / "odd/config.json").write_text(json.dumps(config))
        odd = ["--assistant", *arguments(tmp_path / "odd", tmp_path)[:4]]
        refusal(fetch_model.main, odd, "config.json: expected an assistant (Gemma4AssistantForCausalLM")


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
