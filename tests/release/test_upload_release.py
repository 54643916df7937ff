"""Uploads: what a dry run lists, what is sent, and going on after broken connections and kills."""

import hashlib
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import upload_release
from conftest import REPO
from files.input_errors import InputError
from files.safe_files import GB, directory_when_done, in_unit
from makers.release_inputs import write_manifest
from makers.uploads import HUB_REPO, NAME, NOBODY, SECOND
from servers.hub_server import PART_BYTES, Hub

import pytest

# huggingface_hub calls its HTTP library in a form that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def assert_published(hub: Hub, small_release: Path) -> None:
    """Assert that the server holds the folder's files and names, by one commit with the manifest's digest."""
    assert hub.bytes_of(HUB_REPO) == {path.name: path.read_bytes() for path in small_release.iterdir()}
    digest = hashlib.sha256((small_release / "manifest.json").read_bytes()).hexdigest()
    assert [commit["summary"] for commit in hub.commits] == [f"{NAME}, manifest sha256 {digest}"]


def test_a_dry_run_lists_everything_and_sends_nothing(upload, hub, small_release, tmp_path):
    listing = upload()
    for path in small_release.iterdir():
        assert f"new      {in_unit(path.stat().st_size, GB):>10} GB  {path.name}\n" in listing
    assert "9 files (9 new)" in listing and "Nothing was sent" in listing
    assert (tmp_path / "gates.log").read_text() == f"{small_release}\n"
    assert not hub.commits and not hub.repositories and all(request.startswith("GET ") for request in hub.requests)


def test_a_dry_run_needs_no_token_and_no_server(upload, hub):
    assert "9 new" in upload(token="") and hub.requests
    listing = upload(token="", endpoint=NOBODY)
    assert "9 unknown" in listing and f"not compared with the Hub: {NOBODY}: expected" in listing


def test_everything_is_sent_in_one_commit_and_a_second_run_sends_nothing(upload, hub, small_release):
    printed = upload("--send")
    assert_published(hub, small_release)
    assert f"stored {SECOND}" in printed and "all 9 files are on the Hub as the manifest lists them" in printed
    received = dict(hub.received)
    printed = upload("--send")
    assert "9 same" in printed and "nothing was sent" in printed
    assert_published(hub, small_release)
    assert hub.received == received


def test_of_a_changed_release_only_what_changed_is_sent(upload, hub, small_release):
    upload("--send")
    hub.repositories[HUB_REPO]["old.gguf"] = {"content": b"old", "blob": "0" * 40, "lfs": "0" * 64}
    (small_release / "README.md").write_text("---\nlicense: gemma\n---\n\n# other\n")
    (small_release / "scores.png").write_bytes(b"another picture")
    (small_release / "extra.json").write_text("{}\n")
    write_manifest(small_release)
    listing = upload()
    assert all(part in listing for part in ("10 files", "3 changed", "6 same", "1 new"))
    assert "hub only" in listing and "old.gguf (stays)" in listing
    received = sum(hub.received.values())
    upload("--send")
    assert hub.commits[1]["files"] == ["README.md", "extra.json", "manifest.json", "scores.png"]
    assert sum(hub.received.values()) - received == len(b"another picture")
    assert hub.bytes_of(HUB_REPO).items() >= {path.name: path.read_bytes() for path in small_release.iterdir()}.items()


def test_a_connection_broken_in_mid_file_is_taken_up_in_the_same_run(upload, hub, small_release):
    hub.breaks = 1
    upload("--send")
    assert not hub.breaks
    assert_published(hub, small_release)


def test_after_a_server_that_keeps_breaking_the_same_command_goes_on(upload, hub, small_release, refused_upload):
    hub.breaks = 100
    refused_upload(["--send"], hub.url, "a server that answers", "run the same command again")
    assert 0 < hub.breaks < 100 and not hub.commits
    hub.breaks = 0
    upload("--send")
    assert_published(hub, small_release)


def kill_when_stalled(process: Callable[..., subprocess.Popen], hub: Hub) -> None:
    """Start the uploader, kill it (-9) where the server stalls, and let the server go on."""
    uploader = process("--send")
    assert hub.stalled.wait(60), uploader.communicate()
    os.killpg(uploader.pid, signal.SIGKILL)
    assert b"s3cret" not in uploader.communicate()[0]
    hub.stall = None
    hub.go_on.set()


def test_a_server_that_never_ends_is_one_line_and_the_same_command_goes_on(
    upload, hub, small_release, refused_upload, monkeypatch
):
    hub.stall = hashlib.sha256((small_release / SECOND).read_bytes()).hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(upload_release, "DOWNLOAD_SECONDS", 3)  # mostly enough to come to that file
        patch.setattr(upload_release, "SLOWEST_BYTES", 1 << 40)
        refused_upload(["--send"], HUB_REPO, "an end within", "none")
    assert not hub.commits
    hub.stall = None
    hub.go_on.set()
    upload("--send")
    assert_published(hub, small_release)


def test_an_uploader_killed_in_mid_file_goes_on_and_sends_no_file_twice(upload, process, hub, small_release):
    oid = {
        name: hashlib.sha256((small_release / name).read_bytes()).hexdigest()
        for name in (f"{NAME}-Q4_K_M.gguf", SECOND)
    }
    hub.stall = oid[SECOND]
    kill_when_stalled(process, hub)
    assert not hub.commits and oid[SECOND] not in hub.objects
    assert hub.received[oid[f"{NAME}-Q4_K_M.gguf"]] == PART_BYTES + 17
    upload("--send")
    assert_published(hub, small_release)
    assert hub.received[oid[f"{NAME}-Q4_K_M.gguf"]] == PART_BYTES + 17


def test_an_uploader_killed_before_it_hears_of_its_commit_makes_no_second_one(upload, process, hub, small_release):
    hub.stall = "commit"
    kill_when_stalled(process, hub)
    assert len(hub.commits) == 1
    assert "9 same" in upload("--send")
    assert_published(hub, small_release)


def test_a_folder_that_is_being_sent_is_not_sent_twice_and_not_replaced(process, hub, small_release, refused_upload):
    hub.stall = hashlib.sha256((small_release / SECOND).read_bytes()).hexdigest()
    first = process("--send")
    assert hub.stalled.wait(60)
    refused_upload(["--send"], small_release, "no other run")
    replaced = directory_when_done(small_release, "manifest.json")  # as `make release` would
    with pytest.raises(InputError, match="no other run"), replaced:
        pass
    hub.go_on.set()
    assert first.wait() == 0 and b"s3cret" not in first.communicate()[0]
    assert_published(hub, small_release)


def test_make_lists_unless_it_is_told_to_send():
    def make(*arguments: str) -> subprocess.CompletedProcess:
        command = ["make", "--no-print-directory", "-n", "upload", *arguments]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
        done.stdout = done.stdout.replace("\\\n ", "")
        return done

    done = make("REPO=me/x")
    assert re.search(r"upload_release.py --release build/\S+/GGUF --repo 'me/x' +--name ", done.stdout), done.stderr
    assert "--send" not in done.stdout
    assert "build_release.py" not in done.stdout  # what is sent is what was checked
    assert "--send" in make("REPO=me/x", "UPLOAD=yes").stdout
    refusal = make("REPO=me/x", "UPLOAD=perhaps")
    assert refusal.returncode != 0 and "UPLOAD: expected yes or no, found 'perhaps'" in refusal.stderr
