"""Building quants with the real tools: files equal their plan, every gate refuses, a second run builds nothing."""

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import build_imatrix
import plan_quants
import quantize_gguf
from conftest import DEMO, REPO
from files.safe_files import InputError, sha256_file
from ggufs.gguf_header import header_bytes, read_header
from ggufs.imatrix import check_reached, read_imatrix
from quants.layer_tiers import parse_tiers, with_tiers
from quants.quant_plan import check_larger, plan_quant
from quants.recipes import RECIPES

import numpy as np
import pytest

TIERS = "0/1/2"


@pytest.fixture(scope="module")
def built(tmp_path_factory, script) -> Path:
    """A folder with the demo model's F16 GGUF, a calibration text and an imatrix of half of its questions."""
    folder = tmp_path_factory.mktemp("built")
    lines = (DEMO / "calibration_questions.csv").read_text().splitlines(keepends=True)
    (folder / "half.csv").write_text("".join(lines[: len(lines) // 4]))
    for arguments in (
        ("convert_to_gguf.py", "--model", DEMO / "model", "--name", "demo", "--output", folder / "F16.gguf"),
        (
            "render_calibration.py",
            "--model",
            DEMO / "model",
            "--questions",
            folder / "half.csv",
            "--output",
            folder / "text.txt",
        ),
        (
            "build_imatrix.py",
            "--model",
            folder / "F16.gguf",
            "--calibration",
            folder / "text.txt",
            "--output",
            folder / "imatrix.gguf",
        ),
    ):
        done = script(*arguments)
        assert done.returncode == 0, done.stderr
    return folder


def arguments_of(
    built: Path, quant: str, output: Path, *more: object, source: Path | None = None, imatrix: object = ""
) -> list[str]:
    """The arguments of quantize_gguf.py; `imatrix` None leaves it out."""
    flags = [] if imatrix is None else ["--imatrix", imatrix or built / "imatrix.gguf"]
    return [
        str(part)
        for part in ("--input", source or built / "F16.gguf", *flags, "--type", quant, "--output", output, *more)
    ]


def test_files_equal_their_plan_to_the_byte_and_a_second_run_builds_nothing(built, tmp_path, capsys):
    quants = ["F16", "Q4_K_M", "Q4_K_L", "MXFP4_MOE", "CD-Q4_K_M"]
    plan_quants.main(
        [
            "--source",
            str(built / "F16.gguf"),
            "--imatrix",
            str(built / "imatrix.gguf"),
            "--cd-tiers",
            TIERS,
            "--types",
            *quants,
            "--output",
            str(tmp_path / "plan.json"),
        ]
    )
    plan = {row["name"]: row for row in json.loads((tmp_path / "plan.json").read_text())["quants"]}
    for quant in quants:
        output = tmp_path / f"{quant}.gguf"
        quantize_gguf.main(arguments_of(built, quant, output, "--cd-tiers", TIERS))
        assert output.stat().st_size == plan[quant]["bytes"], quant
        assert {t.name: t.kind.name for t in read_header(output).tensors} == plan[quant]["types"], quant
        record = json.loads(Path(f"{output}.json").read_text())
        assert record["sha256"] == sha256_file(output) and record["source_sha256"] == sha256_file(built / "F16.gguf")
        if quant != "F16":
            assert record["calibration_sha256"] == sha256_file(built / "text.txt")
            assert read_header(output).value("quantize.imatrix.file") == "imatrix.gguf"
            assert read_header(output).value("quantize.imatrix.dataset") == "text.txt"
    assert (tmp_path / "F16.gguf").samefile(built / "F16.gguf")
    assert {path.suffix for path in tmp_path.iterdir()} == {".gguf", ".json"}
    content = (tmp_path / "Q4_K_M.gguf").read_bytes()
    os.utime(tmp_path / "Q4_K_M.gguf", (1, 1))
    capsys.readouterr()
    quantize_gguf.main(arguments_of(built, "Q4_K_M", tmp_path / "Q4_K_M.gguf"))
    assert (
        "built already" in capsys.readouterr().out
        and (tmp_path / "Q4_K_M.gguf").stat().st_mtime > (built / "F16.gguf").stat().st_mtime
    )
    record = json.loads((tmp_path / "Q4_K_M.gguf.json").read_text())
    (tmp_path / "Q4_K_M.gguf.json").write_text(
        json.dumps({key: value for key, value in record.items() if key != "sha256"})
    )
    quantize_gguf.main(arguments_of(built, "Q4_K_M", tmp_path / "Q4_K_M.gguf"))
    assert json.loads((tmp_path / "Q4_K_M.gguf.json").read_text()) == record
    (tmp_path / "Q4_K_M.gguf").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # whole in size only
    quantize_gguf.main(arguments_of(built, "Q4_K_M", tmp_path / "Q4_K_M.gguf"))
    assert (tmp_path / "Q4_K_M.gguf").read_bytes() == content


def test_contrib_dynamic_scopes_differ_where_they_say(built, tools):
    header = read_header(built / "F16.gguf")
    plans = {
        scope: plan_quant(
            tools.tool("llama-quantize"),
            with_tiers(RECIPES["CD-Q4_K_M"], parse_tiers(TIERS), (0, 1, 2), scope),
            header,
            built / "imatrix.gguf",
        ).types
        for scope in ("all", "experts")
    }
    standard = plan_quant(tools.tool("llama-quantize"), RECIPES["Q3_K_M"], header, built / "imatrix.gguf").types
    for layer, kind in enumerate(("Q5_K", "Q4_K", "Q3_K")):
        assert plans["all"][f"blk.{layer}.attn_q.weight"].name == kind
        for types in plans.values():
            assert types[f"blk.{layer}.ffn_gate_up_exps.weight"].name == kind
        assert plans["experts"][f"blk.{layer}.attn_output.weight"] == standard[f"blk.{layer}.attn_output.weight"]
    assert plans["experts"]["blk.0.attn_v.weight"] == standard["blk.0.attn_v.weight"]


def test_cd_q2_k_is_built_with_an_imatrix_and_refused_by_the_reason_without(built, tmp_path, refusal):
    refusal(
        quantize_gguf.main,
        arguments_of(built, "CD-Q2_K", tmp_path / "x.gguf", "--cd-tiers", TIERS, imatrix=None),
        "CD-Q2_K",
        "imatrix",
        "IQ2_S",
    )
    refusal(quantize_gguf.main, arguments_of(built, "CD-Q2_K", tmp_path / "x.gguf"), "--stats", "--cd-tiers")
    refusal(quantize_gguf.main, arguments_of(built, "CD-Q2_K", tmp_path / "x.gguf", "--cd-tiers", "0/1/2-3"), "layer 3")
    assert not list(tmp_path.iterdir())
    quantize_gguf.main(arguments_of(built, "CD-Q2_K", tmp_path / "x.gguf", "--cd-tiers", TIERS))
    assert "IQ2_S" in {tensor.kind.name for tensor in read_header(tmp_path / "x.gguf").tensors}


def changed_imatrix(built: Path, output: Path, change) -> Path:
    """Write the imatrix again without the tensors that `change` names, and with its raw data for others."""
    header = read_header(built / "imatrix.gguf")
    data = (built / "imatrix.gguf").read_bytes()
    kept = [(t, change(t, data[t.offset : t.offset + t.size])) for t in header.tensors]
    kept = [(t, raw) for t, raw in kept if raw is not None]
    top = header_bytes(header, [pair.raw for pair in header.key_values], [(t.name, t.dims, t.kind) for t, _ in kept])
    output.write_bytes(top + b"".join(raw + bytes(-len(raw) % header.alignment) for _, raw in kept))
    return output


def test_an_imatrix_that_does_not_fit_is_refused_before_the_first_byte(built, tmp_path, refusal):
    def refuse(imatrix: Path, *words: object, more: tuple = ()) -> None:
        refusal(quantize_gguf.main, arguments_of(built, "Q4_K_M", tmp_path / "x.gguf", *more, imatrix=imatrix), *words)

    lacking = changed_imatrix(
        built, tmp_path / "lacking.gguf", lambda t, raw: None if t.name.startswith("blk.1.attn_q.") else raw
    )
    refuse(lacking, lacking, "blk.1.attn_q.weight")
    (tmp_path / "old.dat").write_bytes(struct.pack("<i", 3) + b"blk.0.attn_q.weight")
    refuse(tmp_path / "old.dat", "old.dat", "GGUF form", "make imatrix")
    refuse(tmp_path / "none.gguf", "none.gguf", "nothing")
    refuse(built / "F16.gguf", "imatrix", "general.type")
    shutil.copyfile(built / "imatrix.gguf", tmp_path / "other.gguf")
    record = json.loads((built / "imatrix.gguf.json").read_text())
    (tmp_path / "other.gguf.json").write_text(json.dumps({**record, "model_sha256": "0" * 64}))
    refuse(tmp_path / "other.gguf", "other.gguf", "sha256", "remove")
    (tmp_path / "other.gguf.json").write_text(json.dumps({**record, "sha256": "1" * 64}))
    refuse(tmp_path / "other.gguf", "other.gguf", "111111111111", "build it again")
    (tmp_path / "other.gguf.json").write_text(json.dumps({"sha256": record["sha256"]}))
    refuse(tmp_path / "other.gguf", "other.gguf.json", "version 1, found no version")
    refuse(built / "imatrix.gguf", "1000000", "expert", "layer 0", more=("--min-expert-tokens", 1000000))
    refusal(
        quantize_gguf.main,
        arguments_of(built, "Q4_K_M", tmp_path / "x.gguf", "--min-expert-tokens", 1, imatrix=None),
        "--min-expert-tokens",
        "none",
    )
    for number in (np.nan, np.inf, -1.0):
        wrong = changed_imatrix(
            built,
            tmp_path / "wrong.gguf",
            lambda t, raw, number=number: (
                np.float32(number).tobytes() + raw[4:] if t.name == ("blk.0.ffn_down_exps.weight.in_sum2") else raw
            ),
        )
        refuse(wrong, "wrong.gguf", "finite", "blk.0.ffn_down_exps.weight.in_sum2")
    assert not list(tmp_path.glob("x.*"))
    unreached = changed_imatrix(
        built,
        tmp_path / "unreached.gguf",
        lambda t, raw: bytes(len(raw)) if t.name == ("blk.2.ffn_down_exps.weight.counts") else raw,
    )
    assert "layer 2: 128 = 100.0%" in check_reached(read_imatrix(unreached), 0)


def test_an_imatrix_of_an_unknown_model_is_said_to_be_one(built, tmp_path, capsys):
    shutil.copyfile(built / "imatrix.gguf", tmp_path / "other.gguf")
    quantize_gguf.main(arguments_of(built, "Q8_0", tmp_path / "x.gguf", imatrix=tmp_path / "other.gguf"))
    assert "no record other.gguf.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "x.gguf.json").read_text())["calibration_sha256"] is None


@pytest.mark.parametrize("name", ["ä" * 63 + "bc", "b" + "ä" * 70])  # cut after a character, and in one
def test_a_long_imatrix_name_is_planned_as_it_is_cut(built, tmp_path, name):
    imatrix = Path(shutil.copyfile(built / "imatrix.gguf", tmp_path / f"{name}.gguf"))
    quantize_gguf.main(arguments_of(built, "Q8_0", tmp_path / "x.gguf", imatrix=imatrix))
    assert os.fsencode(read_header(tmp_path / "x.gguf").value("quantize.imatrix.file")) == imatrix.name.encode()[:127]


def test_an_imatrix_is_not_written_over_its_inputs_or_another_file(built, tmp_path, refusal, capsys):
    def refuse(*words: object, **changes: object) -> None:
        flags = {
            "model": built / "F16.gguf",
            "calibration": built / "text.txt",
            "output": tmp_path / "x.gguf",
            **changes,
        }
        refusal(build_imatrix.main, [part for name, value in flags.items() for part in (f"--{name}", value)], *words)

    before = {path: sha256_file(path) for path in built.iterdir()}
    os.utime(built / "imatrix.gguf", (1, 1))
    capsys.readouterr()
    build_imatrix.main(
        [
            str(part)
            for part in (
                "--model",
                built / "F16.gguf",
                "--calibration",
                built / "text.txt",
                "--output",
                built / "imatrix.gguf",
            )
        ]
    )
    assert "built already" in capsys.readouterr().out and (built / "imatrix.gguf").stat().st_mtime > 1
    for name in ("F16.gguf", "text.txt"):
        refuse(name, "would overwrite", output=built / name)
    (tmp_path / "mine.gguf").write_text("something dear")
    refuse("mine.gguf", "another file", output=tmp_path / "mine.gguf")
    (tmp_path / "short.txt").write_text((built / "text.txt").read_text()[:1500])
    refuse("short.txt: expected 1024 tokens or more", "found ", calibration=tmp_path / "short.txt")
    (tmp_path / "shorter.txt").write_text("short")
    refuse("shorter.txt", "5 bytes", calibration=tmp_path / "shorter.txt")
    (tmp_path / "latin.txt").write_bytes("ä".encode("latin-1") * 2000)
    refuse("latin.txt", "UTF-8", calibration=tmp_path / "latin.txt")
    refuse("none.txt", "nothing", calibration=tmp_path / "none.txt")
    assert {path: sha256_file(path) for path in built.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"mine.gguf", "short.txt", "shorter.txt", "latin.txt"}


def test_nothing_else_is_overwritten(built, tmp_path, refusal):
    (tmp_path / "mine.gguf").write_text("something dear")
    refusal(quantize_gguf.main, arguments_of(built, "Q8_0", tmp_path / "mine.gguf"), "mine.gguf", "another file")
    assert (tmp_path / "mine.gguf").read_text() == "something dear"
    refusal(quantize_gguf.main, arguments_of(built, "Q8_0", built / "F16.gguf"), "F16.gguf", "its source")
    quantize_gguf.main(arguments_of(built, "Q8_0", tmp_path / "q.gguf"))
    before = (tmp_path / "q.gguf").read_bytes()
    refusal(quantize_gguf.main, arguments_of(built, "Q4_0", tmp_path / "q.gguf"), "q.gguf", "Q4_0")
    refusal(
        quantize_gguf.main,
        arguments_of(built, "Q4_0", tmp_path / "y.gguf", source=tmp_path / "q.gguf"),
        "unquantised",
        "Q8_0",
    )
    assert (tmp_path / "q.gguf").read_bytes() == before and not (tmp_path / "y.gguf").exists()


def test_a_model_that_computes_no_finite_number_is_not_kept(built, tmp_path, refusal):
    broken = tmp_path / "broken.gguf"
    shutil.copyfile(built / "F16.gguf", broken)
    norm = next(tensor for tensor in read_header(broken).tensors if tensor.name == "output_norm.weight")
    with open(broken, "r+b") as file:  # finite in itself, overflows in the product
        file.seek(norm.offset)
        file.write(struct.pack("<f", 3e38) * 64)
    refusal(
        quantize_gguf.main,
        arguments_of(built, "Q8_0", tmp_path / "x.gguf", source=broken, imatrix=None),
        "x.gguf",
        "finite",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"broken.gguf"}


def test_a_file_that_is_not_as_planned_is_noticed(built, tools, tmp_path):
    header = read_header(built / "F16.gguf")
    plans = {
        name: plan_quant(tools.tool("llama-quantize"), RECIPES[name], header, built / "imatrix.gguf")
        for name in ("Q4_K_M", "Q4_K_L")
    }
    quantize_gguf.main(arguments_of(built, "Q4_K_M", tmp_path / "m.gguf"))
    quantize_gguf.check_written(tmp_path / "m.gguf", tmp_path / "m.gguf", header, plans["Q4_K_M"])
    with pytest.raises(InputError, match="token_embd.weight in Q8_0, as planned"):
        quantize_gguf.check_written(tmp_path / "m.gguf", tmp_path / "m.gguf", header, plans["Q4_K_L"])
    with open(tmp_path / "m.gguf", "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=f"{plans['Q4_K_M'].size} bytes, as planned"):
        quantize_gguf.check_written(tmp_path / "m.gguf", tmp_path / "m.gguf", header, plans["Q4_K_M"])
    check_larger(plans["Q4_K_L"], plans["Q4_K_M"])
    with pytest.raises(InputError, match="Q4_K_M: expected more than"):
        check_larger(plans["Q4_K_M"], plans["Q4_K_L"])


def test_a_write_that_fails_in_mid_file_leaves_nothing_and_keeps_finished_files(built, tmp_path, refused):
    quantize_gguf.main(arguments_of(built, "Q8_0", tmp_path / "done.gguf"))
    before = sha256_file(tmp_path / "done.gguf")
    done = subprocess.run(
        [sys.executable, REPO / "scripts/quantize_gguf.py", *arguments_of(built, "Q8_0", tmp_path / "x.gguf")],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )
    refused(done, "llama-quantize", "SIGXFSZ")
    assert {path.name for path in tmp_path.iterdir()} == {"done.gguf", "done.gguf.json"} and sha256_file(
        tmp_path / "done.gguf"
    ) == before


def test_no_room_for_the_check_is_told_and_a_killed_builds_leftover_does_not_count(
    built, tmp_path, refusal, monkeypatch
):
    header, known = read_header(built / "F16.gguf"), quantize_gguf.run_tool
    size = quantize_gguf.logits_bytes(header)

    def cut_logits(command: list[object], **others: object) -> str:
        said = known(command, **others)
        if "--save-all-logits" in command:  # what a full disk does to it
            os.truncate(command[command.index("--save-all-logits") + 1], size // 2)
        return said

    monkeypatch.setattr(quantize_gguf, "run_tool", cut_logits)
    refusal(quantize_gguf.main, arguments_of(built, "Q8_0", tmp_path / "x.gguf"), "x.gguf", str(size), str(size // 2))
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    (tmp_path / "x.partial.gguf").write_bytes(b"left by a killed build")
    monkeypatch.setattr(
        quantize_gguf,
        "require_disk_space",
        lambda place, needed: pytest.fail("counted") if (tmp_path / "x.partial.gguf").exists() else None,
    )
    quantize_gguf.main(arguments_of(built, "Q8_0", tmp_path / "x.gguf"))
    monkeypatch.setattr(
        quantize_gguf, "require_disk_space", lambda place, needed: pytest.fail("a finished file needs no room")
    )
    quantize_gguf.main(arguments_of(built, "Q8_0", tmp_path / "x.gguf"))
    needed: list[int] = []
    monkeypatch.setattr(quantize_gguf, "require_disk_space", lambda place, bytes_: needed.append(bytes_))
    quantize_gguf.main(arguments_of(built, "F16", tmp_path / "F16.gguf", imatrix=None))
    assert needed == [size]  # a link


def test_coverage_is_told_as_table_and_picture(built, tmp_path, refusal):
    import report_imatrix

    shown = report_imatrix.coverage_table({3: np.array([0, 2, 7, 10]), 5: np.array([1, 1, 1, 1])}).splitlines()
    assert shown[2] == "| 3 | 4 | 0 | 4 | 10 | 1 (25.0%) |" and shown[-1] == "| all | 8 | 0 | 1 | 10 | 1 (12.5%) |"
    report_imatrix.main(["--imatrix", str(built / "imatrix.gguf"), "--output-prefix", str(tmp_path / "coverage")])
    for row, top in (([5, 6], 1.05), ([0, 0], 2.1)):  # whole experts on the axis, also where none was missed
        figure = report_imatrix.draw_coverage_of({layer: np.array(row) for layer in range(2)})
        assert figure.axes[1].get_ylim() == (0, top)
        report_imatrix.plt.close(figure)
    refusal(
        report_imatrix.main,
        ["--imatrix", built / "imatrix.gguf", "--output-prefix", tmp_path / "few", "--min-expert-tokens", 1000000],
        "1000000 tokens or more",
    )
    assert not list(tmp_path.glob("few*"))
    assert (tmp_path / "coverage.png").read_bytes()[:4] == b"\x89PNG" and len(
        (tmp_path / "coverage.md").read_text().splitlines()
    ) == 6
    counts = read_imatrix(built / "imatrix.gguf").expert_counts()
    assert {int(row.sum()) for row in counts.values()} == {counts[0].sum()} and counts[0].sum() % (
        8 * 512
    ) == 0  # top-8, whole chunks
