"""Where Ollama's template cannot write what a model's own chat template writes, and why.

Each has the one piece of text that differs, so that any other difference in its chat is still found. Where April's
rules and July's write something else there, it has both.
"""

from dataclasses import dataclass

from ollama.template_cases import ASK, Case, assistant, call, parts, system, tool, tool_answer, user


@dataclass(frozen=True)
class KnownDifference:
    """A chat whose texts differ in one place: what the Jinja template writes there, what the Go template, and why.

    jinja: by the rules of one template and of others; None where it refuses the chat. Where it is `go`, they agree.
    """

    name: str
    why: str
    case: Case
    jinja: tuple[str | None, ...]
    go: str

    def accepts(self, jinja: str | None, go: str) -> bool:
        """Tell whether two texts of the chat differ in the listed piece and in nothing else; None: it was refused."""
        return any(self._differ_by(piece, jinja, go) for piece in self.jinja)

    def _differ_by(self, piece: str | None, jinja: str | None, go: str) -> bool:
        if piece is None or jinja is None:
            return piece is jinja
        if piece == self.go:
            return jinja == go
        return jinja.count(piece) == 1 and jinja.replace(piece, self.go) == go


def argued(name: str, why: str, arguments: dict, jinja: str, go: str) -> KnownDifference:
    """Return a known difference in the arguments of a call."""
    return KnownDifference(name, why, Case(name, [ASK, assistant("", call("book", arguments))]), (jinja,), go)


def declared(name: str, why: str, schema: dict, jinja: str, go: str) -> KnownDifference:
    """Return a known difference in the declaration of a tool whose parameter p has this schema."""
    return KnownDifference(name, why, Case(name, [ASK], [tool("book", {"p": schema})]), (jinja,), go)


def chat(name: str, why: str, messages: list[dict], jinja: tuple[str | None, ...], go: str) -> KnownDifference:
    """Return a known difference in a chat without tools."""
    return KnownDifference(name, why, Case(name, messages), jinja, go)


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
        (',response:{description:<|"|>A ticket<|"|>,type:<|"|>OBJECT<|"|>}',),
        "",
    ),
    # Here it is the chat template that is odd. It stays the reference: its texts are what the model knows.
    chat(
        "several calls without ids",
        "the chat template names each answer after the last call, the Ollama template "
        "after the tool that the answer itself names",
        [
            ASK,
            assistant("", call("get_weather", {"city": "Paris"}, None), call("get_time", {}, None)),
            tool_answer("get_weather", "clear", None),
            tool_answer("get_time", "12:00", None),
        ],
        ('response:get_time{value:<|"|>clear',),
        'response:get_weather{value:<|"|>clear',
    ),
    # What Ollama makes of a chat before the template sees it.
    chat(
        "neighbours of one role",
        "Ollama joins them before the template sees them",
        [user("One."), user("Two.")],
        ("One.<turn|>\n<|turn>user\nTwo.",),
        "One.\n\nTwo.",
    ),
    chat(
        "several parts",
        "Ollama makes a message of each part and joins those",
        [user(parts("One.", "Two."))],
        ("One.Two.",),
        "One.\n\nTwo.",
    ),
    chat(
        "system in parts",
        "July's rules put a space behind each part, April's write the list as Python does; Ollama takes a part as text",
        [system(parts("Be brief.")), ASK],
        ("Be brief. ", "[{'type': 'text', 'text': 'Be brief.'}]"),
        "Be brief.",
    ),
    chat(
        "tool answer in parts",
        "Ollama makes a message of the part and leaves out the tool's name and the call's id",
        [ASK, assistant("", call("get_time", {})), tool_answer("get_time", parts("12:00"))],
        ("response:get_time",),
        "response:unknown",
    ),
    chat(
        "tool answer null",
        "Ollama reads null as an empty text",
        [ASK, assistant("", call("get_time", {})), tool_answer("get_time", None)],
        ("value:null", "value:None"),
        'value:<|"|><|"|>',
    ),
    chat(
        "tool answers inside the assistant's message",
        "a field of Gemma's own, which Ollama does not have",
        [ASK, {**assistant("", call("get_time", {})), "tool_responses": [{"name": "get_time", "response": {"t": 12}}]}],
        ("response:get_time{t:12}<tool_response|>",),
        "",
    ),
    chat(
        "arguments as a text of JSON",
        "July's rules refuse them, April's write them as they are; Ollama hands over what they say",
        [ASK, assistant("", call("book", '{"city": "Paris"}'))],
        (None, '{"city": "Paris"}'),
        'city:<|"|>Paris<|"|>',
    ),
    KnownDifference(
        "thoughts to be preserved",
        "Ollama has no such switch: a request to it replays the thoughts since the user's last message and no others",
        Case(
            "thoughts to be preserved",
            [
                ASK,
                assistant("", call("get_time", {}), thought="I ask."),
                tool_answer("get_time", "12:00"),
                assistant("Noon."),
                user("Thanks."),
            ],
            preserve=True,
        ),
        ("<|channel>thought\nI ask.\n<channel|>", ""),
        "",
    ),
    chat(
        "space outside of ASCII",
        "Go's templates have no trim; the template takes ASCII's six away",
        [user("\u00a0What?")],
        ("\nWhat?",),
        "\n\u00a0What?",
    ),
    chat(
        "thought inside an answer's text",
        "Go's templates cannot search; Ollama hands thoughts apart",
        [user("H2O?"), assistant("<|channel>thought\nhm\n<channel|>Water."), user("NH3?")],
        ("\nWater.",),
        "\n<|channel>thought\nhm\n<channel|>Water.",
    ),
]
