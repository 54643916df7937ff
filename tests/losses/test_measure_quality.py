"""Measuring what quants cost: losses from the logits, kill and resume, refusals, pictures, make."""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import build_imatrix
import expert_drop
import measure_quality
import quantize_gguf
import render_calibration
from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from conftest import REPO
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from ggufs.gguf_header import read_header
from losses.gguf_logits import GgufLogits
from losses.kld_statistics import kl_divergence
from losses.quality_picture import label_places, overlap
from losses.quality_record import Quality
from losses.stored_logits import StoredLogits
from makers.shared_ggufs import link_f16, tiny_ggufs

import numpy as np
import pytest
from matplotlib import image

QUANTS = ("Q8_0", "Q4_0", "CD-Q4_K_M")
FILES = ("quality.md", "quality.json", "quality.png")


@pytest.fixture(scope="module")
def inputs(tiny_text_model, few_questions, tmp_path_factory) -> dict[str, object]:
    """A tiny model's F16, the same with four experts dropped, three quants of that, calibration, held-out questions."""
    folder = tmp_path_factory.mktemp("quality")
    full, pruned, imatrix = (str(folder / name) for name in ("full.gguf", "pruned.gguf", "imatrix.gguf"))
    chose, text, drop_map = (str(folder / name) for name in ("chose.csv", "text.txt", "map.json"))
    (folder / "map.json").write_text(json.dumps({str(layer): [1, 4, 6, 9] for layer in range(3)}))
    lines = (REPO / "data/demo/calibration_questions.csv").read_text().splitlines(keepends=True)
    (folder / "chose.csv").write_text("".join(lines[:30]))
    model = str(tiny_text_model)
    link_f16(tiny_ggufs(tmp_path_factory, tiny_text_model), folder / "full.gguf")
    expert_drop.main(["--source", full, "--drop-map", drop_map, "--output", pruned])
    render_calibration.main(["--model", model, "--questions", chose, "--output", text])
    build_imatrix.main(["--model", pruned, "--calibration", text, "--output", imatrix])
    for quant in QUANTS:
        flags = ["--type", quant, "--threads", "1", "--cd-tiers", "0/1/2", "--output", str(folder / f"{quant}.gguf")]
        quantize_gguf.main(["--input", pruned, "--imatrix", imatrix, *flags])
    return {
        "--full": folder / "full.gguf",
        "--pruned": folder / "pruned.gguf",
        "--gguf": [folder / f"{quant}.gguf" for quant in QUANTS],
        "--model": tiny_text_model,
        "--questions": few_questions,
        "--calibration": folder / "text.txt",
        "--chose": folder / "chose.csv",
    }


def arguments(inputs: dict[str, object], folder: Path, **changes: object) -> list[str]:
    """The command line of a small measurement."""
    flags = {
        **inputs,
        "--threads": 1,
        "--cache": folder / "cache",
        "--output": folder / "quality.md",
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return [
        str(part) for flag, value in flags.items() for part in (flag, *(value if isinstance(value, list) else [value]))
    ]


@pytest.fixture(scope="module")
def finished(inputs, tmp_path_factory) -> Path:
    """The directory of a finished measurement."""
    folder = tmp_path_factory.mktemp("finished")
    measure_quality.main(arguments(inputs, folder))
    return folder


def test_a_map_that_names_no_questions_leaves_open_what_the_chats_are(finished, inputs, tmp_path, refusal):
    plain, output = inputs["--full"].with_name("map.json"), tmp_path / "quality.md"
    measure_quality.main(arguments(inputs, finished, chose=plain, output=output))  # all from the cache
    record = read_record(tmp_path / "quality.json", Quality)
    assert record == read_record(finished / "quality.json", Quality) | {"choice_known": False}
    assert (
        "6 chats of questions that calibration has not seen (not known whether the choice of experts has)"
        in output.read_text()
    )
    assert (
        "6 chats of questions that neither calibration nor the choice of experts has seen"
        in (finished / "quality.md").read_text()
    )
    (tmp_path / "named.json").write_text(json.dumps({"question_ids": ["a"], "layers": {"0": [1]}}))
    assert measure_quality.read_chose(tmp_path / "named.json") == {"a"} and measure_quality.read_chose(plain) == set()
    (tmp_path / "named.json").write_text('{"chats": 6}')
    refusal(measure_quality.main, arguments(inputs, finished, chose=tmp_path / "named.json"), "named.json", "layers")


def test_three_losses_are_those_of_the_models(finished, inputs, tiny_text_model, tools):
    content = read_record(finished / "quality.json", Quality)
    assert {entry["label"] for entry in content["files"]} == set(QUANTS)
    assert (content["chats"], content["left_out"]) == (6, 0)
    assert content["inputs"]["full_sha256"] == sha256_file(inputs["--full"])
    tokenizer, pairs = load_tokenizer(tiny_text_model), {"pruning": (0, 1), "quantisation": (1, 2), "total": (0, 2)}
    klds: dict[str, list] = {name: [] for name in pairs}
    paths = (inputs["--full"], inputs["--pruned"], inputs["--gguf"][1])
    models = [GgufLogits(path, tools, context=512, threads=1) for path in paths]
    for question in load_questions(inputs["--questions"], 42):
        sequence = teacher_forced_sequence(tokenizer, question, 4096, "answer")
        reply = slice(sequence.start - 1, len(sequence.ids) - 1)
        logits = [model.logits(sequence.ids)[reply] for model in models]
        for name, (one, other) in pairs.items():
            klds[name].append(kl_divergence(logits[one], logits[other]))
    found = next(entry for entry in content["files"] if entry["label"] == "Q4_0")["losses"]
    for name, values in klds.items():
        assert found[name]["kld"][0] == pytest.approx(np.concatenate(values).mean(), rel=1e-6), name
        assert found[name]["kld_99"][0] == pytest.approx(np.quantile(np.concatenate(values), 0.99), rel=1e-6), name
        assert found[name]["kld"][1] > 0
    assert image.imread(finished / "quality.png").shape[1] == 1200
    for name in FILES:
        assert str(finished).encode() not in (finished / name).read_bytes()


def test_a_killed_measurement_goes_on_and_ends_in_the_same_bytes(finished, inputs, tmp_path):
    flags = arguments(inputs, tmp_path)
    for wanted in ("full-*/full-*.npy", "results-*/*[!g].npz"):
        process = subprocess.Popen(
            [sys.executable, REPO / "scripts/measure_quality.py", *flags],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not list((tmp_path / "cache").glob(wanted)):
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    measure_quality.main(flags)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.np?")}
    assert len(times) == 6 + 6 + 1 + 1 + len(QUANTS)  # logits of both models, pruning, tokens per chat, quants
    measure_quality.main(arguments(inputs, tmp_path, score="all"))  # other positions of the same passes
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.np?")}
    assert (tmp_path / "quality.md").read_bytes() != (finished / "quality.md").read_bytes()


def test_bad_input_is_refused_in_one_line(inputs, tmp_path, refusal, monkeypatch):
    def refuse(*words: object, **changes: object) -> None:
        refusal(measure_quality.main, arguments(inputs, tmp_path, **changes), *words)

    refuse("found 0 of 29", "EVAL_QUESTIONS", questions=inputs["--chose"])
    refuse("found 1 of 6", limit=1)
    refuse("calibration text", calibration=tmp_path / "none.txt")
    refuse("none.gguf", "nothing", gguf=tmp_path / "none.gguf")
    refuse("full.gguf.json", "a record of quantize_gguf.py with the field 'type'", gguf=inputs["--full"])
    refuse("Q8_0 twice", gguf=[inputs["--gguf"][0], copy_with_record(inputs["--gguf"][0], tmp_path / "again.gguf")])
    refuse("build it again", pruned=inputs["--full"])
    refuse("Q8_0.gguf: expected an output apart", output=inputs["--gguf"][0])
    refuse("Q8_0.gguf.json: expected an output apart", output=inputs["--gguf"][0].with_suffix(".gguf.md"))
    edited = copy_with_record(inputs["--gguf"][0], tmp_path / "edited.gguf")
    record = json.loads(Path(f"{edited}.json").read_text())
    for key, value, words in (
        ("type", None, "a record of quantize_gguf.py whose 'type' is a valid string"),
        ("bits_per_weight", "4", "bits_per_weight"),
        ("bytes", 5, "other bytes"),
        ("sha256", "0" * 64, "other bytes"),
    ):
        size = {"bits_per_weight": 8 * value / record["parameters"]} if key == "bytes" else {}
        Path(f"{edited}.json").write_text(json.dumps({**record, key: value, **size}))
        refuse("edited.gguf", words, gguf=edited)
    changed = copy_with_record(inputs["--gguf"][0], tmp_path / "changed.gguf")
    changed.write_bytes(changed.read_bytes()[:-1] + b"x")
    refuse("other bytes", gguf=changed)
    monkeypatch.setattr("measure_quality.stored_bytes", lambda path, texts: 1 << 60)
    refuse("GiB of free disk space")
    assert not list(tmp_path.rglob("*.np?")) and not (tmp_path / "quality.md").exists()


def test_a_damaged_cache_is_refused_by_name(finished, inputs, tmp_path, refusal):
    shutil.copytree(finished / "cache", tmp_path / "cache")
    flags = arguments(inputs, tmp_path)
    pruning = next((tmp_path / "cache").glob("results-*/pruning.npz"))
    whole = dict(np.load(pruning))
    broken = {**whole, "full_kld": np.where(np.arange(len(whole["full_kld"])) == 3, np.nan, whole["full_kld"])}
    for arrays in ({name: values[:3] for name, values in whole.items()}, {"other": np.zeros(3)}, broken):
        np.savez(pruning, **arrays)
        refusal(measure_quality.main, flags, "pruning.npz", "full_kld", "remove it")
    pruning.write_bytes(pruning.read_bytes()[:200])
    refusal(measure_quality.main, flags, "pruning.npz", "remove it")
    pruning.unlink()
    logits = next((tmp_path / "cache").glob("full-*/full-000002.npy"))
    content = logits.read_bytes()
    logits.write_bytes(content[:1000])
    refusal(measure_quality.main, flags, logits.name, "remove it")
    np.save(logits, np.zeros((3, 4), np.float32))
    refusal(measure_quality.main, flags, logits.name, "[3, 4]")
    logits.unlink()
    measure_quality.main(flags)
    assert logits.read_bytes() == content and all(
        (tmp_path / name).read_bytes() == (finished / name).read_bytes() for name in FILES
    )


def test_logits_that_change_after_their_check_are_refused(finished, inputs, tmp_path, tools):
    """They are read again for every file that is measured."""
    logits = tmp_path / "full-000000.npy"
    shutil.copyfile(next((finished / "cache").glob(f"full-*/{logits.name}")), logits)
    texts = [[0] * len(np.load(logits))]
    stored = StoredLogits(inputs["--full"], tools, texts, tmp_path, argparse.Namespace(), "full")
    for _ in range(2):
        assert sum(map(len, stored.chunks(0))) == len(texts[0])
    times, content = logits.stat(), logits.read_bytes()
    logits.write_bytes(content[:-4] + bytes(4))
    os.utime(logits, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match="full-000000.npy: expected the logits that were checked"):
        next(stored.chunks(0))


def test_logits_that_are_not_finite_are_refused_before_they_are_kept(inputs, tmp_path, refusal):
    broken = Path(shutil.copy(inputs["--full"], tmp_path / "broken.gguf"))
    norm = next(tensor for tensor in read_header(broken).tensors if tensor.name == "output_norm.weight")
    with open(broken, "r+b") as file:
        file.seek(norm.offset)
        file.write(np.full(64, 3e38, "<f4").tobytes())
    refusal(measure_quality.main, arguments(inputs, tmp_path, full=broken), "broken.gguf: expected finite logits")
    assert not list(tmp_path.rglob("*.np?"))


def test_a_write_cut_short_is_one_line(inputs, tmp_path, refusal):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refusal(measure_quality.main, arguments(inputs, tmp_path), "full-000000.npy", "File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.rglob("*.np?"))


def test_files_without_any_loss_can_be_drawn(inputs, tmp_path):
    folder = inputs["--full"].parent
    quantize_gguf.main(
        ["--input", str(folder / "pruned.gguf"), "--type", "F16", "--output", str(tmp_path / "F16.gguf")]
    )
    measure_quality.main(arguments(inputs, tmp_path, gguf=tmp_path / "F16.gguf"))
    assert "| F16 |" in (tmp_path / "quality.md").read_text() and (tmp_path / "quality.png").exists()


def test_labels_cover_neither_each_other_nor_points():
    generator = np.random.default_rng(0)
    points, sizes = generator.uniform(200, 500, size=(36, 2)), np.tile([50.0, 10.0], (36, 1))
    bars = np.column_stack([points[:, 0] - 1, points[:, 1] - 30, points[:, 0] + 1, points[:, 1] + 30])
    places = np.array(label_places(points, sizes, bars, np.array([0.0, 0, 700, 700])))
    boxes = np.hstack([places - sizes / 2, places + sizes / 2])
    for number, box in enumerate(boxes):
        assert overlap(box, np.delete(boxes, number, axis=0)) == 0
        assert overlap(box, np.hstack([points, points])) == 0 and np.abs(places[number] - points[number]).max() < 120
    edge = label_places(np.array([[2.0, 2.0]]), sizes[:1], bars[:0], np.array([0.0, 0, 700, 700]))[0]
    assert (edge - sizes[0] / 2 >= 0).all()  # inside of the frame


def copy_with_record(path: Path, target: Path) -> Path:
    """Copy a quant and its record."""
    shutil.copy(f"{path}.json", f"{target}.json")
    return Path(shutil.copy(path, target))


def test_make_measures_the_demo_where_no_model_is_given(tmp_path):
    done = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-n",
            "quality",
            f"BUILD={tmp_path}",
            "QUANTS=Q8_0 CD-Q4_K_M",
            "QUALITY_CHATS=20",
        ],
        cwd=REPO,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.replace("\\\n", "").splitlines() if "measure_quality.py" in line)
    for words in ("109e-CD-Q4_K_M.gguf", "109e-Q8_0.gguf", "--limit 20", "109e/quality/quality.md", "drop_map.json"):
        assert words in line
