"""What the Hub's client takes from the environment: an odd proxy or token file is refused in one line, none shown."""

import os
import re
import subprocess
import sys

from conftest import REPO

import pytest

ASKING = {
    "check_machine.py": ["--model", "google/a-model", "--questions", "gpqa", "--build"],
    "fetch_model.py": ["--model", "google/a-model", "--output"],
    "fetch_gpqa.py": ["--output"],
}


def asked(command: str, place, **environment: str) -> subprocess.CompletedProcess:
    given = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    given |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9", **environment}
    line = [sys.executable, REPO / "scripts" / command, *ASKING[command], place / "there"]
    return subprocess.run(line, capture_output=True, text=True, env=given)


@pytest.mark.parametrize("command", ASKING)
@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1080", "http://u:CANARY/pw@127.0.0.1:9", "foo://x", "http://\x01"]
)
def test_a_proxy_that_cannot_be_used_is_said_in_words_of_ours(command, proxy, tmp_path):
    done = asked(command, tmp_path, ALL_PROXY=proxy)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, said
    assert re.search(r"ALL_PROXY: expected (proxies|a proxy) as http://HOST:PORT", said), said
    assert "CANARY" not in said and not (tmp_path / "there").is_file()


def test_of_several_proxies_the_one_that_cannot_be_used_is_named(tmp_path):
    """A desktop sets all of them."""
    done = asked("fetch_gpqa.py", tmp_path, HTTPS_PROXY="http://127.0.0.1:9", ALL_PROXY="socks://127.0.0.1:9")
    assert done.stderr.startswith("error: ALL_PROXY: expected proxies as ") and "; unset ALL_PROXY" in done.stderr


def test_a_token_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "token").write_bytes(bytes(range(128, 228)))
    done = asked("check_machine.py", tmp_path, HF_TOKEN_PATH=str(tmp_path / "token"), HF_TOKEN="")
    assert done.returncode == 1 and f"{tmp_path}/token: expected a token, as `hf auth login` writes it" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
