"""A llama-server of our own that somebody else tells to stop, keeps busy, or follows at its address."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
from contextlib import ExitStack
from pathlib import Path

from calls import ON_A_PORT
from files.input_errors import InputError
from hostile_client import besieged
from llama import llama_server
from llama.llama_server import LlamaServer, request_json, server_command
from makers.served_gguf import with_keys
from makers.shared_ggufs import demo_ggufs
from scoring.eval_protocol import Protocol
from scoring.served_model import worded

import psutil
import pytest

NOBODY = 65534  # the user


def demo_server(tools, folder: Path, factory, flags: list[str] | None = None) -> LlamaServer:
    gguf = demo_ggufs(factory) / "F16.gguf"
    flags = ["-np", "1", "-c", "4096", *(flags or [])]
    return LlamaServer(server_command(tools.tool("llama-server"), gguf, "demo", 0, flags), gguf, folder / "server.log")


def ports_of(server: LlamaServer) -> list[int]:
    """The ports on which a server listens by now."""
    if server.process is None:
        return []
    connections = psutil.Process(server.process.pid).net_connections("inet")
    return [connection.laddr.port for connection in connections if connection.status == psutil.CONN_LISTEN]


def test_a_neighbour_cannot_keep_a_server_from_answering(tools, tmp_path, tmp_path_factory):
    """Without a key, by half requests to whatever port there is."""
    with demo_server(tools, tmp_path, tmp_path_factory) as server, ExitStack() as sieges:
        for port in ports_of(server):
            sieges.enter_context(besieged(port, 1500))
            time.sleep(2)
        answer = server.request("/completion", {"prompt": "a", "n_predict": 4}, timeout=5)
        assert answer["content"]


# What llama-server says, of a server that others keep busy: it takes connections, and never reads from them.
KEPT_BUSY = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
print("load_model: initializing, n_slots = 1\\nlistening on http://127.0.0.1:%d" % server.getsockname()[1], flush=True)
time.sleep(60)
"""


def test_the_template_is_not_blamed_for_a_server_that_others_keep_busy(tmp_path, monkeypatch):
    for name, seconds in (("HEALTH", 0.2), ("TEMPLATE", 0.5), ("LOAD_TIMEOUT", 2)):
        monkeypatch.setattr(llama_server, f"{name}_SECONDS", seconds)
    command = [sys.executable, "-c", KEPT_BUSY, *ON_A_PORT]
    with pytest.raises(InputError, match="still loading, or kept busy"):
        LlamaServer(command, tmp_path / "a.gguf", tmp_path / "log").__enter__()


def test_nobody_else_reaches_the_socket(tools, tmp_path, tmp_path_factory):
    with demo_server(tools, tmp_path, tmp_path_factory) as server:
        folder = Path(server.socket).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and not ports_of(server)
        if os.geteuid() == 0:
            knock = f"import socket; socket.socket(socket.AF_UNIX).connect({server.socket!r})"
            done = subprocess.run(["/usr/bin/python3", "-c", knock], user=NOBODY, cwd="/", capture_output=True)
            assert b"PermissionError" in done.stderr
    assert not folder.exists()


def test_a_folder_whose_path_is_no_sockets_is_passed_by(tools, tmp_path, tmp_path_factory, monkeypatch):
    for name in ("a,b", "long" * 30):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
        with demo_server(tools, tmp_path, tmp_path_factory) as server:
            assert server.request("/health")["status"] == "ok"


def test_a_key_is_good_for_one_start(tools, tmp_path, tmp_path_factory):
    """Whoever listens where a server has ended gets a key that opens nothing."""
    with demo_server(tools, tmp_path, tmp_path_factory) as server:
        before = server.key
        server.stop()
        server.start()
        assert server.key != before and server.request("/props")["total_slots"] == 1
        with pytest.raises(urllib.error.HTTPError, match="401"):
            request_json(f"{server.url}/props", key=before, path=server.socket)


def test_samplers_of_a_header_stand_in_for_nothing(tools, tmp_path, tmp_path_factory):
    """The converter takes them from generation_config.json; a request of ours names temperature, top_k and top_p."""
    values = {"min_p": 0.3, "penalty_repeat": 1.5, "penalty_last_n": 7, "xtc_probability": 0.5, "xtc_threshold": 0.3}
    values |= {"top_k": 3, "top_p": 0.2, "temp": 0.3, "mirostat": 2, "mirostat_tau": 1.0, "mirostat_eta": 0.9}
    keys = {f"general.sampling.{name}": value for name, value in values.items()} | {"general.sampling.sequence": "t"}
    plain = demo_ggufs(tmp_path_factory) / "F16.gguf"
    found = []
    for gguf in (plain, with_keys(plain, keys, tmp_path / "keys.gguf")):
        for flags in ("ours", "none"):
            command = server_command(tools.tool("llama-server"), gguf, "demo", 0, ["-c", "512", "-np", "1"])
            if flags == "none":
                command = [*command[: command.index("--samplers")], "-c", "512", "-np", "1"]
            with LlamaServer(command, gguf, tmp_path / "server.log") as server:
                found.append(server.request("/props")["default_generation_settings"]["params"])
                asked = server.request("/completion", worded({"prompt": "a", "n_predict": 1}, Protocol()))
                found.append(asked["generation_settings"])  # as one of a server of somebody else's is asked
    ours, asked, _, asked_plainly, kept, asked_of_kept, others, asked_of_others = found
    assert ours == kept
    names = ["min_p", "repeat_penalty", "repeat_last_n", "xtc_probability", "xtc_threshold", "mirostat", "samplers"]
    assert {*names, "top_k", "top_p", "temperature"} <= {name for name in kept if kept[name] != others[name]}
    for answer in (asked, asked_plainly, asked_of_kept, asked_of_others):
        assert [answer[name] for name in names] == [ours[name] for name in names]


def test_a_request_ends_when_somebody_stops_the_server(tools, tmp_path, tmp_path_factory):
    with demo_server(tools, tmp_path, tmp_path_factory) as server:
        assert server.process is not None
        pid = server.process.pid

        def stop_it() -> None:
            while b"processing task" not in server.log.read_bytes():
                time.sleep(0.01)
            os.kill(pid, signal.SIGTERM)

        threading.Thread(target=stop_it).start()
        with pytest.raises(OSError):  # not after the hours that an answer may take
            server.request("/completion", {"prompt": "a", "n_predict": 4000, "ignore_eos": True}, timeout=3600)
        assert server.process.wait() is not None
