"""Chats that Ollama's template is compared on, and the differences that are known.

Messages are those of transformers' chat templates; Case.request turns one into a request to Ollama's /api/chat. Left out
is what such a request cannot hold: contents in parts, tool answers that are no text, arguments that are no object,
pictures (the released files are text only).
"""

import json
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """A chat: name, messages, tools (JSON schemas), and thinking (None: not said)."""

    name: str
    messages: list[dict]
    tools: list[dict] = field(default_factory=list)
    thinking: bool | None = None

    def request(self) -> dict:
        """Return the chat as a request to Ollama's /api/chat, of the parts that the template sees."""
        renamed = {"name": "tool_name", "reasoning_content": "thinking"}
        messages = [{renamed.get(key, key): value for key, value in message.items()} for message in self.messages]
        return {"messages": messages, "tools": self.tools, "think": self.thinking}


@dataclass(frozen=True)
class KnownDifference:
    """A chat whose texts differ in one place: what the Jinja template writes there, what the Go template, and why."""

    name: str
    why: str
    case: Case
    jinja: str
    go: str


def user(text: str) -> dict:
    """Return a user's message."""
    return {"role": "user", "content": text}


def system(text: str) -> dict:
    """Return a system message."""
    return {"role": "system", "content": text}


def says(text: str | None, *calls: dict, thought: str = "") -> dict:
    """Return an assistant's message: text, tool calls, and the thought before them."""
    message = {"role": "assistant", "content": text}
    return (
        message | ({"tool_calls": list(calls)} if calls else {}) | ({"reasoning_content": thought} if thought else {})
    )


def call(name: str, arguments: dict, number: int | None = 1) -> dict:
    """Return a tool call; its id is made from a number (None: it has none)."""
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if number is None else {"id": f"call_{number}", **made}


def answers(name: str, text: str, number: int | None = 1) -> dict:
    """Return a tool's answer to the call of that number."""
    made = {"role": "tool", "name": name, "content": text}
    return made if number is None else {**made, "tool_call_id": f"call_{number}"}


def tool(
    name: str, properties: dict | None = None, required: list[str] | None = None, description: str = "", **more
) -> dict:
    """Return a tool's declaration; without properties it has no parameters at all."""
    function = {"name": name, "description": description, **more}
    if properties is not None:
        function["parameters"] = {
            "type": "object",
            "properties": properties,
            **({"required": required} if required else {}),
        }
    return {"type": "function", "function": function}


ASK = user("What is the weather in Paris?")
WEATHER = tool(
    "get_weather",
    {
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "city": {"type": "string", "description": "Name of a city"},
    },
    ["city"],
    "Say what the weather is.",
)
CLOCK = tool("get_time", description="Say what time it is.")
SUNNY = [call("get_weather", {"city": "Paris"}), answers("get_weather", '{"sky": "clear"}')]
NESTED = tool(
    "book",
    {
        "trip": {
            "type": "object",
            "description": "A journey",
            "properties": {
                "stops": {"type": "array", "description": "Where to", "items": {"type": "string"}},
                "price": {"type": "object", "properties": {"sum": {"type": "number"}, "paid": {"type": "boolean"}}},
            },
        },
        "seats": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["row", "letter"],
                "properties": {
                    "row": {"type": "integer", "description": "Counted from the front"},
                    "letter": {"type": "string", "enum": ["a", "b"]},
                    "food": {"type": "array", "items": {"type": ["string", "null"]}},
                    "pet": {
                        "type": "object",
                        "nullable": True,
                        "required": ["kind"],
                        "properties": {"kind": {"type": "string"}},
                    },
                    "rest": {"type": "object", "additionalProperties": False},
                },
            },
        },
        "matrix": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "default": None},
        },
        "codes": {
            "type": "array",
            "items": {"type": "string", "enum": ["x", None, 3], "examples": {"A": "b"}, "description": "Codes"},
        },
        "note": {"type": ["string", "null"], "description": "Anything"},
        "any": {"description": "No type"},
        "list": {"type": "array"},
        "type": {"type": "string"},
        "description": {"type": "string"},
    },
    ["trip", "seats"],
    "Book a journey.",
)
ARGUMENTS = {
    "text": 'a "quoted" word\nand a second line\twith a tab',
    "empty": "",
    "count": 3,
    "less": -2,
    "none": None,
    "ratio": 0.25,
    "small": 1e-05,
    "tiny": -2.5e-07,
    "zero": 0,
    "big": 123456789012,
    "yes": True,
    "no": False,
    "list": [1, "two", None, [True, {"k": "v"}]],
    "object": {"b": {"c": [1.5, {}]}, "a": []},
    "braces": "{}[]:,<b>&'",
}
UNICODE = "Größe 30 µm, 東京, Ελλάδα, 🌞‍🧪, \u2028."

CASES = [
    Case("plain", [user("What is H2O?")]),
    Case("space around", [user(" \n What is\n H2O?\t\n")]),
    Case("empty", [user("")]),
    Case("system", [system(" Be brief.\n"), user("What is H2O?")]),
    Case("developer", [{"role": "developer", "content": "Be brief."}, user("What is H2O?")]),
    Case("thinking on", [user("What is H2O?")], thinking=True),
    Case("thinking off", [user("What is H2O?")], thinking=False),
    Case("thinking on, system", [system("Be brief."), user("What is H2O?")], thinking=True),
    Case("multi-turn", [user("What is H2O?"), says(" Water.\n"), user("And NH3?")]),
    Case(
        "multi-turn, thinking on, system",
        [system("Be brief."), user("H2O?"), says("Water."), user("NH3?"), says("Ammonia."), user("CO2?")],
        thinking=True,
    ),
    Case("system in mid-chat", [user("H2O?"), says("Water."), system("Be brief."), user("NH3?")]),
    Case("answer begun", [user("What is H2O?"), says("It is")]),
    Case(
        "thought of an earlier turn", [user("H2O?"), says("Water.", thought="Two of H."), user("NH3?")], thinking=True
    ),
    Case("tools", [ASK], [WEATHER]),
    Case("tools, system, thinking on", [system("Be brief."), ASK], [WEATHER, CLOCK], True),
    Case("tools, thinking off", [ASK], [CLOCK, WEATHER], False),
    Case("tool without parameters", [ASK], [CLOCK, tool("go", {})]),
    Case("nested parameters", [ASK], [NESTED]),
    Case("call", [ASK, says("", SUNNY[0])], [WEATHER]),
    Case("call, no text at all", [ASK, says(None, SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case("call, answer", [ASK, says("", SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case("call, answer, thinking on", [ASK, says("", SUNNY[0], thought="I ask.\n"), SUNNY[1]], [WEATHER], True),
    Case("call, answer, reply", [ASK, says("", SUNNY[0]), SUNNY[1], says("Clear."), user("Thanks.")], [WEATHER]),
    Case(
        "thought of an earlier call",
        [ASK, says("", SUNNY[0], thought="I ask."), SUNNY[1], says("Clear."), user("Thanks.")],
        [WEATHER],
        True,
    ),
    Case(
        "call after call",
        [
            ASK,
            says("", call("get_time", {}, 1), thought="First."),
            answers("get_time", "12:00", 1),
            says("", call("get_weather", {"city": "Paris"}, 2), thought="Then."),
            answers("get_weather", "clear", 2),
        ],
        [WEATHER, CLOCK],
        True,
    ),
    Case(
        "several calls in one turn",
        [
            ASK,
            says("", call("get_weather", {"city": "Paris"}, 1), call("get_time", {}, 2)),
            answers("get_time", "12:00", 2),
            answers("get_weather", "clear", 1),
        ],
        [WEATHER, CLOCK],
    ),
    Case(
        "several calls, reply",
        [
            ASK,
            says("", call("get_weather", {"city": "Paris"}, 1), call("get_time", {}, 2)),
            answers("get_weather", "clear", 1),
            answers("get_time", "12:00", 2),
            says("Noon."),
            user("Ah."),
        ],
        [WEATHER, CLOCK],
    ),
    Case("text beside a call", [ASK, says(" I look. ", SUNNY[0])], [WEATHER]),
    Case(
        "text beside an answered call",
        [ASK, says("I look.", SUNNY[0]), SUNNY[1], says("Clear."), user("Thanks.")],
        [WEATHER],
    ),
    Case("text beside an answered call, at the end", [ASK, says("I look.", SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case(
        "answer to a call without an id",
        [ASK, says("", call("get_time", {}, None)), answers("get_time", "12:00", None)],
        [CLOCK],
    ),
    Case(
        "answer with an id and no name",
        [ASK, says("", SUNNY[0]), {"role": "tool", "tool_call_id": "call_1", "content": "clear"}],
        [WEATHER],
    ),
    Case("answer without a call", [ASK, answers("get_time", "12:00", 1), user("And now?")], [CLOCK]),
    Case(
        "nested arguments", [ASK, says("", call("book", ARGUMENTS)), answers("book", json.dumps(ARGUMENTS))], [NESTED]
    ),
    Case(
        "unicode",
        [system(UNICODE), user(f"{UNICODE}?"), says("", call("grüße", {"größe": UNICODE})), answers("grüße", UNICODE)],
        [tool("grüße", {"größe": {"type": "string", "description": UNICODE}}, ["größe"], UNICODE)],
        True,
    ),
]


def argued(name: str, why: str, arguments: dict, jinja: str, go: str) -> KnownDifference:
    """Return a known difference in the arguments of a call."""
    return KnownDifference(name, why, Case(name, [ASK, says("", call("book", arguments))]), jinja, go)


def declared(name: str, why: str, schema: dict, jinja: str, go: str) -> KnownDifference:
    """Return a known difference in the declaration of a tool whose parameter p has this schema."""
    return KnownDifference(name, why, Case(name, [ASK], [tool("book", {"p": schema})]), jinja, go)


KNOWN_DIFFERENCES = [
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
    KnownDifference(
        "several calls without ids",
        "the chat template names each answer after the last call, the Ollama template "
        "after the tool that the answer itself names",
        Case(
            "several calls without ids",
            [
                ASK,
                says("", call("get_weather", {"city": "Paris"}, None), call("get_time", {}, None)),
                answers("get_weather", "clear", None),
                answers("get_time", "12:00", None),
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
            [user("H2O?"), says("<|channel>thought\nhm\n<channel|>Water."), user("NH3?")],
        ),
        "\nWater.",
        "\n<|channel>thought\nhm\n<channel|>Water.",
    ),
]
