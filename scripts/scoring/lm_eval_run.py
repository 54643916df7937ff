"""lm-eval's command line, its environment, and one run of it beside something that may end the run."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from files.command_start import dying_with_parent
from files.input_errors import InputError, no_link
from files.json_records import sha256_json
from llama.llama_server import without_server_keys
from llama.llama_tools import last_words
from scoring.eval_protocol import OpenAiProtocol, Protocol
from scoring.eval_tasks import frozen_name, task_of

OWN_TASK = str(Path(__file__).with_name("lm_eval_own_task.py"))
LM_EVAL_TIMEOUT_SECONDS = 10**7  # the proxy keeps the time
CONNECT_ATTEMPTS = 3


def check_lm_eval_values(name: str, tokenizer: str) -> None:
    """Raise InputError on a name or tokenizer that would fall apart in lm-eval's list of key=value pairs."""
    if not re.fullmatch(r"[\w./-]+", name):
        raise InputError("NAME", "letters, digits, dots, dashes and slashes", repr(name))
    if set(tokenizer) & set(",="):
        raise InputError("TOKENIZER", "a path or Hub id without , and =", repr(tokenizer))


def request_digest(document: dict, protocol: Protocol, shots: list[dict]) -> str:
    """Return the digest of the request that lm-eval's local-chat-completions sends for a question, without the model.

    document: the frozen question; shots: the frozen few shots of a task that has them.
    """
    task = task_of(protocol.task)
    body: dict[str, object] = {
        "messages": task.messages(document, shots),
        "max_tokens": protocol.max_gen_toks,
        "temperature": protocol.temperature,
        "stop": list(task.stop),
        "seed": protocol.seed,
        "top_p": protocol.top_p,
    }
    if not isinstance(protocol, OpenAiProtocol):
        body |= {"top_k": protocol.top_k, "dry_multiplier": protocol.dry_multiplier}
    return sha256_json(body)


def lm_eval_command(
    name: str, url: str, protocol: Protocol, tokenizer: str, task_folder: Path, output: Path, places: int
) -> list[str]:
    """Return lm-eval's command line: no cache, and attempts for connections that were closed before the proxy heard it.

    All other attempts are the proxy's, which asks again and remembers.
    places: how many requests the servers take at once. lm-eval sends one more, which waits in the proxy: so a server
    gets its next question the moment it has answered one, not after lm-eval has made another request.
    """
    model = (
        f"model={name},base_url={url},num_concurrent={places + 1},max_retries={CONNECT_ATTEMPTS},"
        f"timeout={LM_EVAL_TIMEOUT_SECONDS},tokenizer_backend=huggingface,tokenizer={tokenizer}"
    )
    options = {
        "--model": protocol.model,
        "--model_args": model,
        "--include_path": _as_argument(task_folder),
        "--tasks": frozen_name(protocol.task),
        "--gen_kwargs": protocol.gen_kwargs,
        "--seed": str(protocol.seed),
        "--output_path": _as_argument(output),
    }
    values = [part for option in options.items() for part in option]
    # -P keeps this folder out of the places where lm-eval finds its own modules.
    return [sys.executable, "-P", OWN_TASK, "run", *values, "--apply_chat_template", "--log_samples"]


def _as_argument(path: Path) -> str:
    """Return a path that lm-eval takes neither for an option (-x) nor for one in a home folder (~)."""
    return str(path) if path.is_absolute() else f"./{path}"


def lm_eval_environment(environment: dict[str, str], datasets_cache: Path, key: str) -> dict[str, str]:
    """Return the environment of an lm-eval run: few words, a cache of its own, no proxy before 127.0.0.1, the key.

    lm-eval sends OPENAI_API_KEY to the server that it asks. Here that is ours, so the user's own key stays out of it.
    """
    # aiohttp and requests read either spelling; the proxy of a company would get the requests to this machine.
    direct = ",".join(filter(None, (environment.get("no_proxy") or environment.get("NO_PROXY"), "127.0.0.1")))
    return without_server_keys(environment) | {
        "LMEVAL_LOG_LEVEL": "WARNING",
        "OPENAI_API_KEY": key,
        "HF_DATASETS_CACHE": str(datasets_cache),
        "no_proxy": direct,
        "NO_PROXY": direct,
    }


async def run_lm_eval(command: list[str], environment: dict[str, str], log: Path, failure: asyncio.Future) -> None:
    """Run lm-eval to its end; raise what `failure` holds once it is set, or InputError when lm-eval fails."""
    with open(log, "wb", opener=no_link) as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            preexec_fn=dying_with_parent(),
            start_new_session=True,  # Ctrl-C is for the script, which ends lm-eval itself
        )
    done = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({done, failure}, return_when=asyncio.FIRST_COMPLETED)
        if failure.done():
            failure.result()
    finally:
        if not done.done():
            process.kill()
        code = await done
    if code < 0:
        raise InputError("lm-eval", "success", f"it killed by signal {-code}", "the same command goes on")
    if code > 0:
        words = last_words(log.read_text(errors="replace"))
        raise InputError("lm-eval", "success", f"exit code {code}: {words}", f"log: {log}")
