"""What the commands read, made once: the demo pruned and quantised, two evaluations, a release, a page's records."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import build_draft
import freeze_questions
import generate_drop_map
import plan_quants
from calls import call
from chats.questions import read_rows
from conftest import DEMO, REPO
from files.json_records import read_record
from files.written_records import write_record
from llama.llama_tools import find_llama_cpp
from makers.made_up_evidence import write_questions
from makers.pruned_models import NAME, first_ids, prune_and_quantise
from makers.release_inputs import build_with_evidence
from makers.synthetic_build import write_build
from mutations.table import QUANT
from scoring.eval_protocol import protocol_of
from scoring.eval_tasks import task_of
from scoring.run_files import RUN, RunRecord
from scoring.score_records import Summary, figures
from stages.calibration import calibration

import pyarrow as pa
import pyarrow.parquet as pq

QUESTIONS = 6
PAGE_QUESTIONS, PAGE_LAYERS, PAGE_EXPERTS, PAGE_KEEP = 6, 3, 20, 18


def run_script(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a command in a process, as the fixture of that name does."""
    return subprocess.run(
        [sys.executable, REPO / "scripts" / name, *map(str, arguments)], capture_output=True, text=True
    )


def write_forms(folder: Path) -> None:
    """Write a few questions in each form that the commands read."""
    folder.mkdir()
    ids = first_ids(DEMO / "calibration_questions.csv", QUESTIONS)
    rows = read_rows(write_questions(folder / "few.csv", ids))
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "few.parquet")
    write_questions(folder / "exam.csv", first_ids(DEMO / "eval_questions.csv", QUESTIONS))


def write_run_files(folder: Path) -> None:
    """Write what the commands around a run read: settings, the log of a step, a folder of builds."""
    shutil.copyfile(REPO / "runs/demo.mk", folder / "run.mk")
    shutil.copyfile(DEMO / "facts.json", folder / "facts.json")
    shutil.copyfile(DEMO / "chat_template.jinja", folder / "chat_template.jinja")
    (folder / "logs").mkdir()
    (folder / "logs/choose.log").write_text("chosen\n")
    (folder / "build/demo/109e").mkdir(parents=True)
    (folder / "build/.built-by-this-project").touch()
    (folder / "build/demo/109e/drop_map.json").write_text("{}\n")


def write_analysis(folder: Path) -> None:
    """Analyse the few questions with the demo, and choose by them: what the findings are measured on."""
    given = ["--model", folder / "model", "--questions", folder / "questions/few.csv", "--allow-empty-reasoning"]
    done = run_script("teacher_force_analysis.py", *given, "--output", folder / "analysis/stats.safetensors")
    assert done.returncode == 0, done.stderr
    chosen = ["--stats", folder / "analysis/stats.safetensors", "--keep", 112]
    call(generate_drop_map.main, *chosen, "--output", folder / "analysis/map.json")


def move_sources_in(folder: Path) -> None:
    """Name the release's sources of the repository by copies: a case's copy of the artefacts lies elsewhere."""
    for name in ("modelfiles", "data/demo"):
        shutil.copytree(REPO / name, folder / "repo" / name)
    shutil.copyfile(REPO / "data/loop_prompts.json", folder / "repo/data/loop_prompts.json")
    sources = folder / "evidence" / f"{NAME}-GGUF.sources.json"
    outside = os.path.relpath(REPO, sources.parent)
    sources.write_text(sources.read_text().replace(outside, "../repo"))


def write_asked(folder: Path) -> None:
    """Write a run whose questions are all answered, as ask_questions.py would find it."""
    import ask_questions  # here: it brings in what would make every fork of a campaign slower

    run = folder / "evidence/asked"
    shutil.copytree(folder / "evidence/run-pruned", run)
    shutil.rmtree(run / "task")  # frozen again, with the files of lm-eval's task
    call(freeze_questions.main, "--questions", folder / "evidence/scored.csv", "--output", run / "task")
    given = ["--name", NAME, "--gguf", folder / QUANT, "--tokenizer", folder / "model", "--run", run]
    args = ask_questions.parse_args(list(map(str, given)))
    tokenizer, version = ask_questions.tokenizer_identity(args.tokenizer), find_llama_cpp(None).version()
    protocol = protocol_of(args, tokenizer, version, task_of(args.task).filter)
    write_record(args.run / RUN, ask_questions.identity(args, protocol), RunRecord)


def write_beside(folder: Path) -> None:
    """Write what the commands beside the main line read: a draft model, the speed of a machine, a task's questions."""
    (folder / "draft").mkdir()
    given = ["--model", DEMO / "assistant", "--target", folder / "pruned/F16.gguf", "--name", NAME]
    call(build_draft.main, *given, "--output", folder / "draft/mtp-Q8_0.gguf")
    (folder / "dataset").mkdir()
    rows = [{"question": f"What is {n} and {n}?", "answer": f"Twice {n}. #### {2 * n}"} for n in range(1, 5)]
    (folder / "dataset/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    calibration(folder / "machine.json")


def write_pooled(folder: Path) -> None:
    """Write the summaries of two folds: those of one run's answers, halved."""
    whole = read_record(folder / "evidence/run-pruned/summary.json", Summary)
    for fold in range(2):
        rows = whole["answers"][fold::2]
        held_out = {"in_sample": {"chosen_on": len(rows), "scored_and_chosen_on": 0}}
        write_record(folder / f"fold{fold}.json", whole | held_out | figures(rows, whole["patch"]), Summary)


def make(folder: Path) -> None:
    """Fill a folder with everything."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pruned").mkdir(parents=True)
    prune_and_quantise(run_script, DEMO, folder / "pruned")
    add_to(folder)


def add_to(folder: Path, slow: bool = True) -> None:
    """Fill a folder that holds the pruned model with all that is made from it; slow: what only slow commands read."""
    shutil.copytree(DEMO / "model", folder / "model")
    build_with_evidence(folder / "pruned", folder / "evidence")
    move_sources_in(folder)
    write_forms(folder / "questions")
    write_run_files(folder)
    write_pooled(folder)
    if slow:
        write_analysis(folder)
        write_asked(folder)
        write_beside(folder)
    (folder / "page").mkdir()
    write_build(folder / "page", PAGE_QUESTIONS, PAGE_LAYERS, PAGE_EXPERTS, PAGE_KEEP)
    call(plan_quants.main, "--source", folder / "pruned/F16.gguf", "--types", "Q6_K", "--output", folder / "plan.json")
