"""What a llama-server serves, checked against the model that is evaluated: before it is asked, and when it comes back.

A server tells its build, chat template, number of weights, context and slots (/props, /v1/models). Two prunings of one
model have all of them alike. So each server writes a few tokens of a fixed text, too, and the log-probabilities must be
the same to the last bit as those of the first one: else an answer would depend on the server that gave it.
"""

import asyncio
import hashlib
import re
from math import prod
from pathlib import Path
from urllib.parse import urlsplit

from files.input_errors import InputError
from files.json_records import sha256_json
from files.known_digests import known_sha256, sha256_now
from ggufs.gguf_header import read_header
from llama.llama_server import sampler_fields
from llama.template_check import TEMPLATE_KEY
from scoring.eval_protocol import Protocol
from scoring.server_pool import NO_ANSWER, NO_COMPLETION, AskedServer, ServerPool

CHECK_SECONDS = 120
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of many fields and several languages, so that it reaches many experts.
PROBE = (
    "The enzyme binds its substrate, and 17 * 23 = 391. Le chat dort. for (int i = 0; i < n; i++) sum += x[i]; "
    "Die Wellenfunktion ist normiert. In 1848 the barricades went up, whereas the yield of the reaction was 62 %. "
)
PROBE_REQUEST = {"prompt": PROBE, "n_predict": 4, "n_probs": 8, "temperature": 0, "cache_prompt": False}
# What a request says where the flags of a server are not ours to set.
WORDS = {
    "build": "the llama.cpp build {}",
    "digest": "the model with sha256 {:.12}",
    "template": "the model's chat template (sha256 {:.12})",
    "parameters": "a model of {} weights",
    "context": "{} tokens of context for each request",
    "slots": "{} slots",
    "numbers": "the log-probabilities of the first server ({:.12})",
}
ADVICE = {
    "build": "run the llama-server of the same version everywhere",
    "context": "start it with -c CTX times NP and -np NP",
    "slots": "start it with -c CTX times NP and -np NP",
    "numbers": "another model, or other hardware: one of both gives other answers",
}


def build_of(version: str) -> str | None:
    """Return the build as /props names it from what llama-server --version prints; None where that has another form."""
    found = re.search(r"build (\d+), commit (\w+)|version: (\d+) \((\w+)\)", version)
    return "b{}-{}".format(*filter(None, found.groups())) if found else None


def worded(body: dict, protocol: Protocol) -> dict:
    """Return a request with the fields that say what the flags of a server of ours say."""
    return {
        **sampler_fields(),
        **body,
        "reasoning_format": protocol.reasoning_format,
        "thinking_budget_tokens": protocol.reasoning_budget,
        "cache_prompt": not protocol.no_prompt_cache,
    }


class ServedModel:
    """What every server has to serve; the first one that is checked adds the numbers of its probe."""

    def __init__(self, gguf: Path, protocol: Protocol) -> None:
        header = read_header(gguf)
        template, build = header.value(TEMPLATE_KEY), build_of(protocol.llama_cpp)
        self.expected: dict[str, object] = {
            **({"build": build} if build else {}),
            "digest": known_sha256(gguf),
            **({"template": _sha256(str(template))} if template else {}),
            "parameters": sum(prod(tensor.dims) for tensor in header.tensors),
            "context": protocol.context,
            "slots": protocol.concurrency,
        }

    async def check(self, pool: ServerPool, server: AskedServer) -> None:
        """Raise InputError, which names the server, when it cannot be asked or serves anything else."""
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                found, path = await served(pool, server)
        except TimeoutError as error:
            raise InputError(server.name, f"an answer within {CHECK_SECONDS} s", "none") from error
        except (*NO_ANSWER, *NO_COMPLETION) as error:
            raise InputError(server.name, "a llama-server that answers", f"{error or type(error).__name__}") from error
        # Of a server on this machine that is not ours the file itself can be read.
        here = server.own is None and urlsplit(server.url).hostname in LOOPBACK
        if here and path.is_absolute() and path.is_file():
            found = {"digest": await asyncio.to_thread(sha256_now, path), **found}
        for key, value in found.items():
            expected = self.expected.setdefault(key, value)
            if value != expected:
                advice = ADVICE.get(key, "serve the evaluated file there, or leave the server out")
                raise InputError(server.name, WORDS[key].format(expected), str(value)[:12], advice)


async def served(pool: ServerPool, server: AskedServer) -> tuple[dict[str, object], Path]:
    """Return what a server serves, by the keys of WORDS, and the file's path there. Raises NO_ANSWER, NO_COMPLETION."""
    props = await pool.request(server, "/props")
    (model,) = (await pool.request(server, "/v1/models"))["data"]
    written = await pool.request(server, "/completion", PROBE_REQUEST)
    numbers = [
        [[one["id"], one["logprob"]] for one in token["top_logprobs"]] for token in written["completion_probabilities"]
    ]
    found = {
        "build": props["build_info"],
        "template": _sha256(props["chat_template"]),
        "parameters": model["meta"]["n_params"],
        "context": props["default_generation_settings"]["n_ctx"],
        "slots": props["total_slots"],
        "numbers": sha256_json(numbers),
    }
    return found, Path(props["model_path"])


def _sha256(template: str) -> str:
    return hashlib.sha256(template.rstrip("\n").encode()).hexdigest()  # llama-server drops a line end at its end
