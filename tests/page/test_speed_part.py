"""The page's sections on pictures, a draft model and fewer experts: there by their records alone, and of this build."""

import shutil
from pathlib import Path

from build_report import main
from files.json_records import read_json
from files.written_records import write_json, write_record
from makers.synthetic_build import options, write_build
from quants.quant_record import MmprojRecord
from speed.active_experts import ActiveExperts
from speed.draft_results import DraftResults

import pytest

DIGEST = "a" * 64


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    """The records of a small build, and of a file for pictures, a draft model and fewer experts that belong to it."""
    folder = tmp_path_factory.mktemp("pristine")
    write_build(folder, 12, 2, 20, 16)
    f16 = read_json(folder / "pruned-F16.gguf.json")["sha256"]
    source = {"gguf": "pruned-Q6_K.gguf", "gguf_sha256": DIGEST, "source_sha256": f16}
    answers = {"name": "pruned", **source, "same": [True, True], "tokens": [12, 8], "drafted": [8, 8]}
    answers |= {"accepted": [6, 4], "speeds": [30.0, 28.0], "speeds_without": [20.0, 20.0]}
    machine = {"cpu": "AMD EPYC", "cores": 2, "gpus": [], "backends": ["CPU"]}
    where = {"context": 4096, "gpu_layers": 0, "hardware": machine}
    draft = {"file": "mtp-pruned-Q8_0.gguf", "type": "Q8_0", "bytes": 3 << 30, "parameters": 1000, "sha256": DIGEST}
    draft |= {"draft_tokens": 2, "max_tokens": 64, "rounds": 2, "questions": 2, "questions_sha256": DIGEST, **where}
    write_record(folder / "draft.json", {**draft, "llama_cpp": "1", "models": [answers]}, DraftResults)
    rows = [
        {"experts": 8, "kld": [0.0, 0.0], "same_top": [1.0, 0.0], "speeds": [20.0, 20.0], "right": [True, True]},
        {
            "experts": 7,
            "kld": [0.002, 0.0004],
            "same_top": [0.99, 0.001],
            "speeds": [22.0, 24.0],
            "right": [True, False],
        },
    ]
    active = {"name": "pruned", **source, "key": "gemma4.expert_used_count", "own": 8, "chats": 2, "chat_tokens": 90}
    active |= {f"{of}_sha256": DIGEST for of in ("chats", "texts", "questions")} | {"chat_max_tokens": 64}
    active |= {"questions": 2, "max_tokens": 64, "rounds": 2, "llama_cpp": "1", "rows": rows, **where}
    active["reasoning_budget"] = -1
    write_record(folder / "active-experts.json", active, ActiveExperts)
    tower = {"name": "pruned", "type": "F16", "towers": ["vision"], "projection_width": 256, "parameters": 12345}
    tower |= {"tensors_per_type": {"F16": 2}, "added": [], "towers_sha256": DIGEST, "source_sha256": DIGEST}
    tower |= {"llama_cpp": "1", "bytes": 1 << 30, "sha256": DIGEST}
    write_record(folder / "mmproj-pruned-F16.gguf.json", tower, MmprojRecord)
    return folder


def arguments(folder: Path) -> list[str]:
    more = ["--draft", folder / "draft.json", "--active-experts", folder / "active-experts.json"]
    return [*options(folder), *map(str, [*more, "--mmproj", folder / "mmproj-pruned-F16.gguf.json"])]


def test_each_section_is_there_by_its_record_and_only_then(pristine, tmp_path, refusal):
    output = tmp_path / "report.html"
    main([*arguments(pristine), "--output", str(output)])
    text = output.read_text()
    for words in (
        *("Files for pictures", "mmproj-pruned-F16.gguf", "12,345"),
        *("Draft model", "mtp-pruned-Q8_0.gguf: Q8_0, 1,000 weights, 3.00 GiB.", "All 2 greedy answers are the same"),
        *("62.5%", "2.00", "1.45"),
        *("Fewer active experts", "0.00200 ± 0.00040", "1/2 = 50.00%"),
    ):
        assert words in text, words
    assert text.count("Timed on AMD EPYC (2 cores); no GPU; llama.cpp") == 2  # of each record
    main([*options(pristine), "--output", str(tmp_path / "other.html")])
    other = (tmp_path / "other.html").read_text()
    assert not [key for key in ("pictures", "draft", "active") if f'<section id="{key}"' in other]
    poorer = [*options(pristine), "--output", output]
    refusal(main, poorer, "the record --mmproj", "run make quants")


@pytest.mark.parametrize(
    ("name", "target"), [("draft.json", "make draft"), ("active-experts.json", "make active-experts")]
)
def test_what_was_measured_on_another_build_is_refused(pristine, tmp_path, refusal, name, target):
    folder = Path(shutil.copytree(pristine, tmp_path / "build"))
    f16 = read_json(folder / "pruned-F16.gguf.json")["sha256"]
    (folder / name).write_text((folder / name).read_text().replace(f16, "b" * 64))
    refusal(main, [*arguments(folder), "--output", tmp_path / "report.html"], name, "F16 GGUF", target)


@pytest.mark.parametrize(
    ("name", "part", "field", "value", "words"),
    [
        ("draft.json", "models", "accepted", [6], "drafted tokens, and at most these accepted"),
        ("draft.json", "models", "accepted", [9, 4], "drafted tokens, and at most these accepted"),
        ("draft.json", "models", "drafted", [0, 0], "drafted tokens, and at most these accepted"),
        ("draft.json", "models", "same", [True], "an answer of each model to every question"),
        ("draft.json", "models", "speeds", [30.0], "speeds of every round"),
        ("draft.json", "models", "speeds_without", [0.0, 20.0], "greater than 0"),
        ("active-experts.json", "rows", "experts", 7, "rows from the model's own number of experts"),
        ("active-experts.json", "rows", "kld", [0.0], "at least 2 items"),
        ("active-experts.json", "rows", "speeds", [20.0], "speeds of every round"),
        ("active-experts.json", "rows", "right", None, "right answers of all rows or of none"),
        ("active-experts.json", "rows", "right", [True], "right answers to every question"),
    ],
)
def test_figures_that_no_measurement_gives_are_refused(pristine, tmp_path, refusal, name, part, field, value, words):
    folder = Path(shutil.copytree(pristine, tmp_path / "build"))
    found = read_json(folder / name)
    found[part][0] |= {field: value} if (field, value) != ("drafted", [0, 0]) else {field: value, "accepted": value}
    write_json(folder / name, found)
    refusal(main, [*arguments(folder), "--output", tmp_path / "report.html"], name, words)
