"""Chats on which Ollama's template is compared with a model's own chat template.

Messages are those of transformers' chat templates; Case.request turns a chat into a request to Ollama's /api/chat. Left
out is what Ollama refuses or hands over in another way than by the template: tool answers that are a number, a list or
an object, and pictures, which it puts into the text itself.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Case:
    """A chat: name, messages, tools (JSON schemas), thinking and preserve_thinking (None: not said)."""

    name: str
    messages: list[dict]
    tools: list[dict] = field(default_factory=list)
    thinking: bool | None = None
    preserve: bool | None = None

    def options(self) -> dict[str, bool]:
        """Return the switches of the chat template that are said."""
        said = {"enable_thinking": self.thinking, "preserve_thinking": self.preserve}
        return {name: value for name, value in said.items() if value is not None}

    def request(self) -> dict:
        """Return the chat as a request to Ollama's /api/chat, of the parts that the template sees."""
        messages = [made for message in self.messages for made in ollama_messages(message)]
        return {"messages": messages, "tools": self.tools, "think": self.thinking}


def ollama_messages(message: dict) -> list[dict]:
    """Return a message as Ollama has it: parts of a content, and arguments as text, as its /v1/chat/completions does.

    That turns each part into a message of its own, without the name and the id (FromChatRequest in openai/openai.go).
    """
    # Ollama has its own words for two fields. An unknown one is dropped without a word, and the texts would differ.
    renamed = {"name": "tool_name", "reasoning_content": "thinking"}
    made = {renamed.get(key, key): value for key, value in json.loads(json.dumps(message)).items()}
    for function in (tool_call["function"] for tool_call in made.get("tool_calls", [])):
        if isinstance(function["arguments"], str):
            function["arguments"] = json.loads(function["arguments"])
    if not isinstance(message["content"], list):
        return [made]
    return [{"role": message["role"], "content": part["text"]} for part in message["content"]]


def parts(*texts: str) -> list[dict]:
    """Return a content in parts."""
    return [{"type": "text", "text": text} for text in texts]


def user(text: str | list[dict]) -> dict:
    """Return a user's message."""
    return {"role": "user", "content": text}


def system(text: str | list[dict]) -> dict:
    """Return a system message."""
    return {"role": "system", "content": text}


def assistant(text: str | list[dict] | None, *calls: dict, thought: str = "") -> dict:
    """Return an assistant's message: text, tool calls, and the thought before them."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = list(calls)
    if thought:
        message["reasoning_content"] = thought
    return message


def call(name: str, arguments: dict | str | None, number: int | None = 1) -> dict:
    """Return a tool call; its id is made from a number (None: it has none)."""
    # A request may leave the ids out. Then answers can be matched by name and place alone, so both forms are cases.
    made = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return made if number is None else {"id": f"call_{number}", **made}


def tool_answer(name: str, text: str | list[dict] | None, number: int | None = 1) -> dict:
    """Return a tool's answer to the call of that number."""
    made = {"role": "tool", "name": name, "content": text}
    return made if number is None else {**made, "tool_call_id": f"call_{number}"}


def tool(
    name: str, properties: dict | None = None, required: list[str] | None = None, description: str = "", **more: Any
) -> dict:
    """Return a tool's declaration; without properties it has no parameters at all."""
    function = {"name": name, "description": description, **more}
    # No parameters and an object of none are two declarations; the case "tool without parameters" has both.
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
SUNNY = [call("get_weather", {"city": "Paris"}), tool_answer("get_weather", '{"sky": "clear"}')]
# All that a JSON Schema may nest and that Ollama keeps; "type" and "description" are names of parameters here.
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
# A value of each kind that JSON has, and the spellings in which Python and Go differ: 1e-05, None, True, <.
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
# Beyond ASCII in every way: signs of several bytes, a joined emoji, and a line separator, which JSON may escape.
UNICODE = "Größe 30 µm, 東京, Ελλάδα, 🌞‍🧪, \u2028."

# Names that mean something in a JSON Schema, as names of parameters, in every place that has names.
WORDS = {name: {"type": "string"} for name in ("type", "description", "nullable", "required", "properties")}
SCHEMA_WORDS = tool(
    "book",
    {
        **WORDS,
        "trip": {"type": "object", "properties": WORDS},
        "seats": {"type": "array", "items": {"type": "object", "properties": WORDS}},
    },
)
TIME = call("get_time", {}, 2)
NOON = tool_answer("get_time", "12:00", 2)

# From the plain to the odd: the first case that fails names the feature, and those before it show what still works.
CHATS = [
    Case("plain", [user("What is H2O?")]),
    Case("space around", [user(" \n What is\n H2O?\t\n")]),
    Case("empty", [user("")]),
    Case("one part", [user(parts(" What is H2O?")), assistant(parts("Water. ")), user(parts("And NH3?"))]),
    Case("system", [system(" Be brief.\n"), user("What is H2O?")]),
    Case("developer", [{"role": "developer", "content": "Be brief."}, user("What is H2O?")]),
    Case("multi-turn", [user("What is H2O?"), assistant(" Water.\n"), user("And NH3?")]),
    Case(
        "multi-turn, system",
        [system("Be brief."), user("H2O?"), assistant("Water."), user("NH3?"), assistant("Ammonia."), user("CO2?")],
    ),
    Case("system in mid-chat", [user("H2O?"), assistant("Water."), system("Be brief."), user("NH3?")]),
    Case("answer begun", [user("What is H2O?"), assistant("It is")]),
    # Whether a thought stays in the text depends on where its turn ended, so there is a case for each place.
    Case("thought of an earlier turn", [user("H2O?"), assistant("Water.", thought="Two of H."), user("NH3?")]),
    Case("thought of an answer begun", [user("What is H2O?"), assistant("It is", thought="Two of H.")]),
    Case("tools", [ASK], [WEATHER]),
    Case("tools, system", [system("Be brief."), ASK], [WEATHER, CLOCK]),
    Case("tool without parameters", [ASK], [CLOCK, tool("go", {})]),
    Case("nested parameters", [ASK], [NESTED]),
    Case("parameters named by words of JSON Schema", [ASK], [SCHEMA_WORDS]),
    Case("call", [ASK, assistant("", SUNNY[0])], [WEATHER]),
    Case("call, then the user", [ASK, assistant("", SUNNY[0]), user("Well?")], [WEATHER]),
    Case("call, null as arguments", [ASK, assistant("", call("get_time", None))], [CLOCK]),
    Case("call, no text at all", [ASK, assistant(None, SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case("call, answer", [ASK, assistant("", SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case("call, empty answer", [ASK, assistant("", SUNNY[0]), tool_answer("get_weather", "")], [WEATHER]),
    Case("call, answer, then the user", [ASK, assistant("", SUNNY[0]), SUNNY[1], user("Well?")], [WEATHER]),
    Case("thought, call, answer", [ASK, assistant("", SUNNY[0], thought="I ask.\n"), SUNNY[1]], [WEATHER]),
    Case(
        "call, answer, reply", [ASK, assistant("", SUNNY[0]), SUNNY[1], assistant("Clear."), user("Thanks.")], [WEATHER]
    ),
    Case("call, answer, reply begun", [ASK, assistant("", SUNNY[0]), SUNNY[1], assistant("It is")], [WEATHER]),
    Case(
        "call, answer, thought, reply begun",
        [ASK, assistant("", SUNNY[0]), SUNNY[1], assistant("It is", thought="Clear.")],
        [WEATHER],
    ),
    Case(
        "thought of an earlier call",
        [ASK, assistant("", SUNNY[0], thought="I ask."), SUNNY[1], assistant("Clear."), user("Thanks.")],
        [WEATHER],
    ),
    Case(
        "thought of an earlier call, not to be preserved",
        [ASK, assistant("", SUNNY[0], thought="I ask."), SUNNY[1], assistant("Clear."), user("Thanks.")],
        [WEATHER],
        preserve=False,
    ),
    Case(
        "thought of an earlier turn, though thoughts are to be preserved",
        [user("H2O?"), assistant("Water.", thought="Two of H."), user("NH3?")],
        preserve=True,
    ),
    Case(
        "call after call",
        [
            ASK,
            assistant("", call("get_time", {}, 1), thought="First."),
            tool_answer("get_time", "12:00", 1),
            assistant("", call("get_weather", {"city": "Paris"}, 2), thought="Then."),
            tool_answer("get_weather", "clear", 2),
        ],
        [WEATHER, CLOCK],
    ),
    # Answers come back in any order, so they are matched by id and not by place.
    Case(
        "several calls in one turn",
        [ASK, assistant("", SUNNY[0], TIME), NOON, tool_answer("get_weather", "clear", 1)],
        [WEATHER, CLOCK],
    ),
    Case(
        "several calls, reply",
        [
            ASK,
            assistant("", SUNNY[0], TIME),
            tool_answer("get_weather", "clear", 1),
            NOON,
            assistant("Noon."),
            user("Ah."),
        ],
        [WEATHER, CLOCK],
    ),
    Case("text beside a call", [ASK, assistant(" I look. ", SUNNY[0])], [WEATHER]),
    Case(
        "text beside an answered call",
        [ASK, assistant("I look.", SUNNY[0]), SUNNY[1], assistant("Clear."), user("Thanks.")],
        [WEATHER],
    ),
    Case("text beside an answered call, at the end", [ASK, assistant("I look.", SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case(
        "text beside an answered call, then the user",
        [ASK, assistant("I look.", SUNNY[0]), SUNNY[1], user("Well?")],
        [WEATHER],
    ),
    Case("space beside an answered call", [ASK, assistant(" \n", SUNNY[0]), SUNNY[1]], [WEATHER]),
    Case(
        "texts beside two answered calls",
        [ASK, assistant("I look.", SUNNY[0]), SUNNY[1], assistant("And the time.", TIME, thought="Then."), NOON],
        [WEATHER, CLOCK],
    ),
    Case(
        "answer to a call without an id",
        [ASK, assistant("", call("get_time", {}, None)), tool_answer("get_time", "12:00", None)],
        [CLOCK],
    ),
    Case(
        "answer with an id and no name",
        [ASK, assistant("", SUNNY[0]), {"role": "tool", "tool_call_id": "call_1", "content": "clear"}],
        [WEATHER],
    ),
    Case("answer without a call", [ASK, tool_answer("get_time", "12:00", 1), user("And now?")], [CLOCK]),
    Case(
        "nested arguments",
        [ASK, assistant("", call("book", ARGUMENTS)), tool_answer("book", json.dumps(ARGUMENTS))],
        [NESTED],
    ),
    Case(
        "unicode",
        [
            system(UNICODE),
            user(f"{UNICODE}?"),
            assistant("", call("grüße", {"größe": UNICODE})),
            tool_answer("grüße", UNICODE),
        ],
        [tool("grüße", {"größe": {"type": "string", "description": UNICODE}}, ["größe"], UNICODE)],
    ),
]


def by_thinking(case: Case) -> list[Case]:
    """Return a chat with thinking not said, on and off: three requests, and one passed by must not hide the others."""
    on_and_off = [replace(case, name=f"{case.name}, thinking {word}", thinking=word == "on") for word in ("on", "off")]
    return [case, *on_and_off]


CASES = [made for case in CHATS for made in by_thinking(case)]
