"""Quants by the real tools: files equal their plan to the byte, every check refuses, nothing is built twice."""

import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import expert_drop
import plan_quants
import quantize_gguf
from calls import call
from conftest import REPO
from files.input_errors import InputError, sha256_file
from files.safe_files import partial_file
from ggufs.gguf_header import read_header
from llama.llama_tools import run_tool
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import copy_demo_ggufs, tiny_ggufs
from makers.tiny_models import EXPERTS, random_drop_map
from quants.layer_tiers import parse_tiers, with_tiers
from quants.quant_plan import check_larger, plan_quant
from quants.recipes import RECIPES, find_recipe, type_in_name
from release.gguf_facts import note_of

import gguf
import pytest

TIERS = "0/1/2"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """F16.gguf of the demo, text.txt and imatrix.gguf with their records."""
    return copy_demo_ggufs(tmp_path_factory)


def test_llama_quantize_runs_where_nobody_can_have_put_a_library(built, tmp_path, monkeypatch):
    """Its loader looks in the folder that it runs in, too: not in that of the imatrix."""
    seen = []

    def looking(command: list, cwd: Path, **options: object) -> str:
        seen.append((cwd, [path.name for path in cwd.iterdir()]))
        return run_tool(command, cwd=cwd, **options)

    monkeypatch.setattr(quantize_gguf, "run_tool", looking)
    output = tmp_path / "x-Q4_K_M.gguf"
    (tmp_path / "mine").write_text("mine")
    partial_file(output).with_suffix(".txt").symlink_to(tmp_path / "mine")  # where the text of the forward pass goes
    quantize_gguf.main(quantize_arguments(built, "Q4_K_M", output))
    place, names = seen[0]
    assert names == ["imatrix.gguf"] and not place.exists() and tmp_path not in place.parents
    assert (tmp_path / "mine").read_text() == "mine"


def test_files_equal_their_plan_to_the_byte(built, tmp_path):
    quants = ["F16", "Q4_K_M", "Q4_K_L", "MXFP4_MOE", "CD-Q2_K"]
    inputs = ["--source", built / "F16.gguf", "--imatrix", built / "imatrix.gguf", "--cd-tiers", TIERS]
    call(plan_quants.main, *inputs, "--types", *quants, "--output", tmp_path / "plan.json")
    plan = {row["name"]: row for row in json.loads((tmp_path / "plan.json").read_text())["quants"]}
    for quant in quants:
        output = tmp_path / f"{quant}.gguf"
        quantize_gguf.main(quantize_arguments(built, quant, output, "--cd-tiers", TIERS))
        assert output.stat().st_size == plan[quant]["bytes"], quant
        assert {t.name: t.kind.name for t in read_header(output).tensors} == plan[quant]["types"], quant
        check_record(built, output, quant)
    assert "IQ2_S" in plan["CD-Q2_K"]["types"].values()
    assert (tmp_path / "F16.gguf").samefile(built / "F16.gguf")
    assert {path.suffix for path in tmp_path.iterdir()} == {".gguf", ".json"}


def check_record(built: Path, output: Path, quant: str) -> None:
    """Hold the record of a quant against the file, and its header against the imatrix's names."""
    record = json.loads(Path(f"{output}.json").read_text())
    assert (record["type"], record["bytes"], record["sha256"]) == (quant, output.stat().st_size, sha256_file(output))
    assert record["llama_cpp"] and record["source_sha256"] == sha256_file(built / "F16.gguf")
    if quant == "F16":
        return
    assert record["bytes"] < (built / "F16.gguf").stat().st_size
    assert record["calibration_sha256"] == sha256_file(built / "text.txt")
    header = read_header(output)
    assert header.value("quantize.imatrix.file") == "imatrix.gguf"
    assert header.value("quantize.imatrix.dataset") == "text.txt"
    for folder in (built, output.parent):  # a released file shows no folder of whoever made it
        assert str(folder).encode() not in output.read_bytes()


def test_a_second_run_builds_nothing_but_what_is_not_whole(built, tmp_path, capsys):
    output, side = tmp_path / "q-Q8_0.gguf", tmp_path / "q-Q8_0.gguf.json"
    arguments = quantize_arguments(built, "Q8_0", output)
    quantize_gguf.main(arguments)
    content, record = output.read_bytes(), json.loads(side.read_text())
    os.utime(output, (1, 1))
    capsys.readouterr()
    quantize_gguf.main(arguments)
    assert "built already" in capsys.readouterr().out
    assert output.stat().st_mtime > (built / "F16.gguf").stat().st_mtime
    for lost in ("sha256", "version"):  # an older record, too, is made again
        side.write_text(json.dumps({key: value for key, value in record.items() if key != lost}))
        quantize_gguf.main(arguments)
        assert json.loads(side.read_text()) == record
    output.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # whole in size only
    quantize_gguf.main(arguments)
    assert output.read_bytes() == content


def test_an_unknown_quant_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match="Q4_K_M"):
        find_recipe("Q4_KM")


def test_a_source_or_a_recipe_that_cannot_be_is_refused(tiny_text_model, tmp_path, tmp_path_factory, refusal):
    shared = tiny_ggufs(tmp_path_factory, tiny_text_model)

    def refuse(*words: object, source: Path | None = None, quant: str = "Q4_K_M") -> None:
        refusal(
            quantize_gguf.main, quantize_arguments(shared, quant, tmp_path / f"{quant}.gguf", source=source), *words
        )
        assert not list(tmp_path.glob("out*"))

    refuse(tmp_path / "none.gguf", source=tmp_path / "none.gguf")
    refuse("more than", "Q4_K_M", quant="Q4_K_L")  # rows too narrow for Q6_K: Q4_K_M has a Q8_0 embedding, too
    refuse("Q4_K_M", quant="Q4_KM")
    (tmp_path / "cut.gguf").write_bytes((shared / "F16.gguf").read_bytes()[:5000])
    refuse(tmp_path / "cut.gguf", "whole", source=tmp_path / "cut.gguf")
    (tmp_path / "text.gguf").write_text("hello, this is no model")
    refuse("GGUF file", source=tmp_path / "text.gguf")
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(12)))
    flags = ["--drop-map", tmp_path / "map.json", "--output", tmp_path / "pruned.gguf"]
    call(expert_drop.main, "--source", shared / "F16.gguf", *flags)
    refuse("12 experts", str(EXPERTS), source=tmp_path / "pruned.gguf")


def test_contrib_dynamic_scopes_differ_where_they_say(built, tools):
    header, tool = read_header(built / "F16.gguf"), tools.tool("llama-quantize")
    tiers, plans = parse_tiers(TIERS), {}
    for scope in ("all", "experts"):
        recipe = with_tiers(RECIPES["CD-Q4_K_M"], tiers, (0, 1, 2), scope)
        plans[scope] = plan_quant(tool, recipe, header, built / "imatrix.gguf").types
    standard = plan_quant(tool, RECIPES["Q3_K_M"], header, built / "imatrix.gguf").types
    for layer, kind in enumerate(("Q5_K", "Q4_K", "Q3_K")):
        assert plans["all"][f"blk.{layer}.attn_q.weight"].name == kind
        for types in plans.values():
            assert types[f"blk.{layer}.ffn_gate_up_exps.weight"].name == kind
        assert plans["experts"][f"blk.{layer}.attn_output.weight"] == standard[f"blk.{layer}.attn_output.weight"]
    assert plans["experts"]["blk.0.attn_v.weight"] == standard["blk.0.attn_v.weight"]


def test_the_record_names_the_cd_recipe_and_whether_there_was_an_imatrix(built, tmp_path):
    output, side = tmp_path / "CD-Q3_K_M.gguf", tmp_path / "CD-Q3_K_M.gguf.json"
    flags = ("--cd-tiers", TIERS, "--cd-recipe", "card", "--cd-protect", "attention")
    quantize_gguf.main(quantize_arguments(built, "CD-Q3_K_M", output, *flags))
    record, types = json.loads(side.read_text()), {t.name: t.kind.name for t in read_header(output).tensors}
    assert (record["cd_recipe"], record["cd_protect"], record["base"]) == ("card", "attention", "Q3_K_M")
    assert record["note"] == "layers at Q4_K, Q3_K, Q3_K given by hand, attention at Q6_K or more" == note_of(record)
    assert note_of(record | {"cd_tiers": None}) != record["note"]
    assert types["blk.2.attn_q.weight"] == types["blk.0.attn_output.weight"] == "Q6_K"
    assert [types[f"blk.{layer}.ffn_gate_up_exps.weight"] for layer in range(3)] == ["Q4_K", "Q3_K", "Q3_K"]
    assert types["token_embd.weight"] == "Q8_0" and record["imatrix_sha256"] == sha256_file(built / "imatrix.gguf")
    # Without the imatrix the same name is another file, and the one that is there is built again.
    quantize_gguf.main(quantize_arguments(built, "CD-Q3_K_M", output, *flags, imatrix=None))
    plain = json.loads(side.read_text())
    assert plain["imatrix_sha256"] is None and plain["sha256"] != record["sha256"]
    assert read_header(output).value("quantize.imatrix.file") is None


def test_make_builds_a_quant_again_whose_record_says_otherwise_than_no_imatrix(tmp_path):
    folder = tmp_path / "gemma-4-demo/109e/gguf"
    folder.mkdir(parents=True)
    for quant, matrix in (("Q6_K", '"0123"'), ("Q4_K_M", "null"), ("Q8_0", "null"), ("Q4_0", '"0123"')):
        (folder / f"gemma-4-demo-109e-{quant}.gguf.json").write_text(f'{{"imatrix_sha256": {matrix}}}\n')
    command = ["make", "-pnq", "help", f"BUILD={tmp_path}", "NO_IMATRIX=Q6_K Q8_0"]
    lines = subprocess.run(command, cwd=REPO, capture_output=True, text=True).stdout.splitlines()
    needs = {}
    for line in lines:
        if match := re.match(rf"{folder}/gemma-4-demo-109e-([A-Z0-9_]+)\.gguf: (.*)", line):
            needs[match[1]] = match[2].split()
    assert {quant for quant, words in needs.items() if "FORCE" in words} == {"Q6_K", "Q4_K_M"}
    matrix = f"{folder}/imatrix.gguf"
    assert {q: matrix in needs.get(q, []) for q in ("Q6_K", "Q8_0", "Q4_K_M", "Q4_0")} == {
        "Q6_K": False,
        "Q8_0": False,
        "Q4_K_M": True,
        "Q4_0": True,
    }


def test_make_compares_each_quant_both_ways_and_builds_the_other_file_beside_the_first(tmp_path):
    settings = ("COMPARE_IMATRIX=Q6_K Q4_0", "NO_IMATRIX=Q4_0", f"BUILD={tmp_path}")
    done = subprocess.run(["make", "-n", "compare-imatrix", *settings], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder, found = tmp_path / "gemma-4-demo/109e", {}
    for line in done.stdout.splitlines():
        if "quantize_gguf.py" in line:
            found[line.split("--output ")[1].removeprefix(f"{folder}/")] = "--imatrix" in line
    name = "gemma-4-demo-109e"
    assert found == {
        f"gguf/{name}-Q6_K.gguf": True,
        f"imatrix-switch/without/{name}-Q6_K.gguf": False,
        f"gguf/{name}-Q4_0.gguf": False,
        f"imatrix-switch/with/{name}-Q4_0.gguf": True,
    }
    measured = next(line for line in done.stdout.splitlines() if "measure_quality.py" in line)
    assert all(path in measured for path in found)


def test_a_cd_quant_without_an_imatrix_or_tiers_that_fit_is_refused_by_the_reason(built, tmp_path, refusal):
    def refuse(*words: str, more: tuple = (), **changes: None) -> None:
        refusal(
            quantize_gguf.main,
            quantize_arguments(built, "CD-Q2_K", tmp_path / "CD-Q2_K.gguf", *more, **changes),
            *words,
        )

    refuse("CD-Q2_K", "imatrix", "IQ2_S", more=("--cd-tiers", TIERS), imatrix=None)
    refuse("--stats", "--cd-tiers")
    refuse("layer 3", more=("--cd-tiers", "0/1/2-3"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ä" * 63 + "bc", "b" + "ä" * 70])  # cut after a character, and in one
def test_a_long_imatrix_name_is_planned_as_it_is_cut(built, tmp_path, name):
    imatrix = Path(shutil.copyfile(built / "imatrix.gguf", tmp_path / f"{name}.gguf"))
    quantize_gguf.main(quantize_arguments(built, "Q8_0", tmp_path / "Q8_0.gguf", imatrix=imatrix))
    assert (
        os.fsencode(read_header(tmp_path / "Q8_0.gguf").value("quantize.imatrix.file")) == imatrix.name.encode()[:127]
    )


def test_nothing_else_is_overwritten(built, tmp_path, refusal):
    (tmp_path / "mine-Q8_0.gguf").write_text("something dear")
    refusal(
        quantize_gguf.main,
        quantize_arguments(built, "Q8_0", tmp_path / "mine-Q8_0.gguf"),
        "mine-Q8_0.gguf",
        "another file",
    )
    assert (tmp_path / "mine-Q8_0.gguf").read_text() == "something dear"
    refusal(quantize_gguf.main, quantize_arguments(built, "F16", built / "F16.gguf"), "F16.gguf", "its source")
    quantize_gguf.main(quantize_arguments(built, "Q8_0", tmp_path / "q-Q8_0.gguf"))
    before = (tmp_path / "q-Q8_0.gguf").read_bytes()
    refusal(
        quantize_gguf.main, quantize_arguments(built, "Q4_0", tmp_path / "q-Q8_0.gguf"), "q-Q8_0.gguf", "-Q4_0.gguf"
    )
    arguments = quantize_arguments(built, "Q4_0", tmp_path / "y-Q4_0.gguf", source=tmp_path / "q-Q8_0.gguf")
    refusal(quantize_gguf.main, arguments, "unquantised", "Q8_0")
    assert (tmp_path / "q-Q8_0.gguf").read_bytes() == before and not (tmp_path / "y-Q4_0.gguf").exists()


@pytest.mark.parametrize(
    "stem, found",
    [
        ("demo-109e-Q4_K_M", "Q4_K_M"),
        ("demo-CD-Q4_K_M", "CD-Q4_K_M"),
        ("demo-AUTO-10.5", "AUTO-10.5"),
        ("Q6_K", "Q6_K"),
        ("demo-XQ6_K", None),
        ("demo-Q8_0-00001-of-00002", None),
        ("demo", None),
    ],
)
def test_a_name_says_the_type_with_which_it_ends(built, tmp_path, refusal, stem, found):
    assert type_in_name(stem) == found
    arguments = quantize_arguments(built, "Q2_K", tmp_path / f"{stem}.gguf")
    refusal(quantize_gguf.main, arguments, stem, "a name that ends with -Q2_K.gguf, its type")
    assert not list(tmp_path.iterdir())


def test_a_model_that_computes_no_finite_number_is_not_kept(built, tmp_path, refusal):
    broken = tmp_path / "broken.gguf"
    shutil.copyfile(built / "F16.gguf", broken)
    norm = next(tensor for tensor in read_header(broken).tensors if tensor.name == "output_norm.weight")
    with open(broken, "r+b") as file:  # finite in itself, overflows in the product
        file.seek(norm.offset)
        file.write(struct.pack("<f", 3e38) * 64)
    arguments = quantize_arguments(built, "Q8_0", tmp_path / "x-Q8_0.gguf", source=broken, imatrix=None)
    refusal(quantize_gguf.main, arguments, "x-Q8_0.gguf", "finite")
    assert {path.name for path in tmp_path.iterdir()} == {"broken.gguf"}


def test_a_file_that_is_not_as_planned_is_noticed(built, tools, tmp_path):
    header, tool, path = read_header(built / "F16.gguf"), tools.tool("llama-quantize"), tmp_path / "m-Q4_K_M.gguf"
    medium, large = (plan_quant(tool, RECIPES[name], header, built / "imatrix.gguf") for name in ("Q4_K_M", "Q4_K_L"))
    quantize_gguf.main(quantize_arguments(built, "Q4_K_M", path))
    quantize_gguf.check_written(path, path, header, medium)
    with pytest.raises(InputError, match="token_embd.weight in Q8_0, as planned"):
        quantize_gguf.check_written(path, path, header, large)
    with open(path, "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=f"{medium.size} bytes, as its header says"):
        quantize_gguf.check_written(path, path, header, medium)
    check_larger(large, medium)
    with pytest.raises(InputError, match="Q4_K_M: expected more than"):
        check_larger(medium, large)


def test_a_write_that_fails_in_mid_file_leaves_nothing_and_keeps_finished_files(built, tmp_path, refused):
    quantize_gguf.main(quantize_arguments(built, "Q8_0", tmp_path / "done-Q8_0.gguf"))
    before = sha256_file(tmp_path / "done-Q8_0.gguf")
    command = [
        sys.executable,
        REPO / "scripts/quantize_gguf.py",
        *quantize_arguments(built, "Q8_0", tmp_path / "x-Q8_0.gguf"),
    ]
    limit = resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(*limit))
    refused(done, "llama-quantize", "SIGXFSZ")
    assert {path.name for path in tmp_path.iterdir()} == {"done-Q8_0.gguf", "done-Q8_0.gguf.json"}
    assert sha256_file(tmp_path / "done-Q8_0.gguf") == before


def test_logits_that_were_cut_short_are_noticed(built, tmp_path, refusal, monkeypatch):
    real, size = quantize_gguf.run_tool, quantize_gguf.logits_bytes(read_header(built / "F16.gguf"))

    def cut_logits(command: list, **others: object) -> None:
        real(command, **others)
        if "--save-all-logits" in command:  # what a full disk does to it
            os.truncate(command[command.index("--save-all-logits") + 1], size // 2)

    monkeypatch.setattr(quantize_gguf, "run_tool", cut_logits)
    arguments = quantize_arguments(built, "Q8_0", tmp_path / "x-Q8_0.gguf")
    refusal(quantize_gguf.main, arguments, "x-Q8_0.gguf", str(size), str(size // 2))
    assert not list(tmp_path.iterdir())


def test_room_is_asked_for_what_a_build_takes_and_no_more(built, tmp_path, monkeypatch):
    asked: list[int] = []
    leftover = partial_file(tmp_path / "x-Q8_0.gguf")

    def ask(_: Path, needed: int) -> None:
        assert not leftover.exists(), "what a killed build left would count"
        asked.append(needed)

    monkeypatch.setattr(quantize_gguf, "require_disk_space", ask)
    leftover.write_bytes(b"left by a killed build")
    logits = quantize_gguf.logits_bytes(read_header(built / "F16.gguf"))
    quantize_gguf.main(quantize_arguments(built, "Q8_0", tmp_path / "x-Q8_0.gguf"))
    assert asked.pop() == (tmp_path / "x-Q8_0.gguf").stat().st_size + logits and not asked
    quantize_gguf.main(quantize_arguments(built, "Q8_0", tmp_path / "x-Q8_0.gguf"))
    assert not asked  # the file is finished
    quantize_gguf.main(quantize_arguments(built, "F16", tmp_path / "F16.gguf", imatrix=None))
    assert asked == [logits]  # the file is a link


def test_a_file_without_tensors_is_refused(tmp_path, refusal):
    writer = gguf.GGUFWriter(tmp_path / "a-F16.gguf", "gemma4")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    arguments = ["--input", tmp_path / "a-F16.gguf", "--type", "Q8_0", "--output", tmp_path / "a-Q8_0.gguf"]
    refusal(quantize_gguf.main, arguments, "a-F16.gguf: expected a GGUF file with tensors, found none")
