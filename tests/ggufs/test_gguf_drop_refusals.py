"""Dropping inside GGUF files: refusals in one line, and kills that leave nothing that looks whole."""

import json
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from conftest import DEMO, REPO
from expert_drop import main
from files.input_errors import sha256_file
from makers.gguf_drops import demo_map, drop, split_gguf
from makers.shared_ggufs import copy_demo_ggufs
from makers.tiny_models import EXPERTS, TOP_K

import numpy as np
import pytest
from gguf import GGUFWriter

FLAGS = ("--source", "--drop-map", "--output", "--imatrix", "--imatrix-output")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Copies of the demo's F16.gguf and imatrix.gguf, and a map.json."""
    folder = copy_demo_ggufs(tmp_path_factory)
    (folder / "map.json").write_text(json.dumps(demo_map()))
    return folder


@pytest.fixture
def refuse(tmp_path, refusal) -> Callable[..., None]:
    """Assert that dropping from a source is refused with a line that holds some words."""
    (tmp_path / "map.json").write_text(json.dumps({"0": [1]}))

    def check(source: Path, *words: object, options: Sequence[object] = (), **changes: Path) -> None:
        flags = {"source": source, "drop_map": tmp_path / "map.json", "output": tmp_path / "out.gguf", **changes}
        pairs = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]
        refusal(main, [*pairs, *options], *words)

    return check


def tiny_gguf(
    path: Path,
    architecture: str = "qwen3moe",
    names: tuple[str, ...] = ("blk.0.ffn_up_exps.weight", "blk.0.ffn_gate_inp.weight"),
    experts: int = EXPERTS,
    **more: int,
) -> Path:
    """Write a GGUF that has the header of a mixture-of-experts model and little else."""
    writer = GGUFWriter(path, architecture)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(TOP_K)
    for key, value in more.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for name in names:
        writer.add_tensor(name, np.zeros((EXPERTS, 8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_source_that_no_experts_can_be_cut_out_of_is_refused(refuse, built, tmp_path):
    unknown = "blk.0.ffn_up.3.weight"
    refuse(tiny_gguf(tmp_path / "other.gguf", names=(unknown,)), "blk.N.ffn_*_exps", unknown)
    refuse(tiny_gguf(tmp_path / "none.gguf", names=("token_embd.weight",)), "none")
    refuse(tiny_gguf(tmp_path / "count.gguf", experts=EXPERTS + 1), f"{EXPERTS + 1} experts")
    router, up, down = "ffn_gate_inp.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"
    lacking = (f"blk.0.{up}", f"blk.0.{down}", f"blk.1.{up}", f"blk.0.{router}", f"blk.1.{router}")
    refuse(tiny_gguf(tmp_path / "lacking.gguf", names=lacking), f"blk.1.{down}, as layers with experts have", "no such")
    refuse(tiny_gguf(tmp_path / "groups.gguf", expert_group_count=4), "groups of experts")
    (tmp_path / "text.txt").write_text("no model")
    refuse(tmp_path / "text.txt", "begins with")
    whole, cut = (built / "F16.gguf").read_bytes(), tmp_path / "cut.gguf"
    for content in (whole[:-40_000], whole[:5000]):
        cut.write_bytes(content)
        refuse(cut, cut, "truncated")
    cut.write_bytes(whole[:-64] + bytes(64) + whole[-64:])
    refuse(cut, cut, f"{len(whole)} bytes", f"{len(whole) + 64} bytes")


def test_a_map_an_imatrix_or_an_output_that_does_not_fit_is_refused(refuse, built, tmp_path):
    good = tiny_gguf(tmp_path / "good.gguf")
    refuse(built / "F16.gguf", "map of another model")
    refuse(good, "overwrite", output=good)
    refuse(good, "ends in .gguf", output=tmp_path / "out.bin")
    (tmp_path / "all.json").write_text(json.dumps({"0": list(range(EXPERTS - TOP_K + 1))}))
    refuse(good, f"from {TOP_K}", drop_map=tmp_path / "all.json")
    imatrix = ["--imatrix-output", tmp_path / "i.gguf", "--imatrix"]
    refuse(good, "imatrix of another model", options=[*imatrix, built / "imatrix.gguf"])
    refuse(good, "an imatrix in GGUF form", options=[*imatrix, good])
    refuse(good, "nothing", options=[*imatrix, tmp_path / "absent.gguf"])
    assert not (tmp_path / "i.gguf").exists() and not list(tmp_path.glob("*.partial*"))


def test_an_output_over_an_input_or_over_the_other_output_is_refused(built, tmp_path, refusal):
    source, drop_map, imatrix = inputs = [built / name for name in ("F16.gguf", "map.json", "imatrix.gguf")]
    before = [sha256_file(path) for path in inputs]
    out, sliced = tmp_path / "out.gguf", tmp_path / "i.gguf"
    for outputs in ((out, source), (sliced, sliced), (imatrix, sliced), (drop_map, sliced)):
        values = (source, drop_map, outputs[0], imatrix, outputs[1])
        refusal(main, [part for pair in zip(FLAGS, values) for part in pair])
    assert before == [sha256_file(path) for path in inputs]
    assert not out.exists() and not sliced.exists()


def test_force_takes_a_map_of_another_imatrix_and_verify_finds_a_changed_byte(built, tmp_path, refusal):
    layers = {layer: {"drop": experts} for layer, experts in demo_map().items()}
    (tmp_path / "foreign.json").write_text(json.dumps({"imatrix_sha256": "0" * 64, "layers": layers}))
    out, sliced = tmp_path / "out.gguf", tmp_path / "i.gguf"
    values = (built / "F16.gguf", tmp_path / "foreign.json", out, built / "imatrix.gguf", sliced)
    arguments = [str(part) for pair in zip(FLAGS, values) for part in pair]
    refusal(main, arguments, "imatrix_sha256", "--force")
    main([*arguments, "--force"])
    main([*arguments, "--force", "--verify"])
    content = bytearray(sliced.read_bytes())
    content[-40] ^= 1
    sliced.write_bytes(content)
    refusal(main, [*arguments, "--force", "--verify"], "i.gguf", "the source's bytes")


def packed_text(words: str) -> bytes:
    return struct.pack("<Q", len(words)) + words.encode()


def packed_pair(key: str, content: str | int) -> bytes:
    """Pack a key-value of a string or a uint32 by the format's own words, without the code under test."""
    value = struct.pack("<II", 4, content) if isinstance(content, int) else struct.pack("<I", 8) + packed_text(content)
    return packed_text(key) + value


KEYS = {"alignment": "general.alignment", "groups": "qwen3moe.expert_group_count", "split": "split.count"}
TENSORS = [("blk.0.ffn_up_exps.weight", (32, 2, 4), 0, 0), ("blk.0.ffn_gate_inp.weight", (32, 4), 0, 1024)]
CHANGED_TENSORS = {  # which one, and what stands in its place: name, dims, type, offset
    "duplicate": (1, ("blk.0.ffn_up_exps.weight", (32, 4), 0, 1024)),
    "overlap": (1, ("blk.0.ffn_gate_inp.weight", (32, 4), 0, 512)),
    "ragged": (0, ("blk.0.ffn_up_exps.weight", (33, 2, 4), 2, 0)),
    "no dims": (1, ("blk.0.ffn_gate_inp.weight", (), 0, 1024)),
    "router alone": (1, ("blk.1.ffn_gate_inp.weight", (32, 4), 0, 1024)),
}


@pytest.mark.parametrize(
    "where, value, word",
    [
        ("alignment", 0, "power of two"),
        ("alignment", "x", "power of two"),
        ("duplicate", None, "twice"),
        ("overlap", None, "after byte"),
        ("ragged", None, "whole blocks"),
        ("no dims", None, "whole blocks"),
        ("router alone", None, "expert weights in the layer"),
        ("groups", "x", "groups"),
        ("split", "x", "split.count"),
    ],
)
def test_inconsistent_gguf_headers_are_refused_in_one_line(refuse, tmp_path, where, value, word):
    content = {"general.architecture": "qwen3moe", "qwen3moe.expert_count": 4, "qwen3moe.expert_used_count": 2}
    tensors = list(TENSORS)
    if where in KEYS:
        content[KEYS[where]] = value
    else:
        number, changed = CHANGED_TENSORS[where]
        tensors[number] = changed
    pairs = [packed_pair(*pair) for pair in content.items()]
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs)
    for name, dims, kind, offset in tensors:
        header += packed_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    (tmp_path / "bad.gguf").write_bytes(header + bytes(-len(header) % 32 + 1536))
    refuse(tmp_path / "bad.gguf", "bad.gguf", word)


KILLED_RENAMING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import expert_drop
real, left = os.replace, [2]
def replace(*paths):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(*paths)
os.replace = replace
expert_drop.main(sys.argv[2:])
"""


def test_a_kill_between_the_renames_of_a_split_leaves_no_mix_of_two_maps(built, tools, tmp_path):
    first = split_gguf(tools, built / "F16.gguf", tmp_path / "full")[0]
    drop(first, built / "map.json", tmp_path / "cut.gguf")
    (tmp_path / "other.json").write_text(json.dumps(demo_map(seed=1)))
    arguments = ["--source", first, "--drop-map", tmp_path / "other.json", "--output", tmp_path / "cut.gguf"]
    command = [sys.executable, "-c", KILLED_RENAMING, REPO / "scripts", *arguments]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert not list(tmp_path.glob("cut-00001-of-?????.gguf"))
    drop(first, tmp_path / "other.json", tmp_path / "cut.gguf")
    drop(first, tmp_path / "other.json", tmp_path / "cut.gguf", "--verify")


KILLED_COPYING = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import expert_drop
from files import byte_ranges
real, left = byte_ranges._copy, [int(sys.argv[2])]
def copy(run, output):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from real(run, output)
byte_ranges._copy = copy
expert_drop.main(sys.argv[3:])
"""


@pytest.mark.parametrize("kind", ["checkpoint", "gguf", "split"])
def test_a_kill_leaves_nothing_that_looks_whole_and_the_next_run_ends_alike(kind, built, tools, tmp_path):
    source = {"checkpoint": DEMO / "model", "gguf": built / "F16.gguf", "split": tmp_path / "full-00001-of-00004.gguf"}[
        kind
    ]
    if kind == "split":
        split_gguf(tools, built / "F16.gguf", tmp_path / "full")
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / ("cut" if kind == "checkpoint" else "cut.gguf")
    arguments = ["--source", source, "--drop-map", built / "map.json", "--output", output]
    for runs in (0, 60, 150):
        done = subprocess.run(
            [sys.executable, "-c", KILLED_COPYING, REPO / "scripts", str(runs), *arguments], capture_output=True
        )
        assert done.returncode == -signal.SIGKILL
        assert not [path for path in (tmp_path / "out").iterdir() if ".partial" not in path.name]
    drop(source, built / "map.json", output)
    assert not list((tmp_path / "out").glob("*.partial*"))
    (tmp_path / "again").mkdir()
    drop(source, built / "map.json", tmp_path / "again" / output.name)
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
