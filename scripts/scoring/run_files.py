"""The directory of one evaluation: the names of its files, and the digests by which two runs are compared.

RUN: model, questions and protocol, written by ask_questions.py. ANSWERS: see answer_record.py. PATCHED: the patch
step's answers. LM_EVAL: lm-eval's own results and samples. TASK_FOLDER: the frozen questions of freeze_questions.py.
"""

RUN, ANSWERS, PATCHED, LM_EVAL, TASK_FOLDER = "run.json", "answers.jsonl", "patched.json", "lm_eval", "task"


def run_digests(record: dict) -> dict:
    """Return the digests of model, questions and protocol from the content of RUN; None for each that it lacks."""
    return {key: record.get(key) for key in ("gguf_sha256", "questions_sha256", "protocol_sha256")}
