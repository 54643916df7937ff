"""A model is known by its digests: the same one from another place passes, another one is refused or replaced."""

import shutil

import fetch_model
from files.safe_files import read_json

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
