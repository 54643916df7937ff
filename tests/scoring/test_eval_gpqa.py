"""Evaluation: a real run of llama-server and lm-eval with the patch step, what goes on with it, and what it refuses."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ask_questions
import compare_scores
import freeze_questions
import patch_answers
import summarize_scores
from ask_questions import is_asked
from calls import ON_A_PORT
from chats.questions import COLUMNS, load_questions, read_rows
from conftest import REPO
from files.input_errors import InputError
from files.json_records import read_json, read_record
from files.safe_files import partial_directory
from gates.scored import request_breaks, setting_breaks
from llama.llama_server import LlamaServer, server_command
from makers.shared_ggufs import link_f16, tiny_ggufs
from makers.tiny_models import EXPERTS
from patch_answers import closed_thought
from scoring.answer_letters import completion_letter
from scoring.answer_record import read_answers
from scoring.eval_protocol import DEFAULT_TASK, OpenAiProtocol, Protocol
from scoring.eval_tasks import task_of
from scoring.frozen_task import check_frozen_task, task_yaml
from scoring.lm_eval_run import request_digest
from scoring.lm_eval_samples import read_frozen, read_samples
from scoring.machines import RAN_ALREADY, machine_in_words
from scoring.score_records import Summary

import pytest

TASK = f"task/{DEFAULT_TASK}_frozen.yaml"

SMALL = {"context": 1024, "reasoning-budget": 16, "max-gen-toks": 48}


@pytest.mark.parametrize("text, letter", [("B)", "B"), (" C). More", "C"), ("Because", None), ("E)", None), ("", None)])
def test_letters_of_completions(text, letter):
    assert completion_letter(text) == letter


def test_the_thought_is_closed_as_the_family_does():
    assert closed_thought("... <|channel> ...") == "<|channel>thought\n<channel|>"
    assert closed_thought("... <think> ...") == "<think>\n\n</think>\n\n"
    assert closed_thought("plain") == ""


def test_the_protocol_is_the_cards_and_every_value_is_in_its_digest():
    protocol = Protocol()
    flags = " ".join(protocol.server_flags)
    assert "-c 32768 -np 1 -ngl 99 --reasoning-format deepseek --reasoning-budget 16384" in flags
    assert "--no-cache-prompt" in flags
    assert protocol.gen_kwargs == "temperature=1.0,top_p=0.95,top_k=64,seed=42,dry_multiplier=0.5,max_gen_toks=24576"
    assert protocol.choice_order_seed == 42 and protocol.timeout_seconds > 24576 / 10  # fits ten tokens per second
    assert "-c 131072 -np 4" in " ".join(replace(protocol, concurrency=4).server_flags)
    changes = {
        key: value + 1 if isinstance(value, (int, float)) else f"{value}x" for key, value in vars(protocol).items()
    }
    others = [replace(protocol, **{key: value}) for key, value in changes.items()]
    assert len({other.digest for other in [protocol, *others]}) == len(others) + 1


@pytest.fixture(scope="session")
def tiny_gguf(tiny_text_model, tmp_path_factory) -> Path:
    return link_f16(tiny_ggufs(tmp_path_factory, tiny_text_model), tmp_path_factory.mktemp("eval") / "tiny-F16.gguf")


@pytest.fixture(scope="session")
def evaluate(tiny_gguf, tiny_text_model, few_questions, script) -> Callable[..., subprocess.CompletedProcess]:
    """Run the evaluation of the tiny model into a directory."""

    def call(output: Path, gguf: Path = tiny_gguf, **changes: object) -> subprocess.CompletedProcess:
        environment = {"QUESTIONS": few_questions, "TOKENIZER": tiny_text_model, "OUTPUT": output}
        small = {"CTX": SMALL["context"], "REASONING_BUDGET": SMALL["reasoning-budget"]}
        small["MAX_GEN_TOKS"] = SMALL["max-gen-toks"]
        return script("eval_gpqa_v3.sh", "tiny", gguf, **{**environment, **small, **changes})

    return call


@pytest.fixture(scope="session")
def drop_map(few_questions, tmp_path_factory) -> Path:
    """A drop map by hand, which proves nothing: two questions chose the experts, and the first of them is scored."""
    path = tmp_path_factory.mktemp("map") / "drop_map.json"
    chose = [read_rows(few_questions)[0]["Record ID"], "other"]
    path.write_text(json.dumps({"question_ids": chose, "layers": {"0": [1]}}))
    return path


@pytest.fixture(scope="session")
def evaluation(evaluate, drop_map, tmp_path_factory) -> tuple[Path, str]:
    """The directory of a finished evaluation, which no test may change, and what was printed."""
    directory = tmp_path_factory.mktemp("evaluated") / "run"
    done = evaluate(directory, CHOSEN_BY=drop_map)
    assert done.returncode == 0, done.stdout + done.stderr
    return directory, done.stdout


@pytest.fixture
def run_copy(evaluation, tmp_path) -> Path:
    """A copy of the finished evaluation that a test may damage."""
    return Path(shutil.copytree(evaluation[0], tmp_path / "run"))


@pytest.fixture
def ask_again(tiny_gguf, tiny_text_model) -> Callable[[Path], None]:
    """Run ask_questions.py into a directory as the evaluation of the tiny model does."""

    def call(directory: Path, gguf: Path = tiny_gguf, **changes: object) -> None:
        values = {"name": "tiny", "gguf": gguf, "tokenizer": tiny_text_model, "run": directory, **SMALL, **changes}
        ask_questions.main([part for key, value in values.items() for part in (f"--{key}", str(value))])

    return call


def test_a_random_model_is_scored_patched_and_summed_up(evaluation, few_questions):
    """A model that knows nothing gives invalid answers, and every one of them goes through the patch step."""
    directory, printed = evaluation
    result = read_record(directory / "summary.json", Summary)
    assert result["questions"] == 6 and result["experts"] == EXPERTS
    assert result["in_sample"] is None and "so it is not known what chose the experts" in printed
    answers = result["answers"]
    invalid = [answer for answer in answers if answer["class"] != "answered"]
    assert invalid and len(invalid) == result["invalid_total"] == sum(result["invalid"].values())
    assert all(("patched_letter" in answer) == (answer in invalid) for answer in answers)
    assert result["patch_expected_by_chance"] == sum(0.25 - answer["correct"] for answer in invalid)
    assert result["patched_correct"] == sum(answer.get("patched_correct", answer["correct"]) for answer in answers)
    questions = {question.record_id: question for question in load_questions(few_questions, 42)}
    for answer in answers:
        assert answer["target"] == questions[answer["record_id"]].letter and answer["completion_tokens"] <= 48
        assert (answer["class"] == "truncated") == (answer["completion_tokens"] == 48)
        assert questions[answer["record_id"]].text not in (directory / "summary.json").read_text()
    digest = result["protocol_sha256"]
    assert digest == Protocol(**result["protocol"]).digest and digest[:16] in printed
    for sample in read_samples(directory, task_of(result["protocol"]["task"])):
        question = questions[sample.record_id]
        assert (sample.prompt, sample.target) == (question.prompt, question.letter)


def test_a_real_run_is_what_its_protocol_says(evaluation, tiny_text_model):
    """The request of every answer, where cut ones end, lm-eval's own settings, the context of the server."""
    directory, tokenizer = evaluation[0], tiny_text_model / "tokenizer.json"
    record, documents = read_json(directory / "run.json"), read_frozen(directory / "task")
    protocol = Protocol(**record["protocol"])
    assert not request_breaks(directory, documents, protocol) and not setting_breaks(directory, protocol, tokenizer)
    assert "which was cut, to end at" in str(request_breaks(directory, documents, replace(protocol, max_gen_toks=99)))
    said = str(setting_breaks(directory, replace(protocol, context=2048, concurrency=2, max_gen_toks=99), tokenizer))
    assert all(words in said for words in ("gen_kwargs of lm-eval", "requests at once", "a server with 2048 tokens"))
    (machine,) = record["hardware"]
    assert machine["cpu"] and read_record(directory / "summary.json", Summary)["hardware"] == [machine]


def test_three_servers_leave_what_one_leaves(evaluation, evaluate, drop_map, tiny_text_model, tmp_path):
    """The whole script, the patch step included; only times, and who answered, may differ."""
    done = evaluate(tmp_path / "run", CHOSEN_BY=drop_map, LOCAL_SERVERS=3)
    assert done.returncode == 0 and "server started 3 times" in done.stdout, done.stderr
    runs = (evaluation[0], tmp_path / "run")
    assert read_json(runs[0] / "run.json") == read_json(runs[1] / "run.json")
    one, three = (sorted(read_json(run / "patched.json")["answers"], key=str) for run in runs)
    assert one == three
    one, three = (read_record(run / "summary.json", Summary) for run in runs)
    for answer in [*one["answers"], *three["answers"]]:
        del answer["seconds"]
    assert one == three and "local 3" in (tmp_path / "run/answers.jsonl").read_text()
    logs = [(tmp_path / f"run/patch-server{ending}.log").read_text() for ending in ("", "-2", "-3")]
    assert min(log.count("stop processing") for log in logs) > 1  # the probe, and an answer to patch or more
    assert not setting_breaks(tmp_path / "run", Protocol(**one["protocol"]), tiny_text_model / "tokenizer.json")


def test_a_strict_openai_server_is_a_backend_of_its_own(
    evaluation, evaluate, tiny_gguf, tiny_text_model, tools, tmp_path, refusal
):
    """The checkpoint is scored; what no standard field can say is named, and scores of two backends do not mix."""
    run, flags = tmp_path / "run", [*ON_A_PORT, "-c", "1024"]
    command = server_command(tools.tool("llama-server"), tiny_gguf, "tiny", 0, flags)
    with LlamaServer(command, tiny_gguf, tmp_path / "log") as server:
        front = [sys.executable, str(REPO / "tests/servers/strict_openai_server.py"), server.url]
        keys = os.environ | {"UPSTREAM_KEY": server.key, "FRONT_KEY": "a-secret-key"}
        with subprocess.Popen(front, env=keys, stdout=subprocess.PIPE, text=True) as process:
            try:
                url = process.stdout.readline().strip()
                how = {"BACKEND": "openai", "SERVERS": url, "SERVER_KEY": "a-secret-key"}
                done = evaluate(run, gguf=tiny_text_model, **how)
            finally:
                process.kill()
    assert done.returncode == 0 and "not patched" in done.stdout, done.stderr
    summary, local = (read_record(folder / "summary.json", Summary) for folder in (run, evaluation[0]))
    assert summary["questions"] == 6 and summary["experts"] == EXPERTS and summary["gguf"] == tiny_text_model.name
    assert summary["protocol_sha256"] != local["protocol_sha256"] and not summary["invalid"].get("server error")
    assert summary["hardware"] == [RAN_ALREADY] and machine_in_words(RAN_ALREADY).startswith("not recorded")
    protocol, answers = OpenAiProtocol(**summary["protocol"]), read_answers(run / "answers.jsonl")
    for document in read_frozen(run / "task"):
        assert request_digest(document, protocol, []) == answers[document["Record ID"]].request_sha256
    assert {"dry_multiplier", "reasoning_budget"} <= set(summary["protocol"]["not_locked"].split())
    assert not any(b"a-secret-key" in path.read_bytes() for path in run.rglob("*") if path.is_file())
    both = [part for folder in (evaluation[0], run) for part in ("--model", folder / "summary.json")]
    refusal(
        compare_scores.main, [*both, "--output", tmp_path / "scores.md"], "scores of two protocols cannot be compared"
    )


def snapshot(directory: Path) -> dict[Path, tuple[int, bytes]]:
    """When each file of a directory was written, and its bytes."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def sum_up(directory: Path, gguf: Path, drop_map: Path) -> bytes:
    """Patch and sum up as the evaluation does; return the summary."""
    patch_answers.main(["--run", str(directory), "--gguf", str(gguf)])
    summarize_scores.main(["--run", str(directory), "--gguf", str(gguf), "--chosen-by", str(drop_map)])
    return (directory / "summary.json").read_bytes()


def test_a_finished_run_starts_no_server_and_comes_out_the_same(run_copy, ask_again, tiny_gguf, drop_map, capsys):
    before = snapshot(run_copy)
    ask_again(run_copy)
    assert "all 6 questions are answered already" in capsys.readouterr().out
    assert snapshot(run_copy) == before  # a server would have begun server.log anew
    assert sum_up(run_copy, tiny_gguf, drop_map) == before[run_copy / "summary.json"][1]
    assert snapshot(run_copy)[run_copy / "patch-server.log"] == before[run_copy / "patch-server.log"]


def test_a_run_killed_between_its_last_answer_and_lm_eval_s_end_goes_on(
    run_copy, ask_again, tiny_gguf, drop_map, capsys
):
    """lm-eval writes its results before its samples: the kill may come between them."""
    before = snapshot(run_copy)
    (run_copy / "lm_eval").rename(partial_directory(run_copy / "lm_eval"))
    for samples in run_copy.rglob("samples*.jsonl"):
        samples.unlink()
    (run_copy / "summary.json").unlink()
    # The task names the place of its questions, and is written again where a run has been moved.
    (run_copy / TASK).write_text(task_yaml(DEFAULT_TASK, run_copy / "task", False))
    ask_again(run_copy)
    assert "6 answers" in capsys.readouterr().out and not (partial_directory(run_copy / "lm_eval")).exists()
    assert (run_copy / "answers.jsonl").read_bytes() == before[run_copy / "answers.jsonl"][1]  # nothing asked again
    assert snapshot(run_copy)[run_copy / "server.log"] != before[run_copy / "server.log"]
    assert sum_up(run_copy, tiny_gguf, drop_map) == before[run_copy / "summary.json"][1]


def test_no_other_task_and_no_function_of_one_gets_to_lm_eval(run_copy, refusal):
    """It reads every task file there, takes the first of a name, and runs what that names: anybody's program."""
    (run_copy / TASK).write_text(whole := task_yaml(DEFAULT_TASK, run_copy / "task", False))
    check_frozen_task(run_copy / "task", DEFAULT_TASK)
    (run_copy / TASK).write_text(whole + "process_docs: !function evil.x\n")
    with pytest.raises(InputError, match="expected the task as it was written, found another"):
        check_frozen_task(run_copy / "task", DEFAULT_TASK)
    (run_copy / TASK).write_text(whole)
    (run_copy / "task/sub").mkdir()
    (run_copy / "task/sub/a.yaml").write_text("task: gpqa_diamond_cot_zeroshot_frozen\n")
    with pytest.raises(InputError, match="a.yaml: expected no task but gpqa_diamond"):
        check_frozen_task(run_copy / "task", DEFAULT_TASK)


def without_last_answer(run: Path) -> None:
    lines = (run / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (run / "answers.jsonl").write_bytes(b"".join(lines[:-1]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: shutil.rmtree(run / "lm_eval"),
        lambda run: (run / "lm_eval").rename(partial_directory(run / "lm_eval")),
        lambda run: next(run.rglob("samples*.jsonl")).unlink(),
        lambda run: next(run.rglob("results*.json")).unlink(),
        lambda run: (run / "answers.jsonl").unlink(),
        lambda run: (run / "run.json").unlink(),
        without_last_answer,
    ],
    ids=["lm_eval", "partial lm_eval", "samples", "results", "answers", "run.json", "one answer"],
)
def test_a_run_that_lacks_something_is_not_finished(run_copy, damage):
    mine, documents = read_json(run_copy / "run.json"), read_frozen(run_copy / "task")
    assert is_asked(run_copy, mine, documents)
    damage(run_copy)
    assert not is_asked(run_copy, mine, documents)


@pytest.mark.parametrize("key", ["name", "gguf_sha256", "questions_sha256", "protocol_sha256", "protocol"])
def test_a_run_of_something_else_is_not_finished(evaluation, key):
    directory = evaluation[0]
    mine, documents = read_json(directory / "run.json"), read_frozen(directory / "task")
    assert not is_asked(directory, mine | {key: "another"}, documents)
    assert not is_asked(directory, mine, [*documents, documents[0] | {"Record ID": "another"}])


def edit_first_answer(directory, key: str, value: object) -> None:
    """Change what is recorded of the first invalid answer."""
    rows = [json.loads(line) for line in (directory / "answers.jsonl").read_text().splitlines()]
    next(row for row in rows if row["kind"] != "answered")[key] = value
    (directory / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("kind", "answered", "the class"),
        ("correct", True, "letter None"),
        ("letter", "A", ""),
        ("target", "E", "target E"),
        ("prompt_sha256", "0", "digest of its prompt"),
        ("answer", "The answer is (A).", "another text"),
        ("completion_tokens", "7", "completion_tokens '7'"),
        ("errors", None, "errors None"),
        ("record_id", "another", "recorded questions"),
    ],
)
def test_an_edited_answer_is_refused(run_copy, tiny_gguf, refusal, key, value, words):
    edit_first_answer(run_copy, key, value)
    refusal(summarize_scores.main, ["--run", run_copy, "--gguf", tiny_gguf], words)


def test_patched_answers_of_another_run_count_for_nothing(run_copy, tiny_gguf, refusal):
    arguments, path = ["--run", str(run_copy), "--gguf", str(tiny_gguf)], run_copy / "patched.json"
    whole = read_json(path)
    claimed = [entry | {"letter": "A", "correct": True} for entry in whole["answers"]]
    other = whole | {"run": whole["run"] | {"gguf_sha256": "another"}, "answers": claimed}
    path.write_text(json.dumps(other))
    refusal(summarize_scores.main, arguments, "patched answers of this run")
    patch_answers.main(arguments)
    assert read_json(path) == whole
    one_missing_one_too_many = [*whole["answers"][1:], whole["answers"][0] | {"record_id": "unknown"}]
    path.write_text(json.dumps(whole | {"answers": one_missing_one_too_many}))
    patch_answers.main(arguments)
    assert sorted(read_json(path)["answers"], key=str) == sorted(whole["answers"], key=str)
    summarize_scores.main(arguments)


def test_results_of_another_model_protocol_or_question_set_are_refused(
    evaluate, run_copy, tiny_gguf, few_questions, tmp_path, refused
):
    kept = [run_copy / name for name in ("answers.jsonl", "task/frozen.jsonl", "run.json", "summary.json")]
    before = [path.read_bytes() for path in kept]
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf.read_bytes() + bytes(32))
    refused(evaluate(run_copy, gguf=other), "answers of the model", "REPLACE=eval")
    refused(evaluate(run_copy, NP=2), "concurrency 2", "under 1")
    refused(evaluate(run_copy, SEED=7), "answers to the questions", "by seed 7")
    (tmp_path / "fewer.csv").write_text("".join(few_questions.read_text().splitlines(keepends=True)[:6]))
    refused(evaluate(run_copy, QUESTIONS=tmp_path / "fewer.csv"), "answers to the questions")
    assert [path.read_bytes() for path in kept] == before  # the patch step and the summary go on with the old ones


def test_bad_input_is_refused_in_one_line(evaluate, tmp_path, refused):
    run = tmp_path / "run"
    refused(evaluate(run, gguf=tmp_path / "none.gguf"), tmp_path / "none.gguf")
    refused(evaluate(run, QUESTIONS=tmp_path / "none.csv"), tmp_path / "none.csv")
    refused(evaluate(run, CTX="many"), "--context", "'many'")
    refused(evaluate(run, PYTHON=tmp_path / "no-python"), "no-python: expected the Python of the environment")
    (tmp_path / "file").touch()
    refused(
        evaluate(tmp_path / "file", OUTPUT=tmp_path / "file"), f"{tmp_path / 'file'}: expected a directory to write"
    )
    assert not (run / "summary.json").exists()


def test_bad_questions_are_refused_in_one_line(tmp_path, refusal):
    path, arguments = tmp_path / "bad.csv", ["--questions", tmp_path / "bad.csv", "--output", tmp_path / "task"]
    for rows, words in (
        ([COLUMNS[:-1], ["x"] * (len(COLUMNS) - 1)], ["Incorrect Answer 3"]),
        ([COLUMNS, ["x", "q", *"abcd"], ["x", "r", *"abcd"]], ["every Record ID once", "'x' twice"]),
    ):
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows(rows)
        refusal(freeze_questions.main, arguments, *words)


def test_bad_models_and_options_are_refused_in_one_line(evaluation, ask_again, tiny_gguf, tmp_path, refusal):
    run, broken = tmp_path / "run", tmp_path / "broken.gguf"
    shutil.copytree(evaluation[0] / "task", run / "task")
    for task in (run / "task").glob("*.yaml"):  # which says where its questions lie
        task.write_text(task.read_text().replace(str(evaluation[0].resolve()), str(run.resolve())))
    broken.write_bytes(tiny_gguf.read_bytes()[:20000])
    for changes, words in (
        ({"gguf": broken}, (broken, "a whole GGUF header")),
        ({"port": 65536}, ("PORT", "65536")),
        ({"tokenizer": "a,b"}, ("TOKENIZER", "a,b")),
        ({"name": "a=b"}, ("NAME", "a=b")),
    ):
        refusal(lambda _, changes=changes: ask_again(run, **changes), [], *words)
