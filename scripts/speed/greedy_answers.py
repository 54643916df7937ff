"""Greedy answers of llama-server with their times, to compare two ways of running a model."""

import tempfile
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chats.questions import Question
from files.input_errors import InputError
from llama.drafting import drafted_and_accepted
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from scoring.answer_classes import is_parser_error

from tqdm import tqdm

LONGEST = 3 * 3600  # seconds of an answer: 24,576 tokens without a GPU
# Without the prompt's cache: a part of a prompt that is not computed again would be computed in other pieces.
GREEDY = {"temperature": 0, "top_k": 1, "seed": 1, "cache_prompt": False}
WARM_UP_TOKENS = 8


@dataclass(frozen=True)
class Greedy:
    """An answer: thought and text, the text alone, tokens, milliseconds, and tokens drafted and accepted."""

    whole: str
    text: str
    tokens: int
    ms: float
    drafted: int
    accepted: int


def speed_of(answers: list[Greedy]) -> float:
    """Return tokens per second over all answers."""
    return 1000 * sum(answer.tokens for answer in answers) / sum(answer.ms for answer in answers)


def ask_chat(server: LlamaServer, question: Question, most: int) -> tuple[dict, str, str]:
    """Return the server's times of a greedy answer, thought and text, and the text alone.

    One that its parser does not read is asked for as plain text, which is no answer to the question.
    """
    messages = [{"role": "user", "content": question.prompt}]
    try:
        answer = server.request("/v1/chat/completions", {"messages": messages, "max_tokens": most, **GREEDY}, LONGEST)
    except urllib.error.HTTPError as error:
        words = f"HTTP {error.code}: {error.read()[:200].decode(errors='replace')}"
        if not is_parser_error(words):
            raise InputError(server.gguf, f"an answer to {question.record_id}", words) from error
        prompt = server.request("/apply-template", {"messages": messages})["prompt"]
        answer = server.request("/completion", {"prompt": prompt, "n_predict": most, **GREEDY}, LONGEST)
        return answer["timings"], answer["content"], ""
    message = answer["choices"][0]["message"]
    text = message.get("content") or ""
    return answer["timings"], f"{message.get('reasoning_content') or ''}\n{text}", text


def ask_greedily(server: LlamaServer, question: Question, most: int) -> Greedy:
    """Return a greedy answer of at most so many tokens; raise InputError when there is none."""
    try:
        times, whole, text = ask_chat(server, question, most)
        tokens, ms = int(times["predicted_n"]), float(times["predicted_ms"])
    except (OSError, ValueError, KeyError, IndexError) as error:
        expected = f"an answer to {question.record_id}"
        raise InputError(server.gguf, expected, f"{type(error).__name__}: {error}"[:200]) from error
    return Greedy(whole, text, tokens, ms, *drafted_and_accepted(times))


def greedy_answers(
    tools: LlamaCpp, gguf: Path, questions: list[Question], most: int, flags: list[object]
) -> Iterator[Greedy]:
    """Start a llama-server with these flags and yield its answer to every question."""
    every = ["-np", "1", "--reasoning-format", "deepseek", "--cache-ram", "0", *map(str, flags)]
    command = server_command(tools.tool("llama-server"), gguf, gguf.stem, 0, every)
    with tempfile.TemporaryDirectory() as folder, LlamaServer(command, gguf, Path(folder) / "server.log") as server:
        ask_greedily(server, questions[0], WARM_UP_TOKENS)  # the first answer of a server is slower
        for question in tqdm(questions, desc=gguf.stem, leave=False):
            yield ask_greedily(server, question, most)
