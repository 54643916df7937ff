"""A llama-server of our own that somebody else tells to stop."""

import os
import signal
import threading
import time

from llama.llama_server import LlamaServer, server_command
from shared_ggufs import demo_ggufs

import pytest


def test_a_request_ends_when_somebody_stops_the_server(tools, tmp_path, tmp_path_factory):
    gguf = demo_ggufs(tmp_path_factory) / "F16.gguf"
    command = server_command(tools.tool("llama-server"), gguf, "demo", 0, ["-np", "1", "-c", "4096"])
    with LlamaServer(command, gguf, tmp_path / "server.log") as server:
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
