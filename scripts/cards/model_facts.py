"""What headers tell of a released model: parameters before and after the drop, experts per token, whether it thinks.

The full model is not part of a release. But all that was dropped is so many equal slices of the tensors that have an
expert axis, so its number of parameters follows from the pruned model's shapes and the two expert counts.
"""

import math
import random
import string
from collections.abc import Callable
from pathlib import Path

from cards.card_sections import GENERATION_WORDS, OLLAMA_ARCHITECTURE, ModelFacts
from cards.card_words import check_card_words
from chats.template_sandbox import TemplateFailure, render_template
from checkpoints.checkpoint import read_checkpoint
from checkpoints.moe_families import GEMMA4, expert_tensors, family_of, shape_of, text_config
from files.input_errors import InputError, read_words
from files.json_records import read_json
from ggufs.context_cache import context_length
from ggufs.gguf_header import EXPERT_TENSOR, GgufHeader, read_header
from ggufs.gguf_padding import dims_before
from ggufs.vouched_keys import SAMPLING
from llama.llama_server import HEADER_SAMPLERS
from release.gguf_parts import tensors_of

# What a chat template has if its model can think: the switch of a request, or the tags around a thought.
THOUGHT_MARKS = ("enable_thinking", "<think>", "<|channel>thought")
CHAT_TEMPLATE = "chat_template.jinja"
PROMPT_CHARACTERS = 600
DAY = "strftime_now"
# As the evaluation asks: with a thought, where the model knows thoughts.
PROMPTED: dict = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, "enable_thinking": True}


def thinks(template: str | None) -> bool:
    """Tell whether a chat template is that of a model that thinks before it answers."""
    return any(mark in (template or "") for mark in THOUGHT_MARKS)


def one_word() -> str:
    """Return a word that nobody can know beforehand."""
    letters = (random.choice(string.ascii_lowercase) for _ in range(random.randint(9, 15)))
    return "".join(letters).capitalize()


def some_sentences() -> str:
    """Return words as people write them, of any length."""
    words = [" ".join(one_word().lower() for _ in range(random.randint(3, 9))) for _ in range(random.randint(2, 5))]
    return " ".join(f"{text.capitalize()}{random.choice('.?!')}" for text in words)


def a_list() -> str:
    """Return numbers and words, a line each."""
    return "\n".join(f"{random.randint(1, 999)}. {one_word()}" for _ in range(random.randint(2, 9)))


def written_around(template: str, ask: Callable[[], str], with_system: bool) -> str:
    """Return what a template writes of a first prompt, with placeholders for the words of `ask`.

    The words are new in each run: a template could else have a text of its own for a placeholder, and for no real chat.
    """
    words = {"{system}": ask(), "{prompt}": ask()}
    chat = [{"role": "system", "content": words["{system}"]}, {"role": "user", "content": words["{prompt}"]}]
    text = render_template(template, chat if with_system else chat[1:], **PROMPTED)
    if any(placeholder in text for placeholder in words):  # the template's own
        return ""
    for placeholder, said in words.items():
        text = text.replace(said, placeholder)
    return text


def prompt_format(template: object) -> str:
    """Return a first prompt as a chat template writes it, with placeholders; "" where a card cannot show it.

    That is: without a template, when it fails, or when it writes what no card may hold or at length of its own; when it
    names the day, so that tomorrow's card would differ; and when it does not write the same around any words.
    """
    code = str(template or "")
    if DAY in code:
        return ""
    for with_system in (True, False):  # not every model knows a system's words
        try:
            texts = {written_around(code, ask, with_system) for ask in (one_word, some_sentences, a_list)}
        except TemplateFailure:
            continue
        text = texts.pop()
        shown_whole = "{prompt}" in text and "`" not in text and len(text) <= PROMPT_CHARACTERS
        try:
            return check_card_words("chat template", text).strip("\n") if shown_whole and not texts else ""
        except InputError:
            return ""
    return ""


def is_for_ollama(gguf: Path) -> bool:
    """Tell whether Ollama's files are made for a GGUF file, by its architecture."""
    return read_header(gguf).architecture == OLLAMA_ARCHITECTURE


def before_the_drop(after: int, with_experts: int, kept: int, experts: int) -> int:
    """Return the number of parameters before the drop; with_experts: how many lie in tensors with an expert axis."""
    return after + with_experts // kept * (experts - kept)


def gguf_facts(first: Path, kept: int, experts: int) -> ModelFacts:
    """Return the facts of a GGUF file, of a split one by its first part; kept, experts: per layer, after and before."""
    header, sizes, with_experts = read_header(first), 0, 0
    for name, (_, tensor) in tensors_of(first).items():
        count = math.prod(dims_before(header, name, tensor.dims))
        sizes += count
        if EXPERT_TENSOR.match(tensor.name) and tensor.dims[-1] == kept:  # the slowest axis comes last
            with_experts += count
    return ModelFacts(
        header.architecture,
        sizes,
        before_the_drop(sizes, with_experts, kept, experts),
        header.value(f"{header.architecture}.expert_used_count"),
        thinks(header.value("tokenizer.chat_template")),
        header.value(f"{header.architecture}.attention.key_length") or 0,
        context_length(header) or 0,
        prompt_format(header.value("tokenizer.chat_template")),
        samplers_of(header),
    )


def samplers_of(header: GgufHeader) -> tuple[str, ...]:
    """Return the samplers that a header sets, which a server would take where a command does not say them."""
    names = (pair.key.removeprefix(SAMPLING) for pair in header.key_values if pair.key.startswith(SAMPLING))
    return tuple(HEADER_SAMPLERS.get(name, name) for name in names)


def checkpoint_facts(folder: Path, experts: int) -> ModelFacts:
    """Return the facts of a pruned checkpoint; experts: per layer, before the drop."""
    config, tensors = read_json(folder / "config.json"), read_checkpoint(folder)
    family = family_of(folder, config, list(tensors))
    shape = shape_of(folder, family, config)
    counts = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    with_experts = sum(counts[name] for name in expert_tensors(folder, family, tensors, shape))
    text = text_config(config)
    template, total = folder / CHAT_TEMPLATE, sum(counts.values())
    place = folder / "generation_config.json"
    generation = read_json(place) if place.is_file() else {}
    return ModelFacts(
        OLLAMA_ARCHITECTURE if family is GEMMA4 else config["model_type"],
        total,
        before_the_drop(total, with_experts, shape.experts, experts),
        shape.top_k,
        thinks(read_words(template) if template.is_file() else None),
        max(text.get("head_dim") or 0, text.get("global_head_dim") or 0),
        text.get("max_position_embeddings") or 0,
        samplers=tuple(name for name, word in GENERATION_WORDS.items() if word in generation),
    )
