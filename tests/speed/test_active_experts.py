"""Fewer active experts: llama.cpp's override equals another number in the file, and the sweep measures it."""

import shutil
from pathlib import Path

import measure_active_experts
import quantize_gguf
from calls import call
from conftest import DEMO
from files.json_records import read_record
from ggufs.gguf_header import experts_used_key, key_value, read_header
from losses.gguf_logits import GgufLogits
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import demo_ggufs
from speed.active_experts import ActiveExperts, active_rows, counts_to_try

import numpy as np
import pytest

IDS = [2, 5, 105, 107, 300, 301, 302, 1000, 1500]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with Q8_0.gguf of the demo and its record."""
    folder, shared = tmp_path_factory.mktemp("active"), demo_ggufs(tmp_path_factory)
    for name in ("F16.gguf", "F16.gguf.json", "imatrix.gguf", "imatrix.gguf.json"):
        shutil.copy2(shared / name, folder / name)
    quantize_gguf.main(quantize_arguments(folder, "Q8_0", folder / "Q8_0.gguf"))
    return folder


def logits(path: Path, tools, active: int | None = None) -> np.ndarray:
    with GgufLogits(path, tools, context=64, threads=1, active_experts=active) as model:
        return model.logits(IDS)


def test_the_override_is_another_number_in_the_header(built, tools, tmp_path):
    path, changed = built / "Q8_0.gguf", tmp_path / "five.gguf"
    key = experts_used_key(read_header(path))
    data = path.read_bytes()
    assert data.count(key_value(key, 8)) == 1
    changed.write_bytes(data.replace(key_value(key, 8), key_value(key, 5)))
    assert (logits(path, tools, 5) == logits(changed, tools)).all()
    assert (logits(path, tools, 8) == logits(path, tools)).all() and (
        logits(path, tools, 5) != logits(path, tools)
    ).any()


@pytest.mark.parametrize(("own", "counts"), [(8, [8, 7, 6, 5]), (2, [2, 1]), (4, [4, 3]), (16, list(range(16, 9, -1)))])
def test_the_sweep_goes_down_to_five_eighths(own, counts):
    assert counts_to_try(own) == counts


def test_the_sweep_measures_loss_speed_and_right_answers(built, tmp_path):
    output, cache = tmp_path / "active-experts.md", tmp_path / "cache"
    asked = ["--name", "demo", "--gguf", built / "Q8_0.gguf", "--model", DEMO / "model", "--limit", 4, "--counts", 4, 1]
    more = ["--scored", "--answers", 3, "--rounds", 1, "--cache", cache, "--output", output]
    call(measure_active_experts.main, *asked, *more, "--questions", DEMO / "eval_questions.csv")
    results = read_record(output.with_suffix(".json"), ActiveExperts)
    own, half, least = results["rows"]
    assert [row["experts"] for row in results["rows"]] == [8, 4, 1] and results["own"] == 8
    assert [results[key] for key in ("reasoning_budget", "context", "gpu_layers", "max_tokens")] == [-1, 4096, 0, 256]
    assert own["kld"] == [0, 0] and 0 < half["kld"][0] < least["kld"][0]
    assert sum(own["right"]) >= 2 and all(len(row["right"]) == 3 and row["speeds"][0] > 0 for row in results["rows"])
    assert f"| {' | '.join(active_rows(results)[1])} |" in output.read_text()
    assert output.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    # A second run takes losses from the cache: that of four experts is not computed again.
    kept = next(cache.rglob("4.npz"))
    before = kept.stat().st_mtime_ns
    call(measure_active_experts.main, *asked, *more, "--questions", DEMO / "eval_questions.csv")
    assert kept.stat().st_mtime_ns == before


def test_more_experts_than_the_file_uses_are_refused(built, tmp_path, refusal):
    asked = ["--name", "demo", "--gguf", built / "Q8_0.gguf", "--model", DEMO / "model", "--cache", tmp_path]
    asked += ["--questions", DEMO / "eval_questions.csv", "--output", tmp_path / "a.md", "--counts", 9]
    refusal(measure_active_experts.main, asked, "--counts", "expected at most 8")
