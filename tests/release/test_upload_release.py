"""Uploads: what a dry run lists, what is sent, what is refused, and going on after broken connections and kills."""

import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import upload_release
from conftest import REPO
from files.safe_files import GB, InputError, directory_when_done, in_unit
from hub_server import PART_BYTES, TOKEN, Hub
from release import hub_upload
from release_copies import change_json
from release_inputs import write_manifest

import pytest
from huggingface_hub import close_session, constants

NAME, HUB_REPO = "tiny-12e", "me/tiny-12e-GGUF"
SECOND = f"{NAME}-Q8_0.gguf"  # the largest, sent last
NOBODY = "http://127.0.0.1:9"  # no server listens there
# huggingface_hub calls its HTTP library in a form that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


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
        """import os, sys
folder = sys.argv[1]
with open(os.path.join(os.path.dirname(folder), "gates.log"), "a") as log:
    log.write(folder + "\\n")
assert not any("s3cret" in value for value in os.environ.values())
if "refuse" in open(os.path.join(folder, "README.md")).read():
    sys.exit(f"error: {folder}: expected all of 3 checks to pass, found 1 that fails")
"""
    )
    return program


@pytest.fixture
def arguments(release, gates) -> Callable[..., list[str]]:
    """Return the uploader's arguments."""

    def made(*more: str, repo: str = HUB_REPO) -> list[str]:
        return ["--release", str(release), "--repo", repo, "--gates", str(gates), *more]

    return made


@pytest.fixture
def process(arguments, hub, tmp_path) -> Callable[..., subprocess.Popen]:
    """Start the uploader in a process of its own, which can be killed."""

    def start(*more: str) -> subprocess.Popen:
        # Xet is off: its storage protocol is not one of plain HTTP that a small server can speak.
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": TOKEN,
        }
        return subprocess.Popen(
            [sys.executable, REPO / "scripts/upload_release.py", *arguments(*more)],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return start


def assert_no_token(text: str, folder: Path) -> None:
    """Assert that the token is neither in a text nor in any file of a folder, but for the gates that look for it."""
    assert "s3cret" not in text
    for path in folder.rglob("*"):
        assert not path.is_file() or path.name == "gates.py" or b"s3cret" not in path.read_bytes(), path


@pytest.fixture
def upload(arguments, hub, tmp_path, monkeypatch, capfd) -> Callable[..., str]:
    """Run the uploader and return what it prints; the token must be nowhere in that, in an error or in any file.

    It runs here, with the settings that huggingface_hub takes from the environment when it is imported: a process would
    need a second to import it.
    """
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home/token"))
    # Pauses between tries, of 1 to 8 seconds.
    wait = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: wait(min(seconds, 0.05)))

    def run(*more: str, token: str = TOKEN, endpoint: str = "", **options: str) -> str:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint or hub.url)
        monkeypatch.setenv("HF_TOKEN", token)
        error = ""
        try:
            upload_release.main(arguments(*more, **options))
        except InputError as refused:
            error = str(refused)
            raise
        finally:
            printed = capfd.readouterr()
            assert_no_token(printed.out + printed.err + error, tmp_path)
        return printed.out

    yield run
    close_session()


@pytest.fixture
def refused_upload(upload) -> Callable[..., None]:
    """Assert that an upload is refused in one line with these words."""

    def check(more: list[str], *words: object, **options: str) -> None:
        with pytest.raises(InputError) as caught:
            upload(*more, **options)
        line = str(caught.value)
        assert "\n" not in line and all(str(word) in line for word in words), line

    return check


def assert_published(hub: Hub, release: Path) -> None:
    """Assert that the server holds the folder's files and names, by one commit with the manifest's digest."""
    assert hub.bytes_of(HUB_REPO) == {path.name: path.read_bytes() for path in release.iterdir()}
    digest = hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()
    assert [commit["summary"] for commit in hub.commits] == [f"{NAME}, manifest sha256 {digest}"]


def test_a_dry_run_lists_everything_and_sends_nothing(upload, hub, release, tmp_path):
    listing = upload()
    for path in release.iterdir():
        assert f"new      {in_unit(path.stat().st_size, GB):>10} GB  {path.name}\n" in listing
    assert "9 files (9 new)" in listing and "Nothing was sent" in listing
    assert (tmp_path / "gates.log").read_text() == f"{release}\n"
    assert not hub.commits and not hub.repositories and all(request.startswith("GET ") for request in hub.requests)


def test_a_dry_run_needs_no_token_and_no_server(upload, hub):
    assert "9 new" in upload(token="") and hub.requests
    listing = upload(token="", endpoint=NOBODY)
    assert "9 unknown" in listing and f"not compared with the Hub: {NOBODY}: expected" in listing


def test_everything_is_sent_in_one_commit_and_a_second_run_sends_nothing(upload, hub, release):
    printed = upload("--send")
    assert_published(hub, release)
    assert f"stored {SECOND}" in printed and "all 9 files are on the Hub as the manifest lists them" in printed
    received = dict(hub.received)
    printed = upload("--send")
    assert "9 same" in printed and "nothing was sent" in printed
    assert_published(hub, release)
    assert hub.received == received


def test_of_a_changed_release_only_what_changed_is_sent(upload, hub, release):
    upload("--send")
    hub.repositories[HUB_REPO]["old.gguf"] = {"content": b"old", "blob": "0" * 40, "lfs": "0" * 64}
    (release / "README.md").write_text("---\nlicense: gemma\n---\n\n# other\n")
    (release / "scores.png").write_bytes(b"another picture")
    (release / "extra.json").write_text("{}\n")
    write_manifest(release)
    listing = upload()
    assert all(part in listing for part in ("10 files", "3 changed", "6 same", "1 new"))
    assert "hub only" in listing and "old.gguf (stays)" in listing
    received = sum(hub.received.values())
    upload("--send")
    assert hub.commits[1]["files"] == ["README.md", "extra.json", "manifest.json", "scores.png"]
    assert sum(hub.received.values()) - received == len(b"another picture")
    assert hub.bytes_of(HUB_REPO).items() >= {path.name: path.read_bytes() for path in release.iterdir()}.items()


def test_a_connection_broken_in_mid_file_is_taken_up_in_the_same_run(upload, hub, release):
    hub.breaks = 1
    upload("--send")
    assert not hub.breaks
    assert_published(hub, release)


def test_after_a_server_that_keeps_breaking_the_same_command_goes_on(upload, hub, release, refused_upload):
    hub.breaks = 100
    refused_upload(["--send"], hub.url, "a server that answers", "run the same command again")
    assert 0 < hub.breaks < 100 and not hub.commits
    hub.breaks = 0
    upload("--send")
    assert_published(hub, release)


def kill_when_stalled(process: Callable[..., subprocess.Popen], hub: Hub) -> None:
    """Start the uploader, kill it (-9) where the server stalls, and let the server go on."""
    uploader = process("--send")
    assert hub.stalled.wait(60), uploader.communicate()
    os.killpg(uploader.pid, signal.SIGKILL)
    assert b"s3cret" not in uploader.communicate()[0]
    hub.stall = None
    hub.go_on.set()


def test_an_uploader_killed_in_mid_file_goes_on_and_sends_no_file_twice(upload, process, hub, release):
    oid = {name: hashlib.sha256((release / name).read_bytes()).hexdigest() for name in (f"{NAME}-Q4_K_M.gguf", SECOND)}
    hub.stall = oid[SECOND]
    kill_when_stalled(process, hub)
    assert not hub.commits and oid[SECOND] not in hub.objects
    assert hub.received[oid[f"{NAME}-Q4_K_M.gguf"]] == PART_BYTES + 17
    upload("--send")
    assert_published(hub, release)
    assert hub.received[oid[f"{NAME}-Q4_K_M.gguf"]] == PART_BYTES + 17


def test_an_uploader_killed_before_it_hears_of_its_commit_makes_no_second_one(upload, process, hub, release):
    hub.stall = "commit"
    kill_when_stalled(process, hub)
    assert len(hub.commits) == 1
    assert "9 same" in upload("--send")
    assert_published(hub, release)


def test_a_folder_that_is_being_sent_is_not_sent_twice_and_not_replaced(process, hub, release, refused_upload):
    hub.stall = hashlib.sha256((release / SECOND).read_bytes()).hexdigest()
    first = process("--send")
    assert hub.stalled.wait(60)
    refused_upload(["--send"], release, "no other run")
    replaced = directory_when_done(release, "manifest.json")  # as `make release` would
    with pytest.raises(InputError, match="no other run"), replaced:
        pass
    hub.go_on.set()
    assert first.wait() == 0 and b"s3cret" not in first.communicate()[0]
    assert_published(hub, release)


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
    change_json(release / "manifest.json", files={"../gates.py": {"bytes": 1, "sha256": "0" * 64}})


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
    hub, release, refused_upload, damage, words, send
):
    damage(release)
    refused_upload(send, *words)
    assert not hub.requests


def test_a_refusal_is_one_line_and_exit_code_1(process, release, hub):
    edit(release)
    done = process("--send")
    lines = done.communicate()[0].decode().splitlines()
    assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith(f"error: {release / 'README.md'}: expected")
    assert not hub.requests


def test_a_manifest_of_another_model_is_refused(hub, refused_upload):
    refused_upload(["--send", "--name", "other-9e"], "manifest.json", "other-9e", NAME)
    assert not hub.requests


@pytest.mark.parametrize("send", [[], ["--send"]])
def test_gates_that_do_not_pass_refuse_before_the_server_is_asked(hub, release, refused_upload, send, capfd):
    (release / "README.md").write_text("refuse\n")
    write_manifest(release)
    refused_upload(send, release, "gates all pass", "exit code 1", "found 1 that fails")
    assert not hub.requests and not capfd.readouterr().err  # what the gates said is in our line, not beside it


@pytest.mark.parametrize("name, in_memory", [("README.md", 1 << 20), (SECOND, 0)])
def test_a_file_edited_after_its_check_is_not_sent(hub, gates, refused_upload, monkeypatch, name, in_memory):
    monkeypatch.setattr(hub_upload, "IN_MEMORY", in_memory)
    # Of the same length, as sizes are compared anyway.
    gates.write_text(
        f"""import os, sys
with open(os.path.join(sys.argv[1], {name!r}), "r+b") as file:
    file.seek(-2, 2)
    file.write(b"9\\n")
"""
    )
    refused_upload(["--send"], name, "as it was checked", "was it edited?")
    assert not hub.commits


def test_absent_gates_refuse(hub, gates, refused_upload):
    gates.unlink()
    refused_upload(["--send"], gates, "the gates of a release", "nothing")
    assert not hub.requests


@pytest.mark.parametrize("repo", ["tiny", "me/a/b", "me/", "/x", "me/a b", "me/..", "https://hub/me/x", ""])
def test_a_name_that_is_no_repository_is_refused(hub, refused_upload, repo):
    refused_upload(["--send"], "REPO", "USER/NAME", repo=repo)
    assert not hub.requests


def test_a_repository_that_the_card_does_not_name_is_refused(hub, refused_upload):
    """Else the dynamic quants could land beside the standard ones, whose labels they take."""
    refused_upload(["--send"], "REPO", "USER/tiny-12e-GGUF", repo="me/tiny-12e-dynamic-GGUF")
    assert not hub.requests


@pytest.mark.parametrize("send", [[], ["--send"]])
def test_a_card_without_its_owner_is_refused(hub, release, refused_upload, send):
    (release / "README.md").write_text("ollama run hf.co/USER/tiny-12e-GGUF:Q4_K_M\n")
    write_manifest(release)
    refused_upload(send, release / "README.md", "commands for me/...", "USER/...", "OWNER=me")
    assert not hub.requests


def test_without_a_token_nothing_is_sent(hub, refused_upload):
    refused_upload(["--send"], "token", "hf auth login", "none", token="")
    assert not hub.requests


def test_a_token_that_is_not_accepted_is_refused_and_not_repeated(hub, refused_upload):
    refused_upload(["--send"], HUB_REPO, "401", token="hf_s3cret_of_another")
    assert not hub.repositories


@pytest.mark.parametrize("exists", [False, True])
def test_without_the_right_to_the_repository_nothing_is_sent(hub, refused_upload, exists):
    hub.read_only.add(HUB_REPO)
    if exists:
        hub.repositories[HUB_REPO] = {}
    refused_upload(["--send"], HUB_REPO, "403 Forbidden")
    assert not hub.commits and not hub.received


def test_a_server_out_of_reach_is_one_line(refused_upload):
    refused_upload(["--send"], NOBODY, "a server that answers", endpoint=NOBODY)


@pytest.mark.parametrize("error", [TypeError("list indices"), KeyError("rfilename"), AttributeError("no size")])
def test_an_answer_of_another_form_than_the_hub_s_is_one_line(error):
    with pytest.raises(InputError, match="expected an upload that the Hub accepts"), hub_upload.one_line("me/x"):
        raise error
