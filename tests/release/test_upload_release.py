"""Uploads: what a dry run lists, what is sent, what is refused, and going on after broken connections and kills."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import REPO
from files.safe_files import InputError, directory_when_done
from hub_server import PART_BYTES, TOKEN, Hub

NAME, HUB_REPO = "tiny-12e", "me/tiny-12e-GGUF"
SECOND = f"{NAME}-Q8_0.gguf"  # the largest, sent last


def write_manifest(folder: Path, name: str = NAME) -> None:
    """List every file of a folder, as build_release.py does."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "name": name,
                "repository": folder.name,
                "kind": "standard",
                "base": "tiny",
                "license": "",
                "quantized_by": "",
                "sibling": "",
                "records": {},
                "files": files,
            },
            indent=2,
        )
        + "\n"
    )


@pytest.fixture
def release(tmp_path) -> Path:
    """A small release folder; the uploader does not look into its files."""
    folder = tmp_path / "release"
    folder.mkdir()
    generator = random.Random(7)
    for name, size in {f"{NAME}-Q4_K_M.gguf": PART_BYTES + 17, SECOND: 3 * PART_BYTES + 1, "scores.png": 900}.items():
        (folder / name).write_bytes(generator.randbytes(size))
    for name, text in {
        "README.md": "---\nlicense: gemma\n---\n\n# tiny\n",
        "template": "{{ .Messages }}\n",
        "params": "{}\n",
        "Modelfile": "FROM ./x\n",
        "expert_drop_metadata.json": "{}\n",
    }.items():
        (folder / name).write_text(text)
    write_manifest(folder)
    return folder


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.go_on.set()
    server.shutdown()


@pytest.fixture
def gates(tmp_path) -> Path:
    """Gates that note how they were called, refuse a release whose README.md says so, and fail on a token in sight."""
    program = tmp_path / "gates.py"
    program.write_text(
        "import os, sys\nfolder = sys.argv[1]\nopen(os.path.join(os.path.dirname(folder), 'gates.log'), 'a').write(folder + '\\n')\n"
        "assert not any('s3cret' in value for value in os.environ.values())\n"
        "sys.exit('refuse' in open(os.path.join(folder, 'README.md')).read())\n"
    )
    return program


@pytest.fixture
def command(release, hub, gates, tmp_path):
    """The uploader's command and environment."""

    def made(
        *more: str, repo: str = HUB_REPO, token: str = TOKEN, endpoint: str = ""
    ) -> tuple[list[str], dict[str, str]]:
        # Xet is off: its storage protocol is not one of plain HTTP that a small server can speak.
        environment = {
            **os.environ,
            "HF_ENDPOINT": endpoint or hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": token,
        }
        return [
            sys.executable,
            str(REPO / "scripts/upload_release.py"),
            "--release",
            str(release),
            "--repo",
            repo,
            "--gates",
            str(gates),
            *more,
        ], environment

    return made


@pytest.fixture
def upload(command, tmp_path):
    """Run the uploader; the token must be nowhere in its output or in any file."""

    def run(*more: str, **options: str) -> subprocess.CompletedProcess:
        arguments, environment = command(*more, **options)
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert "s3cret" not in done.stdout + done.stderr
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or path.name == "gates.py" or b"s3cret" not in path.read_bytes(), path
        return done

    return run


def assert_published(hub: Hub, release: Path) -> None:
    """Assert that the server holds the folder's bytes under the folder's names, by one commit with the manifest's digest."""
    assert hub.bytes_of(HUB_REPO) == {path.name: path.read_bytes() for path in release.iterdir()}
    digest = hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()
    assert [commit["summary"] for commit in hub.commits] == [f"{NAME}, manifest sha256 {digest}"]


def test_a_dry_run_lists_everything_and_sends_nothing(upload, hub, release, tmp_path):
    done = upload()
    assert done.returncode == 0, done.stderr
    for path in release.iterdir():
        assert f"new      {path.stat().st_size / 1e9:10.6f} GB  {path.name}\n" in done.stdout
    assert "9 files (9 new)" in done.stdout and "Nothing was sent" in done.stdout
    assert (tmp_path / "gates.log").read_text() == f"{release}\n"
    assert not hub.commits and not hub.repositories and all(request.startswith("GET ") for request in hub.requests)


def test_a_dry_run_needs_no_token_and_no_server(upload, hub):
    done = upload(token="")
    assert done.returncode == 0 and "9 new" in done.stdout and hub.requests
    done = upload(token="", endpoint="http://127.0.0.1:9")
    assert (
        done.returncode == 0
        and "9 unknown" in done.stdout
        and "not compared with the Hub: http://127.0.0.1:9: expected" in done.stdout
    )


def test_everything_is_sent_in_one_commit_and_a_second_run_sends_nothing(upload, hub, release):
    done = upload("--send")
    assert done.returncode == 0, done.stderr
    assert_published(hub, release)
    assert f"stored {SECOND}" in done.stdout and "all 9 files are on the Hub as the manifest lists them" in done.stdout
    received = dict(hub.received)
    done = upload("--send")
    assert done.returncode == 0 and "9 same" in done.stdout and "nothing was sent" in done.stdout, done.stderr
    assert_published(hub, release)
    assert hub.received == received


def test_of_a_changed_release_only_what_changed_is_sent(upload, hub, release):
    upload("--send")
    hub.repositories[HUB_REPO]["old.gguf"] = {"content": b"old", "blob": "0" * 40, "lfs": "0" * 64}
    (release / "README.md").write_text("---\nlicense: gemma\n---\n\n# other\n")
    (release / "scores.png").write_bytes(b"another picture")
    (release / "extra.json").write_text("{}\n")
    write_manifest(release)
    listing = upload().stdout
    assert all(part in listing for part in ("10 files", "3 changed", "6 same", "1 new"))
    assert "hub only" in listing and "old.gguf (stays)" in listing
    received = dict(hub.received)
    done = upload("--send")
    assert done.returncode == 0, done.stderr
    assert hub.commits[1]["files"] == ["README.md", "extra.json", "manifest.json", "scores.png"]
    assert sum(hub.received.values()) - sum(received.values()) == len(b"another picture")
    assert hub.bytes_of(HUB_REPO).items() >= {path.name: path.read_bytes() for path in release.iterdir()}.items()


def test_a_connection_broken_in_mid_file_is_taken_up_in_the_same_run(upload, hub, release):
    hub.breaks = 1
    done = upload("--send")
    assert done.returncode == 0, done.stderr
    assert not hub.breaks
    assert_published(hub, release)


def test_a_server_that_keeps_breaking_ends_in_one_line_and_the_same_command_goes_on(upload, hub, release, refused):
    hub.breaks = 100
    refused(upload("--send"), hub.url, "a server that answers", "the same command goes on")
    assert 0 < hub.breaks < 100 and not hub.commits
    hub.breaks = 0
    assert upload("--send").returncode == 0
    assert_published(hub, release)


def kill_when_stalled(command, hub: Hub) -> None:
    """Start the uploader, kill it (-9) where the server stalls, and let the server go on."""
    arguments, environment = command("--send")
    process = subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert hub.stalled.wait(60), process.communicate()
    os.killpg(process.pid, signal.SIGKILL)
    assert b"s3cret" not in process.communicate()[0]
    hub.stall = None
    hub.go_on.set()
    time.sleep(0.2)


def test_an_uploader_killed_in_mid_file_goes_on_and_sends_no_file_twice(upload, command, hub, release):
    oid = {name: hashlib.sha256((release / name).read_bytes()).hexdigest() for name in (f"{NAME}-Q4_K_M.gguf", SECOND)}
    hub.stall = oid[SECOND]
    kill_when_stalled(command, hub)
    assert not hub.commits and oid[SECOND] not in hub.objects
    assert hub.received[oid[f"{NAME}-Q4_K_M.gguf"]] == PART_BYTES + 17
    assert upload("--send").returncode == 0
    assert_published(hub, release)
    assert hub.received[oid[f"{NAME}-Q4_K_M.gguf"]] == PART_BYTES + 17


def test_an_uploader_killed_before_it_hears_of_its_commit_makes_no_second_one(upload, command, hub, release):
    hub.stall = "commit"
    kill_when_stalled(command, hub)
    assert len(hub.commits) == 1
    done = upload("--send")
    assert done.returncode == 0 and "9 same" in done.stdout, done.stderr
    assert_published(hub, release)


def test_a_folder_under_way_is_not_sent_twice_at_once_and_not_replaced(upload, command, hub, release, refused):
    hub.stall = hashlib.sha256((release / SECOND).read_bytes()).hexdigest()
    arguments, environment = command("--send")
    first = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(60)
    refused(upload("--send"), release, "no other run")
    with (
        pytest.raises(InputError, match="no other run"),
        directory_when_done(release, "manifest.json"),
    ):  # what `make release` would do
        pass
    hub.go_on.set()
    assert first.wait() == 0
    assert_published(hub, release)


def test_make_lists_unless_it_is_told_to_send():
    def make(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["make", "--no-print-directory", "-n", "upload", *arguments], cwd=REPO, capture_output=True, text=True
        )

    listing = make("REPO=me/x").stdout
    assert (
        "upload_release.py --release build/" in listing
        and "--repo 'me/x' --name " in listing
        and "--send" not in listing
    )
    assert "build_release.py" not in listing  # what is sent is what was checked
    assert "--send" in make("REPO=me/x", "UPLOAD=yes").stdout
    refusal = make("REPO=me/x", "UPLOAD=perhaps")
    assert refusal.returncode != 0 and "UPLOAD: expected yes or no, found 'perhaps'" in refusal.stderr


def edit(release: Path) -> None:
    (release / "README.md").write_text("---\nlicense: mit__\n---\n\n# tiny\n")


def flip(release: Path) -> None:
    content = bytearray((release / SECOND).read_bytes())
    content[len(content) // 2] ^= 1
    (release / SECOND).write_bytes(content)


def other_manifest(release: Path) -> None:
    (release / "scores.png").write_bytes(b"of another build")
    path = release / "manifest.json"
    kept = path.read_text()
    write_manifest(release, "other-9e")
    (release / "scores.png").write_bytes(b"of this one")
    assert path.read_text() != kept


def outside(release: Path) -> None:
    manifest = json.loads((release / "manifest.json").read_text())
    manifest["files"]["../gates.py"] = manifest["files"]["params"]
    (release / "manifest.json").write_text(json.dumps(manifest))


def link(release: Path) -> None:
    (release / "params").rename(release.parent / "params")
    (release / "params").symlink_to(release.parent / "params")


@pytest.mark.parametrize(
    "damage, words",
    [
        (edit, ("README.md", "sha256")),
        (flip, (SECOND, "sha256")),
        (other_manifest, ("scores.png", "bytes")),
        (lambda release: (release / "params").unlink(), ("params", "nothing")),
        (lambda release: (release / "notes.txt").write_text("x"), ("notes.txt", "only files that manifest.json lists")),
        (lambda release: (release / SECOND).unlink(), (SECOND, "nothing")),
        (outside, ("manifest.json", "gates.py")),
        (link, ("params",)),
        (lambda release: (release / "manifest.json").unlink(), ("manifest.json", "nothing")),
        (lambda release: (release / "manifest.json").write_text("{"), ("manifest.json", "JSON")),
    ],
)
@pytest.mark.parametrize("send", [[], ["--send"]])
def test_a_folder_that_is_not_its_manifest_s_is_refused_before_the_server_is_asked(
    upload, hub, release, refused, damage, words, send
):
    damage(release)
    refused(upload(*send), *words)
    assert not hub.requests


def test_a_manifest_of_another_model_is_refused(upload, hub, refused):
    refused(upload("--send", "--name", "other-9e"), "manifest.json", "other-9e", NAME)
    assert not hub.requests


@pytest.mark.parametrize("send", [[], ["--send"]])
def test_gates_that_do_not_hold_refuse_before_the_server_is_asked(upload, hub, release, refused, send):
    (release / "README.md").write_text("refuse\n")
    write_manifest(release)
    refused(upload(*send), release, "gates all hold", "exit code 1")
    assert not hub.requests


def test_absent_gates_refuse(upload, hub, gates, refused):
    gates.unlink()
    refused(upload("--send"), gates, "the gates of a release", "nothing")
    assert not hub.requests


@pytest.mark.parametrize("repo", ["tiny", "me/a/b", "me/", "/x", "me/a b", "me/..", "https://hub/me/x", ""])
def test_a_name_that_is_no_repository_is_refused(upload, hub, refused, repo):
    refused(upload("--send", repo=repo), "REPO", "USER/NAME")
    assert not hub.requests


def test_without_a_token_nothing_is_sent(upload, hub, refused):
    refused(upload("--send", token=""), "token", "hf auth login", "none")
    assert not hub.requests


def test_a_token_that_is_not_accepted_is_refused_and_not_repeated(upload, hub, refused):
    refused(upload("--send", token="hf_s3cret_of_another"), HUB_REPO, "401")
    assert not hub.repositories


@pytest.mark.parametrize("exists", [False, True])
def test_without_the_right_to_the_repository_nothing_is_sent(upload, hub, refused, exists):
    hub.read_only.add(HUB_REPO)
    if exists:
        hub.repositories[HUB_REPO] = {}
    refused(upload("--send"), HUB_REPO, "403 Forbidden")
    assert not hub.commits and not hub.received


def test_a_server_out_of_reach_is_one_line(upload, refused):
    refused(upload("--send", endpoint="http://127.0.0.1:9"), "http://127.0.0.1:9", "a server that answers")
