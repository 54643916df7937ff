"""The class of an answer, by answers written by hand; the frozen prompts; rates and pairs worked out by hand."""

import json
import random
from pathlib import Path

from conftest import REPO
from loops.loop_answers import asked_in_order
from loops.loop_classes import LoopAnswer, WrittenCall, class_of_answer, ends_in_copies, has_copies_at_end
from loops.loop_prompts import fits_schema, read_prompts, request_of
from loops.loop_rates import loop_results, loop_row
from loops.loop_results import BLOCK_CHARACTERS, MEASURES, loops_tables, pairs_in_words

import pytest

PROMPTS = read_prompts(REPO / "data/loop_prompts.json")
BY_ID = {prompt.id: prompt for prompt in PROMPTS.prompts}
BLOCK = "I should look at the question once more, and then once more from its end. "  # 75 characters


def answer(prompt: str = "umbrella-answer", **fields: object) -> LoopAnswer:
    """An answer that ended by itself, with a few words."""
    plain = {
        "seed": 1,
        "reasoning": "",
        "content": "Yes.",
        "calls": [],
        "finish_reason": "stop",
        "tokens": 3,
        "error": "",
    }
    return LoopAnswer.model_validate({"prompt": prompt, **plain, **fields})


def called(name: str, arguments: str) -> dict:
    """The fields of an answer that is one call."""
    return {"content": "", "calls": [WrittenCall(name=name, arguments=arguments)]}


@pytest.mark.parametrize(
    ("text", "copies"),
    [
        (BLOCK * 3, True),
        (BLOCK.strip() + ("\n\n" + BLOCK.strip()) * 2, True),
        (BLOCK * 2 + BLOCK[:60], False),  # two copies and most of a third
        ("Now. " + BLOCK * 3 + BLOCK[:30], True),  # after another beginning, with a third of a fourth copy
        (BLOCK * 3 + "So yes, take one.", False),  # the model left it
        ("ab" * (BLOCK_CHARACTERS // 2), True),
        ("ab" * (BLOCK_CHARACTERS // 2 - 1), False),  # one copy too short
        ("ab" * (BLOCK_CHARACTERS // 2) + "\n\n \n", True),
        ("".join(f"Step {number}: wait. " for number in range(60)), False),  # no copies: the number changes
        ("", False),
    ],
)
def test_the_same_block_is_three_copies_over_200_characters(text, copies):
    assert ends_in_copies(text) is copies


def test_every_period_and_length_agrees_with_a_naive_search():
    """The oracle tries each period at the end of the text."""
    draw = random.Random(1)
    for _ in range(60):
        block = "".join(draw.choice("ab") for _ in range(draw.randint(1, 90)))
        text = "x" * draw.randint(0, 5) + block * draw.randint(1, 9) + block[: draw.randint(0, len(block))]
        text += draw.choice(["", "", "c"])
        ends = [text[-length:] for length in range(BLOCK_CHARACTERS, len(text) + 1)]
        naive = any(end[p:] == end[:-p] for end in ends for p in range(1, len(end) // 3 + 1))
        assert has_copies_at_end(text) == naive, text


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "fine"),
        ({"finish_reason": "length"}, "length"),
        ({"reasoning": BLOCK * 4, "finish_reason": "length"}, "same block"),  # before its length
        ({"content": BLOCK * 4}, "same block"),  # though it ended by itself
        (called("get_weather", json.dumps({"town": "a " * 150})), "fine"),  # copies, and an end
        (called("get_weather", '{"town": "' + "a " * 150), "same block"),
        ({"content": "", "error": "HTTP 500: does not match the expected peg-gemma4 format"}, "malformed"),
        ({"content": "<|tool_call>call:get_weather{town"}, "malformed"),
        ({"content": "<tool_call>\n{}"}, "malformed"),
        ({"content": "Wait.<channel|>Yes."}, "malformed"),
        ({"content": "</think>Yes."}, "malformed"),
        ({"content": "A <br> in HTML, and 1 <2> 3."}, "fine"),
        (called("get_whether", '{"town": "Oslo"}'), "malformed"),  # unknown
        (called("convert", '{"value": 1, "unit": "mile", "into": "km"}'), "malformed"),  # not offered in this chat
        (called("get_weather", '{"town": "Oslo"'), "malformed"),  # no JSON
        (called("get_weather", '["Oslo"]'), "malformed"),  # no object
        (called("get_weather", "{}"), "malformed"),  # town is required
        (called("get_weather", '{"town": 7}'), "malformed"),
        (called("get_weather", '{"town": "Oslo", "day": "sunday"}'), "malformed"),
        (called("get_weather", '{"town": "Oslo", "hour": 3}'), "malformed"),
        (called("get_weather", '{"town": "Oslo", "day": "today"}'), "fine"),
        (called("get_weather", '{"day": "tomorrow", "town": "Bergen"}'), "same call"),  # in another order
        (called("get_weather", '{"town": "Bergen"}'), "fine"),
        ({"content": " \n", "reasoning": "A long thought."}, "empty"),
    ],
)
def test_the_class_of_an_answer(fields, expected):
    assert class_of_answer(answer(**fields), BY_ID["umbrella-answer"], PROMPTS.tools) == expected


def test_a_call_that_was_not_made_yet_is_no_same_call():
    given = called("get_weather", '{"town": "Bergen", "day": "tomorrow"}')
    assert class_of_answer(answer("weather-tomorrow", **given), BY_ID["weather-tomorrow"], PROMPTS.tools) == "fine"
    # Nor is a call fine where no tool was offered.
    assert class_of_answer(answer("rainbow", **given), BY_ID["rainbow"], PROMPTS.tools) == "malformed"


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        (True, {"type": "integer"}, False),
        (1, {"type": "boolean"}, False),
        (1.5, {"type": "integer"}, False),
        (2, {"type": "number"}, True),
        (["a", 1], {"type": "array", "items": {"type": "string"}}, False),
        ([{"what": "oats"}, {}], {"type": "array", "items": PROMPTS.tools["save_recipe"].parameters}, False),
        (None, {"type": "string"}, False),
    ],
)
def test_a_value_against_its_schema(value, schema, fits):
    assert fits_schema(value, schema) is fits


def test_the_request_answers_every_call_by_its_id():
    body = request_of(BY_ID["list-changed"], PROMPTS.tools)
    made = [call for message in body["messages"] for call in message.get("tool_calls", [])]
    answered = [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
    assert [call["id"] for call in made] == answered == ["call_1", "call_2"]
    assert json.loads(made[0]["function"]["arguments"]) == {"action": "remove", "items": ["milk"]}
    assert [tool["function"]["name"] for tool in body["tools"]] == ["shopping_list"]
    assert "tools" not in request_of(BY_ID["rainbow"], PROMPTS.tools)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"minutes": {"type": "integer"', '"minutes": {"minimum": 1, "type": "integer"', "a keyword among"),
        ('"arguments": {"id": 17}', '"arguments": {"id": "17"}', "in note-found calls of its tools by their schemas"),
        (', {"role": "tool", "content": "{\\"saved\\": true}"}', "", "in appointment-made a last message"),
        ('"id": "one-word"', '"id": "rainbow"', "every id once"),
        ('"tools": ["get_weather"]', '"tools": ["get_wether"]', "in two-towns only known tools"),
        ('"version": 1', '"version": 2', "version 1"),
    ],
)
def test_damaged_prompts_are_refused(tmp_path: Path, refusal, old, new, words):
    text = (REPO / "data/loop_prompts.json").read_text()
    assert text.count(old) == 1
    (tmp_path / "prompts.json").write_text(text.replace(old, new))
    refusal(lambda _: read_prompts(tmp_path / "prompts.json"), [], "prompts.json", words)


def answers_by(classes: dict[str, list[str]], seeds: int) -> list[LoopAnswer]:
    """All answers: those of the named prompts are of these classes by seed, the others fine."""
    fields = {"fine": {}, "length": {"finish_reason": "length"}, "empty": {"content": ""}}
    fields["same call"] = called("get_weather", '{"town": "Bergen", "day": "tomorrow"}')
    asked = asked_in_order(PROMPTS, 5, seeds)
    return [answer(p.id, **fields[classes.get(p.id, ["fine"] * seeds)[seed - 5]] | {"seed": seed}) for p, seed in asked]


def test_rates_and_pairs():
    def row(name: str, classes: dict[str, list[str]]) -> dict:
        quant = {"sha256": name[0] * 64, "source_sha256": "0" * 64}
        return loop_row(quant, f"{name}.gguf", answers_by(classes, 2), PROMPTS)

    full = row("full", {"rainbow": ["empty", "empty"], "miles": ["length", "fine"]})
    many = {prompt: ["length", "length"] for prompt in PROMPTS.ids[:12]}
    worse = row("worse", many | {"umbrella-answer": ["fine", "same call"]})
    results = loop_results({"max_tokens": 64}, PROMPTS, [full, worse])
    prompts, after = len(PROMPTS.prompts), sum(bool(prompt.answered_calls) for prompt in PROMPTS.prompts)
    rates = {measure: (rate["count"], rate["answers"]) for measure, rate in full["rates"].items()}
    assert rates["any failure"] == (3, 2 * prompts) and rates["runaway"] == (1, 2 * prompts)
    assert rates["empty"] == (2, 2 * prompts) and rates["same call"] == (0, 2 * after)
    assert worse["rates"]["same call"]["count"] == 1 and worse["calls"] == 1
    assert full["classes"][PROMPTS.ids.index("miles")] == ["length", "fine"] and results["seeds"] == 2
    pair = {pair["measure"]: pair for pair in results["pairs"]}
    assert set(pair) == set(MEASURES)
    # rainbow: empty twice there, length twice here: no difference in all failures, but one in each of the two.
    assert (pair["any failure"]["more"], pair["any failure"]["fewer"]) == (12, 1)
    assert (pair["empty"]["more"], pair["empty"]["fewer"], pair["empty"]["p"]) == (0, 1, 1.0)
    assert pair["runaway"]["difference"] == pytest.approx((24 - 1) / 2 / prompts)
    assert pair["runaway"]["p"] < 0.01 and "worse (any failure), worse (runaway)." in pairs_in_words(results)
    assert f"| worse | runaway | 12 | 1 | {100 * 23 / 2 / prompts:+.1f} (" in loops_tables(results)
