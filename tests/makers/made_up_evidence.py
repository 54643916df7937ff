"""Made-up evaluations and losses of the pruned demo, in the files that the commands leave."""

import csv
import json
from pathlib import Path

import compare_scores
from calls import as_command, call, seal_all
from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, load_questions, question_set_digest, read_rows
from chats.texts_again import texts_digest
from choice.drop_metadata import METADATA_NAME
from conftest import DEMO
from files.input_errors import sha256_file
from files.json_records import read_record
from files.seals import INPUTS_NAME
from files.written_records import write_json, write_record
from ggufs.gguf_header import read_header
from llama.llama_tools import find_llama_cpp
from losses.quality_conclusions import quality_conclusions
from losses.quality_record import QUALITY_NAME, Quality
from losses.stored_results import PRUNING_NAME, measured_of, read_chats, results_folder, results_path, write_chats
from makers.pruned_models import EXPERTS, NAME
from quants.quant_plan import plan_quant
from quants.quant_record import QuantRecord, record_path
from quants.recipes import RECIPES
from scoring.answer_record import Answer, append_answer, prompt_sha256
from scoring.eval_protocol import DEFAULT_TASK, Protocol
from scoring.eval_tasks import EvalTask, task_of
from scoring.frozen_questions import documents_of
from scoring.lm_eval_run import request_digest
from scoring.run_files import (
    ANSWERS,
    LM_EVAL,
    PATCHED,
    RUN,
    TASK_FOLDER,
    Patched,
    RunRecord,
    begin_run,
    run_digests,
    subject_of,
)
from scoring.run_summary import summed_up
from scoring.score_records import SUMMARY_NAME, Summary

import numpy as np

QUESTIONS = [DEMO / "eval_questions.csv", DEMO / "calibration_questions.csv"]
PATCH = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0}


def answer_of(document: dict, mark: str, protocol: Protocol) -> Answer:
    """Return a recorded answer: "1" right, "0" wrong, "p" and "e" empty."""
    task = task_of(protocol.task)
    target = task.target(document[task.answer])
    letter = None if mark in "pe" else target if mark == "1" else wrong(target)
    said = f"The answer is ({letter})." if task.is_gpqa else f"It is {letter}"
    return Answer(
        record_id=document["Record ID"],
        prompt_sha256=prompt_sha256(document["prompt"]),
        request_sha256=request_digest(document, protocol, []),
        answer=said if letter else "",
        reasoning="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        asked_at=0.0,
        seconds=0.0,
        attempts=1,
        errors=[],
        letter=letter,
        target=target,
        correct=letter == target,
        kind="answered" if letter else "empty",
    )


def wrong(target: str) -> str:
    """Return a letter or a number that is not the right one."""
    return "0" if target.isdecimal() else "A" if target != "A" else "B"


def sample_of(number: int, document: dict, answer: Answer, task: EvalTask) -> dict:
    """Return what lm-eval logs of an answer."""
    found = f"({answer.letter})" if task.is_gpqa else answer.letter
    return {
        "filter": task.filter,
        "doc_id": number,
        "doc": document,
        "arguments": {"gen_args_0": {"arg_0": json.dumps([{"content": document["prompt"]}])}},
        "resps": [[answer.answer]],
        "filtered_resps": [found if answer.letter else "[invalid]"],
        "target": document[task.answer],
        task.metric: float(answer.correct),
    }


def lm_eval_said(protocol: Protocol) -> dict:
    """Return what lm-eval records of its own settings."""
    names = ("temperature", "top_p", "top_k", "seed", "dry_multiplier", "max_gen_toks")
    kwargs = {name: getattr(protocol, name) for name in names}
    model = {"num_concurrent": protocol.concurrency + 1}
    return {
        "config": {"gen_kwargs": kwargs, "model_args": model, "random_seed": protocol.seed},
        "lm_eval_version": protocol.lm_eval,
    }


def write_run(folder: Path, record: Path, questions: Path, marks: str, **options: object) -> Path:
    """Write a made-up run of a quant over a question file as eval_gpqa_v3.sh leaves one; return its summary.

    marks: by question as in `answer_of`; "p" is right after the patch, "e" wrong. options: name; patch: False for a run
    without the patch step; chosen_by: a drop map or expert_drop_metadata.json; task, seed: of another protocol.
    """
    task = task_of(str(options.get("task", DEFAULT_TASK)))
    seed = int(str(options.get("seed", 42)))
    protocol = Protocol(
        task=str(options.get("task", DEFAULT_TASK)), filter=task.filter, seed=seed, choice_order_seed=seed
    )
    quant, documents = read_record(record, QuantRecord), documents_of(questions, task, protocol.choice_order_seed)
    answers = [answer_of(document, mark, protocol) for document, mark in zip(documents, marks, strict=True)]
    for name in (TASK_FOLDER, LM_EVAL):
        (folder / name).mkdir(parents=True)
    frozen, logged = folder / TASK_FOLDER / "frozen.jsonl", folder / LM_EVAL
    frozen.write_text("".join(json.dumps(document) + "\n" for document in documents))
    samples = [json.dumps(sample_of(i, *pair, task)) + "\n" for i, pair in enumerate(zip(documents, answers))]
    (logged / "samples.jsonl").write_text("".join(samples))
    score = sum(answer.correct for answer in answers) / len(answers)
    results = {"results": {"task": {f"{task.metric},{task.filter}": score}}, **lm_eval_said(protocol)}
    (logged / "results.json").write_text(json.dumps(results))
    run = {
        "name": options.get("name", NAME),
        "gguf_sha256": quant["sha256"],
        "protocol_sha256": protocol.digest,
        "questions_sha256": sha256_file(frozen),
        "question_file_sha256": sha256_file(questions),
        "protocol": vars(protocol),
    }
    with as_command("ask_questions"):
        begin_run(folder)
        write_record(folder / RUN, run, RunRecord)
        for answer in answers:
            append_answer(folder / ANSWERS, answer, subject_of(run))
    seal_all(logged, "ask_questions")
    seal_all(folder / TASK_FOLDER, "freeze_questions")
    patched = [
        {
            "record_id": answer.record_id,
            "class": answer.kind,
            "completion": f"{answer.target if mark == 'p' else wrong(answer.target)})",
            "letter": answer.target if mark == "p" else wrong(answer.target),
            "correct": mark == "p",
            "errors": [],
        }
        for answer, mark in zip(answers, marks)
        if answer.invalid
    ]
    with as_command("patch_answers"):
        write_record(folder / PATCHED, {**PATCH, "run": run_digests(run), "answers": patched}, Patched)
    scored = {
        "gguf": record.name.removesuffix(".json"),
        "gguf_sha256": quant["sha256"],
        "gguf_bytes": quant["bytes"],
        "experts": quant["experts"],
    }
    summary = summed_up(folder, bool(options.get("patch", True)), options.get("chosen_by"), scored)
    with as_command("summarize_scores"):
        write_record(folder / SUMMARY_NAME, summary, Summary)
    return folder / SUMMARY_NAME


def write_questions(path: Path, ids: list[str]) -> Path:
    """Write a question file of some questions of the demo, in their order there."""
    rows = [row for source in QUESTIONS for row in read_rows(source) if row["Record ID"] in ids]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_base_record(pruned: Path, folder: Path) -> Path:
    """Write the record of a quant of the full model, whose file is not there; return its path."""
    record, source = read_record(record_path(pruned / f"{NAME}-Q6_K.gguf"), QuantRecord), pruned / "full-F16.gguf"
    tool = find_llama_cpp(None).tool("llama-quantize")
    plan = plan_quant(tool, RECIPES["Q6_K"], read_header(source), pruned / "imatrix.gguf")
    full = {
        "experts": EXPERTS,
        "parameters": plan.parameters,
        "bytes": plan.size,
        "bits_per_weight": round(plan.bits_per_weight, 3),
        "sha256": "2" * 64,
        "source_sha256": sha256_file(source),
        "imatrix_sha256": sha256_file(pruned / "full-imatrix.gguf"),
    }
    with as_command("quantize_gguf"):
        write_record(folder / "gemma-4-demo-Q6_K.gguf.json", {**record, **full}, QuantRecord)
    return folder / "gemma-4-demo-Q6_K.gguf.json"


def write_scores(pruned: Path, folder: Path, ids: list[str], patch: bool = True, marks: str = "10pe") -> Path:
    """Compare two made-up evaluations with compare_scores.py; return its JSON, beside the runs and their questions."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, base = write_questions(folder / "scored.csv", ids), write_base_record(pruned, folder)
    own = record_path(pruned / f"{NAME}-Q6_K.gguf")
    metadata = pruned / "checkpoint" / METADATA_NAME
    runs = [
        write_run(folder / "run-full", base, questions, "1110", patch=patch, name="gemma-4-demo"),
        write_run(folder / "run-pruned", own, questions, marks, patch=patch, chosen_by=metadata),
    ]
    call(compare_scores.main, "--model", runs[0], base, "--model", runs[1], own, "--output", folder / "scores.md")
    return folder / "scores.json"


def write_quality(pruned: Path, folder: Path, klds: dict[str, float]) -> Path:
    """Write stored results of made-up losses of the built files, and the quality.json of them."""
    questions = load_questions(QUESTIONS[0], QUESTION_SEED)[:4]
    inputs = {
        "full_sha256": sha256_file(pruned / "full-F16.gguf"),
        "pruned_sha256": sha256_file(pruned / "F16.gguf"),
        "questions_sha256": question_set_digest(questions),
        "texts_sha256": texts_digest(DEMO / "model", questions),
        "max_tokens": MAX_TOKENS,
    }
    results = results_folder(folder / "logits", "results", inputs)
    results.mkdir(parents=True)
    counts = {"reply": np.full(4, 10), "all": np.array([22, 23, 22, 23])}
    with as_command("measure_quality"):
        write_json(results / INPUTS_NAME, inputs)
    write_chats(results, counts)
    chats, records = read_chats(results), []
    tokens = {"same_top": np.ones(90), "delta_p": np.zeros(90)}

    def losses(kld: float) -> dict[str, np.ndarray]:
        # The chats differ, so that the error of the mean is a tenth of it.
        return {"kld": kld * (1 + 0.1 * 3**0.5 * np.repeat([1, -1, 1, -1], counts["all"])), **tokens}

    pruning = {f"full_{measure}": values for measure, values in losses(0.004).items()}
    np.savez(results / PRUNING_NAME, **pruning)
    measured = []
    for quant, kld in klds.items():
        record = read_record(record_path(pruned / f"{NAME}-{quant}.gguf"), QuantRecord)
        arrays = {}
        for name in ("full", "pruned"):
            arrays |= {f"{name}_{measure}": values for measure, values in losses(kld).items()}
        np.savez(results_path(results, record["sha256"]), **arrays)
        measured.append(measured_of(record["type"], record, arrays, pruning, chats, "reply"))
        records.append(record)
    seal_all(results, "measure_quality")
    content = {
        "inputs": inputs,
        "chats": 4,
        "question_file_sha256": sha256_file(QUESTIONS[0]),
        "left_out": 0,
        "choice_known": True,
        "score": "reply",
        "tokens": {"reply": 40, "all": 90},
        "cut": 0,
        "files": [entry.described() for entry in measured],
        "conclusions": quality_conclusions(measured, counts["reply"]),
    }
    with as_command("measure_quality"):
        write_record(folder / QUALITY_NAME, content, Quality)
    return folder / QUALITY_NAME
