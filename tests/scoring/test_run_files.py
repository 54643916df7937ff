"""run.json and patched.json: their owner refuses what is none in one line, before any server starts."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from ask_questions import check_answered, check_run, is_asked
from files.input_errors import InputError
from files.json_records import read_json
from files.seals import MARKER
from files.written_records import write_json, write_record
from patch_answers import patched_before
from scoring.answer_record import Answer, append_answer
from scoring.eval_protocol import Protocol, recorded_protocol
from scoring.machines import RAN_ALREADY
from scoring.run_files import ANSWERS, LM_EVAL, PATCHED, RUN, Patched, RunRecord, read_run, run_digests, subject_of
from scoring.run_summary import check_servers, read_patched

import pytest

DIGESTS = dict.fromkeys(("gguf_sha256", "questions_sha256"), "a" * 64) | {"protocol_sha256": Protocol().digest}
MINE = {"name": "model", **DIGESTS, "protocol": asdict(Protocol())}
HEAD = {"prefill": "The answer is (", "n_predict": 10, "temperature": 0, "run": DIGESTS}
PATCHED_ANSWER = {"record_id": "q", "class": "empty", "completion": "A", "letter": "A", "correct": True, "errors": []}

MACHINE = {"cpu": "made up", "cores": 1, "gpus": [], "backends": []}
ANSWER = Answer(
    record_id="q",
    prompt_sha256="b" * 64,
    request_sha256="c" * 64,
    answer="",
    reasoning="I am truly empty.",
    finish_reason="stop",
    prompt_tokens=1,
    completion_tokens=1,
    asked_at=0.0,
    seconds=0.0,
    attempts=1,
    errors=[],
    letter=None,
    target="A",
    correct=False,
    kind="empty",
)


@pytest.fixture
def asked(tmp_path) -> Path:
    """A run directory with answers, lm-eval's results, and the records of the run and of its patch step."""
    (tmp_path / LM_EVAL).mkdir()
    for name in (ANSWERS, f"{LM_EVAL}/results.json", f"{LM_EVAL}/samples.jsonl"):
        (tmp_path / name).write_text("x")
    write_record(tmp_path / RUN, MINE, RunRecord)
    write_record(tmp_path / PATCHED, HEAD | {"answers": [PATCHED_ANSWER]}, Patched)
    return tmp_path


def change(path: Path, key: str, value: object) -> None:
    """Change one field; None takes it away."""
    content = read_json(path) | {key: value}
    path.write_text(json.dumps({name: entry for name, entry in content.items() if entry is not None}))


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("version", None, "the run of ask_questions.py, version 1, found no version"),
        ("version", 2, "version 1, found version 2"),
        ("name", 5, "'name' is a valid string, found 5"),
        ("gguf_sha256", None, "with the field 'gguf_sha256', found none"),
        ("gguf_sha256", "aaaa", "'gguf_sha256' is 64 hex digits, found 'aaaa'"),
        ("questions_sha256", 5, "'questions_sha256' is a valid string, found 5"),
        ("protocol", [], "'protocol' is a valid dictionary, found []"),
        ("protocol", asdict(Protocol(seed=43)), "with the protocol of protocol_sha256, found others"),
    ],
)
def test_a_damaged_run_is_refused_and_not_asked_again(asked, key, value, words):
    check_run(asked, MINE)
    change(asked / RUN, key, value)
    for read in (lambda: read_run(asked), lambda: check_run(asked, MINE), lambda: is_asked(asked, MINE, [])):
        with pytest.raises(InputError) as caught:
            read()
        assert words in str(caught.value) and "give another OUTPUT" in str(caught.value)


def test_an_answer_to_none_of_the_questions_is_refused_before_more_are_asked(tmp_path):
    append_answer(tmp_path / ANSWERS, ANSWER, "a run")
    check_answered(tmp_path, [{"Record ID": "q"}, {"Record ID": "r"}])
    with pytest.raises(InputError, match="answers.jsonl: expected answers to its 1 questions, found one to 'q'"):
        check_answered(tmp_path, [{"Record ID": "r"}])


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("version", 2, "the patched answers of patch_answers.py, version 1, found version 2"),
        ("run", "x", "'run' is a valid dictionary"),
        ("answers", None, "with the field 'answers', found none"),
        ("answers", [{"record_id": "q"}], "with the field 'answers.0.class', found none"),
        ("answers", [PATCHED_ANSWER | {"letter": 5}], "'answers.0.letter' is a valid string, found 5"),
    ],
)
def test_damaged_patched_answers_are_refused(asked, key, value, words):
    head, answers = read_patched(asked / PATCHED, MINE)
    assert head == {key: HEAD[key] for key in ("prefill", "n_predict", "temperature")}
    assert answers == {"q": PATCHED_ANSWER} and run_digests(MINE) == DIGESTS
    change(asked / PATCHED, key, value)
    for read in (lambda: read_patched(asked / PATCHED, MINE), lambda: patched_before(asked / PATCHED, HEAD, [])):
        with pytest.raises(InputError) as caught:
            read()
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "change_of, words",
    [
        ({"seed": "42"}, "'seed' is of type int, found '42'"),
        ({"seed": True}, "'seed' is of type int, found True"),
        ({"no_prompt_cache": 1}, "'no_prompt_cache' is of type bool, found 1"),
        ({"later": 1}, "the values of scoring/eval_protocol.py, found 'later'"),
    ],
)
def test_a_recorded_protocol_has_every_value_and_no_other(tmp_path, change_of, words):
    assert recorded_protocol(tmp_path, MINE["protocol"]) == Protocol()
    with pytest.raises(InputError) as caught:
        recorded_protocol(tmp_path, MINE["protocol"] | change_of)
    assert words in str(caught.value)
    without = {key: value for key, value in MINE["protocol"].items() if key != "context"}
    with pytest.raises(InputError, match="'context' is of type int, found none"):
        recorded_protocol(tmp_path, without)


def test_what_another_run_left_of_the_patch_step_counts_for_nothing(asked):
    write_json(asked / PATCHED, {"version": 1, **HEAD, "prefill": "another", "answers": [PATCHED_ANSWER]})
    assert patched_before(asked / PATCHED, HEAD, []) == ([], {})


def test_a_completion_may_hold_any_letter(asked):
    """A byte-level vocabulary has control characters, too, and a model without training writes them."""
    entry = PATCHED_ANSWER | {"completion": "\u0019\u007f A", "errors": ["HTTP 500: \u0007"]}
    write_record(asked / PATCHED, HEAD | {"answers": [entry]}, Patched)
    assert read_patched(asked / PATCHED, MINE)[1] == {"q": entry}


@pytest.fixture
def sealed(tmp_path) -> Path:
    """A run in a build folder, killed after its first answer and in its patch step."""
    (tmp_path / MARKER).touch()
    write_record(tmp_path / RUN, MINE | {"hardware": [MACHINE]}, RunRecord)
    append_answer(tmp_path / ANSWERS, ANSWER, subject_of(MINE))
    write_record(tmp_path / PATCHED, HEAD | {"answers": [PATCHED_ANSWER]}, Patched)
    assert check_run(tmp_path, MINE) == read_run(tmp_path)
    assert patched_before(tmp_path / PATCHED, HEAD, [ANSWER]) == ([PATCHED_ANSWER], {})
    return tmp_path


def test_a_run_does_not_go_on_from_an_edited_answer_or_machine(sealed):
    """Its next record would make a seal of its own for them."""
    answers = sealed / ANSWERS
    answers.write_text(answers.read_text().replace("truly", "nearly"))
    with pytest.raises(InputError, match="answers.jsonl, line 1: .* edited since it was sealed; .*REPLACE"):
        check_run(sealed, MINE)
    answers.write_text(answers.read_text().replace("nearly", "truly"))
    change(sealed / RUN, "hardware", [MACHINE | {"cores": 2}])
    with pytest.raises(InputError, match="run.json: .* edited since it was sealed"):
        check_run(sealed, MINE)


def test_the_record_of_before_a_server_was_added_does_not_hide_it(sealed):
    """Put back with its good seal, it would say that the first machine gave all answers."""
    before, both = (sealed / RUN).read_bytes(), MINE | {"hardware": [MACHINE, RAN_ALREADY]}
    write_record(sealed / RUN, both, RunRecord)
    append_answer(sealed / ANSWERS, replace(ANSWER, record_id="other", server="http://a:8080"), subject_of(both))
    assert check_run(sealed, MINE)["hardware"] == both["hardware"]
    (sealed / RUN).write_bytes(before)
    with pytest.raises(InputError, match="answers.jsonl, line 2: .* edited since it was sealed"):
        check_run(sealed, MINE)


@pytest.mark.parametrize("server, machines", [("http://a:8080", [MACHINE]), (None, [RAN_ALREADY])])
def test_an_answer_is_of_a_server_that_the_run_names(tmp_path, server, machines):
    answers = [replace(ANSWER, server=server)]
    with pytest.raises(InputError, match="expected answers of servers that .*, found q by "):
        check_servers(tmp_path, answers, machines)
    check_servers(tmp_path, answers, [MACHINE, RAN_ALREADY])
    check_servers(tmp_path, answers, [])


def test_an_edited_patch_is_asked_again(sealed, capsys):
    change(sealed / PATCHED, "answers", [PATCHED_ANSWER | {"errors": ["HTTP 500"]}])
    assert patched_before(sealed / PATCHED, HEAD, [ANSWER]) == ([], {})
    assert "it is made again" in capsys.readouterr().out
