"""What a run is planned to take: the model of costs, the factors of a machine, and planned beside taken."""

import io
import json
from dataclasses import replace
from pathlib import Path

import plan_run
from calls import as_command, call
from files.input_errors import InputError
from files.seals import MARKER
from files.written_records import write_record
from stages import calibration
from stages.needs import RunSizes
from stages.planned_steps import PlannedStep
from stages.run_costs import COPIED, START_SECONDS, Work, disk_after, peak_memory, step_cost
from stages.run_plan import RunPlan, factors_of, rows_of
from stages.step_usage import StepRecord, read_step_records

import pytest

GB = 10**9
SIZES = RunSizes(60 * GB, 50 * GB, 2 * GB, GB, {"Q4_K_M": 15 * GB, "Q6_K": 20 * GB})
WORK = Work(
    analysed_questions=20,
    analysed_tokens=10_000,
    imatrix_tokens=5_000,
    questions=10,
    answer_tokens=100,
    active_weights=4 * GB,
    memory_bytes=200 * GB,
)
PLAN = RunPlan(SIZES, WORK, streams=True)
BUILD = Path("build/m")
TARGETS = {
    "statistics": "full/statistics/q/expert_stats.safetensors",
    "drop": "12e/checkpoint/expert_drop_metadata.json",
    "f16": "12e/f16/m-12e-F16.gguf",
    "imatrix": "12e/gguf/imatrix.gguf",
    "quant": "12e/gguf/m-12e-Q4_K_M.gguf",
    "freed": "12e/f16/m-12e-F16.gguf.freed",
    "scores": "12e/eval/Q4_K_M/summary.json",
    "picture": "12e/pictures/experts-heatmap.png",
}
KINDS = {"f16": "convert", "statistics": "analyse", "quant": "quantise", "scores": "score", "picture": "small"}


def record(name: str, seconds: float, began: float = 0.0) -> dict:
    """Return the record of a step that took so long."""
    numbers = dict.fromkeys((each for each in StepRecord.model_fields if each.endswith("_bytes")), 3 * (1 << 30))
    return {
        "version": 1,
        "stage": "s",
        "words": f"Step {name}",
        "target": str(BUILD / TARGETS[name]),
        "began": began,
        "seconds": seconds,
        "cpu_seconds": seconds,
        **numbers,
    }


def cost(name: str, plan: RunPlan = PLAN):
    return step_cost(BUILD / TARGETS[name], plan.sizes, plan.work, plan.streams)


def test_kinds_and_growth():
    for name in TARGETS:
        assert cost(name).kind == KINDS.get(name, {"freed": "free"}.get(name, name))
    twice = RunPlan(replace(SIZES, full=120 * GB, pruned=100 * GB), replace(WORK, active_weights=8 * GB), True)
    for name in set(TARGETS) - {"freed", "picture", "f16"}:
        assert cost(name, twice).work_seconds == pytest.approx(2 * cost(name).work_seconds), name
    full = Path("build/m/full/gguf/q/m-Q4_K_M.gguf")
    assert step_cost(full, SIZES, WORK, True).work_seconds == pytest.approx(1.2 * cost("quant").work_seconds)


def test_a_machine_is_slower_by_its_factors():
    quant = cost("quant")
    slow = quant.seconds({"start": 2.0, "quantise": 3.0, "drop": 9.0})
    assert slow == pytest.approx(2 * START_SECONDS["quantise"] + 3 * quant.work_seconds)


def test_an_imatrix_reads_a_file_that_memory_does_not_hold_once_for_each_piece_of_the_text():
    less = RunPlan(SIZES, replace(WORK, memory_bytes=24 * GB), True)
    pieces = 10  # of 512 tokens
    assert (
        cost("imatrix").work_seconds
        < cost("imatrix", less).work_seconds
        == pytest.approx(pieces * SIZES.pruned / COPIED)
    )


def test_memory_and_disk():
    assert peak_memory(BUILD / TARGETS["imatrix"], SIZES, True) > SIZES.pruned
    assert peak_memory(BUILD / TARGETS["f16"], SIZES, True) > SIZES.pruned  # which llama.cpp maps to be compared
    assert peak_memory(BUILD / TARGETS["f16"], replace(SIZES, pruned=0), True) < 4 * SIZES.layer + 2 * SIZES.rest
    assert disk_after(BUILD / TARGETS["f16"], SIZES) == -disk_after(BUILD / TARGETS["freed"], SIZES) == SIZES.pruned
    assert disk_after(BUILD / "12e/weights.freed", SIZES) == -SIZES.full


def test_factors_of_records_give_their_seconds_again():
    def slow(name: str) -> float:
        factor = {"quantise": 3.0, "convert": 0.5}.get(cost(name).kind, 2.0)
        return cost(name).start_seconds + factor * cost(name).work_seconds

    names = [name for name in TARGETS if name not in ("freed", "picture")]
    records = [record(name, slow(name)) for name in names]
    factors = factors_of(PLAN, records)
    assert factors["quantise"] == pytest.approx(3.0) and factors["convert"] == pytest.approx(0.5)
    for row, name in zip(rows_of(PLAN, records, [], factors), names):
        assert row.planned[0] == pytest.approx(slow(name), rel=1e-3)


def test_done_steps_come_first_and_a_step_that_is_left_again_is_not_done():
    left = [PlannedStep("s", "Quantise", BUILD / TARGETS["quant"])]
    rows = rows_of(PLAN, [record("drop", 7.0), record("quant", 9.0, began=1.0)], left, {})
    assert [(row.words, row.actual and row.actual[0]) for row in rows] == [("Step drop", 7.0), ("Quantise", None)]
    assert [row.planned[2] for row in rows] == [110 * GB, 125 * GB]


def test_what_an_edited_record_says_of_a_step_is_not_told(tmp_path):
    (tmp_path / MARKER).touch()
    for name in ("drop", "quant"):
        with as_command("run_step"):
            write_record(tmp_path / f"{name}.json", record(name, 7.0), StepRecord)
    edited = tmp_path / "quant.json"
    edited.write_text(edited.read_text().replace("7.0", "730000.0"))
    assert [one["seconds"] for one in read_step_records(tmp_path)] == [7.0]


def test_a_calibration_is_measured_once_for_each_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "WRITTEN_BYTES", 64 << 20)  # a first `make plan` measures with all of it
    monkeypatch.setattr(calibration, "COMPUTE_SECONDS", 0.2)
    path = tmp_path / "calibration.json"
    found = calibration.calibration(path)
    assert found["factors"]["start"] > 0 and {"drop", "quantise", "score"} <= found["factors"].keys()
    assert not list(tmp_path.glob("calibration-*"))
    monkeypatch.setattr(calibration, "measure_speed", lambda folder: pytest.fail("measured again"))
    assert calibration.calibration(path)["factors"] == found["factors"]
    monkeypatch.setattr(calibration, "machine_words", lambda: "another machine")
    monkeypatch.setattr(
        calibration, "measure_speed", lambda folder: {**found, "machine": "another machine", "factors": {}}
    )
    assert calibration.calibration(path)["machine"] == "another machine"
    path.write_text(json.dumps({**found, "version": 1, "factors": {"drop": -2.0}}))
    with pytest.raises(InputError, match="'factors.drop' is greater than 0"):
        calibration.calibration(path)


def test_the_table_has_planned_and_taken(tmp_path, capsys, monkeypatch, demo_model):
    numbers = {"full_f16_bytes": 60 * GB, "f16_bytes": 50 * GB, "largest_layer_bytes": 2 * GB, "vocabulary_bytes": GB}
    content = {**numbers, "active_weights": 4 * GB, "quants": [{"name": "Q4_K_M", "bytes": 15 * GB}]}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    factors = {"machine": calibration.machine_words(), "source": "a test", "factors": {}, "version": 1}
    (tmp_path / "calibration.json").write_text(json.dumps(factors))
    (tmp_path / "step-drop.json").write_text(json.dumps(record("drop", 77.0)))
    left = f"@step\tquants\tQuantise Q4_K_M\t{BUILD / TARGETS['quant']}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(left))
    questions = demo_model.parent / "eval_questions.csv"
    flags = ["--plan", tmp_path / "plan.json", "--logs", tmp_path, "--questions", questions, "--answer-tokens", 100]
    (tmp_path / "logs").mkdir()
    (tmp_path / "step-drop.json").rename(tmp_path / "logs/step-drop.json")
    flags[3] = tmp_path / "logs"
    flags += ["--eval-questions", tmp_path / "not-here.csv", "--calibration", tmp_path / "calibration.json"]
    call(plan_run.main, *flags)
    shown = capsys.readouterr().out.splitlines()
    drop, quant = shown[1].split(), shown[2].split()
    planned = round(cost("drop").seconds({}))
    assert drop == ["Step", "drop", str(planned), "77", *drop[4:5], "3.00", "102.45", "3.00"]
    assert quant[:2] == ["Quantise", "Q4_K_M"] and quant[-1] == "116.42"
    assert f"{planned} planned, 77 taken seconds" in shown[4] and "a test (" in shown[-1]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    flags[3] = tmp_path / "no-logs"
    call(plan_run.main, *flags)
    assert "Steps that are left: 0 seconds" in capsys.readouterr().out
