"""The summary of one run, made from its answers, the frozen questions, lm-eval's samples and the patch step.

summarize_scores.py writes it. check_release.py makes it again: so a published score is that of recorded answers.
"""

import re
from pathlib import Path

from choice.drop_map import criterion_of, question_ids_of
from choice.drop_metadata import read_method
from files.input_errors import InputError, sha256_file, shown
from files.json_records import read_json, read_record
from files.safe_files import only_writer
from scoring.answer_classes import class_of, class_of_failure
from scoring.answer_letters import completion_letter, strict_letter
from scoring.answer_record import Answer, prompt_sha256, read_answers
from scoring.eval_protocol import recorded_protocol
from scoring.eval_tasks import EvalTask, task_of
from scoring.ifeval import followed_loosely
from scoring.lm_eval_samples import Sample, lm_eval_score, read_asked, read_samples
from scoring.machines import RAN_ALREADY
from scoring.run_files import ANSWERS, PATCHED, RUN, Patched, patch_head, read_run
from scoring.score_records import ANSWERED_BY, each_once, figures

GIVEN_SERVER = re.compile("https?://")  # how the address of a server that ran already begins; ours are "local 1"
ANSWERED = "evaluate it again (REPLACE=eval)"


def check_class(answer: Answer, prompt: str) -> None:
    """Raise InputError when an answer's recorded class or prompt digest does not follow from what is recorded of it."""
    # No text and an error for every attempt: nothing else is recorded of a server that never answered.
    failed = not answer.answer and answer.attempts == len(answer.errors) > 0
    kind = class_of_failure(answer.errors) if failed else class_of(answer.answer, answer.finish_reason, answer.letter)
    if answer.kind != kind:
        raise InputError(f"recorded answer {answer.record_id}", f"the class {kind!r}", repr(answer.kind))
    if answer.prompt_sha256 != prompt_sha256(prompt):
        raise InputError(f"recorded answer {answer.record_id}", "the digest of its prompt", "another one")


def check_servers(path: Path, answers: list[Answer], machines: list[dict]) -> None:
    """Raise InputError when an answer names a server of a kind that the run's record does not have among its machines.

    machines: `hardware` of run.json, in which servers that ran already have an entry of their own; [] of an old run.
    """
    given = RAN_ALREADY in machines
    own = any(machine != RAN_ALREADY for machine in machines)
    for answer in answers if machines else []:
        if not (given if GIVEN_SERVER.match(answer.server or "") else own):
            expected = "answers of servers that ran already" if given else "answers of servers that were started for it"
            raise InputError(path, expected, f"{answer.record_id} by {shown(answer.server or 'another one')}", ANSWERED)


def check_against_lm_eval(answers: list[Answer], samples: list[Sample], prompts: dict[str, str], score: float) -> None:
    """Raise InputError unless lm-eval saw the frozen prompts and extracted and scored what the record says."""
    # The letters are found by our own copy of lm-eval's rule, and the patch step builds on them. Had the two drifted
    # apart, the three scores of one summary would be of different answers.
    by_id = {sample.record_id: sample for sample in samples}
    if len(by_id) != len(samples) or set(by_id) != {answer.record_id for answer in answers}:
        raise InputError("lm-eval samples", f"the {len(answers)} recorded questions", f"{len(by_id)} others")
    if set(by_id) != set(prompts):
        raise InputError("frozen questions", f"the {len(answers)} recorded questions", f"{len(prompts)} others")
    for answer in answers:
        check_class(answer, prompts[answer.record_id])
        sample = by_id[answer.record_id]
        if answer.answer != sample.answer:
            raise InputError(f"lm-eval's sample {answer.record_id}", "the recorded answer", "another text")
        mine = (prompts[answer.record_id], answer.letter, answer.target, answer.correct)
        if mine != (sample.prompt, sample.letter, sample.target, sample.correct):
            raise InputError(
                f"lm-eval's sample {answer.record_id}",
                f"letter {answer.letter}, target {answer.target}, as recorded",
                f"letter {sample.letter}, target {sample.target}" + " and another prompt" * (sample.prompt != mine[0]),
            )
    check_score(answers, score)


def check_loose(rows: list[dict], samples: list[Sample]) -> None:
    """Raise InputError unless lm-eval's loose reading of every answer of IFEval is ours."""
    found = {sample.record_id: sample.loose for sample in samples}
    for row in rows:
        if row.get("loose") != found[row["record_id"]]:
            expected = f"instructions followed loosely {row.get('loose')}"
            raise InputError(f"lm-eval's sample {row['record_id']}", expected, str(found[row["record_id"]]))


def check_score(answers: list[Answer], score: float) -> None:
    """Raise InputError unless lm-eval's score is that of the recorded answers."""
    raw = sum(answer.correct for answer in answers)
    if abs(score * len(answers) - raw) > 1e-6:  # lm-eval has the mean as a float
        raise InputError("lm-eval results", f"{raw}/{len(answers)}, as the recorded answers give", f"{score:.6f}")


def answer_row(answer: Answer, document: dict, patched: dict | None, task: EvalTask) -> dict:
    """Return what is published of one answer: no text. `patched`: its entry of patched.json, None for a valid one."""
    if task.is_gpqa:
        strict, chance = strict_letter(answer.answer, answer.finish_reason), {}
    else:  # the filters of the other tasks are strict themselves
        strict = None if answer.finish_reason == "length" else answer.letter
        chance = {"chance": task.chance(document)}
    loose = {"loose": followed_loosely(answer.answer, document)} if task.is_ifeval else {}
    after_patch = {}
    if patched is not None:
        after_patch = {"patched_letter": patched["letter"], "patched_correct": patched["letter"] == answer.target}
    return {
        "record_id": answer.record_id,
        "order": document.get("order", []),
        "prompt_sha256": answer.prompt_sha256,
        "target": answer.target,
        "class": answer.kind,
        "letter": answer.letter,
        "correct": answer.correct,
        "strict_letter": strict,
        "strict_correct": task.right(strict, answer.target),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
        "attempts": answer.attempts,
        **chance,
        **loose,
        **after_patch,
    }


def in_sample(record_ids: list[str], chosen_by: Path | None) -> dict | None:
    """Return how many questions chose the experts, and how many of the scored ones are among them; None for no pruning.

    Both numbers are None for a map that does not name its questions. Raises InputError when the file is no map.
    """
    if chosen_by is None:
        return None
    chosen = set(question_ids_of(read_method(chosen_by)))
    if not chosen:
        return {"chosen_on": None, "scored_and_chosen_on": None}
    return {"chosen_on": len(chosen), "scored_and_chosen_on": len(chosen & set(record_ids))}


def drop_map_of(chosen_by: Path | None) -> dict | None:
    """Return criterion and sha256 of the drop map that a model was pruned by; None for no pruning.

    chosen_by: the map, or the expert_drop_metadata.json that names it, which is proven to be the model's.
    """
    if chosen_by is None:
        return None
    digest = read_json(chosen_by).get("drop_map_sha256") or sha256_file(chosen_by)
    return {"criterion": criterion_of(read_method(chosen_by)), "sha256": digest}


def read_patched(path: Path, run_record: dict) -> tuple[dict, dict[str, dict]]:
    """Return how the answers of patched.json were begun, and the patched answers by Record ID.

    Raises InputError when they belong to another run.
    """
    head = read_record(path, Patched, "run patch_answers.py")
    if {key: head.get(key) for key in patch_head(run_record)} != patch_head(run_record):
        raise InputError(path, "patched answers of this run", "those of another", "run patch_answers.py")
    del head["version"], head["run"]
    return head, {entry["record_id"]: entry for entry in head.pop("answers")}


def check_patched(path: Path, answers: dict[str, Answer], patched: dict[str, dict]) -> None:
    """Raise InputError unless letters and classes of the patch step follow from its texts and the answers."""
    for record_id, entry in patched.items():
        if (answer := answers.get(record_id)) is None:
            raise InputError(path, "recorded answers", f"another question, {record_id}", "run patch_answers.py")
        letter = completion_letter(entry["completion"])
        expected = (letter, letter == answer.target, answer.kind)
        if (found := (entry["letter"], entry["correct"], entry["class"])) != expected:
            raise InputError(path, f"{expected} in {record_id}", shown(found), "run patch_answers.py")


def summed_up(run: Path, patch: bool, chosen_by: Path | None, scored: dict) -> dict:
    """Return the summary of a run directory; raise InputError where its files contradict each other.

    patch: whether the patch step counts; chosen_by: a drop map or expert_drop_metadata.json; scored: gguf, gguf_sha256,
    gguf_bytes and experts of the scored file.
    """
    record = read_run(run)
    if record["gguf_sha256"] != scored["gguf_sha256"]:
        expected = f"the file that was asked, sha256 {record['gguf_sha256'][:12]}"
        raise InputError(scored["gguf"], expected, scored["gguf_sha256"][:12])
    documents = read_asked(run, record)
    task = task_of(recorded_protocol(run / RUN, record["protocol"]).task)
    with only_writer(run / ANSWERS):
        answers = read_answers(run / ANSWERS)
    check_servers(run / ANSWERS, list(answers.values()), record.get("hardware", []))
    head, patched = read_patched(run / PATCHED, record) if patch else (None, {})
    by_patch = {key: head.pop(key, []) if head else [] for key in ANSWERED_BY}
    prompts = {document["Record ID"]: document["prompt"] for document in documents}
    samples = read_samples(run, task)
    check_against_lm_eval(list(answers.values()), samples, prompts, lm_eval_score(run, task))
    ids = [document["Record ID"] for document in documents]
    rows = [answer_row(answers[key], document, patched.get(key), task) for key, document in zip(ids, documents)]
    check_loose(rows, samples)
    if patch and any((row["class"] != "answered") != ("patched_letter" in row) for row in rows):
        raise InputError(run / PATCHED, "every invalid answer and no other", "others", "run patch_answers.py")
    check_patched(run / PATCHED, answers, patched)
    return {
        "name": record["name"],
        **scored,
        "protocol_sha256": record["protocol_sha256"],
        "protocol": record["protocol"],
        # A run of before they were recorded has none.
        **{key: each_once(record[key], by_patch[key]) for key in ANSWERED_BY if key in record},
        "in_sample": in_sample(ids, chosen_by),
        "drop_map": drop_map_of(chosen_by),
        **figures(rows, head),
    }
