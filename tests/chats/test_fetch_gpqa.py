"""GPQA Diamond from the Hub, with the real client against a small HTTP server in the Hub's place."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from conftest import REPO
from files.safe_files import partial_directory

import pytest

REVISION = "0" * 40
TEXT = (REPO / "data/demo/eval_questions.csv").read_bytes()


class Hub(BaseHTTPRequestHandler):
    """One dataset file; `gated` says whether the caller has access."""

    gated = False

    def do_HEAD(self):
        self.send_response(403 if self.gated else 200)
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", "0" if self.gated else str(len(TEXT)))
        if self.gated:
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("X-Error-Message", "Access to this dataset is restricted.")
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        if not self.gated:
            self.wfile.write(TEXT)

    def log_message(self, *_):
        pass


@pytest.fixture
def fetch(script, tmp_path):
    """Run fetch_gpqa.py against a Hub of our own, whose client keeps what it keeps in tmp_path/home."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()  # polls for its end every 10 ms
        yield lambda offline=0: script(
            "fetch_gpqa.py",
            "--output",
            tmp_path / "build/gpqa_diamond.csv",
            HF_HUB_OFFLINE=offline,
            HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
            HF_HOME=tmp_path / "home",
            HF_TOKEN="",
        )
        hub.shutdown()


def test_the_text_lies_in_the_output_and_nowhere_else(fetch, tmp_path):
    done = fetch()
    assert done.returncode == 0 and "198 questions" in done.stdout, done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and TEXT[:100] in path.read_bytes()] == [
        tmp_path / "build/gpqa_diamond.csv"
    ]
    beside = tmp_path / "build/gpqa_diamond.csv.json"
    assert {path.name for path in (tmp_path / "build").iterdir()} == {"gpqa_diamond.csv", beside.name}
    record = json.loads(beside.read_text())
    assert record["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert record["url"].startswith("http://127.0.0.1:")  # a mirror's: no card credits GPQA's authors with its file


def test_what_lies_where_the_download_goes_is_none(fetch, tmp_path, refused, monkeypatch):
    """The client takes a file that is there for the download where it cannot reach the Hub."""
    folder = partial_directory(tmp_path / "build/gpqa_diamond.csv")
    folder.mkdir(parents=True)
    (folder / "gpqa_diamond.csv").write_bytes(TEXT)
    monkeypatch.setattr(Hub, "gated", True)
    refused(fetch(), "access to the gated dataset")
    assert not (tmp_path / "build/gpqa_diamond.csv").exists()


@pytest.mark.parametrize("offline", [0, 1])
def test_what_lies_in_the_hubs_own_cache_is_none(fetch, tmp_path, refused, offline):
    """The client takes a file of the asked revision from there, without a look at its bytes."""
    cache = tmp_path / "home/hub/datasets--Idavidrein--gpqa"
    false = cache / "snapshots" / REVISION / "gpqa_diamond.csv"
    false.parent.mkdir(parents=True)
    false.write_bytes(TEXT.replace(b"?", b"!"))
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(REVISION)
    done = fetch(offline)
    if offline:
        refused(done, "the Hub: expected to be asked", "HF_HUB_OFFLINE", "a cache")
        assert not list(tmp_path.glob("build/*"))
    else:
        assert done.returncode == 0 and (tmp_path / "build/gpqa_diamond.csv").read_bytes() == TEXT, done.stderr


def test_without_access_the_message_says_how_to_get_it(fetch, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(Hub, "gated", True)
    refused(fetch(), "access to the gated dataset", "accept its terms", "hf auth login")
    assert not list(tmp_path.glob("build/*"))


def test_a_server_that_is_no_hub_is_refused_in_one_line(fetch, tmp_path, refused, monkeypatch):
    monkeypatch.setattr(Hub, "do_HEAD", lambda hub: hub.wfile.write(b"HTTP/1.1 200000 x\r\n\r\n"))
    refused(fetch(), "access to the gated dataset", "RemoteProtocolError")
    assert not list(tmp_path.glob("build/*"))


def test_a_directory_in_the_place_of_the_file_is_refused_before_the_record_is_written(fetch, tmp_path, refused):
    (tmp_path / "build/gpqa_diamond.csv").mkdir(parents=True)
    refused(fetch(), "expected a file to write, found a directory")
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["gpqa_diamond.csv"]
