#!/usr/bin/env python3
"""Sum up one evaluation: raw, strict and patched score, invalid answers by class, and what chance would have added.

Inputs:  a run directory of ask_questions.py with its answers, lm-eval's results and samples and, unless the run is to
         stay unpatched, patched.json; for a pruned model its drop map or expert_drop_metadata.json.
Output:  RUN/summary.json: scores and for each question Record ID, order of choices, digests, letters, class and tokens;
         no text.
Example: .venv/bin/python scripts/summarize_scores.py --run build/try/eval \\
             --gguf build/gemma-4-demo/full/gguf/calibration_questions/gemma-4-demo-Q6_K.gguf
         after the example of patch_answers.py.

The raw score is lm-eval's own number; it is refused if the recorded answers do not give the same. The strict score
reads the letter that a finished answer commits to (scoring/answer_record.py). In the patched score every invalid answer
counts as the patch step left it.
"""

import argparse
from pathlib import Path

from choice.drop_map import criterion_of, question_ids_of, read_method
from files.option_types import command_parser
from files.safe_files import (
    InputError,
    only_writer,
    read_json,
    read_record,
    recorded_sha256,
    run,
    sha256_file,
    write_record,
)
from ggufs.gguf_header import read_header
from scoring.answer_record import Answer, class_of, class_of_failure, prompt_sha256, read_answers, strict_letter
from scoring.lm_eval_samples import Sample, lm_eval_score, read_frozen, read_samples
from scoring.run_files import ANSWERS, PATCHED, TASK_FOLDER, Patched, read_run, run_digests
from scoring.score_records import SUMMARY_NAME, Summary, figures, scores_in_words


def check_class(answer: Answer, prompt: str) -> None:
    """Raise InputError when an answer's recorded class or prompt digest does not follow from what is recorded of it."""
    # No text and an error for every attempt: nothing else is recorded of a server that never answered.
    failed = not answer.answer and answer.attempts == len(answer.errors) > 0
    kind = class_of_failure(answer.errors) if failed else class_of(answer.answer, answer.finish_reason, answer.letter)
    if answer.kind != kind:
        raise InputError(f"recorded answer {answer.record_id}", f"the class {kind!r}", repr(answer.kind))
    if answer.prompt_sha256 != prompt_sha256(prompt):
        raise InputError(f"recorded answer {answer.record_id}", "the digest of its prompt", "another one")


def check_against_lm_eval(answers: list[Answer], samples: list[Sample], prompts: dict[str, str], score: float) -> None:
    """Raise InputError unless lm-eval saw the frozen prompts and extracted and scored what the record says."""
    # The letters are found by our own copy of lm-eval's rule, and the patch step builds on them. Had the two drifted
    # apart, the three scores of one summary would be of different answers.
    by_id = {sample.record_id: sample for sample in samples}
    if len(by_id) != len(samples) or set(by_id) != {answer.record_id for answer in answers}:
        raise InputError("lm-eval samples", f"the {len(answers)} recorded questions", f"{len(by_id)} others")
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
    raw = sum(answer.correct for answer in answers)
    if abs(score * len(answers) - raw) > 1e-6:  # lm-eval has the mean as a float
        raise InputError("lm-eval results", f"{raw}/{len(answers)}, as the recorded answers give", f"{score:.6f}")


def answer_row(answer: Answer, document: dict, patched: dict | None) -> dict:
    """Return what is published of one answer: no text. `patched`: its entry of patched.json, None for a valid one."""
    strict = strict_letter(answer.answer, answer.finish_reason)
    after_patch = {}
    if patched is not None:
        after_patch = {"patched_letter": patched["letter"], "patched_correct": patched["letter"] == answer.target}
    return {
        "record_id": answer.record_id,
        "order": document["order"],
        "prompt_sha256": answer.prompt_sha256,
        "target": answer.target,
        "class": answer.kind,
        "letter": answer.letter,
        "correct": answer.correct,
        "strict_letter": strict,
        "strict_correct": strict == answer.target,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "seconds": answer.seconds,
        "attempts": answer.attempts,
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

    chosen_by: the map, or the expert_drop_metadata.json that names it.
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
    if head.pop("run") != run_digests(run_record):
        raise InputError(path, "patched answers of this run", "those of another", "run patch_answers.py")
    del head["version"]
    return head, {entry["record_id"]: entry for entry in head.pop("answers")}


def summed_up(args: argparse.Namespace) -> dict:
    """Return the run's summary; raise InputError where its files contradict each other."""
    record, documents = read_run(args.run), read_frozen(args.run / TASK_FOLDER)
    with only_writer(args.run / ANSWERS):
        answers = read_answers(args.run / ANSWERS)
    head, patched = (None, {}) if args.unpatched else read_patched(args.run / PATCHED, record)
    prompts = {document["Record ID"]: document["prompt"] for document in documents}
    check_against_lm_eval(list(answers.values()), read_samples(args.run), prompts, lm_eval_score(args.run))
    ids = [document["Record ID"] for document in documents]
    rows = [answer_row(answers[key], document, patched.get(key)) for key, document in zip(ids, documents)]
    if not args.unpatched and any((row["class"] != "answered") != ("patched_letter" in row) for row in rows):
        raise InputError(args.run / PATCHED, "every invalid answer and no other", "others", "run patch_answers.py")
    return {
        "name": record["name"],
        "gguf": args.gguf.name,
        "gguf_sha256": recorded_sha256(args.gguf),
        "gguf_bytes": args.gguf.stat().st_size,
        "experts": read_header(args.gguf).experts,
        "protocol_sha256": record["protocol_sha256"],
        "protocol": record["protocol"],
        "in_sample": in_sample(ids, args.chosen_by),
        "drop_map": drop_map_of(args.chosen_by),
        **figures(rows, head),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--run", type=Path, required=True, help="run directory of ask_questions.py")
    add("--gguf", type=Path, required=True, help="the GGUF file that was evaluated")
    add("--chosen-by", type=Path, help="drop map or expert_drop_metadata.json of a pruned model")
    add = parser.add_argument_group("what is summed up").add_argument
    add("--unpatched", action="store_true", help="leave the patch step out")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    summary = summed_up(args)
    write_record(args.run / SUMMARY_NAME, summary, Summary)
    print(scores_in_words(summary["name"], summary))


if __name__ == "__main__":
    run(main)
