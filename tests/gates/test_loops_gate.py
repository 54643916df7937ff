"""A release with rates of loops and tool calls: its card, its gate, and each kind of damage."""

import json
import shutil
from pathlib import Path

import build_release
from conftest import REPO
from files.json_records import read_record
from files.seals import INPUTS_NAME
from files.written_records import write_json, write_record
from gates.checked import Checked
from gates.gates import build_gate
from gates.loops_gate import loops_gate
from loops.loop_answers import ANSWERS_NAME, answers_folder, append_loop_answer, asked_in_order, loop_inputs
from loops.loop_classes import LoopAnswer
from loops.loop_prompts import read_prompts
from loops.loop_rates import loop_results, loop_row
from loops.loop_results import LOOPS_NAME, LoopResults, loop_cells
from makers.made_up_evidence import write_base_record
from makers.pruned_models import NAME
from makers.release_copies import edit
from makers.release_inputs import build, release_arguments
from quants.quant_record import QuantRecord, record_path
from release.manifest import read_manifest
from release.sources import read_sources
from scoring.eval_protocol import Protocol

import pytest

PROMPTS, SEEDS = REPO / "data/loop_prompts.json", 2
ANSWER = {"reasoning": "", "calls": [], "finish_reason": "stop", "tokens": 3, "error": ""}
QUANTS = ("Q6_K", "Q4_K_M")


@pytest.fixture(scope="module")
def measured(pruned_demo, tmp_path_factory) -> Path:
    """A folder with made-up answers of the full model and of two quants, and loops.json of them.

    Every tenth answer is empty, of Q4_K_M every second one.
    """
    folder, prompts, rows = tmp_path_factory.mktemp("loops"), read_prompts(PROMPTS), []
    inputs = loop_inputs(prompts, Protocol(llama_cpp="version: 1 (made up)"), "7" * 64)
    records = [write_base_record(pruned_demo, folder)]
    records += [record_path(pruned_demo / f"{NAME}-{quant}.gguf") for quant in QUANTS]
    for path, every in zip(records, (10, 10, 2)):
        record = read_record(path, QuantRecord)
        place, own = answers_folder(folder / "answers", inputs, record["sha256"])
        place.mkdir(parents=True)
        write_json(place / INPUTS_NAME, own)
        answers = []
        for number, (prompt, seed) in enumerate(asked_in_order(prompts, inputs["seed"], SEEDS)):
            content = "Yes." if number % every else ""
            answers.append(LoopAnswer.model_validate({"prompt": prompt.id, "seed": seed, "content": content, **ANSWER}))
            append_loop_answer(place / ANSWERS_NAME, answers[-1])
        rows.append(loop_row(record, path.stem, answers, prompts))
    write_record(folder / LOOPS_NAME, loop_results(inputs, prompts, rows), LoopResults)
    return folder


def arguments(pruned: Path, measured: Path) -> list[object]:
    prompts = measured / PROMPTS.name if (measured / PROMPTS.name).exists() else PROMPTS
    given = ["--loops", measured / LOOPS_NAME, "--loop-answers", measured / "answers", "--loop-prompts", prompts]
    own = [record_path(pruned / f"{NAME}-{quant}.gguf") for quant in QUANTS]
    return [*given, "--quants", measured / "gemma-4-demo-Q6_K.gguf.json", *own]


def test_the_card_shows_the_rates_and_the_gate_counts_them_again(pruned_demo, measured, tmp_path):
    folder = tmp_path / f"{NAME}-GGUF"
    card = build(pruned_demo, folder, *arguments(pruned_demo, measured), quants=QUANTS)
    results = read_record(folder / LOOPS_NAME, LoopResults)
    assert "## Loops and tool calls" in card
    assert all(f"| {' | '.join(loop_cells(row))} |" in card for row in results["rows"])
    checked = Checked(folder, read_manifest(folder), read_sources(folder))
    outcome = loops_gate(checked)
    assert outcome.applies and not outcome.deviations and not build_gate(checked).deviations
    assert outcome.looked_at == "84 answers of each of 3 files classed and counted again"
    # A file that fails more often is said, and is no deviation.
    assert [line.split(", p = ")[0] for line in outcome.exceptions] == [
        f"{NAME}-Q4_K_M: more of 'any failure' than gemma-4-demo-Q6_K",
        f"{NAME}-Q4_K_M: more of 'empty' than gemma-4-demo-Q6_K",
    ]


def test_without_rates_the_gate_does_not_apply(pruned_demo, tmp_path):
    folder = tmp_path / f"{NAME}-GGUF"
    assert "Loops and tool calls" not in build(pruned_demo, folder, quants=QUANTS)
    assert not loops_gate(Checked(folder, read_manifest(folder), read_sources(folder))).applies


def first_answers(folder: Path) -> Path:
    return sorted(folder.glob(f"answers/*/{ANSWERS_NAME}"))[0]


def edit_record(folder: Path, change) -> None:
    content = json.loads((folder / LOOPS_NAME).read_text())
    change(content)
    (folder / LOOPS_NAME).write_text(json.dumps(content))


def edit_prompts(folder: Path) -> None:
    """Prompts of another wording, and loops.json with their digest."""
    content = json.loads(PROMPTS.read_text())
    content["prompts"][0]["messages"][0]["content"] += " Be brief."
    (folder / PROMPTS.name).write_text(json.dumps(content))
    digest = read_prompts(folder / PROMPTS.name).sha256
    edit_record(folder, lambda record: record["inputs"].update(prompts_sha256=digest))


DAMAGES = {
    "prompts of somebody's own": (edit_prompts, "this project's prompts with sha256"),
    "a length that was not asked for": (
        lambda folder: edit(first_answers(folder), '"tokens": 3', '"tokens": 99999'),
        "expected at most 24576 tokens in the answer",
    ),
    "an answer": (
        lambda folder: edit(first_answers(folder), '"content": "Yes."', '"content": ""'),
        "the rates of the recorded answers",
    ),
    "a lost answer": (
        lambda folder: first_answers(folder).write_bytes(first_answers(folder).read_bytes().rpartition(b"{")[0]),
        "expected 84 answers, found 83",
    ),
    "what they depend on": (
        lambda folder: edit(first_answers(folder).with_name(INPUTS_NAME), '"seed": 42', '"seed": 41'),
        "what the answers depend on",
    ),
    "a class": (
        lambda folder: edit_record(folder, lambda content: content["rows"][2]["classes"].__setitem__(0, ["fine"] * 2)),
        "rows[2].classes[0][0] 'empty', found 'fine'",
    ),
    "a rate": (
        lambda folder: edit_record(
            folder, lambda content: content["rows"][1]["rates"]["empty"].update(count=0, interval=[0.0, 1.0])
        ),
        "the rates of the recorded answers: rows[1].rates.empty.count 9",
    ),
    "the sampling": (
        lambda folder: edit_record(folder, lambda content: content["inputs"]["sampling"].update(temperature=0.1)),
        "the sampling of the evaluation",
    ),
    "the prompts": (
        lambda folder: edit_record(folder, lambda content: content["inputs"].update(prompts_sha256="0" * 64)),
        "prompts with sha256",
    ),
    "another file": (
        lambda folder: edit_record(folder, lambda content: content["rows"][1].update(gguf_sha256="9" * 64)),
        f"{NAME}-Q6_K.gguf to be a file of this build",
    ),
    "the full model left out": (
        lambda folder: edit_record(folder, lambda content: content["rows"].pop(0)),
        f"{NAME}-Q6_K.gguf to be a file of the full model",
    ),
    "the version": (
        lambda folder: edit_record(folder, lambda content: content.update(version=9)),
        "the record of measure_loops.py, version 1",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_release_is_refused_over_every_damage(pruned_demo, measured, tmp_path, refusal, damage):
    folder = Path(shutil.copytree(measured, tmp_path / "measured"))
    change, words = DAMAGES[damage]
    change(folder)
    asked = release_arguments(pruned_demo, tmp_path / "out-GGUF", *arguments(pruned_demo, folder), quants=QUANTS)
    refusal(build_release.main, asked, words)
    assert not (tmp_path / "out-GGUF").exists()
