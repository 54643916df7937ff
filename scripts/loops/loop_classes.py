"""The class of an answer: which failure it shows, if any. Only its form is judged, never whether it is right.

An answer has one class, the first that holds:

same block  its thought, its text or the arguments of a call end in one block, COPIES times or more, over
            BLOCK_CHARACTERS or more; a last copy may be cut off
length      it was ended by the limit of tokens
malformed   the server's parser refuses what the model wrote; a marker of the chat format is left in the text; a call
            is of a tool that is not offered, is no JSON object, or goes against the tool's schema
same call   a call (tool and arguments) whose response is in the chat already
empty       no text and no call
fine        none of these
"""

import re
from typing import Any

from files.json_records import Fields, parse_json
from loops.loop_prompts import Call, LoopPrompt, Tool, fits_schema
from loops.loop_results import BLOCK_CHARACTERS, COPIES, EMPTY, FINE, LENGTH, MALFORMED, SAME_BLOCK, SAME_CALL

# Of thoughts, turns and calls, as the formats of Gemma, Qwen and others write them.
MARKER = re.compile(r"<[|/]?(tool_calls?|tool_response|channel|turn|think|im_start|im_end)\|?>")


class WrittenCall(Fields):
    """A tool call as the model wrote it: its arguments are a text."""

    name: str
    arguments: str


class LoopAnswer(Fields):
    """An answer: the prompt's id and the seed, and what the server gave.

    error: the words of the server's parser, where it refused what the model wrote; then there is nothing else.
    """

    prompt: str
    seed: int
    reasoning: str
    content: str
    calls: list[WrittenCall]
    finish_reason: str
    tokens: int
    error: str


def ends_in_copies(text: str) -> bool:
    """Tell whether a text ends in the same block again and again; how its words are parted does not count."""
    words = " ".join(text.split())
    # Of sentences, each copy but the last has a blank behind it.
    return has_copies_at_end(words) or has_copies_at_end(f"{words} ")


def has_copies_at_end(text: str) -> bool:
    """Tell whether the last BLOCK_CHARACTERS or more of a text are COPIES of a block or more.

    Of the text backwards every beginning has a shortest period: its length less that of its longest border, which the
    prefix function gives in linear time (Knuth, Morris and Pratt, 1977).
    """
    backwards, border = text[::-1], 0
    borders = [0] * len(backwards)
    for place in range(1, len(backwards)):
        while border and backwards[place] != backwards[border]:
            border = borders[border - 1]
        border += backwards[place] == backwards[border]
        borders[place] = border
        length = place + 1
        if length >= BLOCK_CHARACTERS and length >= COPIES * (length - border):
            return True
    return False


def parsed_call(call: WrittenCall) -> Call | None:
    """Return a call with its arguments as an object, None where they are none."""
    try:
        arguments: Any = parse_json(call.arguments)
    except (ValueError, RecursionError):
        return None
    return Call(name=call.name, arguments=arguments) if isinstance(arguments, dict) else None


def is_malformed(call: WrittenCall, prompt: LoopPrompt, tools: dict[str, Tool]) -> bool:
    """Tell whether a call cannot be made: an unknown tool, or arguments that are no object or against its schema."""
    parsed = parsed_call(call)
    if parsed is None or call.name not in prompt.tools:
        return True
    return not fits_schema(parsed.arguments, tools[call.name].parameters)


def class_of_answer(answer: LoopAnswer, prompt: LoopPrompt, tools: dict[str, Tool]) -> str:
    """Return the class of an answer to this prompt."""
    if any(map(ends_in_copies, [answer.reasoning, answer.content, *(call.arguments for call in answer.calls)])):
        return SAME_BLOCK
    if answer.finish_reason == "length":
        return LENGTH
    if answer.error or MARKER.search(answer.content):
        return MALFORMED
    if any(is_malformed(call, prompt, tools) for call in answer.calls):
        return MALFORMED
    if any(call in prompt.answered_calls for call in map(parsed_call, answer.calls)):
        return SAME_CALL
    return FINE if answer.content.strip() or answer.calls else EMPTY
