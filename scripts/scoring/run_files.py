"""The directory of one evaluation: the names of its files, and the records of the run and of its patch step.

RUN (`RunRecord`): model, questions and protocol, written by ask_questions.py. ANSWERS: see answer_record.py. PATCHED
(`Patched`): the patch step's answers, written by patch_answers.py. LM_EVAL: lm-eval's own results and samples.
TASK_FOLDER: the frozen questions of freeze_questions.py. BEGUN: which evaluation this is, a random number that is kept
when it goes on. All seals of the directory depend on it, so answers of two evaluations do not mix.
"""

import secrets
from itertools import product
from pathlib import Path
from typing import ClassVar, Self

from files.json_records import Fields, Record, Sha256, read_json, read_record, require, sha256_json
from files.seals import BEGUN, bind
from files.written_records import write_json
from scoring.machines import Hardware
from scoring.score_records import ANSWERED_BY

from pydantic import Field, model_validator

RUN, ANSWERS, PATCHED, LM_EVAL, TASK_FOLDER = "run.json", "answers.jsonl", "patched.json", "lm_eval", "task"
# In the task's folder: the questions, the few shots, and of which files these are.
FROZEN, SHOTS, READ_FROM = "frozen.jsonl", "examples.jsonl", "read_from.json"
# How the patch step begins an answer, as the model card has it, how many tokens it asks for, and greedily.
PREFILL, PREDICT_TOKENS, PATCH_TEMPERATURE = "The answer is (", 10, 0
RANDOM_BYTES = 16
# Answers take hours and are never deleted here, nor mixed with those of another run.
ANOTHER_OUTPUT = "give another OUTPUT; with make another EVAL_NAME, or REPLACE=eval (TASK: tasks) to make it again"


class RunRecord(Record):
    """What makes a run another than the next one; protocol: the values of eval_protocol.py, which has their types.

    hardware: the machines that answered; a run may go on on another one. tools_sha256: their builds of llama.cpp, none
    of a server that was running already.
    """

    what: ClassVar[str] = "the run of ask_questions.py"
    name: str
    gguf_sha256: Sha256
    protocol_sha256: Sha256
    questions_sha256: Sha256
    question_file_sha256: Sha256 | None = None  # of the whole file; older runs have none
    examples_file_sha256: Sha256 | None = None  # likewise of the few shots
    protocol: dict
    hardware: list[Hardware] = []
    tools_sha256: list[Sha256] = []

    @model_validator(mode="after")
    def one_protocol(self) -> Self:
        """Refuse values that are not those of the digest."""
        require(sha256_json(self.protocol) == self.protocol_sha256, "the protocol of protocol_sha256")
        return self


class PatchedAnswer(Fields):
    """One invalid answer after the patch step; kind: its class before it."""

    record_id: str
    kind: str = Field(alias="class")
    completion: str
    letter: str | None
    correct: bool
    errors: list[str]


class Patched(Record):
    """The patch step of one run: how the answers were begun, the run's digests, and the answers.

    hardware, tools_sha256: of what answered, as in the run's record.
    """

    what: ClassVar[str] = "the patched answers of patch_answers.py"
    any_letters: ClassVar[bool] = True  # a completion is what a model made of its own vocabulary
    prefill: str
    n_predict: int
    temperature: int
    run: dict[str, str]
    hardware: list[Hardware] = []
    tools_sha256: list[Sha256] = []
    answers: list[PatchedAnswer]


def read_run(directory: Path) -> dict:
    """Return the record of a run directory; raise InputError when it is missing or is none."""
    return read_record(directory / RUN, RunRecord, ANOTHER_OUTPUT)


def begin_run(directory: Path) -> None:
    """Give a directory the random number of a new evaluation. It says nothing else, and is compared nowhere."""
    said = {"evaluation": secrets.token_hex(RANDOM_BYTES)}
    write_json(directory / BEGUN, said)
    bind(directory / BEGUN, said)


def resume_run(directory: Path) -> None:
    """Bind what is written from here on to the evaluation that a run directory holds."""
    if (directory / BEGUN).is_file():  # not in one of an older version, which only SEALS=no goes on from
        bind(directory / BEGUN, read_json(directory / BEGUN))


def is_begun(directory: Path) -> bool:
    """Tell whether a run directory holds answers to go on from."""
    return (directory / ANSWERS).exists() and (directory / ANSWERS).stat().st_size > 0


def patch_head(record: dict) -> dict:
    """Return what patched.json says first: how answers are begun, and the digests of the run, from its record."""
    asked = {"prefill": PREFILL, "n_predict": PREDICT_TOKENS, "temperature": PATCH_TEMPERATURE}
    return asked | {"run": run_digests(record)}


def subject_of(record: dict) -> str:
    """Return what the seal of an answer is bound to: the run's record when it came, with what had answered by then."""
    return sha256_json(run_digests(record) | {key: record.get(key, []) for key in ANSWERED_BY})


def subjects_of(record: dict) -> list[str]:
    """Return what the seals of a run's answers may be bound to, in order: a run that goes on adds to what answers.

    So an answer of a machine that was added is none of the run's earlier record, in which that machine is not named.
    """
    known = {key: record.get(key, []) for key in ANSWERED_BY}
    steps = product(*(range(len(one) + 1) for one in known.values()))
    return [
        subject_of(record | {key: one[:count] for (key, one), count in zip(known.items(), counts)})
        for counts in sorted(steps, key=sum)
    ]


def run_digests(record: dict) -> dict:
    """Return the digests of model, questions and protocol, by which two runs are compared, from a run's record."""
    return {key: record[key] for key in ("gguf_sha256", "questions_sha256", "protocol_sha256")}
