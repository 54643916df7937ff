"""The demo's corpus: facts and small calculations as four-choice questions, and their text as chats.

A fact is one (relation, key) pair with its value; a calculation is one (formula, a, b) triple. Each has several
phrasings. Held-out questions are phrasings of a fact, or formulas of a number pair, that training never shows. The fact
itself, and the number pair under other formulas, are taught. The tables are data/demo/facts.json:
{"relations": [{relation, domain, subdomain, thought, phrasings, facts: {key: value}}],
 "formulas": [{formula, domain, subdomain, operation, phrasings}]}.
"""

import dataclasses
import hashlib
import itertools
import random
import re
import string
from pathlib import Path
from typing import Annotated, Literal, Self

from chats.questions import COLUMNS, EXPLANATION, LETTERS
from files.input_errors import InputError, shown
from files.json_records import Fields, check_fields, control_in, read_json, require

from pydantic import Field, model_validator

Text = Annotated[str, Field(min_length=1, max_length=200)]
CHOICES = 4
NUMBERS, NUMBER = "atomic_number", re.compile("[1-9][0-9]{0,2}")  # the relation whose wrong answers are near numbers
SPLIT_SEED = 20260
FACTS_PER_SPLIT = {"eval": 130, "calibration": 128}
CALCULATIONS_PER_SPLIT = {"eval": 68, "calibration": 68}
OPERANDS = range(2, 13)
CSV_COLUMNS = [*COLUMNS, EXPLANATION, "Subdomain", "High-level domain"]
CALCULATION_THOUGHTS = {
    "multiply": "Multiply {a} by {b} to get {value}",
    "divide": "Divide {a} by {b} to get {value}",
    "add": "Add {a} to {b} to get {value}",
}
DRILL_FRAME = "Look for {value}"
QUESTION_LEAD = "What is the correct answer to this question:"
QUESTION_TAIL = "Let's think step by step:"
THINKING_HEAD = "<bos><|turn>system\n<|think|>\n<turn|>\n"


@dataclasses.dataclass(frozen=True)
class DemoQuestion:
    """One question with its answer, its explanation and the wrong answers that may stand beside it."""

    text: str
    answer: str
    explanation: str
    wrong_pool: tuple[str, ...]
    subdomain: str
    domain: str
    group: str  # relation or operation; training draws as many examples of each operation
    item: str  # the fact, or the formula with its numbers

    @property
    def record_id(self) -> str:
        """Return an identifier that depends on the question's text alone, so a changed table keeps the others."""
        return "demo" + hashlib.sha256(self.text.encode()).hexdigest()[:14]


class QuestionTable(Fields):
    """What relations and formulas share: how their questions are filed and put."""

    domain: Text
    subdomain: Text
    phrasings: Annotated[list[Text], Field(min_length=2)]


class Relation(QuestionTable):
    """Facts of one kind; thought and phrasings have {key} in them, thought {value} as well."""

    relation: Text
    thought: Text
    facts: Annotated[dict[Text, Text], Field(min_length=4)]

    @model_validator(mode="after")
    def can_be_asked(self) -> Self:
        """Refuse unknown names in braces, and facts with too few values for three wrong answers."""
        require(
            all(names_in_braces(text) == {"key"} for text in self.phrasings), "phrasings with {key} alone in braces"
        )
        require(names_in_braces(self.thought) == {"key", "value"}, "a thought with {key} and {value} in braces")
        values = set(self.facts.values())
        require(len(values) >= CHOICES, f"facts of {CHOICES} values or more")
        numbers = self.relation != NUMBERS or all(NUMBER.fullmatch(value) for value in values)
        require(numbers, f"whole numbers as facts of {NUMBERS}")
        return self


class Formula(QuestionTable):
    """A calculation with two operands; the phrasings have {a} and {b} in them."""

    formula: Text
    operation: Literal["multiply", "divide", "add"]

    @model_validator(mode="after")
    def can_be_asked(self) -> Self:
        """Refuse other names in braces."""
        require(
            all(names_in_braces(text) == {"a", "b"} for text in self.phrasings), "phrasings with {a} and {b} in braces"
        )
        return self


class Facts(Fields):
    """The whole file."""

    relations: list[Relation]
    formulas: list[Formula]

    @model_validator(mode="after")
    def enough(self) -> Self:
        """Refuse tables with too few facts or calculations for both splits."""
        facts = sum(len(relation.facts) for relation in self.relations)
        require(facts >= max(FACTS_PER_SPLIT.values()), f"{max(FACTS_PER_SPLIT.values())} facts or more")
        calculations, needed = len(self.formulas) * len(OPERANDS) ** 2, sum(CALCULATIONS_PER_SPLIT.values())
        require(calculations >= needed, f"formulas for {needed} calculations or more")
        return self


def names_in_braces(text: str) -> set[str]:
    """Return the names in braces of a text; raise ValueError when a brace stays open or a name has more to it."""
    return {name for _, name, *_ in string.Formatter().parse(text) if name is not None}


def load_facts(path: Path) -> dict:
    """Read the tables of relations and formulas; raise InputError for anything else."""
    content = read_json(path)
    what = "tables of relations and formulas"
    check_fields(path, content, Facts, what, "see data/demo/facts.json")
    if control := control_in(content):
        raise InputError(path, f"{what} without control characters", f"{shown(control[1])} in {shown(control[0])}")
    return content


def wrong_numbers(value: int, steps: tuple[int, ...]) -> tuple[str, ...]:
    """Return positive integers near `value`, as a slip in the calculation would give them."""
    near = {value + sign * step for step in steps for sign in (1, -1)}
    return tuple(str(n) for n in sorted(near) if n > 0 and n != value)


def fact_questions(relation: dict) -> list[list[DemoQuestion]]:
    """Return one list per fact, holding the fact's question under every phrasing."""
    values = sorted(set(relation["facts"].values()))
    items = []
    for key, value in relation["facts"].items():
        pool = tuple(v for v in values if v != value)
        if relation["relation"] == NUMBERS:  # numbers far off are easy to rule out
            pool = wrong_numbers(int(value), (1, 2, 3, 4, 5, 8, 10))
        texts = [phrasing.format(key=key) for phrasing in relation["phrasings"]]
        explanation = relation["thought"].format(key=key, value=value)
        group = relation["relation"]
        items.append(phrased(texts, value, explanation, pool, relation, group, f"{group}/{key}"))
    return items


def phrased(
    texts: list[str], answer: str, explanation: str, pool: tuple[str, ...], table: dict, group: str, item: str
) -> list[DemoQuestion]:
    """Return one question per text, all of one fact or calculation; `table`: the relation or formula it comes from."""
    subdomain, domain = table["subdomain"], table["domain"]
    return [DemoQuestion(text, answer, explanation, pool, subdomain, domain, group, item) for text in texts]


def calculate(operation: str, x: int, y: int) -> tuple[int, int, int]:
    """Return operands and result; raise ValueError on an unknown operation.

    A division starts from its quotient `x`, so its result is a whole number.
    """
    if operation == "multiply":
        return x, y, x * y
    if operation == "divide":
        return x * y, y, x
    if operation == "add":
        return x, y, x + y
    raise ValueError(f"unknown operation {operation!r}: expected multiply, divide or add")


def formula_questions(formula: dict) -> list[list[DemoQuestion]]:
    """Return one list per operand pair, holding the calculation under every phrasing."""
    items = []
    operation = formula["operation"]
    for x, y in itertools.product(OPERANDS, OPERANDS):
        a, b, value = calculate(operation, x, y)
        texts = [phrasing.format(a=a, b=b) for phrasing in formula["phrasings"]]
        explanation = CALCULATION_THOUGHTS[operation].format(a=a, b=b, value=value)
        pool = wrong_numbers(value, (1, 2, x, y, 10))
        item = f"{formula['formula']}/{a}/{b}"
        items.append(phrased(texts, str(value), explanation, pool, formula, operation, item))
    return items


def split_questions(facts: dict) -> dict[str, list[DemoQuestion]]:
    """Return the disjoint lists "training", "eval" and "calibration"; the same facts give the same lists.

    A held-out fact loses one phrasing from training (two if both splits draw it); a held-out calculation leaves
    training with all its phrasings.
    """
    rng = random.Random(SPLIT_SEED)
    fact_items = [item for relation in facts["relations"] for item in fact_questions(relation)]
    calculation_items = [item for formula in facts["formulas"] for item in formula_questions(formula)]
    splits: dict[str, list[DemoQuestion]] = {"training": [], "eval": [], "calibration": []}
    taken: set[str] = set()  # texts that training must not show
    rng.shuffle(calculation_items)  # so that pop() below draws at random
    for name in ("eval", "calibration"):
        for item in rng.sample(fact_items, FACTS_PER_SPLIT[name]):
            splits[name].append(rng.choice([q for q in item if q.text not in taken]))
            taken.add(splits[name][-1].text)
        for _ in range(CALCULATIONS_PER_SPLIT[name]):
            item = calculation_items.pop()
            splits[name].append(rng.choice(item))
            taken.update(q.text for q in item)
    all_left = itertools.chain.from_iterable(fact_items + calculation_items)
    splits["training"] = [question for question in all_left if question.text not in taken]
    return splits


def draw_wrong(question: DemoQuestion, rng: random.Random) -> list[str]:
    """Draw three wrong answers."""
    return rng.sample(question.wrong_pool, 3)


def csv_row(question: DemoQuestion, rng: random.Random) -> dict[str, str]:
    """Return one row in GPQA's columns, with wrong answers drawn by `rng`."""
    cells = [
        question.record_id,
        question.text,
        question.answer,
        *draw_wrong(question, rng),
        question.explanation,
        question.subdomain,
        question.domain,
    ]
    return dict(zip(CSV_COLUMNS, cells, strict=True))


def render_user(question: str, choices: list[str]) -> str:
    """Return the user message of lm-eval's gpqa_diamond_cot_zeroshot, trimmed as the chat template trims it."""
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    return f"{QUESTION_LEAD}{question}\nChoices:\n{options}\n{QUESTION_TAIL}"


def render_prompt(question: str, choices: list[str], thinking: bool = True) -> str:
    """Return the chat text up to the model's turn, as Gemma 4's template writes it."""
    head = THINKING_HEAD if thinking else "<bos>"
    return f"{head}<|turn>user\n{render_user(question, choices)}<turn|>\n<|turn>model\n"


def render_reply(explanation: str | None, letter: str) -> str:
    """Return the model's turn: a thought (an empty one when `explanation` is None) and the answer."""
    thought = "" if explanation is None else f"{explanation}\n"
    return f"<|channel>thought\n{thought}<channel|>The answer is ({letter}).<turn|>"


def render_drill(choices: list[str], order: list[int], direct: bool) -> tuple[str, list[str]]:
    """Return four options, and the look-ups that follow them, one per entry of `order`.

    A direct look-up has the letter right behind the value; the other form ends as a reply does.
    """
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    between, end = ("", ")\n") if direct else ("\n<channel|>The answer is (", ").<turn|>")
    replies = [f"{DRILL_FRAME.format(value=choices[n])}{between}{LETTERS[n]}{end}" for n in order]
    return f"<bos>{options}\n", replies
