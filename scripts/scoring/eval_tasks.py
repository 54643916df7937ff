"""The tasks of lm-eval that can be scored: what each one asks, what its filter takes from an answer, and what is right.

lm-eval asks and scores by its own definitions. Its prompts and filters are written down here a second time, so that a
question is known by its prompt before it is asked, and an answer has its class when it comes. summarize_scores.py
refuses a run where both differ. Definitions: lm_eval/tasks of lm-evaluation-harness 0.4.13.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from files.safe_files import InputError
from scoring.answer_record import flexible_letter, letter_of
from scoring.eval_protocol import DEFAULT_TASK
from scoring.score_records import ALL_LETTERS

NOT_FOUND = "[invalid]"  # what lm-eval's filters leave of an answer in which they find nothing
MMLU_PRO_SUBJECTS = (
    *("biology", "business", "chemistry", "computer_science", "economics", "engineering", "health", "history", "law"),
    *("math", "other", "philosophy", "physics", "psychology"),
)
IGNORED_IN_NUMBERS = (",", r"\$", "(?s).*#### ", r"\.$")


@dataclass(frozen=True)
class EvalTask:
    """One task. base: its file in lm_eval/tasks; columns: those of its questions; examples: its split of few shots.

    found: the answer that a filter's output is, None for none; read: what the filter takes from a text, for a frozen
    document; prompt, target: of a document; plain: by which two answers are the same; chance: of a guess; keeps: which
    rows of a file it asks.
    """

    base: str
    filter: str
    columns: tuple[str, ...]
    questions: str
    examples: str
    found: Callable[[str], str | None]
    read: Callable[[str, dict], str | None]
    prompt: Callable[[dict], str]
    target: Callable[[str], str]
    chance: Callable[[dict], float]
    plain: Callable[[str], str] = str
    keeps: Callable[[dict], bool] = lambda _: True

    def right(self, found: str | None, target: str) -> bool:
        """Tell whether what was found is the target."""
        return found is not None and self.plain(found) == self.plain(target)

    @property
    def is_gpqa(self) -> bool:
        """Whether its questions have four choices in an order of ours, and letters that the patch step can ask for."""
        return self.base.startswith("gpqa/")


def whatever_found(filtered: str) -> str | None:
    """Return a filter's output, None for the mark that it found nothing."""
    return None if filtered == NOT_FOUND else filtered


def last_number(text: str, _: dict) -> str | None:
    """Return the last number of an answer, as the filter flexible-extract of the GSM8K tasks finds it."""
    found = re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)
    return (found[-1][0] or found[-1][1]).strip() if found else None


def plain_number(text: str) -> str:
    """Return a number without what exact_match ignores in the GSM8K tasks."""
    for pattern in IGNORED_IN_NUMBERS:
        text = re.sub(pattern, "", text)
    return text.lower()


def mmlu_pro_letter(text: str, _: dict) -> str | None:
    """Return the first letter that an answer says it is, as the filter custom-extract of MMLU-Pro finds it."""
    found = re.search(r"answer is \(?([ABCDEFGHIJ])\)?", text)
    return found[1] if found else None


def mmlu_pro_prompt(document: dict) -> str:
    """Return the last message of an MMLU-Pro question; the few shots are messages before it."""
    options = [f"{letter}. {option.strip()}\n" for letter, option in zip(ALL_LETTERS, document["options"])]
    return f"Question:\n{document['question']}\nOptions:\n{''.join(options)}Answer: Let's think step by step."


def gpqa(base: str) -> EvalTask:
    """Return a task of GPQA, whose documents are those of frozen_questions.py."""
    return EvalTask(
        f"gpqa/cot_zeroshot/{base}",
        "flexible-extract",
        (),
        "train",
        "",
        found=letter_of,
        read=lambda text, document: flexible_letter(text, document["choices"]),
        prompt=lambda document: document["prompt"],
        target=lambda text: text.strip("()"),
        chance=lambda _: 1 / 4,
    )


def mmlu_pro(subject: str) -> EvalTask:
    """Return the task of one subject of MMLU-Pro (five shots)."""
    return EvalTask(
        f"mmlu_pro/mmlu_pro_{subject}.yaml",
        "custom-extract",
        ("question", "options", "answer", "category"),
        "test",
        "validation",
        found=whatever_found,
        read=mmlu_pro_letter,
        prompt=mmlu_pro_prompt,
        target=str,
        chance=lambda document: 1 / len(document["options"]),
        keeps=lambda row: row["category"] == subject.replace("_", " "),
    )


GSM8K = EvalTask(
    "gsm8k/gsm8k-cot-zeroshot.yaml",
    "flexible-extract",
    ("question", "answer"),
    "test",
    "",
    found=whatever_found,
    read=last_number,
    prompt=lambda document: f"Q: {document['question']}\nA: Let's think step by step.",
    target=lambda text: text.rsplit("#### ", 1)[-1].strip(),
    chance=lambda _: 0.0,
    plain=plain_number,
)
TASKS = {
    DEFAULT_TASK: gpqa("_gpqa_cot_zeroshot_yaml"),
    "gpqa_main_cot_zeroshot": gpqa("gpqa_main_cot_zeroshot.yaml"),
    "gsm8k_cot_zeroshot": GSM8K,
    **{f"mmlu_pro_{subject}": mmlu_pro(subject) for subject in MMLU_PRO_SUBJECTS},
}


def task_of(name: str) -> EvalTask:
    """Return a task by its name; raise InputError when it is none of TASKS."""
    if name not in TASKS:
        raise InputError("TASK", f"one of {', '.join(TASKS)}", repr(name))
    return TASKS[name]


def frozen_name(task: str) -> str:
    """Return the name under which a frozen task is handed to lm-eval."""
    return f"{task}_frozen"
