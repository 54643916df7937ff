"""The imatrix: what building it refuses, when it is left as it is, what quantising refuses of it, its coverage."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import build_imatrix
import quantize_gguf
import report_imatrix
from calls import call
from chats.chat_tokenizer import load_tokenizer
from conftest import DEMO
from files.input_errors import InputError, sha256_file
from ggufs.gguf_header import TensorInfo, header_bytes, key_value, read_header
from ggufs.imatrix import check_reached, read_imatrix
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import copy_demo_ggufs

import numpy as np
import pytest


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """F16.gguf of the demo, text.txt and imatrix.gguf with their records."""
    return copy_demo_ggufs(tmp_path_factory)


def imatrix_arguments(folder: Path, **changes: Path) -> list[object]:
    """Return the arguments of build_imatrix.py over the files of a folder."""
    flags = {"model": folder / "F16.gguf", "calibration": folder / "text.txt", **changes}
    return [part for name, value in flags.items() for part in (f"--{name}", value)]


def test_an_imatrix_is_not_written_over_its_inputs_or_another_file(built, tmp_path, refusal):
    before = {path: sha256_file(path) for path in built.iterdir()}
    for name in ("F16.gguf", "text.txt"):
        refusal(build_imatrix.main, imatrix_arguments(built, output=built / name), name, "would overwrite")
    (tmp_path / "mine.gguf").write_text("something dear")
    refusal(build_imatrix.main, imatrix_arguments(built, output=tmp_path / "mine.gguf"), "mine.gguf", "another file")
    assert (tmp_path / "mine.gguf").read_text() == "something dear"
    assert {path: sha256_file(path) for path in built.iterdir()} == before


def test_a_text_that_cannot_calibrate_is_refused_by_its_name(built, tmp_path, refusal):
    def refuse(name: str, content: bytes | None, *words: str) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        arguments = imatrix_arguments(built, calibration=tmp_path / name, output=tmp_path / "x.gguf")
        refusal(build_imatrix.main, arguments, name, *words)

    # llama-imatrix writes that a text is too short with its last words, which it often loses on a loaded machine.
    short = (built / "text.txt").read_text()[:1500]
    tokens = len(load_tokenizer(DEMO / "model")(short.removesuffix("\n"), add_special_tokens=False)["input_ids"])
    refuse("short.txt", short.encode(), "short.txt: expected 1024 tokens or more", f"found {tokens + 1}; calibrate")
    refuse("shorter.txt", b"short", "5 bytes")
    refuse("latin.txt", "ä".encode("latin-1") * 2000, "UTF-8")
    refuse("none.txt", None, "nothing")
    assert {path.name for path in tmp_path.iterdir()} == {"short.txt", "shorter.txt", "latin.txt"}


@pytest.mark.parametrize("name", ["libm.so.6", "LIBLLAMA.SO", "libggml.dylib", "ggml.dll"])
def test_a_text_is_not_laid_where_a_library_of_the_tool_could_be_found(built, tmp_path, refusal, name):
    """llama-imatrix runs beside its text; one that was a library of the system was loaded and run."""
    shutil.copy(built / "text.txt", tmp_path / name)
    arguments = imatrix_arguments(built, calibration=tmp_path / name, output=tmp_path / "x.gguf")
    refusal(build_imatrix.main, arguments, "expected a name that no library of programs has")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("size", [0, 3, 1000])
def test_an_imatrix_that_the_tool_cut_short_names_the_disk(built, tmp_path, size):
    """llama-imatrix ends with code 0 when a write fails."""
    (tmp_path / "cut.gguf").write_bytes((built / "imatrix.gguf").read_bytes()[:size])
    with pytest.raises(InputError, match=f"x.gguf: expected a whole imatrix .* found {size} bytes .*full disk .* GiB"):
        build_imatrix.read_whole_imatrix(tmp_path / "cut.gguf", tmp_path / "x.gguf")


def test_tokens_are_counted_as_llama_imatrix_reads_them(built, tools):
    for text in (b"", b"one two", b"one two\n", b"<|turn>user\none two<turn|>\n\n"):
        words = load_tokenizer(DEMO / "model")(text.decode().removesuffix("\n"), add_special_tokens=False)["input_ids"]
        assert build_imatrix.count_tokens(tools, built / "F16.gguf", text) == len(words) + 1  # and <bos>


def test_the_tools_own_words_are_shown_where_tokens_cannot_be_counted(built, tmp_path, tools, monkeypatch):
    def another_version(_: Path) -> None:
        raise InputError("libllama", "one of this version", "another one")

    monkeypatch.setattr("llama.load_check.load_bindings", another_version)
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(InputError, match="llama-imatrix: expected success, found exit code 1: "):
        build_imatrix.run_imatrix(tools, built / "F16.gguf", tmp_path / "short.txt", tmp_path / "x.gguf", 512)


def test_a_text_that_is_exchanged_for_llama_imatrix_is_not_measured(built, tmp_path):
    """It reads the text later than we take its digest: so it reads a copy."""
    text = tmp_path / "text.txt"
    text.write_bytes((built / "text.txt").read_bytes())
    digest = sha256_file(text)
    folder = tmp_path / "x.partial.gguf.text"
    folder.mkdir()
    (folder / "of a killed run").touch()
    with build_imatrix.private_copy(text, folder) as copy:
        text.write_text("another one")
        assert (copy.name, sha256_file(copy)) == (text.name, digest) and [*folder.iterdir()] == [copy]
    assert not folder.exists()
    text.write_bytes((built / "text.txt").read_bytes())
    with pytest.raises(InputError, match="stays as it is"), build_imatrix.private_copy(text, folder) as copy:
        copy.write_text("another one")


@pytest.fixture
def copied(built, tmp_path) -> Path:
    """Copies of the imatrix and what it was measured from, that a test may change."""
    return Path(shutil.copytree(built, tmp_path / "copied"))


def test_an_imatrix_of_the_same_inputs_is_left_as_it_is(copied, monkeypatch, capsys):
    monkeypatch.setattr(build_imatrix, "run_imatrix", lambda *_: pytest.fail("measured again"))
    imatrix, record = copied / "imatrix.gguf", copied / "imatrix.gguf.json"
    before = [sha256_file(path) for path in (imatrix, record)]
    os.utime(imatrix, (1, 1))
    call(build_imatrix.main, *imatrix_arguments(copied, output=imatrix))
    assert "built already" in capsys.readouterr().out and [sha256_file(path) for path in (imatrix, record)] == before
    assert 1 < imatrix.stat().st_mtime_ns <= record.stat().st_mtime_ns


class MeasuredAgain(Exception):
    """llama-imatrix would run now."""


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def make_record_old(path: Path) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "version"}))


@pytest.mark.parametrize(
    "name, change",
    [
        ("imatrix.gguf", flip_last_byte),
        ("imatrix.gguf.json", make_record_old),
        ("text.txt", flip_last_byte),
        ("F16.gguf", flip_last_byte),
    ],
)
def test_a_changed_input_a_damaged_imatrix_or_an_old_record_is_measured_again(copied, monkeypatch, name, change):
    def stop(*_: object) -> None:
        raise MeasuredAgain

    monkeypatch.setattr(build_imatrix, "run_imatrix", stop)
    change(copied / name)
    with pytest.raises(MeasuredAgain):
        call(build_imatrix.main, *imatrix_arguments(copied, output=copied / "imatrix.gguf"))


Change = Callable[[TensorInfo, bytes], bytes | None]


def changed_imatrix(built: Path, output: Path, change: Change) -> Path:
    """Write the imatrix again with what `change` returns in place of each tensor's bytes; None leaves a tensor out."""
    header = read_header(built / "imatrix.gguf")
    data = (built / "imatrix.gguf").read_bytes()
    changed = [(t, change(t, data[t.offset : t.offset + t.size])) for t in header.tensors]
    kept = [(t, raw) for t, raw in changed if raw is not None]
    top = header_bytes(header, [pair.raw for pair in header.key_values], [(t.name, t.dims, t.kind) for t, _ in kept])
    output.write_bytes(top + b"".join(raw + bytes(-len(raw) % header.alignment) for _, raw in kept))
    return output


@pytest.fixture
def refuse(built, tmp_path, refusal) -> Callable[..., None]:
    """Assert that a quant with an imatrix is refused before its first byte, with a line that holds some words."""

    def check(imatrix: Path | None, *words: object, more: tuple = ()) -> None:
        arguments = quantize_arguments(built, "Q4_K_M", tmp_path / "x-Q4_K_M.gguf", *more, imatrix=imatrix)
        refusal(quantize_gguf.main, arguments, *words)
        assert not list(tmp_path.glob("x-*"))

    return check


def test_an_imatrix_that_does_not_fit_is_refused(built, tmp_path, refuse):
    missing = "blk.1.attn_q."
    lacking = changed_imatrix(
        built, tmp_path / "lacking.gguf", lambda t, raw: None if t.name.startswith(missing) else raw
    )
    refuse(lacking, lacking, "blk.1.attn_q.weight")
    whole = read_header(built / "imatrix.gguf")
    odd = [key_value("imatrix.datasets", 7) if p.key == "imatrix.datasets" else p.raw for p in whole.key_values]
    top = header_bytes(whole, odd, [(t.name, t.dims, t.kind) for t in whole.tensors])
    data = (built / "imatrix.gguf").read_bytes()
    (tmp_path / "datasets.gguf").write_bytes(top + data[min(t.offset for t in whole.tensors) :])
    refuse(tmp_path / "datasets.gguf", "names of texts under imatrix.datasets")
    (tmp_path / "old.dat").write_bytes(struct.pack("<i", 3) + b"blk.0.attn_q.weight")
    refuse(tmp_path / "old.dat", "old.dat", "GGUF form", "make imatrix")
    refuse(tmp_path / "none.gguf", "none.gguf", "nothing")
    refuse(built / "F16.gguf", "imatrix", "general.type")


def test_an_imatrix_is_refused_by_its_record(built, tmp_path, refuse):
    imatrix, side = tmp_path / "other.gguf", tmp_path / "other.gguf.json"
    shutil.copyfile(built / "imatrix.gguf", imatrix)
    record = json.loads((built / "imatrix.gguf.json").read_text())
    for change, words in (
        ({"model_sha256": "0" * 64}, ("other.gguf", "sha256", "remove")),
        ({"sha256": "1" * 64}, ("other.gguf", "111111111111", "build it again")),
        ({"version": None}, ("other.gguf.json", "the record of an imatrix, version 1", "make it again")),
        ({"model_sha256": None}, ("other.gguf.json", "model_sha256", "make it again")),
    ):
        side.write_text(json.dumps({**record, **change}))
        refuse(imatrix, *words)


def test_an_imatrix_of_an_unknown_model_is_said_to_be_one(built, tmp_path, capsys):
    shutil.copyfile(built / "imatrix.gguf", tmp_path / "other.gguf")
    quantize_gguf.main(quantize_arguments(built, "Q8_0", tmp_path / "x-Q8_0.gguf", imatrix=tmp_path / "other.gguf"))
    assert "no record other.gguf.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "x-Q8_0.gguf.json").read_text())["calibration_sha256"] is None


def test_an_imatrix_that_reached_too_few_tokens_is_refused(built, tmp_path, refuse):
    refuse(built / "imatrix.gguf", "1000000", "expert", "layer 0", more=("--min-expert-tokens", 1000000))
    refuse(None, "--min-expert-tokens", "none", more=("--min-expert-tokens", 1))
    counts = "blk.2.ffn_down_exps.weight.counts"
    unreached = changed_imatrix(
        built, tmp_path / "unreached.gguf", lambda t, raw: bytes(len(raw)) if t.name == counts else raw
    )
    assert "layer 2: 128 = 100.0%" in check_reached(read_imatrix(unreached), 0)


@pytest.mark.parametrize("number", [np.nan, np.inf, -1.0])
def test_an_imatrix_with_a_value_that_cannot_be_is_refused(built, tmp_path, refuse, number):
    sums, first = "blk.0.ffn_down_exps.weight.in_sum2", np.float32(number).tobytes()
    wrong = changed_imatrix(built, tmp_path / "wrong.gguf", lambda t, raw: first + raw[4:] if t.name == sums else raw)
    refuse(wrong, "wrong.gguf", "finite", sums)


def test_coverage_is_shown_as_table_and_picture(built, tmp_path):
    counts = {3: np.array([0, 2, 7, 10]), 5: np.array([1, 1, 1, 1])}
    shown = report_imatrix.coverage_table(counts).splitlines()
    assert shown[2] == "| 3 | 4 | 0 | 4 | 10 | 1 (25.0%) |" and shown[-1] == "| all | 8 | 0 | 1 | 10 | 1 (12.5%) |"
    call(report_imatrix.main, "--imatrix", built / "imatrix.gguf", "--output-prefix", tmp_path / "coverage")
    assert (tmp_path / "coverage.png").read_bytes()[:4] == b"\x89PNG"
    assert len((tmp_path / "coverage.md").read_text().splitlines()) == 6
    for row, top in (([5, 6], 1.05), ([0, 0], 2.1)):  # whole experts on the axis, also where none was missed
        figure = report_imatrix.draw_coverage_of({layer: np.array(row) for layer in range(2)})
        assert figure.axes[1].get_ylim() == (0, top)
        report_imatrix.plt.close(figure)


def test_coverage_of_too_few_tokens_is_refused(built, tmp_path, refusal):
    flags = ["--output-prefix", tmp_path / "few", "--min-expert-tokens", 1000000]
    refusal(report_imatrix.main, ["--imatrix", built / "imatrix.gguf", *flags], "1000000 tokens or more")
    assert not list(tmp_path.iterdir())


def test_every_layer_counts_all_tokens_of_whole_chunks(built):
    counts = read_imatrix(built / "imatrix.gguf").expert_counts()
    assert {int(row.sum()) for row in counts.values()} == {counts[0].sum()}
    assert counts[0].sum() % (8 * 512) == 0  # 8 experts per token, 512 tokens per chunk
