"""Target sizes: the knapsack against every choice, costs by hand, sensitivities measured, files built."""

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import measure_sensitivity
import quantize_gguf
from calls import call
from conftest import REPO
from files.json_records import read_record
from files.safe_files import GIB
from gates.written_again import of_recipe, recipe_of
from ggufs.gguf_header import TensorInfo, read_header
from makers.shared_ggufs import tiny_ggufs
from quants.recipe_choice import MEASURED_ON
from quants.recipes import target_bytes
from quants.sensitivity_record import Sensitivity
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
        [Option(str(n), int(generator.integers(10, 90)), float(generator.exponential())) for n in range(4)]
        for _ in range(5)
    ]
    choices = list(itertools.product(range(4), repeat=5))
    sizes, costs = ([sum(value(o[i]) for o, i in zip(options, c)) for c in choices] for value in (size_of, cost_at))
    for room in (60, 120, 200, 300, 1000):
        fitting = [cost for size, cost in zip(sizes, costs) if size <= room]
        found = cheapest(options, room)
        if not fitting:
            assert found is None
            continue
        place = choices.index(tuple(found))
        assert sizes[place] <= room and costs[place] == pytest.approx(min(fitting))


def size_of(option: Option) -> int:
    return option.size


def cost_at(option: Option) -> float:
    return option.cost


def test_the_knapsack_weighs_costs_far_below_the_solvers_tolerance():
    """Costs of 1e-9 nats and sizes of gigabytes: unscaled, any choice would pass for the best one."""
    options = [
        [Option("a", GIB, 3e-9), Option("b", 2 * GIB, 1e-9)],
        [Option("a", GIB, 5e-9), Option("b", 2 * GIB, 0.0)],
    ]
    assert cheapest(options, 3 * GIB) == [0, 1]
    assert cheapest(options, 4 * GIB - 1) == [0, 1]  # a byte is missing for both, less than the solver would notice
    assert cheapest(options, 4 * GIB) == [1, 1]


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
    assert "IQ2_S" in first.legal and "Q4_0" not in first.legal
    assert "IQ2_S" not in edge.legal  # llama-imatrix measures no embedding
    ragged = group("experts, down", 0, "blk.0.ffn_down_exps.weight", columns=704)
    assert ragged.legal == ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0")
    assert (low_type(ragged), low_type(first)) == ("Q4_0", "Q3_K")
    assert ragged.bytes_at("Q8_0", 32) == 704 * 4 // 32 * 34 + 16  # padding


def test_a_target_size_is_a_number_of_gib():
    assert target_bytes("AUTO-0.5") == GIB // 2
    assert [target_bytes(name) for name in ("AUTO-", "AUTO-x", "Q8_0", "AUTO-1e3")] == [None] * 4


@pytest.fixture(scope="module")
def inputs(tiny_text_model, few_questions, tmp_path_factory) -> dict[str, Path]:
    """A tiny model's F16 and imatrix, and questions."""
    shared = tiny_ggufs(tmp_path_factory, tiny_text_model)
    return {
        "--input": shared / "F16.gguf",
        "--imatrix": shared / "imatrix.gguf",
        "--model": tiny_text_model,
        "--questions": few_questions,
    }


def measure_arguments(inputs: dict[str, Path], **changes: object) -> list[str]:
    changed = {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    flags = {**inputs, "--threads": 1, "--limit": 2, **changed}
    return [str(part) for pair in flags.items() for part in pair]


@pytest.fixture(scope="module")
def measured(inputs, tmp_path_factory) -> Path:
    """A finished file of sensitivities."""
    path = tmp_path_factory.mktemp("measured") / "sensitivity.json"
    measure_sensitivity.main(measure_arguments(inputs, output=path))
    return path


def test_sensitivities_grow_with_fewer_bits_and_are_measured_once(inputs, measured, monkeypatch, capsys):
    found = json.loads(measured.read_text())
    assert set(found["layers"]["experts, down"]) == {"0", "1", "2"} and "embedding and output" not in found["layers"]
    for role, by_type in found["roles"].items():
        assert 0 < by_type["Q8_0"] < by_type["Q4_0"], role
    assert list(measured.parent.iterdir()) == [measured]
    monkeypatch.setattr(measure_sensitivity, "measure_probes", lambda *_: pytest.fail("measured again"))
    content = measured.read_bytes()
    os.utime(measured, (1, 1))
    measure_sensitivity.main(measure_arguments(inputs, output=measured))
    assert "measured already" in capsys.readouterr().out
    assert measured.stat().st_mtime > 1 and measured.read_bytes() == content


def test_a_killed_measurement_goes_on_and_ends_in_the_same_bytes(inputs, measured, tmp_path, refusal):
    flags = measure_arguments(inputs, output=tmp_path / "sensitivity.json")
    process = subprocess.Popen(
        [sys.executable, REPO / "scripts/measure_sensitivity.py", *flags],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(finished := list(tmp_path.glob("*.state/probe-????????????.json"))) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    value = finished[0].read_text()
    finished[0].write_text('{"kld": [1.0]}')
    refusal(measure_sensitivity.main, flags, finished[0].name, "remove it")
    finished[0].write_text(value)
    measure_sensitivity.main(flags)
    assert (tmp_path / "sensitivity.json").read_bytes() == measured.read_bytes() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("value", [-0.5, 1e7])
def test_a_loss_that_no_measurement_gives_plans_nothing(inputs, measured, tmp_path, refusal, value):
    found = json.loads(measured.read_text())
    found["layers"]["experts, down"]["1"] = value
    edited = tmp_path / "sensitivity.json"
    edited.write_text(json.dumps(found))
    flags = quantize_flags(inputs, edited, type="AUTO-0.01", threads=1, output=tmp_path / "a.gguf")
    refusal(quantize_gguf.main, flags, edited, "'layers.experts, down.1' is")


def quantize_flags(inputs: dict[str, Path], sensitivity: Path, **changes: object) -> list[object]:
    """Return the inputs of quantize_gguf.py for a target size; None leaves an option out."""
    flags = {"input": inputs["--input"], "imatrix": inputs["--imatrix"], "sensitivity": sensitivity, **changes}
    return [part for name, value in flags.items() if value is not None for part in (f"--{name}", value)]


def test_target_sizes_are_built_like_any_other_quant_and_never_exceeded(inputs, measured, tmp_path, capsys):
    def build(name: str, *more: str) -> Path:
        output = tmp_path / f"{name}.gguf"
        call(quantize_gguf.main, *quantize_flags(inputs, measured, type=name, threads=1, output=output), *more)
        return output

    for share in (0.5, 0.65, 0.8):
        name = f"AUTO-{share * inputs['--input'].stat().st_size / GIB:.6f}"
        output, target = build(name), target_bytes(name)
        record = json.loads(Path(f"{output}.json").read_text())
        assert 0.95 * target < output.stat().st_size <= target and record["type"] == name
        assert record["bytes"] == output.stat().st_size and "expected KLD" in record["note"]
        kinds = {tensor.name: tensor.kind.name.lower() for tensor in read_header(output).tensors}
        assert any(f"={kinds['blk.0.ffn_down_exps.weight']}" in part for part in record["arguments"])
        capsys.readouterr()
        build(name)
        assert "built already" in capsys.readouterr().out
    # How its types were chosen: by that, files of two models are compared.
    said = read_record(measured, Sensitivity)["inputs"]
    assert record["auto_measured_on"] == {key: said.get(key) for key in MEASURED_ON} and said["chats"]
    assert record["auto_padding"] is True
    # A release asks for that, too.
    args = argparse.Namespace(sensitivity=measured, no_padding=False, stats=None, cd_tiers=None)
    header, again = read_header(inputs["--input"]), recipe_of(record)
    assert not of_recipe(output, record, again, args, header)
    for other in ({**said, "chats": 99}, None):
        (error,) = of_recipe(output, record | {"auto_measured_on": other}, again, args, header)
        assert "expected sensitivities measured on" in str(error)
    build(name, "--no-padding")
    assert json.loads(Path(f"{output}.json").read_text())["auto_padding"] is False
    everything = build("AUTO-1")  # room for all of it: F16 itself
    assert everything.samefile(inputs["--input"])


@pytest.fixture
def refuse(inputs, measured, tmp_path, refusal) -> Callable[..., None]:
    """Assert that a target size is refused with a line that holds some words, and nothing is built."""

    def check(name: str, *words: str, **changes: object) -> None:
        flags = quantize_flags(inputs, changes.pop("sensitivity", measured), **changes)
        refusal(quantize_gguf.main, [*flags, "--type", name, "--output", tmp_path / f"{name}.gguf"], *words)
        assert not list(tmp_path.glob("x.*"))

    return check


def test_a_target_size_that_cannot_be_met_or_lacks_an_input_is_refused(refuse, tmp_path):
    refuse("AUTO-0.00001", "AUTO-0.00001: expected AUTO-0.000", "lowest types")
    refuse("AUTO-much", "--type", "AUTO-much")
    refuse("AUTO-1", "--sensitivity", sensitivity=None)
    refuse("AUTO-1", "AUTO-1", "--imatrix", imatrix=None)
    refuse("AUTO-1", "sensitivity.json", "nothing", sensitivity=tmp_path / "sensitivity.json")


def test_sensitivities_of_another_model_or_with_impossible_values_are_refused(refuse, measured, tmp_path):
    found, path = json.loads(measured.read_text()), tmp_path / "map.json"
    other_model = {**found["inputs"], "source_sha256": "0" * 64}
    path.write_text("{}")
    refuse("AUTO-1", "map.json", "measure_sensitivity.py", sensitivity=path)
    for part, damage, *words in (
        ("inputs", other_model, "000000000000", "measure them again"),
        ("inputs", {**found["inputs"], "imatrix_sha256": "1" * 64}, "111111111111", "measure them again"),
        ("version", 2, "sensitivities of measure_sensitivity.py, version 1, found version 2"),
        ("inputs", 3, "measure_sensitivity.py"),
        ("inputs", {}, "the field 'inputs.source_sha256', found none"),
        ("inputs", {**found["inputs"], "source_sha256": "0"}, "'inputs.source_sha256' is 64 hex digits, found '0'"),
        ("roles", {}, "another model"),
        ("roles", [], "'roles' is a valid dictionary"),
        ("layers", {"attention": 7}, "'layers.attention' is a valid dictionary"),
        ("roles", {"attention": {"Q4_K": float("nan")}}, "expected a finite number, found 'NaN'"),
        ("layers", {"attention": {"0": None}}, "'layers.attention.0' is a valid number, found None"),
        ("errors", [], "'errors' is a valid dictionary"),
    ):
        path.write_text(json.dumps({**found, part: damage}))
        refuse("AUTO-1", "map.json", *words, sensitivity=path)


def test_inputs_that_cannot_be_measured_are_refused(inputs, tmp_path, refusal):
    def refuse(*words: str, **changes: object) -> None:
        arguments = measure_arguments(inputs, **{"output": tmp_path / "s.json", **changes})
        refusal(measure_sensitivity.main, arguments, *words)

    refuse("would overwrite", output=inputs["--imatrix"])
    refuse("two questions or more", limit=1)
    refuse("none.gguf", imatrix=tmp_path / "none.gguf")
    refuse("Q8_0", "architecture", input=inputs["--imatrix"])
    (tmp_path / "cut.gguf").write_bytes(inputs["--input"].read_bytes()[:-1000])
    refuse("cut.gguf", "truncated", input=tmp_path / "cut.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"cut.gguf"}


def test_make_measures_sensitivities_for_target_sizes_alone(tiny_text_model, few_questions, tmp_path):
    def dry_run(quants: str) -> subprocess.CompletedProcess:
        model = (f"MODEL={tiny_text_model}", "NAME=tiny", "KEEP=12", "PROTECT_TOP=4")
        settings = (*model, f"QUESTIONS={few_questions}", f"BUILD={tmp_path}", f"QUANTS={quants}")
        command = ["make", "--no-print-directory", "-n", "quants", *settings]
        return subprocess.run(command, cwd=REPO, capture_output=True, text=True)

    shown = dry_run("Q8_0 AUTO-0.01").stdout
    assert "measure_sensitivity.py" in shown and "--limit 64" in shown
    assert "/gguf/sensitivity.json --type AUTO-0.01" in shown
    assert "measure_sensitivity.py" not in dry_run("Q8_0").stdout
    refused = dry_run("AUTO-much")
    assert refused.returncode != 0 and "found 'AUTO-much'" in refused.stderr
