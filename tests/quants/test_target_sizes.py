"""Target sizes: the knapsack against every choice, costs by hand, sensitivities, kills, files built."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import measure_sensitivity
import quantize_gguf
from conftest import REPO
from files.safe_files import GIB
from ggufs.gguf_header import TensorInfo, read_header
from quants.recipes import target_bytes
from quants.target_sizes import Group, Option, cheapest, cost_of, low_type, overrides_of

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind


def group(role: str, layer: int | None, *names: str, columns: int = 256) -> Group:
    return Group(role, layer, tuple(TensorInfo(name, (columns, 4), Kind.F16, 0, 8 * columns) for name in names))


@pytest.mark.parametrize("seed", range(8))
def test_the_knapsack_finds_what_trying_everything_finds(seed):
    generator = np.random.default_rng(seed)
    options = [
        [
            Option(str(n), int(size), float(cost))
            for n, (size, cost) in enumerate(zip(generator.integers(10, 90, 4), generator.exponential(size=4)))
        ]
        for _ in range(5)
    ]
    for room in (60, 120, 200, 300, 1000):
        fitting = [
            choice
            for choice in itertools.product(range(4), repeat=5)
            if sum(o[i].size for o, i in zip(options, choice)) <= room
        ]
        found = cheapest(options, room)
        if not fitting:
            assert found is None
            continue
        assert sum(o[i].size for o, i in zip(options, found)) <= room
        least = min(sum(o[i].cost for o, i in zip(options, choice)) for choice in fitting)
        assert sum(o[i].cost for o, i in zip(options, found)) == pytest.approx(least)


def test_the_knapsack_at_its_very_edge():
    options = [[Option("a", 10, 3.0), Option("b", 20, 0.0)]] * 2
    assert cheapest(options, 19) is None and cheapest(options, 20) == [0, 0]
    assert cheapest([[Option("a", 10, 0.0), Option("b", 20, 0.0)]], 50) == [0]  # equal costs: the smaller one


def test_costs_types_and_overrides_by_hand():
    found = {
        "roles": {"attention": {"Q4_K": 6.0}, "embedding and output": {"Q4_K": 2.0}},
        "layers": {"attention": {"0": 1.0, "1": 3.0, "2": -0.1}},
    }
    first, second = (
        group("attention", 0, "blk.0.attn_q.weight"),
        group("attention", 1, "blk.1.attn_q.weight", "blk.1.attn_k.weight"),
    )
    edge = group("embedding and output", None, "token_embd.weight")
    assert [cost_of(found, each, "Q4_K") for each in (first, second, edge)] == [1.5, 4.5, 2.0]
    assert overrides_of([(first, "Q4_K"), (second, "Q4_K"), (edge, "Q8_0")]) == (
        (r"^blk\.(0|1)\.(attn_k|attn_q)\.weight$", "q4_k"),
        (r"^(token_embd)\.weight$", "q8_0"),
    )
    assert (
        "IQ2_S" in first.legal and "Q4_0" not in first.legal and "IQ2_S" not in edge.legal
    )  # no imatrix for the embedding
    ragged = group("experts, down", 0, "blk.0.ffn_down_exps.weight", columns=704)
    assert (
        ragged.legal == ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")
        and low_type(ragged) == "Q4_0"
        and low_type(first) == "Q3_K"
    )
    assert ragged.bytes_at("Q8_0", 32) == 704 * 4 // 32 * 34 + 16  # padding
    assert (
        target_bytes("AUTO-0.5") == GIB // 2
        and [target_bytes(name) for name in ("AUTO-", "AUTO-x", "Q8_0", "AUTO-1e3")] == [None] * 4
    )


@pytest.fixture(scope="module")
def inputs(tiny_text_model, few_questions, tmp_path_factory, script) -> dict[str, Path]:
    """A tiny model's F16 and imatrix, and questions."""
    folder = tmp_path_factory.mktemp("wishes")
    steps = [
        ("convert_to_gguf.py", "--model", tiny_text_model, "--name", "tiny", "--output", folder / "F16.gguf"),
        (
            "render_calibration.py",
            "--model",
            tiny_text_model,
            "--questions",
            REPO / "data/demo/calibration_questions.csv",
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
    ]
    for step in steps:
        done = script(*step)
        assert done.returncode == 0, done.stderr
    return {
        "--input": folder / "F16.gguf",
        "--imatrix": folder / "imatrix.gguf",
        "--model": tiny_text_model,
        "--questions": few_questions,
    }


def arguments(inputs: dict[str, Path], output: Path, **changes: object) -> list[str]:
    flags = {
        **inputs,
        "--threads": 1,
        "--limit": 2,
        "--output": output,
        **{f"--{name.replace('_', '-')}": value for name, value in changes.items()},
    }
    return [str(part) for pair in flags.items() for part in pair]


@pytest.fixture(scope="module")
def measured(inputs, tmp_path_factory) -> Path:
    """A finished file of sensitivities."""
    path = tmp_path_factory.mktemp("measured") / "sensitivity.json"
    measure_sensitivity.main(arguments(inputs, path))
    return path


def test_sensitivities_are_measured_and_a_killed_run_ends_in_the_same_bytes(
    inputs, measured, tmp_path, script, refused, capsys
):
    found = json.loads(measured.read_text())
    assert set(found["layers"]["experts, down"]) == {"0", "1", "2"} and "embedding and output" not in found["layers"]
    for role, by_type in found["roles"].items():
        assert 0 < by_type["Q8_0"] < by_type["Q4_0"], role
    assert list(measured.parent.iterdir()) == [measured]
    content = measured.read_bytes()
    os.utime(measured, (1, 1))
    capsys.readouterr()
    measure_sensitivity.main(arguments(inputs, measured))
    assert (
        "measured already" in capsys.readouterr().out
        and measured.stat().st_mtime > 1
        and measured.read_bytes() == content
    )
    flags = arguments(inputs, tmp_path / "sensitivity.json")
    process = subprocess.Popen(
        [sys.executable, REPO / "scripts/measure_sensitivity.py", *flags],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(list(tmp_path.glob("*.state/probe-*.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = next(tmp_path.glob("*.state/probe-*.json"))
    value = kept.read_text()
    kept.write_text('{"kld": [1.0]}')
    refused(script("measure_sensitivity.py", *flags), kept.name, "remove it")
    kept.write_text(value)
    done = script("measure_sensitivity.py", *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sensitivity.json").read_bytes() == measured.read_bytes() and len(list(tmp_path.iterdir())) == 1


def test_wishes_are_built_like_any_other_quant_and_never_larger_than_wished(inputs, measured, tmp_path, capsys):
    source = inputs["--input"].stat().st_size

    def build(name: str) -> Path:
        output = tmp_path / f"{name}.gguf"
        quantize_gguf.main(
            [
                "--input",
                str(inputs["--input"]),
                "--imatrix",
                str(inputs["--imatrix"]),
                "--sensitivity",
                str(measured),
                "--type",
                name,
                "--threads",
                "1",
                "--output",
                str(output),
            ]
        )
        return output

    for share in (0.5, 0.65, 0.8):
        name = f"AUTO-{share * source / GIB:.6f}"
        output = build(name)
        record = json.loads(Path(f"{output}.json").read_text())
        assert 0.95 * target_bytes(name) < output.stat().st_size <= target_bytes(name) and record["type"] == name
        assert record["bytes"] == output.stat().st_size and "expected KLD" in record["note"]
        kinds = {tensor.name: tensor.kind.name.lower() for tensor in read_header(output).tensors}
        assert any(f"={kinds['blk.0.ffn_down_exps.weight']}" in part for part in record["arguments"])
        capsys.readouterr()
        build(name)
        assert "built already" in capsys.readouterr().out
    everything = build("AUTO-1")  # room for all of it: F16 itself
    assert everything.samefile(inputs["--input"])


def test_what_cannot_be_wished_is_refused_in_one_line(inputs, measured, tmp_path, refusal):
    def refuse(name: str, *words: object, **changes: object) -> None:
        flags = {
            "--input": inputs["--input"],
            "--imatrix": inputs["--imatrix"],
            "--sensitivity": measured,
            **{f"--{key}": value for key, value in changes.items()},
        }
        pairs = [part for flag, value in flags.items() if value is not None for part in (flag, value)]
        refusal(quantize_gguf.main, [*pairs, "--type", name, "--output", tmp_path / "x.gguf"], *words)

    refuse("AUTO-0.00001", "AUTO-0.00001: expected AUTO-0.000", "lowest types")
    refuse("AUTO-much", "--type", "AUTO-much")
    refuse("AUTO-1", "--sensitivity", sensitivity=None)
    refuse("AUTO-1", "AUTO-1", "--imatrix", imatrix=None)
    refuse("AUTO-1", "sensitivity.json", "nothing", sensitivity=tmp_path / "sensitivity.json")
    found = json.loads(measured.read_text())
    other = {**found, "inputs": {**found["inputs"], "source_sha256": "0" * 64}}
    (tmp_path / "other.json").write_text(json.dumps(other))
    refuse("AUTO-1", "other.json", "000000000000", "measure them again", sensitivity=tmp_path / "other.json")
    (tmp_path / "short.json").write_text(json.dumps({**found, "roles": {}}))
    refuse("AUTO-1", "short.json", "another model", sensitivity=tmp_path / "short.json")
    (tmp_path / "map.json").write_text("{}")
    refuse("AUTO-1", "map.json", "measure_sensitivity.py", sensitivity=tmp_path / "map.json")
    for part, damage, words in (
        ("inputs", 3, "measure_sensitivity.py"),
        ("inputs", {}, "those of None"),
        ("roles", [], "roles with values"),
        ("layers", {"attention": 7}, "layers with values"),
        ("roles", {"attention": {"Q4_K": float("nan")}}, "attention, Q4_K"),
        ("layers", {"attention": {"0": None}}, "attention, 0"),
    ):
        (tmp_path / "map.json").write_text(json.dumps({**found, part: damage}))
        refuse("AUTO-1", "map.json", words, sensitivity=tmp_path / "map.json")
    refusal(measure_sensitivity.main, arguments(inputs, inputs["--imatrix"]), "would overwrite")
    refusal(measure_sensitivity.main, arguments(inputs, tmp_path / "s.json", limit=1), "two questions or more")
    refusal(
        measure_sensitivity.main, arguments(inputs, tmp_path / "s.json", imatrix=tmp_path / "none.gguf"), "none.gguf"
    )
    refusal(
        measure_sensitivity.main,
        arguments(inputs, tmp_path / "s.json", input=inputs["--imatrix"]),
        "Q8_0",
        "architecture",
    )
    (tmp_path / "cut.gguf").write_bytes(inputs["--input"].read_bytes()[:-1000])
    refusal(
        measure_sensitivity.main,
        arguments(inputs, tmp_path / "s.json", input=tmp_path / "cut.gguf"),
        "cut.gguf",
        "truncated",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"other.json", "short.json", "map.json", "cut.gguf"}


def test_make_measures_sensitivities_for_wishes_alone(tiny_text_model, few_questions, tmp_path):
    def dry_run(quants: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [
                "make",
                "--no-print-directory",
                "-n",
                "quants",
                f"MODEL={tiny_text_model}",
                "NAME=tiny",
                "KEEP=12",
                "PROTECT_TOP=4",
                f"QUESTIONS={few_questions}",
                f"BUILD={tmp_path}",
                f"QUANTS={quants}",
            ],
            cwd=REPO,
            capture_output=True,
            text=True,
        )

    shown = dry_run("Q8_0 AUTO-0.01").stdout
    assert "measure_sensitivity.py" in shown and "--limit 64" in shown and "-first64.json --type AUTO-0.01" in shown
    assert "measure_sensitivity.py" not in dry_run("Q8_0").stdout
    refused = dry_run("AUTO-much")
    assert refused.returncode != 0 and "found AUTO-much" in refused.stderr
