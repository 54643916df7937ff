"""One llama-server of our own: started on a socket in a folder of its own, watched, restarted, stopped.

Only the process that was started here is ever stopped. It dies with its parent (Linux), so that a killed evaluation
leaves no server running. It listens where no other user can connect: whoever can connect to a port keeps llama-server
from answering by some hundred requests that never end, and no key is in the way. It serves only who knows its key,
which is made anew at each start. The key goes through the environment, since everybody can read a command line.
"""

import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from files.command_start import HUB_TOKENS, dying_with_parent, without_modes
from files.input_errors import InputError, no_link
from llama.llama_tools import last_words
from llama.socket_folder import SOCKET, socket_folder
from llama.template_check import check_gguf_template

LOAD_TIMEOUT_SECONDS = 1800  # 50 GB from a slow disk
# Once the weights are loaded, llama-server tries the file's chat template, without limits: a moment, or for ever.
WEIGHTS_LOADED = b"load_model: initializing, n_slots"
TEMPLATE_SECONDS, TEMPLATE_BYTES = 120, 4 << 30
# Told to stop, llama-server waits for ever for the request that it no longer works on, and so would whoever has asked.
STOPPING = b"cleaning up before exit"
WATCH_SECONDS = 2.0
POLL_SECONDS = 0.05
HEALTH_SECONDS = 5
LAST_PORT = 65535
KEY_BYTES = 32
USERS_TOKENS = (*HUB_TOKENS, "OPENAI_API_KEY")  # of no use to a server of ours
SERVER_KEY = "SERVER_KEY"  # of a server that is not ours; SERVER_KEY_2 that of the second one
# Of one answer. A thought of 24,576 tokens takes 100 KB. A record of 198 of the largest in plain letters can be read.
MAX_ANSWER_BYTES = 4 << 20
# Slots show the prompts that are being worked on; metrics and the change of properties are off by themselves.
CLOSED = ("--no-ui", "--no-slots")
# llama.cpp's own, for all that a request does not say. A file's header has those of its generation_config.json
# (general.sampling.*), which would else stand in for them: a penalty of repetitions, of which no protocol says a word.
# By the name of a request's field, each with its flag.
SAMPLER_ORDER = ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"]
OWN_SAMPLERS: dict[str, tuple[str, Any]] = {
    "samplers": ("--samplers", SAMPLER_ORDER),
    "temperature": ("--temp", 0.8),
    "top_k": ("--top-k", 40),
    "top_p": ("--top-p", 0.95),
    "min_p": ("--min-p", 0.05),
    "xtc_probability": ("--xtc-probability", 0),
    "xtc_threshold": ("--xtc-threshold", 0.1),
    "repeat_last_n": ("--repeat-last-n", 64),
    "repeat_penalty": ("--repeat-penalty", 1),
    "mirostat": ("--mirostat", 0),
    "mirostat_eta": ("--mirostat-lr", 0.1),
    "mirostat_tau": ("--mirostat-ent", 5),
}


# As a header names them, where that is not a request's name.
HEADER_SAMPLERS = {"temp": "temperature", "penalty_last_n": "repeat_last_n", "penalty_repeat": "repeat_penalty"}
HEADER_SAMPLERS |= {"sequence": "samplers"}


def sampler_flags(names: Collection[str] = OWN_SAMPLERS.keys()) -> list[str]:
    """Return the flags of OWN_SAMPLERS, or of some, by the names of a request's fields."""
    words = []
    for name in OWN_SAMPLERS:
        if name in names:
            flag, value = OWN_SAMPLERS[name]
            words += [flag, ";".join(value) if isinstance(value, list) else str(value)]
    return words


def sampler_fields() -> dict[str, Any]:
    """Return OWN_SAMPLERS as fields of a request, for a server whose flags are not ours."""
    return {field: value for field, (_, value) in OWN_SAMPLERS.items()}


def server_environment(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment without those of llama-server's options that could change an answer, and without keys."""
    found = without_modes(without_server_keys(environment))
    return {key: value for key, value in found.items() if key not in USERS_TOKENS}


def without_server_keys(environment: dict[str, str]) -> dict[str, str]:
    """Return the environment without the keys of other people's servers, which no process of ours needs."""
    return {key: value for key, value in environment.items() if not key.startswith(SERVER_KEY)}


def server_command(tool: Path, gguf: Path, name: str, port: int | str, flags: list[str]) -> list[str]:
    """Return llama-server's command line; port 0 leaves the place to `LlamaServer`, which no other user can reach.

    Raises InputError when `port` is no port.
    """
    if not str(port).isdecimal() or int(port) > LAST_PORT:
        raise InputError("PORT", f"a whole number, 0 to {LAST_PORT}", repr(port))
    place = ["--host", "127.0.0.1", "--port", str(port)] if int(port) else []
    return [str(tool), "-m", str(gguf), "--alias", name, *place, *CLOSED, *sampler_flags(), *flags]


def memory_held(pid: int) -> int:
    """Return the bytes that a process holds in memory for itself alone; 0 where that cannot be told."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # no Linux, or the process has ended
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def authorization(key: str) -> dict[str, str]:
    """Return the header by which a client shows the key."""
    return {"Authorization": f"Bearer {key}"}


class SocketConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, host: str, *, path: str, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket, whatever the host is called."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class SocketHandler(urllib.request.HTTPHandler):
    """What opens http addresses, of whatever host, at a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        """Send a request."""
        return self.do_open(SocketConnection, request, path=self.path)  # type: ignore[arg-type]


def request_json(
    url: str, body: dict | None = None, timeout: float = 600, key: str = "", path: str | None = None
) -> dict:
    """GET, or POST a JSON body; return the JSON answer. Raises OSError and ValueError as urllib and json do.

    path: the server's Unix socket, if it has no port. A proxy in the environment (http_proxy) is passed by: the server
    is on this machine.
    """
    data = None if body is None else json.dumps(body).encode()
    ways = [urllib.request.ProxyHandler({}), *([SocketHandler(path)] if path else [])]
    direct = urllib.request.build_opener(*ways)
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **authorization(key)})
    try:
        with direct.open(request, timeout=timeout) as answer:
            return json.loads(answer.read(MAX_ANSWER_BYTES))
    except http.client.HTTPException as error:  # a server that was killed amid its answer
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


class LlamaServer:
    """A llama-server process and its URL. Use as a context manager; `starts` counts how often it was started.

    A command without `--host` gets a Unix socket, `socket`. With one it listens on a port, where others can keep it
    from answering.
    """

    def __init__(self, command: list[str], gguf: Path, log: Path) -> None:
        self.command, self.gguf, self.log = command, gguf, log
        self.process: subprocess.Popen | None = None
        self.url, self.starts, self.began = "", 0, 0  # began: where the log of this start begins
        self.key, self.socket = "", ""
        self.folders = ExitStack()

    def __enter__(self) -> "LlamaServer":
        if self.gguf.is_file():  # else llama-server's own words say what is wrong
            check_gguf_template(self.gguf, [])
        self.log.unlink(missing_ok=True)
        if "--host" not in self.command:
            self.socket = str(self.folders.enter_context(socket_folder()) / SOCKET)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.folders.close()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the process and wait until the model is loaded; raise InputError with its last words if it is not."""
        for _ in self.starting():
            time.sleep(POLL_SECONDS)

    def starting(self) -> Iterator[None]:
        """Start the process; yield until the model is loaded, as `start` does, so that others can work meanwhile.

        Call it from the main thread: Linux takes the thread for the parent that a child dies with.
        """
        # Whoever listens where the last one did gets no key that is still good.
        self.url, self.key = "", secrets.token_urlsafe(KEY_BYTES)
        if self.socket:
            Path(self.socket).unlink(missing_ok=True)  # the last one's: a socket is not bound over another
        with open(self.log, "ab", opener=no_link) as log:
            begin = self.began = log.tell()
            self.process = subprocess.Popen(
                [*self.command, *(["--host", self.socket] if self.socket else [])],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=server_environment(dict(os.environ)) | {"LLAMA_API_KEY": self.key},
                preexec_fn=dying_with_parent(),
                start_new_session=True,  # Ctrl-C is for the script, which stops the server
            )
        self.starts += 1
        deadline, tried = time.monotonic() + LOAD_TIMEOUT_SECONDS, None
        while not self._loaded(begin):
            if self.process.poll() is not None:
                raise self._refusal(self._said_since(begin).decode(errors="replace"), self.process.returncode)
            if time.monotonic() > deadline:
                self.stop()
                found = "it still loading, or kept busy by others"
                raise InputError(self.gguf, f"to be loaded after {LOAD_TIMEOUT_SECONDS} s", found)
            tried = self._watch_template(begin, tried)
            yield

    def _watch_template(self, begin: int, tried: tuple[float, int] | None) -> tuple[float, int] | None:
        """Stop a server that its chat template keeps; return the time and memory when it began with that, if it did."""
        assert self.process is not None  # it was started
        held = memory_held(self.process.pid)
        if self.url:  # it listens: the template is done with, and others may keep it busy
            return None
        if tried is None:
            return (time.monotonic(), held) if WEIGHTS_LOADED in self._said_since(begin) else None
        if time.monotonic() - tried[0] > TEMPLATE_SECONDS or held - tried[1] > TEMPLATE_BYTES:
            self.stop()
            limits = f"{TEMPLATE_SECONDS} s and {TEMPLATE_BYTES >> 30} GiB"
            raise InputError(self.gguf, f"a chat template that llama-server renders within {limits}", "none that ends")
        return tried

    def _said_since(self, begin: int) -> bytes:
        """Return what the log holds from a byte on: what stood there before may be of any size."""
        with open(self.log, "rb") as log:
            log.seek(begin)
            return log.read()

    def _refusal(self, log_text: str, code: int) -> InputError:
        """Return the error of a server that ended before it served."""
        # A taken port is no fault of the model, which the other message would name.
        if not self.socket and (match := re.search(r"couldn't bind .*port: (\d+)", log_text)):
            return InputError(f"port {match[1]}", "a free port of 127.0.0.1", "one that is taken", "leave PORT out")
        found = f"exit code {code}: {last_words(log_text)}"
        return InputError(self.gguf, "a model that llama-server loads and serves", found, f"log: {self.log}")

    def _loaded(self, begin: int) -> bool:
        # The port is read from our own server's log: whoever else listens somewhere is never taken for it.
        match = re.search(rb"listening on (http://127\.0\.0\.1:\d+|unix://)", self._said_since(begin))
        if not match or not self.alive:
            return False
        self.url = "http://localhost" if self.socket else match[1].decode()
        try:
            self.request("/health", timeout=HEALTH_SECONDS)
        except (OSError, ValueError):
            return False
        return self.alive

    def request(self, path: str, body: dict | None = None, timeout: float = 600) -> dict:
        """GET a path of this server, or POST a JSON body to it; return the JSON answer, as `request_json` does.

        A server that somebody else has told to stop meanwhile is ended: then this raises ConnectionError.
        """
        answered = threading.Event()
        threading.Thread(target=self._end_when_stopping, args=[answered], daemon=True).start()
        try:
            return request_json(f"{self.url}{path}", body, timeout, self.key, self.socket or None)
        finally:
            answered.set()

    def _end_when_stopping(self, answered: threading.Event) -> None:
        """End the process when it says that it stops; come back once there is an answer."""
        while not answered.wait(WATCH_SECONDS):
            if self.process is not None and STOPPING in self._said_since(self.began):
                self.process.kill()
                return

    def stop(self) -> None:
        """Stop the process that was started here."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
