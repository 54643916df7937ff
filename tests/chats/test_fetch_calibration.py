"""The calibration text's download: recorded digest, same bytes or none, refusals. No network: a local server."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import fetch_calibration
from files.input_errors import sha256_file
from files.written_records import write_json

import pytest

POLL_SECONDS = 0.01  # how soon the server sees that it shall stop; 0.5 s otherwise
TEXT = ("A line of text to calibrate on, with ümlauts.\n" * 3000).encode()


@pytest.fixture
def site(tmp_path) -> Iterator[tuple[str, Path]]:
    """A server of a folder on 127.0.0.1: its URL, the folder."""
    folder = tmp_path / "site"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def test_the_text_and_its_digest_are_kept(site, tmp_path):
    url, folder = site
    (folder / "v5.txt").write_bytes(TEXT)
    fetch_calibration.main(["--url", f"{url}/v5.txt", "--output", str(tmp_path / "v5.txt")])
    assert (tmp_path / "v5.txt").read_bytes() == TEXT
    record = json.loads((tmp_path / "v5.txt.json").read_text())
    known = {"url": f"{url}/v5.txt", "bytes": len(TEXT), "sha256": sha256_file(folder / "v5.txt")}
    assert record == {"version": 1, **known}


def test_a_server_that_speaks_otherwise_is_refused_in_one_line(tmp_path, refusal):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"HTTP/1.1 200000 x\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v5.txt"
        refusal(fetch_calibration.main, ["--url", url, "--output", tmp_path / "v5.txt"], url, "BadStatusLine")
    assert not list(tmp_path.iterdir())


def test_a_kill_between_record_and_text_leaves_no_text_without_a_record(site, tmp_path, monkeypatch):
    url, folder = site
    (folder / "v5.txt").write_bytes(TEXT)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch_calibration, "replace_when_done", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch_calibration.main(["--url", f"{url}/v5.txt", "--output", str(tmp_path / "v5.txt")])
    assert (tmp_path / "v5.txt.json").exists() and not (tmp_path / "v5.txt").exists()


def test_other_bytes_than_recorded_or_asked_for_are_refused(site, tmp_path, refusal):
    url, folder = site
    (folder / "v5.txt").write_bytes(TEXT)
    arguments = ["--url", f"{url}/v5.txt", "--output", tmp_path / "v5.txt"]
    refusal(fetch_calibration.main, [*arguments, "--sha256", "0" * 64], "v5.txt", "0" * 64)
    assert not (tmp_path / "v5.txt").exists()
    fetch_calibration.main(list(map(str, arguments)))
    (tmp_path / "v5.txt").unlink()
    (folder / "v5.txt").write_bytes(TEXT + b"more")
    refusal(fetch_calibration.main, arguments, sha256_file(folder / "v5.txt"))
    assert {path.name for path in tmp_path.iterdir()} == {"site", "v5.txt.json"}
    for damage in ({"version": 1, "url": url, "bytes": 5, "sha256": "aaaa"}, {"sha256": "0" * 64}):
        write_json(tmp_path / "v5.txt.json", damage)  # a digest that would let any text through, or none
        refusal(fetch_calibration.main, arguments, "v5.txt.json", "the record of a downloaded file", "move it away")


def test_what_is_no_text_is_refused(site, tmp_path, refusal):
    url, folder = site
    (folder / "page.txt").write_text("<html>too many requests</html>")
    (folder / "binary.txt").write_bytes(b"\xff\xfe" * 60_000)
    for name, words in (("page.txt", "bytes or more"), ("binary.txt", "UTF-8"), ("none.txt", "404")):
        refusal(
            fetch_calibration.main, ["--url", f"{url}/{name}", "--output", tmp_path / "v5.txt"], f"{url}/{name}", words
        )
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = nobody.getsockname()[1]
    refusal(
        fetch_calibration.main,
        ["--url", f"http://127.0.0.1:{closed}/v5.txt", "--output", tmp_path / "v5.txt"],
        "CALIBRATION=FILE",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


def test_the_default_is_pinned_to_a_revision():
    assert "/raw/ce111d8971a07caebd8234ef336b2102d6c5fb85/" in fetch_calibration.CALIBRATION_V5_URL


def test_a_download_without_end_is_cut_off(site, tmp_path, refusal, monkeypatch):
    url, folder = site
    (folder / "v5.txt").write_bytes(TEXT)
    monkeypatch.setattr(fetch_calibration, "MOST_BYTES", len(TEXT) - 1)
    arguments = ["--url", f"{url}/v5.txt", "--output", tmp_path / "v5.txt"]
    refusal(fetch_calibration.main, arguments, "at most", "a longer one")
    assert not list(tmp_path.glob("v5.txt*"))
