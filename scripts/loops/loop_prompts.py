"""The frozen prompts of measure_loops.py: everyday chats, some with tools, some after a tool has answered.

data/loop_prompts.json (`LoopPrompts`): `tools` by name, each with a description and a JSON schema of its arguments, and
`prompts`, each with an id, the names of the tools that it offers, and messages. An assistant's message may hold
`calls`; as many tool messages follow it. Only the keywords of KEYWORDS may stand in a schema: each is checked here.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from files.input_errors import InputError
from files.json_records import Fields, Record, check_record, read_json, sha256_json

# JSON's types in Python; whole numbers are numbers, and true is none (bool is a subclass of int).
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
KEYWORDS = {"type", "description", "enum", "items", "properties", "required"}


class Call(Fields):
    """A tool call: the tool's name, and its arguments."""

    name: str
    arguments: dict[str, Any]


class Message(Fields):
    """One message of a chat; calls: of an assistant."""

    role: str
    content: str = ""
    calls: list[Call] = []


class Tool(Fields):
    """A tool: what it does, and the JSON schema of its arguments."""

    description: str
    parameters: dict[str, Any]


class LoopPrompt(Fields):
    """One chat that waits for an answer, and the names of the tools that it offers."""

    id: str
    tools: list[str]
    messages: list[Message]

    @property
    def answered_calls(self) -> list[Call]:
        """The calls of the chat: their responses are in it."""
        return [call for message in self.messages for call in message.calls]


class LoopPrompts(Record):
    """All prompts, and the tools that they offer."""

    what: ClassVar[str] = "prompts for measure_loops.py"
    any_letters: ClassVar[bool] = True  # a prompt may have lines; of its words nothing is published
    tools: dict[str, Tool]
    prompts: list[LoopPrompt]

    @cached_property
    def sha256(self) -> str:
        """The digest of what is asked, however the file is laid out."""
        return sha256_json(self.model_dump())

    @property
    def ids(self) -> list[str]:
        """The ids of the prompts, in their order."""
        return [prompt.id for prompt in self.prompts]


def schema_fault(schema: Any) -> str | None:
    """Return what of a schema is not checked here, in words, None where all is."""
    if not isinstance(schema, dict) or not isinstance(kind := schema.get("type"), str) or kind not in TYPES:
        return f"type among {', '.join(TYPES)}"
    for keyword, what in {"properties": dict, "required": list, "enum": list}.items():
        if not isinstance(schema.get(keyword, what()), what):
            return f"{keyword} as a {what.__name__}"
    if unknown := sorted(schema.keys() - KEYWORDS):
        return f"keyword among {', '.join(sorted(KEYWORDS))}, not {unknown[0]!r}"
    inner = [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]
    return next((fault for each in inner if (fault := schema_fault(each))), None)


def fits_schema(value: Any, schema: dict) -> bool:
    """Tell whether a value is what a schema asks for; a property that the schema does not name is none."""
    kinds = TYPES[schema["type"]]
    if not isinstance(value, kinds) or isinstance(value, bool) != (kinds == (bool,)):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits_schema(item, schema["items"]) for item in value) if "items" in schema else True
    if isinstance(value, dict):
        known = schema.get("properties", {})
        return {*schema.get("required", [])} <= value.keys() <= known.keys() and all(
            fits_schema(item, known[name]) for name, item in value.items()
        )
    return True


def chat_fault(prompt: LoopPrompt, tools: dict[str, Tool]) -> str | None:
    """Return what is wrong with a chat, in words: an unknown tool, a call against its schema, or one not answered."""
    if unknown := [name for name in prompt.tools if name not in tools]:
        return f"only known tools, not {unknown[0]!r}"
    for call in prompt.answered_calls:
        if call.name not in prompt.tools or not fits_schema(call.arguments, tools[call.name].parameters):
            return f"calls of its tools by their schemas, not {call.name}"
    waiting = 0
    for message in prompt.messages:
        if (message.role == "tool") != (waiting > 0):
            return "a tool message for each call, right after it"
        waiting += len(message.calls) - (message.role == "tool")
    last = prompt.messages[-1].role if prompt.messages else "nothing"
    return None if not waiting and last in ("user", "tool") else f"a last message of the user or a tool, not {last}"


def read_prompts(path: Path) -> LoopPrompts:
    """Read the prompts; raise InputError when a schema cannot be checked, a chat is not whole or an id is not new."""
    found = LoopPrompts.model_validate(check_record(path, read_json(path), LoopPrompts))
    for name, tool in found.tools.items():
        if fault := schema_fault(tool.parameters):
            raise InputError(path, f"a schema of {name} with a {fault}", "another")
    for prompt in found.prompts:
        if fault := chat_fault(prompt, found.tools):
            raise InputError(path, f"in {prompt.id} {fault}", "another chat")
    if len(set(found.ids)) < max(len(found.ids), 2):
        raise InputError(path, "two prompts or more, every id once", f"{len(found.ids)} prompts")
    return found


def request_of(prompt: LoopPrompt, tools: dict[str, Tool]) -> dict:
    """Return messages and tools as the chat endpoint takes them (OpenAI's Chat Completions)."""
    messages: list[dict] = []
    ids: list[str] = []  # of the calls that wait for their tool messages
    for message in prompt.messages:
        entry: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.role == "tool":
            entry["tool_call_id"] = ids.pop(0)
        if message.calls:
            first = sum(len(other.get("tool_calls", [])) for other in messages)
            ids = [f"call_{first + number}" for number in range(1, len(message.calls) + 1)]
            entry["tool_calls"] = [tool_call(*pair) for pair in zip(ids, message.calls)]
        messages.append(entry)
    functions = [{"name": name, **tools[name].model_dump()} for name in prompt.tools]
    offered = {"tools": [{"type": "function", "function": function} for function in functions]} if functions else {}
    return {"messages": messages, **offered}


def tool_call(call_id: str, call: Call) -> dict:
    """Return a call as a message of the chat endpoint holds it: its arguments are a JSON text there."""
    function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}
