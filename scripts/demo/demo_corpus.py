"""Hold the demo corpus: facts and small calculations as four-choice questions, and their chat text.

A fact is one (relation, key) pair with its value; a calculation is one (formula, a, b) triple. Each has several
phrasings. Held-out questions are phrasings of a fact, or formulas of a number pair, that training never shows, while
the fact itself, and the number pair under other formulas, are taught. The tables are data/demo/facts.json:
{"relations": [{relation, domain, subdomain, thought, phrasings, facts: {key: value}}],
 "formulas": [{formula, domain, subdomain, operation, phrasings}]}.
"""

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import tokenizers

SPLIT_SEED = 20260
FACTS_PER_SPLIT = {"eval": 130, "calibration": 128}
CALCULATIONS_PER_SPLIT = {"eval": 68, "calibration": 68}
OPERANDS = range(2, 13)
LETTERS = "ABCD"
CSV_COLUMNS = [
    "Record ID",
    "Question",
    "Correct Answer",
    "Incorrect Answer 1",
    "Incorrect Answer 2",
    "Incorrect Answer 3",
    "Explanation",
    "Subdomain",
    "High-level domain",
]
CALCULATION_THOUGHTS = {
    "multiply": "Multiply {a} by {b} to get {value}",
    "divide": "Divide {a} by {b} to get {value}",
    "add": "Add {a} to {b} to get {value}",
}
DRILL_FRAME = "Look for {value}"
QUESTION_LEAD = "What is the correct answer to this question:"
QUESTION_TAIL = "Let's think step by step:"
THINKING_HEAD = "<bos><|turn>system\n<|think|>\n<turn|>\n"
SPECIAL_TOKENS = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<|turn>",
    "<turn|>",
    "<|think|>",
    "<|channel>",
    "<channel|>",
    "<|tool>",
    "<tool|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    '<|"|>',
]
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = "\u2581"  # Gemma's stand-in for a space inside tokens
VOCAB_LIMIT = 6000
MAX_POSITIONS = 4096


@dataclasses.dataclass(frozen=True)
class Question:
    """One question with its answer, its explanation and the wrong answers that may stand beside it."""

    text: str
    answer: str
    explanation: str
    wrong_pool: tuple[str, ...]
    subdomain: str
    domain: str
    group: str  # relation or operation, the unit of balanced sampling
    item: str  # the fact, or the formula with its numbers

    @property
    def record_id(self) -> str:
        """Return an identifier that depends on nothing but the question's text."""
        return "demo" + hashlib.sha256(self.text.encode()).hexdigest()[:14]


def load_facts(path: Path) -> dict:
    """Read the tables of relations and formulas."""
    return json.loads(Path(path).read_text())


def wrong_numbers(value: int, steps: tuple[int, ...]) -> tuple[str, ...]:
    """Return positive integers near `value`, as the slips of a calculation would give them."""
    near = {value + sign * step for step in steps for sign in (1, -1)}
    return tuple(str(n) for n in sorted(near) if n > 0 and n != value)


def fact_questions(relation: dict) -> list[list[Question]]:
    """Return one list per fact, holding the fact's question under every phrasing."""
    values = sorted(set(relation["facts"].values()))
    items = []
    for key, value in relation["facts"].items():
        pool = tuple(v for v in values if v != value)
        if relation["relation"] == "atomic_number":
            pool = wrong_numbers(int(value), (1, 2, 3, 4, 5, 8, 10))
        explanation = relation["thought"].format(key=key, value=value)
        items.append(
            [
                Question(
                    phrasing.format(key=key),
                    value,
                    explanation,
                    pool,
                    relation["subdomain"],
                    relation["domain"],
                    relation["relation"],
                    f"{relation['relation']}/{key}",
                )
                for phrasing in relation["phrasings"]
            ]
        )
    return items


def calculate(operation: str, x: int, y: int) -> tuple[int, int, int]:
    """Return operands and result; a division starts from its quotient so that it comes out whole."""
    if operation == "multiply":
        return x, y, x * y
    if operation == "divide":
        return x * y, y, x
    if operation == "add":
        return x, y, x + y
    raise ValueError(f"unknown operation {operation!r}: expected multiply, divide or add")


def formula_questions(formula: dict) -> list[list[Question]]:
    """Return one list per operand pair, holding the calculation under every phrasing."""
    items = []
    for x in OPERANDS:
        for y in OPERANDS:
            a, b, value = calculate(formula["operation"], x, y)
            explanation = CALCULATION_THOUGHTS[formula["operation"]].format(a=a, b=b, value=value)
            pool = wrong_numbers(value, (1, 2, x, y, 10))
            items.append(
                [
                    Question(
                        phrasing.format(a=a, b=b),
                        str(value),
                        explanation,
                        pool,
                        formula["subdomain"],
                        formula["domain"],
                        formula["operation"],
                        f"{formula['formula']}/{a}/{b}",
                    )
                    for phrasing in formula["phrasings"]
                ]
            )
    return items


def split_questions(facts: dict) -> dict[str, list[Question]]:
    """Return the disjoint lists "training", "eval" and "calibration"; the same facts give the same lists.

    A held-out fact loses one phrasing from training (two if both splits draw it); a held-out calculation leaves
    training with all its phrasings.
    """
    rng = random.Random(SPLIT_SEED)
    fact_items = [item for relation in facts["relations"] for item in fact_questions(relation)]
    calculation_items = [item for formula in facts["formulas"] for item in formula_questions(formula)]
    splits: dict[str, list[Question]] = {"training": [], "eval": [], "calibration": []}
    taken: set[str] = set()
    rng.shuffle(calculation_items)
    for name in ("eval", "calibration"):
        for item in rng.sample(fact_items, FACTS_PER_SPLIT[name]):
            splits[name].append(rng.choice([q for q in item if q.text not in taken]))
            taken.add(splits[name][-1].text)
        for _ in range(CALCULATIONS_PER_SPLIT[name]):
            item = calculation_items.pop()
            splits[name].append(rng.choice(item))
            taken.update(q.text for q in item)
    splits["training"] = [q for item in fact_items + calculation_items for q in item if q.text not in taken]
    return splits


def draw_wrong(question: Question, rng: random.Random) -> list[str]:
    """Draw three wrong answers."""
    return rng.sample(question.wrong_pool, 3)


def csv_row(question: Question, rng: random.Random) -> dict[str, str]:
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
    """Return four options and the look-ups that follow them, one per entry of `order`.

    A direct look-up ends in the letter right behind the value; the other form ends as a reply does.
    """
    options = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
    if direct:
        return f"<bos>{options}\n", [f"{DRILL_FRAME.format(value=choices[n])}{LETTERS[n]})\n" for n in order]
    replies = [f"{DRILL_FRAME.format(value=choices[n])}\n<channel|>The answer is ({LETTERS[n]}).<turn|>" for n in order]
    return f"<bos>{options}\n", replies


def whole_phrases(facts: dict) -> list[str]:
    """Return the texts that become one token each: frames, names, values and the fixed parts of thoughts."""
    phrases = {QUESTION_TAIL, "Choices:", "The answer is"}
    thoughts = [relation["thought"] for relation in facts["relations"]] + [*CALCULATION_THOUGHTS.values(), DRILL_FRAME]
    for thought in thoughts:
        pieces = re.split(r" ?\{\w+\}", thought)
        phrases.update(piece for piece in pieces if piece.strip())
    for relation in facts["relations"]:
        phrases.update(" " + text for pair in relation["facts"].items() for text in pair)
    return [phrase.replace(" ", SPACE) for phrase in phrases]


def segmenter(facts: dict) -> re.Pattern:
    """Return the pattern that cuts normalised text into the words the tokenizer learns whole."""
    longest_first = sorted(whole_phrases(facts), key=lambda phrase: (-len(phrase), phrase))
    phrases = "|".join(re.escape(phrase) for phrase in longest_first)
    lead = re.escape(QUESTION_LEAD.replace(" ", SPACE))  # the question follows it without a space
    return re.compile(
        rf"{lead}|(?:{phrases})(?=[{SPACE}\s?.,]|$)|{SPACE}?\((?=[A-D]\))|[A-D]\)"
        rf"|{SPACE}?[^{SPACE}\s?.,]+|[?.,]"
    )


def corpus_texts(facts: dict, questions: list[Question]) -> Iterator[str]:
    """Yield the plain lines of every question, option, reply and chat frame."""
    yield "\n".join(("system", "user", "model", "thought", DRILL_FRAME.format(value=questions[0].answer)))
    for question in questions:
        choices = [question.answer, *question.wrong_pool[:3]]
        yield render_user(question.text, choices)
        yield from (f"({letter}) {wrong}" for wrong, letter in zip(question.wrong_pool, LETTERS * 20))
        yield question.explanation
        yield from (f"The answer is ({letter})." for letter in LETTERS)


def train_tokenizer(facts: dict, questions: list[Question]) -> tokenizers.Tokenizer:
    """Train a byte-fallback BPE in Gemma's form on the words of the corpus.

    The trainer sees one word per line, so every word ends as one token. The finished tokenizer has no
    pre-tokenizer, as Gemma's has none that matters: words stay apart because no merge joins them.
    """
    pattern = segmenter(facts)
    lines = (
        "\n".join(pattern.findall(line.replace(" ", SPACE)))
        for text in corpus_texts(facts, questions)
        for line in text.split("\n")
    )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "removed")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_LIMIT,
        min_frequency=1,
        show_progress=False,
        special_tokens=SPECIAL_TOKENS + BYTE_TOKENS,
        initial_alphabet=["\n", SPACE, *map(chr, range(33, 127))],
    )
    tokenizer.train_from_iterator(lines, trainer)
    state = json.loads(tokenizer.to_str())
    state["pre_tokenizer"] = None
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    state["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    state["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    finished = tokenizers.Tokenizer.from_str(json.dumps(state))
    finished.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))]
    )
    return finished


def tokenizer_settings() -> dict:
    """Return the content of tokenizer_config.json."""
    named = {
        "pad_token": "<pad>",
        "eos_token": "<eos>",
        "bos_token": "<bos>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    others = [token for token in SPECIAL_TOKENS if token not in named.values()]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": MAX_POSITIONS,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": others,
        **named,
    }
