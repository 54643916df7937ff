"""The commands of a card that run a release: llama.cpp, Ollama, transformers. Each can be pasted as it stands."""

import shlex

from cards.card_sections import GENERATION_WORDS, Release, section
from llama.llama_server import OWN_SAMPLERS, sampler_flags
from ollama.ollama_files import ollama_note, wrap_commands
from release.manifest import CHECKPOINT, STANDARD
from scoring.eval_protocol import Protocol

LLAMA_SAMPLING = {
    "temperature": "--temp",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "dry_multiplier": "--dry-multiplier",
    "seed": "--seed",
}
TRANSFORMERS_SAMPLING = ("temperature", "top_p", "top_k")
NEW_TOKENS = 512
FLASH_ATTENTION_MOST = 256  # values per head that flash attention can do
PORT = 8080  # llama-server's own default, which the example of a request needs


def protocol_of_card(release: Release) -> dict:
    """Return the protocol that the release was scored under; of a model that thinks, without scores, the locked one."""
    if release.scores:
        return release.scores["protocol"]
    # The locked values are those of Gemma 4: another family without scores is run with llama.cpp's own.
    return vars(Protocol()) if release.facts.for_ollama else {}


def context_and_budget(release: Release, protocol: dict) -> tuple[int, int]:
    """Return the context of the commands and the thought's share of it, in tokens.

    They are the protocol's, as far as the model's own context reaches. Where that is shorter, half is for the thought.
    """
    context = protocol.get("context", Protocol.context)
    budget = protocol.get("reasoning_budget", Protocol.reasoning_budget)
    longest = release.facts.longest_context or context
    return (context, budget) if context <= longest else (longest, min(budget, longest // 2))


def server_flags(release: Release) -> str:
    """Return llama-server's flags: context, layers on the GPU, the protocol's sampling, the budget of a thought."""
    protocol = protocol_of_card(release)
    context, budget = context_and_budget(release, protocol)
    sampling = [f"{flag} {protocol[name]}" for name, flag in LLAMA_SAMPLING.items() if name in protocol]
    # Of the others every evaluation has llama.cpp's own; the file's header would set them.
    others = sampler_flags({*release.facts.samplers} - protocol.keys()) if sampling else []
    sampling += [shlex.join(others)] if others else []
    thought = [f"--reasoning-format deepseek --reasoning-budget {budget}"] if release.facts.thinks else []
    return " \\\n    ".join([f"-c {context} -ngl 99", *thought, *([" ".join(sampling)] if sampling else [])])


def budget_text(release: Release) -> str:
    """Return why the reasoning budget matters; "" for a model that does not think."""
    if not release.facts.thinks:
        return ""
    _, budget = context_and_budget(release, protocol_of_card(release))
    return (
        f"Keep `--reasoning-budget`: it ends a thought after {budget:,} tokens. Without it the model can think in "
        "circles over a hard question until the context is full, and then there is no answer at all. "
        "`--reasoning-format deepseek` puts the thought into `reasoning_content`, apart from the answer."
    )


def prompt_text(release: Release) -> str:
    """Return the prompt format, for who writes prompts by hand; "" where it is not known."""
    if not release.facts.prompt:
        return ""
    thought = ", with a thought" if release.facts.thinks else ""
    return (
        f"**Prompt format{thought}.** The servers write it themselves. By hand, after the first token that llama.cpp "
        f"adds:\n\n```text\n{release.facts.prompt}\n```"
    )


def llama_cpp_text(release: Release) -> str:
    """Return how llama.cpp fetches and serves a file, and one request to it."""
    files = release.example["files"]
    first, repository = files[0], release.hub_id(release.repository)
    flags = server_flags(release)
    request = '{"messages": [{"role": "user", "content": "What is rust?"}]}'
    same = " The sampling flags are those of the evaluation:" if release.scores else ""
    return "\n\n".join(
        part
        for part in (
            f"**llama.cpp** fetches the file itself{'.' if same else ':'}{same}",
            f"```sh\nllama-server -hf {repository} --hf-file {first} \\\n    {flags}\n```",
            "Or fetch it first, and then serve it from the disk:",
            f"```sh\nhf download {repository} {' '.join(files)} --local-dir .\n"
            f"llama-server -m {first} \\\n    {flags}\n```",
            "The server answers in OpenAI's form:",
            f"```sh\ncurl http://localhost:{PORT}/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            f"    -d '{request}'\n```",
            budget_text(release),
        )
        if part
    )


def ollama_text(release: Release) -> str:
    """Return how Ollama runs a file of this repository; "" for a family that Ollama's files are not made for."""
    record, repository = release.example, release.hub_id(release.repository)
    if not release.facts.for_ollama:
        return ""
    if len(record["files"]) > 1:
        return "**Ollama** does not take files in parts. Join them first, with `llama-gguf-split --merge`."
    name = record["files"][0]
    by_size = sorted(release.records.values(), key=lambda other: (-other["bytes"], other["type"]))
    whole = [other["files"][0] for other in by_size if len(other["files"]) == 1]
    drafts = [release.draft["file"]] if release.draft else []
    one = wrap_commands(release.name, [name, *drafts], {}, repository)
    every = wrap_commands(release.name, [*whole, *drafts], {}, repository)
    model = f"{release.name.lower()}:{record['type']}"
    sees = any("vision" in record["towers"] for record in release.mmproj.values())
    able = f"complete,{' see pictures,' if sees else ''} think and call tools"
    return (
        f"**Ollama** fetches it, too:\n\n```sh\nollama run hf.co/{repository}:{name}\n```\n\n"
        f"{ollama_note(bool(drafts))}\n\n```sh\n{one}ollama run {model}\n```\n\nThe wrapped model can {able}: "
        f"tool calls come back in `tool_calls`. `ollama show {model}` lists these capabilities.\n\n"
        f"<details><summary>Wrap commands, one pair per file</summary>\n\n```sh\n{every}```\n\n</details>"
    )


def transformers_text(release: Release, repository: str) -> str:
    """Return the Python program that loads a checkpoint's repository and answers a question, and what it needs."""
    protocol, eager = protocol_of_card(release), release.facts.widest_head > FLASH_ATTENTION_MOST
    values = {name: protocol[name] for name in TRANSFORMERS_SAMPLING if name in protocol}
    if values:
        own = GENERATION_WORDS.keys() & {*release.facts.samplers}
        values |= {GENERATION_WORDS[name]: OWN_SAMPLERS[name][1] for name in sorted(own)}
    sampling = "".join(f", {name}={value}" for name, value in values.items())
    attention = ', attn_implementation="eager"' if eager else ""
    why = f"\n\nHeads wider than {FLASH_ATTENTION_MOST} values need eager attention." if eager else ""
    return f"""**transformers** runs the checkpoint; `pip install torch transformers accelerate` brings what it needs:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = "{repository}"
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto", device_map="auto"{attention})
tokenizer = AutoTokenizer.from_pretrained(name)
chat = [{{"role": "user", "content": "What is rust?"}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
inputs = inputs.to(model.device)
answer = model.generate(**inputs, max_new_tokens={NEW_TOKENS}, do_sample=True{sampling})
print(tokenizer.decode(answer[0][inputs["input_ids"].shape[1]:], skip_special_tokens=True))
```{why}"""


def convert_text(release: Release) -> str:
    """Return how to make a GGUF file of the checkpoint."""
    name, repository = release.name, release.hub_id(release.repository)
    return (
        "To convert it yourself, beside a build of llama.cpp:\n\n"
        f"```sh\nhf download {repository} --local-dir {name}\n"
        f"python llama.cpp/convert_hf_to_gguf.py {name} --outtype f16 --outfile {name}-F16.gguf\n"
        f"llama.cpp/build/bin/llama-quantize {name}-F16.gguf {name}-Q6_K.gguf Q6_K\n```"
    )


def run_ggufs_section(release: Release) -> str:
    """Return how to run a repository of GGUF files."""
    checkpoint = release.siblings.get(CHECKPOINT)
    transformers = transformers_text(release, release.hub_id(checkpoint)) if checkpoint else ""
    return section("Run it", llama_cpp_text(release), ollama_text(release), transformers, prompt_text(release))


def run_checkpoint_section(release: Release) -> str:
    """Return how to run a checkpoint's repository."""
    ggufs = release.siblings.get(STANDARD)
    elsewhere = f"**llama.cpp and Ollama** run the GGUF files of {release.link(ggufs)}." if ggufs else ""
    code = transformers_text(release, release.hub_id(release.repository))
    return section("Run it", code, elsewhere, convert_text(release))
