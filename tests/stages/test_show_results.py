"""The closing lines of a stage: figures of its records only, in few lines."""

import json
from pathlib import Path

import show_results
from choice.drop_metadata import METADATA_NAME, DropMetadata
from files.json_records import Record
from files.written_records import write_record
from quants.quant_record import ConversionRecord, QuantRecord, record_path
from scoring.paired_statistics import wilson
from scoring.score_records import Scores, pair_figures

import numpy as np
import pytest


@pytest.fixture
def shown(capsys):
    """Return the lines that the command prints."""

    def show(*arguments: object) -> list[str]:
        show_results.main(list(map(str, arguments)))
        return capsys.readouterr().out.splitlines()

    return show


def row(name: str, gguf: str, experts: int, sizes: dict[str, int], raw: int, patched: int | None) -> dict:
    """Return the row of a model that has so many of 198 questions right."""
    score = (raw if patched is None else patched) / 198
    return {
        "name": name,
        "experts": experts,
        "questions": 198,
        "seeds": [42],
        "gguf": gguf,
        "gguf_sha256": "0" * 64,
        "bytes": sizes,
        "raw_correct": raw,
        "raw": raw / 198,
        "strict_correct": 150,
        "strict": 150 / 198,
        "patched_correct": patched,
        "patched": None if patched is None else patched / 198,
        "score": score,
        "interval": list(wilson(np.repeat([1.0, 0.0], [round(198 * score), 198 - round(198 * score)]))),
        "in_sample": None,
        "invalid": 0,
        "invalid_classes": {},
        "expected_by_chance": 0.0,
        "points_vs_reference": 0.0,
    }


def scores(names: tuple[str, str], patched: bool, lost: int = 5, won: int = 2) -> dict:
    """Return a comparison of two models on 198 questions."""
    right, net = (158, 163 if patched else None), won - lost
    first = row(names[0], f"{names[0]}-Q6_K.gguf", 128, {"Q8_0": 12 << 30, "Q6_K": 10 << 30}, *right)
    also = (right[0] + net, right[1] + net if patched else None)
    second = row(names[1], f"{names[1]}-CD-Q6_K.gguf", 109, {"Q6_K": 9 << 30}, *also)
    pair = {"reference": names[0], "model": names[1], "questions": 198, "seeds": 1, "lost": lost, "won": won}
    pair |= pair_figures(np.repeat([-1, 1, 0], [lost, won, 198 - lost - won]), 1)
    second |= {name: pair[name] for name in ("lost", "won", "mcnemar_p")}
    second |= {"points_vs_reference": 100 * net / 198, "in_sample": {"chosen_on": 198, "scored_and_chosen_on": 198}}
    return {
        "version": Scores.current,
        "evaluated": f"{first['gguf']} and {second['gguf']}",
        "protocol": {"seed": 42},
        "patched": patched,
        "question_ids": [f"rec{number}" for number in range(198)],
        "rows": [first, second],
        "pairs": [pair],
    }


def test_after_eval_a_narrow_table_a_test_and_what_next(shown, tmp_path):
    path, page = tmp_path / "scores.json", tmp_path / "report.html"
    path.write_text(json.dumps(scores(("gemma", "gemma-109e"), True)))
    page.write_text("")
    lines = shown("--after", "eval", path, "--page", page, "--run", "my-26b")
    assert lines[1].split() == ["gemma", "128", "10.00", "79.80%", "82.32%", "76.4%", "to", "87.0%", "reference"]
    assert lines[2].split()[-2:] == ["-1.52", "points"] and lines[2].split()[:3] == ["gemma-109e", "109", "9.00"]
    assert lines[4].startswith("5 questions of 198 lost, 2 won: no significant difference (McNemar p = 0.45")
    assert lines[5] == "In-sample: 198 of the 198 scored questions also chose the experts of gemma-109e."
    assert lines[6:8] == [f"Results: {path}", f"Page: {page}"]
    assert "`make release RUN=my-26b`" in lines[8] and len(lines) == 9


def test_a_significant_difference_an_unpatched_score_and_long_names(shown, tmp_path):
    names = ("gemma-4-26B-A4B-it-with-a-name-that-is-much-too-long-for-a-screen", "another-model-109e")
    content = scores(names, False, lost=14, won=1)  # McNemar p = 0.001
    content["rows"][0]["bytes"] = {}  # a comparison of runs has no sizes
    (tmp_path / "scores.json").write_text(json.dumps(content))
    lines = shown("--after", "eval", tmp_path / "scores.json", "--page", tmp_path / "none.html")
    assert max(map(len, lines[:3])) <= 100
    assert lines[1].startswith("gemma-4-26B") and "…" in lines[1] and lines[1].split()[2:5] == ["-", "79.80%", "-"]
    assert ": a significant difference (" in lines[4] and "Page" not in "".join(lines)
    assert "`make release`" in lines[-1]


def build_quant(folder: Path, name: str, record: dict, kind: type[Record]) -> Path:
    """Write a file as large as its record says, and the record."""
    path = folder / f"{name}.gguf"
    path.write_bytes(b"x" * record["bytes"])
    write_record(record_path(path), record, kind)
    return path


def test_after_quants_the_files_that_are_there(shown, refusal, tmp_path):
    tool = {"llama_cpp": "x", "sha256": "0" * 64, "source_sha256": "0" * 64}
    words = dict.fromkeys(("type", "base", "note"), "x") | dict.fromkeys(("imatrix_sha256", "calibration_sha256"))
    quant = tool | words | {"arguments": [], "parameters": 1, "experts": 4, "tensors_per_type": {}}
    names = {"x-Q4_K_M": (1 << 18, 4.567), "x-Q8_0": (1 << 20, 8.5)}
    built = [
        build_quant(
            tmp_path,
            name,
            quant | {"bytes": size, "bits_per_weight": bits, "parameters": round(8 * size / bits)},
            QuantRecord,
        )
        for name, (size, bits) in names.items()
    ]
    f16 = tool | {"name": "x", "outtype": "f16", "bytes": 2 << 20}
    built.append(build_quant(tmp_path, "x-F16", f16, ConversionRecord))
    (tmp_path / "x-Q2_K.gguf").write_text("of another tool, without a record")
    lines = shown("--after", "quants", *built, tmp_path / "x-Q2_K.gguf", tmp_path / "x-Q3_K_M.gguf")
    assert [line.split() for line in lines[1:4]] == [
        ["x-F16.gguf", "0.0020", "-"],
        ["x-Q8_0.gguf", "0.0010", "8.50"],
        ["x-Q4_K_M.gguf", "0.0002", "4.57"],
    ]
    assert lines[4:7] == ["", "3 of 5 files asked for, 0.0032 GiB.", f"Results: {tmp_path}"]
    assert "`make eval`" in lines[7] and len(lines) == 8
    refusal(show_results.main, ["--after", "quants", tmp_path / "no.gguf"], "no.gguf", "make quants")


def test_after_drop_the_size_of_the_checkpoint(shown, tmp_path):
    record = {"method": {}, "experts": 128, "keep_count": 112, "drop_map_sha256": "0" * 64, "source": {}}
    layer = {"keep": list(range(112)), "drop": list(range(112, 128))}
    kept = {"layers": {"0": layer}, "shards": {"a.safetensors": "0" * 64}}
    (tmp_path / "a.safetensors").write_bytes(b"x" * (1 << 24))
    write_record(tmp_path / METADATA_NAME, record | kept, DropMetadata)
    lines = shown("--after", "drop", tmp_path / METADATA_NAME)
    assert lines[0] == "112 of 128 experts are kept in each of 1 layer; 0.0156 GiB in 1 shard."
    assert lines[1] == f"Results: {tmp_path}" and "`make quants`" in lines[2] and len(lines) == 3


def test_after_analyze_how_sure_the_choice_is(shown, tmp_path, refusal):
    layers = {"0": {"keep": [0, 1], "drop": [2]}, "1": {"keep": [1, 2], "drop": [0]}}
    content = {"experts": 3, "keep_count": 2, "criterion": "coverage", "questions": 6, "layers": layers}
    path, sure = tmp_path / "drop_map.json", {"resamples": 9, "seed": 1, "expected_overlap": 0.9, "coin_toss": 4}
    path.write_text(json.dumps(content | {"bootstrap": sure}))
    lines = shown("--after", "analyze", path, "--run", "b")
    assert lines[0] == "2 of 3 experts stay in each of 2 layers, by coverage over 6 questions."
    assert "90.0%" in lines[1] and "4 are a coin toss" in lines[1] and "`make quants RUN=b`" in lines[-1]
    path.write_text('{"0": [2], "1": [0]}')  # a map of the user's
    lines = shown("--after", "analyze", path)
    assert lines[:2] == ["1 expert goes in each of 2 layers.", "How sure the choice is, the map does not say."]
    path.write_text("[]")
    refusal(show_results.main, ["--after", "analyze", path], path)


def test_after_release_each_folder_with_its_files(shown, tmp_path, refusal):
    folder = tmp_path / "GGUF"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"x" * (1 << 20))
    refusal(show_results.main, ["--after", "release", folder], "manifest.json")
    words = dict.fromkeys(("name", "owner", "repository", "base", "license", "quantized_by", "project_version"), "x")
    words |= {"siblings": {}, "settings": {}, "inputs": {}}
    entry = {"bytes": 1 << 20, "sha256": "0" * 64}
    manifest = {"version": 1, **words, "kind": "standard", "records": {}, "files": {"a.gguf": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines = shown("--after", "release", folder, "--run", "b")
    assert lines[1].split()[-3:] == ["standard", "2", "0.0010"]
    assert lines[-1].endswith("`make upload RUN=b REPO=USER/NAME`.")
    (folder / "b.txt").write_text("x")
    refusal(show_results.main, ["--after", "release", folder], "b.txt: expected none, as manifest.json says", "1 bytes")


def test_one_file_of_a_stage_that_has_one(capsys):
    with pytest.raises(SystemExit):
        show_results.main(["--after", "eval", "a.json", "b.json"])
    assert "expected one file, found 2" in capsys.readouterr().err
