"""The locked protocol of an evaluation: every value that can change an answer, in one place, with a digest.

The values are those of the model card (GPQA Diamond, "Configuration (locked, all variants identical)"). Two runs may be
compared only if their digests agree. `no_prompt_cache` is ours. Without it the last bits of an answer depend on the
question before it, and a run that was interrupted could not end like one that was not.
"""

import argparse
import importlib.metadata
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from files.input_errors import InputError, shown
from files.json_records import sha256_json

SECONDS_PER_TOKEN = 0.5  # a request may be this slow before it counts as hung: 24,576 tokens may take 3.4 hours
LEAST_TIMEOUT_SECONDS = 600
DEFAULT_TASK = "gpqa_diamond_cot_zeroshot"
BY_DIGEST = "sha256 "  # begins the tokenizer of a run that was given as a directory


@dataclass(frozen=True)
class Protocol:
    """One protocol. Sizes in tokens; `seed` is the request seed; `concurrency` the requests at once."""

    context: int = 32768
    reasoning_budget: int = 16384
    max_gen_toks: int = 24576
    temperature: float = 1.0
    top_p: float = 0.95
    top_k: int = 64
    dry_multiplier: float = 0.5
    seed: int = 42
    choice_order_seed: int = 42
    concurrency: int = 1
    gpu_layers: int = 99
    attempts: int = 3
    reasoning_format: str = "deepseek"
    no_prompt_cache: bool = True
    task: str = DEFAULT_TASK
    model: str = "local-chat-completions"
    filter: str = "flexible-extract"
    # Versions are part of it: another build of llama.cpp rounds otherwise, and one other token is another answer.
    tokenizer: str = ""
    llama_cpp: str = ""
    lm_eval: str = importlib.metadata.version("lm-eval")

    @property
    def digest(self) -> str:
        """The hex sha256 of all values."""
        return sha256_json(asdict(self))

    @property
    def timeout_seconds(self) -> int:
        """How long one request may take."""
        return max(LEAST_TIMEOUT_SECONDS, int(self.max_gen_toks * SECONDS_PER_TOKEN))

    @property
    def server_flags(self) -> list[str]:
        """llama-server's flags. The server divides its context among the slots; `context` is that of each request."""
        return [
            str(part)
            for part in (
                "-c",
                self.context * self.concurrency,
                "-np",
                self.concurrency,
                "-ngl",
                self.gpu_layers,
                "--reasoning-format",
                self.reasoning_format,
                "--reasoning-budget",
                self.reasoning_budget,
                "--timeout",
                self.timeout_seconds,
                "--cache-ram",  # of prompts, which no_prompt_cache makes useless: it would take up to 8 GiB of memory
                0,
                *(["--no-cache-prompt"] if self.no_prompt_cache else []),
            )
        ]

    @property
    def gen_kwargs(self) -> str:
        """lm-eval's --gen_kwargs; local-chat-completions passes unknown ones on to the server."""
        return (
            f"temperature={self.temperature},top_p={self.top_p},top_k={self.top_k},seed={self.seed},"
            f"dry_multiplier={self.dry_multiplier},max_gen_toks={self.max_gen_toks}"
        )


@dataclass(frozen=True)
class OpenAiProtocol(Protocol):
    """The protocol of a server that takes the fields of OpenAI's chat completions and no others.

    What no request can say there is named in `not_locked`, and has no value of ours. So the digest is another one, and
    scores of two backends are never compared in silence. Fields: https://platform.openai.com/docs/api-reference/chat
    """

    context: int = 0
    reasoning_budget: int = -1
    top_k: int = 0
    dry_multiplier: float = 0.0
    gpu_layers: int = 0
    reasoning_format: str = ""
    no_prompt_cache: bool = False
    backend: str = "openai"
    not_locked: str = "build context dry_multiplier gpu_layers no_prompt_cache reasoning_budget reasoning_format top_k"

    @property
    def gen_kwargs(self) -> str:
        """lm-eval's --gen_kwargs: only what every such server knows."""
        return f"temperature={self.temperature},top_p={self.top_p},seed={self.seed},max_gen_toks={self.max_gen_toks}"


BACKENDS = {"llama.cpp": Protocol, "openai": OpenAiProtocol}
# What a smaller model, another seed or another machine may set, and the least value; everything else is locked.
OPEN = {"context": 1, "reasoning_budget": 0, "max_gen_toks": 1, "seed": 0, "concurrency": 1, "gpu_layers": 0}
VERSIONS = ("tokenizer", "llama_cpp", "lm_eval")
OPEN_HELP = {
    "context": "tokens of context for each request",
    "reasoning_budget": "most tokens of thought",
    "max_gen_toks": "most tokens of an answer, its thought included",
    "seed": "seed of sampling and of the order of choices",
    "concurrency": "requests at once",
    "gpu_layers": "layers on the GPU, if there is one",
}


def add_protocol_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every value that is not locked. They stay texts: `protocol_of` refuses bad ones in one line."""
    add = parser.add_argument_group("open values of the protocol").add_argument
    add("--task", default=DEFAULT_TASK, help="task of lm-eval, as freeze_questions.py froze it")
    for field in fields(Protocol):
        if field.name in OPEN:
            add(f"--{field.name.replace('_', '-')}", default=str(field.default), help=OPEN_HELP[field.name])


def protocol_of(
    args: argparse.Namespace, tokenizer: str, llama_cpp: str, task_filter: str, kind: type[Protocol] = Protocol
) -> Protocol:
    """Return the protocol of parsed arguments; `tokenizer` and `llama_cpp` identify the two.

    task_filter: what reads the answers, see eval_tasks.py.
    Raises InputError on values that are no whole numbers or are too small.
    """
    values: dict[str, Any] = {}
    for name, least in OPEN.items():
        text = getattr(args, name)
        if not text.isdecimal() or int(text) < least:
            raise InputError(f"--{name.replace('_', '-')}", f"a whole number, {least} or more", repr(text))
        values[name] = int(text)
    values |= {"task": args.task, "filter": task_filter}
    if kind is OpenAiProtocol:
        for name in kind.not_locked.split():
            values.pop(name, None)
    return kind(**values, choice_order_seed=values["seed"], tokenizer=tokenizer, llama_cpp=llama_cpp)


def recorded_protocol(path: Path, values: dict) -> Protocol:
    """Return the protocol of a record; raise InputError when it lacks a value or has one of another type."""
    protocol = OpenAiProtocol if "backend" in values else Protocol
    for field in fields(protocol):
        kind, value = type(field.default), values.get(field.name)
        if type(value) is not kind:
            found = shown(value) if field.name in values else "none"
            raise InputError(path, f"a protocol whose {field.name!r} is of type {kind.__name__}", found)
    if unknown := sorted(values.keys() - {field.name for field in fields(protocol)}):
        raise InputError(path, "the values of scoring/eval_protocol.py", shown(unknown[0]))
    return protocol(**values)


def locked_values() -> dict[str, object]:
    """Return the values that every protocol has, by name."""
    free = {*OPEN, *VERSIONS, "choice_order_seed"}
    return {field.name: field.default for field in fields(Protocol) if field.name not in free}


def first_differing_key(expected: dict, found: dict) -> str | None:
    """Return the first key with different values in two protocols, or None."""
    return next((key for key in {**expected, **found} if expected.get(key) != found.get(key)), None)
