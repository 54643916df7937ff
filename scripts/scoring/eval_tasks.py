"""The tasks of lm-eval that can be scored: what each one asks, what its filter takes from an answer, and what is right.

lm-eval asks and scores by its own definitions. Its prompts and filters are written down here a second time, so that a
question is known by its prompt before it is asked, and an answer has its class when it comes. summarize_scores.py
refuses a run where both differ. Definitions: lm_eval/tasks of lm-evaluation-harness 0.4.13.
"""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from files.fetched_files import dataset_url
from files.input_errors import InputError, shown
from scoring.answer_letters import flexible_letter, letter_of
from scoring.followed import followed_digits
from scoring.ifeval import check_instructions, followed
from scoring.score_records import ALL_LETTERS

NOT_FOUND = "[invalid]"  # what lm-eval's filters leave of an answer in which they find nothing
MMLU_PRO_SHOTS = 5
IGNORED_IN_NUMBERS = (",", r"\$", "(?s).*#### ", r"\.$")


def check_texts(path: Path, number: int, own: dict) -> None:
    """Raise InputError when a value of a question is no text, or its options are no list of texts."""
    for column, value in own.items():
        listed = column == "options"
        values = value if listed and isinstance(value, list) else [None if listed else value]
        if not (values and all(isinstance(text, str) and text.strip() for text in values)):
            wanted = "a list of texts" if listed else "a text"
            raise InputError(path, f"{wanted} as {column!r} in question {number}", shown(value))


def check_choices(path: Path, number: int, own: dict) -> None:
    """Raise InputError when a question of MMLU-Pro is none, or its answer is no letter of an option."""
    check_texts(path, number, own)
    letters = ALL_LETTERS[: len(own["options"])]
    if own["answer"] not in tuple(letters):
        expected = f"a letter {letters[0]} to {letters[-1]} as 'answer' in question {number}"
        raise InputError(path, expected, shown(own["answer"]))


def question_alone(document: dict, _: list[dict]) -> list[dict]:
    """Return the messages of a question without shots."""
    return [{"role": "user", "content": document["prompt"]}]


@dataclass(frozen=True)
class EvalTask:
    """One task. base: its file in lm_eval/tasks; dataset, configuration: of the Hub, by that file; questions, examples:
    its splits of questions and of few shots; columns: those of its questions.

    found: the answer that a filter's output is, None for none; read: what the filter takes from a text, for a frozen
    document; prompt: of a document; target: of its column `answer`; plain: by which two answers are the same; chance:
    of a guess; keeps: which rows of a file it asks; check: refuses a row; messages: what is asked, of a document and
    the few shots; stop: where lm-eval lets an answer end; metric: lm-eval's own name of the score.
    """

    base: str
    dataset: str
    configuration: str | None
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
    check: Callable[[Path, int, dict], None] = check_texts
    messages: Callable[[dict, list[dict]], list[dict]] = question_alone
    answer: str = "answer"
    stop: tuple[str, ...] = ("</s>",)
    metric: str = "exact_match"

    def right(self, found: str | None, target: str) -> bool:
        """Tell whether what was found is the target."""
        return found is not None and self.plain(found) == self.plain(target)

    @property
    def sources(self) -> dict[str, str]:
        """Where its questions and, if it has any, its few shots come from."""
        splits = {"questions": self.questions, "examples": self.examples}
        return {kind: dataset_url(self.dataset, self.configuration, split) for kind, split in splits.items() if split}

    @property
    def is_gpqa(self) -> bool:
        """Whether its questions have four choices in an order of ours, and letters that the patch step can ask for."""
        return self.base.startswith("gpqa/")

    @property
    def is_ifeval(self) -> bool:
        """Whether an answer follows instructions, each of them or not, and is no letter or number."""
        return self.base.startswith("ifeval/")


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


def mmlu_pro_messages(subject: str, document: dict, shots: list[dict]) -> list[dict]:
    """Return the messages of an MMLU-Pro question: what is to be done, the few shots, the question."""
    task = (
        f"The following are multiple choice questions (with answers) about {subject}. Think step by step and then "
        'finish your answer with "the answer is (X)" where X is the correct letter choice.\n'
    )
    messages = [{"role": "system", "content": task}]
    for shot in shots[:MMLU_PRO_SHOTS]:
        reasoning = shot["cot_content"].replace("A: Let's think step by step. ", "")
        messages += [{"role": "user", "content": shot["prompt"]}, {"role": "assistant", "content": reasoning}]
    return [*messages, *question_alone(document, [])]


def gpqa(base: str, configuration: str) -> EvalTask:
    """Return a task of GPQA, whose documents are those of frozen_questions.py."""
    return EvalTask(
        f"gpqa/cot_zeroshot/{base}",
        "Idavidrein/gpqa",
        configuration,
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
        "TIGER-Lab/MMLU-Pro",
        None,
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
        check=check_choices,
        messages=lambda document, shots: mmlu_pro_messages(subject.replace("_", " "), document, shots),
        stop=("Question:",),
    )


GSM8K = EvalTask(
    "gsm8k/gsm8k-cot-zeroshot.yaml",
    "openai/gsm8k",
    "main",
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
    stop=("Q:", "</s>", "<|im_end|>"),
)
FOLLOWING = EvalTask(
    "ifeval/ifeval.yaml",
    "google/IFEval",
    None,
    "none",
    ("key", "prompt", "instruction_id_list", "kwargs"),
    "train",
    "",
    found=str,
    read=followed,
    prompt=lambda document: document["prompt"],
    target=lambda names: followed_digits([True] * len(names)),
    chance=lambda _: 0.0,
    check=check_instructions,
    answer="instruction_id_list",
    stop=(),
    metric="prompt_level_strict_acc",
)
# A line each: make reads the names from here (KNOWN_TASKS in make/run.mk).
TASKS = {
    "gpqa_diamond_cot_zeroshot": gpqa("_gpqa_cot_zeroshot_yaml", "gpqa_diamond"),
    "gpqa_main_cot_zeroshot": gpqa("gpqa_main_cot_zeroshot.yaml", "gpqa_main"),
    "gsm8k_cot_zeroshot": GSM8K,
    "ifeval": FOLLOWING,
    "mmlu_pro_biology": mmlu_pro("biology"),
    "mmlu_pro_business": mmlu_pro("business"),
    "mmlu_pro_chemistry": mmlu_pro("chemistry"),
    "mmlu_pro_computer_science": mmlu_pro("computer_science"),
    "mmlu_pro_economics": mmlu_pro("economics"),
    "mmlu_pro_engineering": mmlu_pro("engineering"),
    "mmlu_pro_health": mmlu_pro("health"),
    "mmlu_pro_history": mmlu_pro("history"),
    "mmlu_pro_law": mmlu_pro("law"),
    "mmlu_pro_math": mmlu_pro("math"),
    "mmlu_pro_other": mmlu_pro("other"),
    "mmlu_pro_philosophy": mmlu_pro("philosophy"),
    "mmlu_pro_physics": mmlu_pro("physics"),
    "mmlu_pro_psychology": mmlu_pro("psychology"),
}


def task_of(name: str) -> EvalTask:
    """Return a task by its name; raise InputError when it is none of TASKS."""
    if name not in TASKS:
        near = get_close_matches(name, TASKS, 1, 0.3)
        raise InputError("TASK", f"one of {', '.join(TASKS)}", repr(name), f"did you mean {near[0]}?" if near else "")
    return TASKS[name]


def base_task(task: EvalTask) -> Path:
    """Return lm-eval's own file of a task; raise InputError when lm-eval is not installed."""
    package = importlib.util.find_spec("lm_eval")  # found but not imported: that takes seconds
    if package is None or not package.submodule_search_locations:
        raise InputError("lm_eval", "the package lm-eval", "none", "run `make setup`")
    return Path(package.submodule_search_locations[0]) / "tasks" / task.base


def frozen_name(task: str) -> str:
    """Return the name under which a frozen task is handed to lm-eval."""
    return f"{task}_frozen"
