"""The demo's tokenizer: a byte-fallback BPE in Gemma's form whose words are those of the corpus."""

import json
import re
from collections.abc import Iterator

from chats.questions import LETTERS
from demo.demo_corpus import CALCULATION_THOUGHTS, DRILL_FRAME, QUESTION_LEAD, QUESTION_TAIL, DemoQuestion, render_user

import tokenizers

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
VOCAB_LIMIT = 6000  # never reached: the corpus has words for about half
MAX_POSITIONS = 4096


def whole_phrases(facts: dict) -> list[str]:
    """Return the texts that become one token each: frames, names, values and the fixed parts of thoughts.

    A value of one token can be copied from its option in one step of attention.
    """
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
    # Alternatives of a regular expression are tried in order. The text decides ties, since a set has no order.
    longest_first = sorted(whole_phrases(facts), key=lambda phrase: (-len(phrase), phrase))
    phrases = "|".join(re.escape(phrase) for phrase in longest_first)
    lead = re.escape(QUESTION_LEAD.replace(" ", SPACE))  # the question follows it without a space
    return re.compile(
        rf"{lead}|(?:{phrases})(?=[{SPACE}\s?.,]|$)|{SPACE}?\((?=[A-D]\))|[A-D]\)"
        rf"|{SPACE}?[^{SPACE}\s?.,]+|[?.,]"
    )


def corpus_texts(facts: dict, questions: list[DemoQuestion]) -> Iterator[str]:
    """Yield the plain lines of every question, option, reply and chat frame."""
    yield "\n".join(("system", "user", "model", "thought", DRILL_FRAME.format(value=questions[0].answer)))
    for question in questions:
        choices = [question.answer, *question.wrong_pool[:3]]
        yield render_user(question.text, choices)
        yield from (f"({letter}) {wrong}" for wrong, letter in zip(question.wrong_pool, LETTERS * 20))
        yield question.explanation
        yield from (f"The answer is ({letter})." for letter in LETTERS)


def train_tokenizer(facts: dict, questions: list[DemoQuestion]) -> tokenizers.Tokenizer:
    """Train a byte-fallback BPE in Gemma's form on the words of the corpus.

    The trainer sees one word per line, so every word ends as one token. The finished tokenizer has no
    pre-tokenizer, as Gemma's has none that matters: words stay apart because no merge joins them.
    """
    pattern = segmenter(facts)
    lines = (line for text in corpus_texts(facts, questions) for line in text.split("\n"))
    words = ("\n".join(pattern.findall(line.replace(" ", SPACE))) for line in lines)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("\n", "removed")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_LIMIT,
        min_frequency=1,
        show_progress=False,
        special_tokens=SPECIAL_TOKENS + BYTE_TOKENS,
        initial_alphabet=["\n", SPACE, *map(chr, range(33, 127))],
    )
    tokenizer.train_from_iterator(words, trainer)
    finished = tokenizers.Tokenizer.from_str(json.dumps(in_gemma_form(json.loads(tokenizer.to_str()))))
    finished.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", SPECIAL_TOKENS.index("<bos>"))]
    )
    return finished


def in_gemma_form(state: dict) -> dict:
    """Return a trained tokenizer's JSON with Gemma's normalizer and decoder; the trainer's own rules are taken out."""
    state["pre_tokenizer"] = None
    # The byte tokens go: as added tokens they would be found in plain text that spells <0x0A>.
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
    return state


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
