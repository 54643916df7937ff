"""Fixtures of uploads: a small release, a Hub of this machine, gates, and the uploader, here or in a process."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import REPO
from files.input_errors import InputError
from servers.hub_server import PART_BYTES, TOKEN, Hub

import pytest

NAME, HUB_REPO = "tiny-12e", "me/tiny-12e-GGUF"
SECOND = f"{NAME}-Q8_0.gguf"  # the largest, sent last
# The uploader itself, with gates that know small releases; no option of it gives others.
BY_OTHER_GATES = """import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import upload_release
from files.safe_files import run
upload_release.GATES = Path(sys.argv[2])
run(lambda: upload_release.main(sys.argv[3:]))
"""
NOBODY = "http://127.0.0.1:9"  # no server listens there


@pytest.fixture
def small_release(tmp_path) -> Path:
    """A small release folder; the uploader does not look into its files."""
    from makers.release_inputs import write_manifest  # here, as below: most tests do without what this brings in

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
def arguments(small_release) -> Callable[..., list[str]]:
    """Return the uploader's arguments."""

    def made(*more: str, repo: str = HUB_REPO) -> list[str]:
        return ["--release", str(small_release), "--repo", repo, *more]

    return made


@pytest.fixture
def process(arguments, gates, hub, tmp_path) -> Callable[..., subprocess.Popen]:
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
            [sys.executable, "-c", BY_OTHER_GATES, REPO / "scripts", gates, *arguments(*more)],
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
def upload(arguments, gates, hub, tmp_path, monkeypatch, capfd) -> Callable[..., str]:
    """Run the uploader and return what it prints; the token must be nowhere in that, in an error or in any file.

    It runs here, with the settings that huggingface_hub takes from the environment when it is imported: a process would
    need a second to import it.
    """
    import upload_release

    from huggingface_hub import close_session, constants

    monkeypatch.setattr(upload_release, "GATES", gates)
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
