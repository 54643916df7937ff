"""Damaged scores, with all that names their digests, fail the gate `scores`, and good ones come out again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import build_release
from files.input_errors import sha256_file
from files.json_records import read_json
from gates.scored import seed_breaks, without_order
from makers.damaged_build import Build
from makers.made_up_evidence import QUESTIONS
from makers.pruned_models import NAME
from makers.release_inputs import release_arguments
from release.sources import sources_path
from scoring.eval_protocol import DEFAULT_TASK, OpenAiProtocol, Protocol
from scoring.eval_tasks import task_of
from scoring.frozen_questions import documents_of
from scoring.score_records import figures

import pytest


def of_summary(build: Build) -> None:
    """One right answer more, and all that follows from it."""

    def better(run: dict) -> None:
        answer = run["answers"][1]
        answer.update({f"{kind}letter": answer["target"] for kind in ("", "strict_", "patched_")})
        answer.update({f"{kind}correct": True for kind in ("", "strict_", "patched_")})
        run.update(figures(run["answers"], run["patch"]))

    build.change(build.own / "summary.json", better)


def of_letters(build: Build) -> None:
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(letter=row["target"], correct=True))


def of_frozen_answers(build: Build) -> None:
    build.change_lines(build.own / "task/frozen.jsonl", lambda row: row.update(answer="(A)"))
    digest = sha256_file(build.own / "task/frozen.jsonl")
    build.change(build.own / "run.json", lambda run: run.update(questions_sha256=digest))
    build.change(build.own / "patched.json", lambda content: content["run"].update(questions_sha256=digest))


def of_dropped_questions(build: Build) -> None:
    gone = json.loads((build.own / "answers.jsonl").read_text().splitlines()[1])["record_id"]
    for run in (build.full, build.own):
        build.change_lines(run / "task/frozen.jsonl", lambda row: row["Record ID"] != gone)
        digest = {"questions_sha256": sha256_file(run / "task/frozen.jsonl")}
        build.change(run / "run.json", lambda content, digest=digest: content.update(digest))


def of_patched_letters(build: Build) -> None:
    build.change(build.own / "patched.json", lambda content: content["answers"][1].update(letter="A", correct=True))


def of_protocol(build: Build) -> None:
    build.change(build.own / "run.json", lambda run: run["protocol"].update(context=131072))


def of_locked_protocol(build: Build) -> None:
    protocol = read_json(build.own / "run.json")["protocol"] | {"temperature": 0.0}
    digest = Protocol(**protocol).digest
    build.change(build.own / "run.json", lambda run: run.update(protocol=protocol, protocol_sha256=digest))


def of_another_task(build: Build) -> None:
    protocol = read_json(build.own / "run.json")["protocol"] | {"task": "gsm8k_cot_zeroshot"}
    changes = {"protocol": protocol, "protocol_sha256": Protocol(**protocol).digest}
    build.change(build.own / "run.json", lambda run: run.update(changes))


def of_another_backend(build: Build) -> None:
    protocol = OpenAiProtocol()
    changes = {"protocol": asdict(protocol), "protocol_sha256": protocol.digest}
    build.change(build.own / "run.json", lambda run: run.update(changes))


def of_several_servers(build: Build, at_once: int = 4) -> None:
    """Three servers, as they are recorded: no damage, if lm-eval sent as many requests at once."""
    results = build.own / "lm_eval/results.json"
    build.change(results, lambda content: content["config"]["model_args"].update(num_concurrent=at_once))
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(server="local 3"))


def of_longer_answers(build: Build) -> None:
    """Twice the tokens of an answer, in the protocol and all that names its digest."""
    for run in (build.full, build.own):
        protocol = read_json(run / "run.json")["protocol"] | {"max_gen_toks": 49152}
        changes = {"protocol": protocol, "protocol_sha256": Protocol(**protocol).digest}
        build.change(run / "run.json", lambda content, changes=changes: content.update(changes))
        results = run / "lm_eval/results.json"
        build.change(results, lambda content: content["config"]["gen_kwargs"].update(max_gen_toks=49152))


def of_other_settings(build: Build) -> None:
    build.change(build.own / "lm_eval/results.json", lambda content: content["config"].update(random_seed=1))


def of_other_tokenizer(build: Build) -> None:
    for run in (build.full, build.own):
        protocol = read_json(run / "run.json")["protocol"] | {"tokenizer": f"sha256 {'4' * 64}"}
        changes = {"protocol": protocol, "protocol_sha256": Protocol(**protocol).digest}
        build.change(run / "run.json", lambda content, changes=changes: content.update(changes))


def of_smaller_server(build: Build) -> None:
    (build.own / "server.log").write_text("srv    load_model: initializing, n_slots = 1, n_ctx_slot = 4096\n")


def of_cut_answers(build: Build) -> None:
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(finish_reason="length"))


def of_long_answers(build: Build) -> None:
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(completion_tokens=24577))


def of_label(build: Build) -> None:
    held_out = {"chosen_on": 6, "scored_and_chosen_on": 0}
    build.change(build.own / "summary.json", lambda run: run.update(in_sample=held_out))


def of_another_base(build: Build) -> None:
    """The score of some other model, under the full model's name."""
    record = build.evidence / "gemma-4-demo-Q6_K.gguf.json"
    build.change(record, lambda quant: quant.update(source_sha256="6" * 64))


def of_rows(**changes: object) -> Callable[[Build], None]:
    return lambda build: build.change(build.evidence / "scores.json", lambda scores: scores["rows"][1].update(changes))


def of_other_choices(build: Build) -> None:
    """Other questions under the same ids, such as a file with other wrong choices gives."""

    def other(document: dict) -> None:
        wrong = next(place for place, letter in enumerate("ABCD") if letter != document["answer"][1])
        document["choices"][wrong] = "zzz"

    build.change_lines(build.own / "task/frozen.jsonl", other)


def of_foreign_rows(build: Build) -> None:
    """A model that this build never had."""

    def other(scores: dict) -> None:
        row = scores["rows"][0] | {"name": "other", "gguf_sha256": "1" * 64}
        scores.update(rows=[row], pairs=[], evaluated=row["gguf"])

    build.change(build.evidence / "scores.json", other)


def of_third_model(build: Build) -> None:
    """Another pruned model beside this one, of whose map only its summary speaks."""
    record = build.evidence / "other-Q6_K.gguf.json"
    foreign = {"sha256": "3" * 64, "source_sha256": "7" * 64, "experts": 64}
    record.write_text(json.dumps(read_json(build.evidence / "gemma-4-demo-Q6_K.gguf.json") | foreign))
    other = shutil.copytree(build.own, build.evidence / "run-other")
    build.change(other / "run.json", lambda run: run.update(gguf_sha256="3" * 64))
    build.change(other / "patched.json", lambda content: content["run"].update(gguf_sha256="3" * 64))
    drop_map = {"criterion": "99% on GPQA", "sha256": "9" * 64}
    build.change(other / "summary.json", lambda run: run.update(gguf_sha256="3" * 64, drop_map=drop_map))

    def add(sources: dict) -> None:
        sources["runs"]["9"], sources["quants"]["9"] = str(other / "summary.json"), str(record)

    build.change(sources_path(build.release), add)


def of_other_type(build: Build) -> None:
    """A full model of 2 bits under the name of one of 6."""
    build.change(build.evidence / "gemma-4-demo-Q6_K.gguf.json", lambda record: record.update(type="Q2_K"))


def of_other_reference(build: Build) -> None:
    """Another model's row in place of that of the full model."""

    def replaced(scores: dict) -> None:
        scores["evaluated"] = scores["evaluated"].replace(scores["rows"][0]["gguf"], "other-Q6_K.gguf")
        scores["rows"][0].update(name="other", gguf="other-Q6_K.gguf", gguf_sha256="3" * 64)
        scores["pairs"][0]["reference"] = "other"

    build.change(build.evidence / "scores.json", replaced)


def of_name(build: Build) -> None:
    """Another name of the pruned model, in all places of the scores."""

    def renamed(scores: dict) -> None:
        for entry, key in ((scores["rows"][1], "name"), (scores["pairs"][0], "model")):
            entry[key] = "other"

    build.change(build.evidence / "scores.json", renamed)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda build: None, ""),
        (of_summary, "the summary of its answers"),
        (of_letters, "as its text and the question say"),
        (of_frozen_answers, "expected the questions of"),
        (of_dropped_questions, "all of them"),
        (of_patched_letters, "patched.json: expected letter"),
        (of_protocol, "the protocol of protocol_sha256"),
        (of_locked_protocol, "temperature 1.0"),
        (of_another_task, "which a release makes again, found those of gsm8k_cot_zeroshot"),
        (of_another_backend, "found those of gpqa_diamond_cot_zeroshot by BACKEND=openai"),
        (of_several_servers, ""),
        (lambda build: of_several_servers(build, 1), "requests at once, and one more: 2, found 1"),
        (of_longer_answers, "to the request of the protocol in run.json"),
        (of_other_settings, "the seed of lm-eval: 42, found 1"),
        (of_other_tokenizer, "expected the tokenizer sha256"),
        (of_smaller_server, "a server with 32768 tokens for each request"),
        (of_cut_answers, "which was cut, to end at 24576 tokens"),
        (of_long_answers, "of at most 24576 tokens"),
        (of_label, "in_sample.scored_and_chosen_on 4, found 0"),
        (of_another_base, "the name gemma-4-demo for the full model's file and for no other"),
        (of_third_model, "expected a proof of what chose the experts of"),
        (of_other_type, "a name that ends with -Q2_K.gguf, its type, found gemma-4-demo-Q6_K.gguf"),
        (of_other_type, "files of one type of all models, found Q2_K, Q6_K"),
        (of_other_reference, "in the first row, the reference of the card, found other"),
        (of_other_choices, "runs that were all asked the same questions and choices"),
        (of_foreign_rows, "scores of this build's own file"),
        (of_rows(gguf_sha256="5" * 64), "an evaluation of"),
        (of_name, f"the name {NAME} for this build's file and for no other"),
        (of_rows(mcnemar_p=0.01), "mcnemar_p"),
        (of_rows(gpqa="99%"), "gpqa absent"),
        (of_rows(bytes={"Q6_K": 1}), "which was scored"),
        (lambda build: build.change(sources_path(build.release), lambda s: s.update(runs={})), "--runs"),
    ],
)
def test_scores_are_of_this_build_and_come_out_again(build, damage, words):
    damage(build)
    found = build.failing("scores")
    assert any(words in line for line in found) if words else not found, found


def test_scores_of_other_models_are_refused_before_anything_is_written(build, refusal, tmp_path):
    of_foreign_rows(build)
    arguments = release_arguments(build.pruned, tmp_path / "r", "--scores", build.evidence / "scores.json")
    refusal(build_release.main, arguments, "--scores", "this build's own file", "SCORED=no")
    assert not list(tmp_path.glob("r*"))


def test_seeds_of_a_score_are_not_picked():
    found = seed_breaks(Path("scores.json"), {"rows": [{"seeds": [42, 43]}, {"seeds": [42, 44]}]})
    assert [str(error).partition(";")[0] for error in found] == [
        "scores.json: expected seeds that follow one another, found 42, 44"
    ]


def test_the_seed_of_a_run_orders_its_choices_and_asks_no_other_question():
    asked = [
        [without_order(one) for one in documents_of(QUESTIONS[1], task_of(DEFAULT_TASK), seed)] for seed in (42, 43)
    ]
    assert asked[0] == asked[1] and len({one[0] for one in asked[0]}) > 100
    document = documents_of(QUESTIONS[1], task_of(DEFAULT_TASK), 42)[0]
    right = document["answer"].strip("()")
    for letter in "ABCD":  # another right answer, or another wrong one
        changed = [choice if at != letter else "zzz" for at, choice in zip("ABCD", document["choices"])]
        assert without_order(document | {"choices": changed}) != without_order(document)
        assert (without_order(document | {"answer": f"({letter})"}) == without_order(document)) == (letter == right)
