"""Where Ollama's template cannot write what a model's own chat template writes, and why.

Each has the one piece of text that differs, so that any other difference in its chat is still found.
"""

from dataclasses import dataclass

from ollama.template_cases import ASK, Case, assistant, call, tool, tool_answer, user


@dataclass(frozen=True)
class KnownDifference:
    """A chat whose texts differ in one place: what the Jinja template writes there, what the Go template, and why."""

    name: str
    why: str
    case: Case
    jinja: str
    go: str


def argued(name: str, why: str, arguments: dict, jinja: str, go: str) -> KnownDifference:
    """Return a known difference in the arguments of a call."""
    return KnownDifference(name, why, Case(name, [ASK, assistant("", call("book", arguments))]), jinja, go)


def declared(name: str, why: str, schema: dict, jinja: str, go: str) -> KnownDifference:
    """Return a known difference in the declaration of a tool whose parameter p has this schema."""
    return KnownDifference(name, why, Case(name, [ASK], [tool("book", {"p": schema})]), jinja, go)


# Each difference has a chat of its own: one in a longer chat would hide whatever else goes wrong beside it.
KNOWN_DIFFERENCES = [
    # Numbers, and the order of names, are Go's own before the template sees them.
    argued(
        "whole number with a fraction",
        "Ollama reads every number of JSON as a float64: 2.0 and 2 are one",
        {"n": 2.0},
        "n:2.0}",
        "n:2}",
    ),
    argued(
        "number beyond 2^53",
        "Ollama reads every number of JSON as a float64, which has 53 bits",
        {"n": 12345678901234567890},
        "n:12345678901234567890}",
        "n:12345678901234567000}",
    ),
    argued(
        "names that differ in case",
        "Jinja sorts names without regard to case, Go by code point",
        {"beta": 1, "Zeta": 2},
        "{beta:1,Zeta:2}",
        "{Zeta:2,beta:1}",
    ),
    # What Ollama drops, or may drop, of a tool's declaration before the template runs.
    declared(
        "required names of an object in an object",
        "not every Ollama that knows Gemma 4 is known to keep them",
        {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
        'required:[<|"|>q<|"|>],type',
        "type",
    ),
    declared(
        "nullable",
        "Ollama does not keep it outside of items",
        {"type": "string", "nullable": True},
        "nullable:true,",
        "",
    ),
    declared(
        "object without properties",
        "of what JSON Schema has for it, Ollama keeps none outside of items",
        {"type": "object", "additionalProperties": {"type": "string"}},
        'properties:{additionalProperties:{type:<|"|>STRING<|"|>}}',
        "properties:{}",
    ),
    declared(
        "list of one type",
        "Ollama keeps every type as a list",
        {"type": ["string"]},
        "<|\"|>['STRING']<|\"|>",
        '<|"|>STRING<|"|>',
    ),
    # Go's templates have few functions for texts: no capitals here, no trim and no search further below.
    declared(
        "type unknown to JSON Schema",
        "Go's templates cannot turn letters into capitals; the seven types are listed",
        {"type": "date"},
        '<|"|>DATE<|"|>',
        '<|"|>date<|"|>',
    ),
    KnownDifference(
        "response declaration",
        "Ollama does not keep it",
        Case(
            "response declaration",
            [ASK],
            [tool("book", {"p": {"type": "string"}}, response={"type": "object", "description": "A ticket"})],
        ),
        ',response:{description:<|"|>A ticket<|"|>,type:<|"|>OBJECT<|"|>}',
        "",
    ),
    # Here it is the chat template that is odd. It stays the reference: its texts are what the model knows.
    KnownDifference(
        "several calls without ids",
        "the chat template names each answer after the last call, the Ollama template "
        "after the tool that the answer itself names",
        Case(
            "several calls without ids",
            [
                ASK,
                assistant("", call("get_weather", {"city": "Paris"}, None), call("get_time", {}, None)),
                tool_answer("get_weather", "clear", None),
                tool_answer("get_time", "12:00", None),
            ],
        ),
        'response:get_time{value:<|"|>clear',
        'response:get_weather{value:<|"|>clear',
    ),
    KnownDifference(
        "neighbours of one role",
        "Ollama joins them before the template sees them",
        Case("neighbours of one role", [user("One."), user("Two.")]),
        "One.<turn|>\n<|turn>user\nTwo.",
        "One.\n\nTwo.",
    ),
    KnownDifference(
        "space outside of ASCII",
        "Go's templates have no trim; the template takes ASCII's six away",
        Case("space outside of ASCII", [user("\u00a0What?")]),
        "\nWhat?",
        "\n\u00a0What?",
    ),
    KnownDifference(
        "thought inside an answer's text",
        "Go's templates cannot search; Ollama hands thoughts apart",
        Case(
            "thought inside an answer's text",
            [user("H2O?"), assistant("<|channel>thought\nhm\n<channel|>Water."), user("NH3?")],
        ),
        "\nWater.",
        "\n<|channel>thought\nhm\n<channel|>Water.",
    ),
]
