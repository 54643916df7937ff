"""What a release is made from, made with the real tools; evaluations of it; a release that tests share."""

import csv
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import build_imatrix
import build_release
import compare_scores
import expert_drop
import generate_drop_map
import quantize_gguf
import render_calibration
from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, load_questions, question_set_digest, read_rows
from chats.texts_again import analysed_digests, texts_digest
from checkpoints.checkpoint import read_checkpoint, source_digest, weights_digest
from choice.drop_metadata import METADATA_NAME
from choice.expert_stats import EXPERT_SUMS, LAYER_SUMS, write_stats
from conftest import DEMO, REPO
from files.json_records import read_record, write_json, write_record
from files.safe_files import sha256_file
from files.seals import INPUTS_NAME, MARKER, running_command, seal_file, set_command
from ggufs.gguf_header import read_header
from llama.llama_tools import find_llama_cpp
from losses.quality_conclusions import quality_conclusions
from losses.quality_record import QUALITY_NAME, Quality
from losses.stored_results import PRUNING_NAME, measured_of, read_chats, results_folder, results_path, write_chats
from quants.quant_plan import plan_quant
from quants.quant_record import QuantRecord, record_path
from quants.recipes import RECIPES
from release.manifest import MANIFEST, STANDARD, Manifest, file_entries
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
SIDECARS = [
    *("--template", *sorted((REPO / "modelfiles").glob("*.template"))),
    *("--params", REPO / "modelfiles/gemma4-card.params.json"),
]
NAME, BASE = "gemma-4-demo-112e", "google/gemma-4-26B-A4B-it"
LICENCE = "gemma"
KEPT, EXPERTS, LAYERS = 112, 128, 3
STANDARD_QUANTS = ("F16", "Q8_0", "Q6_K_L", "Q6_K", "Q4_K_M")
QUANTS = (*STANDARD_QUANTS, "CD-Q4_K_M")
CALIBRATION_QUESTIONS = 20  # about 1,200 tokens; llama-imatrix needs 1,024
PATCH = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0}
DOMINATED = {
    "Q6_K": {"by": "Q4_K_M", "difference": 0.01, "difference_error": 0.001, "significant": True},
    "Q8_0": {"by": "Q6_K", "difference": 0.01, "difference_error": 0.1, "significant": False},
}


def first_ids(path: Path, count: int) -> list[str]:
    """Return the Record IDs of the first questions of a file."""
    with open(path, newline="", encoding="utf-8") as file:
        return [row["Record ID"] for _, row in zip(range(count), csv.DictReader(file))]


def call(main, *arguments: object) -> None:
    """Call a command's main with arguments of any type: a process would import all of its libraries again."""
    main([str(argument) for argument in arguments])


def choose_first(folder: Path, questions: Path) -> None:
    """Write statistics of the first six questions and the map by them, which keeps the first experts of every layer."""
    ids, model = first_ids(questions, 6), DEMO / "model"
    shape = (len(ids), LAYERS, EXPERTS)
    falling = np.broadcast_to(np.arange(EXPERTS, 0, -1.0), shape)
    arrays: dict[str, np.ndarray] = {name: falling.copy() for name in EXPERT_SUMS}
    arrays |= {name: np.full(shape[:2], 100) for name in LAYER_SUMS} | {"layer_numbers": np.arange(LAYERS)}
    arrays |= {"token_count": falling.astype(np.int64), "moe_output_norm_sum": np.full(shape[:2], 9.0)}
    asked = load_questions(questions, QUESTION_SEED)[: len(ids)]
    template, tokens = analysed_digests(model, asked, MAX_TOKENS)
    metadata = {
        "questions": [
            {"id": one.record_id, "sha256": one.digest, "token_ids_sha256": tokens[one.record_id]} for one in asked
        ],
        "chat_template_sha256": template,
        "max_tokens": MAX_TOKENS,
        "top_k": 8,
        "questions_sha256": question_set_digest(asked),
        "config_sha256": sha256_file(model / "config.json"),
        "weights_sha256": weights_digest(read_checkpoint(model)),
        "source_sha256": source_digest(model),
    }
    with as_command("teacher_force_analysis"):
        write_stats(folder / "statistics.safetensors", arrays, metadata)
    named = ["--stats", folder / "statistics.safetensors", "--output", folder / "map.json"]
    call(generate_drop_map.main, *named, "--keep", KEPT)


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Hold a lock on a folder; yield whether it is still to be made. It counts as made when this ends without error."""
    done = folder.with_name(f"{folder.name}.done")
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield not done.exists()
        done.touch()


def build_pruned_demo(script, demo: Path, folder: Path) -> Path:
    """Prune, convert and quantise the demo in a folder; return it, or the one that workers of pytest-xdist share."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parents[1] / "pruned-demo"  # beside the temporary folders of all workers
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            (folder / MARKER).touch()
            prune_and_quantise(script, demo, folder)
    return folder


def prune_and_quantise(script, demo: Path, folder: Path) -> None:
    """Fill a folder: drop map, checkpoint, F16.gguf, imatrix and quants with their records."""
    questions, few = demo / "calibration_questions.csv", folder / "few.csv"
    few.write_text("".join(questions.read_text().splitlines(keepends=True)[: 1 + CALIBRATION_QUESTIONS]))
    choose_first(folder, questions)
    f16, imatrix, text, checkpoint = (folder / name for name in ("F16.gguf", "imatrix.gguf", "text.txt", "checkpoint"))
    call(expert_drop.main, "--source", demo / "model", "--drop-map", folder / "map.json", "--output", checkpoint)
    # Processes: llama.cpp's converter is one in any case.
    for model, name, output in ((checkpoint, NAME, f16), (demo / "model", "gemma-4-demo", folder / "full-F16.gguf")):
        done = script("convert_to_gguf.py", "--model", model, "--name", name, "--output", output)
        assert done.returncode == 0, done.stderr
    call(render_calibration.main, "--model", demo / "model", "--questions", few, "--output", text)
    for model, output in ((f16, imatrix), (folder / "full-F16.gguf", folder / "full-imatrix.gguf")):
        call(build_imatrix.main, "--model", model, "--calibration", text, "--output", output)
    for quant in QUANTS:
        more: list[object] = [] if quant == "F16" else ["--imatrix", imatrix]
        more += ["--cd-tiers", "0/1/2"] if quant.startswith("CD-") else []
        output = folder / f"{NAME}-{quant}.gguf"
        call(quantize_gguf.main, "--input", f16, *more, "--type", quant, "--output", output)


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


@contextmanager
def as_command(name: str) -> Iterator[None]:
    """Seal what is written meanwhile as a command does."""
    before = running_command()
    set_command(f"{name}.py")
    yield
    set_command(f"{before}.py")


def seal_all(folder: Path, command: str) -> None:
    """Seal every file of a folder, as the command does that would have written it."""
    with as_command(command):
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                seal_file(path, path)


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


def origins_of(pruned: Path, more: tuple[object, ...]) -> list[object]:
    """Return the arguments of build_release.py that name what its numbers come from; more: the others."""
    origins = {
        "map": "map.json",
        "f16": "F16.gguf.json",
        "full-f16": "full-F16.gguf.json",
        "imatrix-record": "imatrix.gguf.json",
        "full-imatrix": "full-imatrix.gguf.json",
        "calibration": "text.txt",
    }
    found: list[object] = ["--source", DEMO / "model"]
    found += [part for name, path in origins.items() for part in (f"--{name}", pruned / path)]
    if (pruned / "statistics.safetensors").exists():
        found += ["--statistics", pruned / "statistics.safetensors"]
    given = {str(part): more[i + 1] for i, part in enumerate(more[:-1]) if part in ("--scores", "--quality")}
    questions: list[object] = [*QUESTIONS]
    if scores := given.get("--scores"):
        folder = Path(str(scores)).parent
        found += ["--runs", folder / "run-full/summary.json", folder / "run-pruned/summary.json"]
        found += ["--quants", folder / "gemma-4-demo-Q6_K.gguf.json", record_path(pruned / f"{NAME}-Q6_K.gguf")]
        questions.append(folder / "scored.csv")
    if quality := given.get("--quality"):
        found += ["--logits", Path(str(quality)).parent / "logits"]
    return [*found, "--license", LICENCE, "--questions", *questions]


def release_arguments(
    pruned: Path, output: Path, *more: object, quants: tuple[str, ...] = STANDARD_QUANTS, base: str = BASE
) -> list[object]:
    """Return the arguments of build_release.py for a folder of GGUF files."""
    files = [pruned / f"{NAME}-{quant}.gguf" for quant in quants]
    metadata = pruned / "checkpoint/expert_drop_metadata.json"
    named = ["--name", NAME, "--base", base, "--metadata", metadata, "--output", output]
    return ["--gguf", *files, *named, *SIDECARS, *origins_of(pruned, more), *more]


def build(pruned: Path, output: Path, *more: object, **options) -> str:
    """Build a release of GGUF files; return its card."""
    call(build_release.main, *release_arguments(pruned, output, *more, **options))
    return (output / "README.md").read_text()


def shared_release(pruned: Path) -> Path:
    """Return a release of the demo's standard quants with scores and quality, built once: copy it to change it."""
    folder = pruned.with_name(f"{pruned.name}-release")
    with made_once(folder) as needed:
        if needed:
            folder.mkdir(exist_ok=True)
            (folder / MARKER).touch()
            build_with_evidence(pruned, folder)
    return folder / f"{NAME}-GGUF"


def build_with_evidence(pruned: Path, folder: Path) -> None:
    """Build the shared release in a folder, beside its scores and quality."""
    scores = write_scores(pruned, folder, first_ids(QUESTIONS[1], 4))  # the questions that chose the experts
    quality = write_quality(pruned, folder, {"Q8_0": 0.001, "Q6_K": 0.02, "Q4_K_M": 0.01})
    more = ["--scores", scores, "--quality", quality, "--pictures", scores.with_suffix(".png")]
    # Without F16: it is a third of the bytes that every gate of every test would read.
    build(pruned, folder / f"{NAME}-GGUF", *more, quants=STANDARD_QUANTS[1:])


def write_manifest(folder: Path, name: str = "tiny-12e") -> None:
    """Write a manifest of every file of a folder, which has no records of quants."""
    (folder / MANIFEST).unlink(missing_ok=True)
    texts = dict.fromkeys(("owner", "license", "quantized_by", "project_version"), "")
    head = {"name": name, "repository": f"{name}-GGUF", "kind": STANDARD, "base": "tiny", **texts}
    head |= {"siblings": {}, "settings": {}, "inputs": {"questions": {}, "calibration": None}}
    write_record(folder / MANIFEST, {**head, "records": {}, "files": file_entries(folder)}, Manifest)


def change_json(path: Path, **values: object) -> None:
    """Change some values of a JSON object."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def copy_of_quants(pruned: Path, folder: Path, *quants: str) -> Path:
    """Copy quants with their records, the F16 models and the metadata, which a test may damage; return the folder."""
    names = ["F16.gguf", "F16.gguf.json", "imatrix.gguf", "imatrix.gguf.json", "map.json", "statistics.safetensors"]
    names += ["full-F16.gguf", "full-F16.gguf.json", "full-imatrix.gguf", "full-imatrix.gguf.json", "text.txt"]
    names += [f"checkpoint/{path.name}" for path in (pruned / "checkpoint").iterdir()]
    for quant in quants:
        gguf = Path(f"{NAME}-{quant}.gguf")
        names += [str(gguf), str(record_path(gguf))]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((pruned / name).read_bytes())
    return folder
