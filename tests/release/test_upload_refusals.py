"""Uploads that are refused before anything is published: the folder, the gates, the names, the token, the server."""

from pathlib import Path

from files.input_errors import InputError
from makers.release_copies import change_json
from makers.release_inputs import write_manifest
from makers.uploads import HUB_REPO, NAME, NOBODY, SECOND
from release import hub_upload

import httpx2
import pytest

# huggingface_hub calls its HTTP library in a form that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


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
    hub, small_release, refused_upload, damage, words, send
):
    damage(small_release)
    refused_upload(send, *words)
    assert not hub.requests


def test_a_refusal_is_one_line_and_exit_code_1(process, small_release, hub):
    edit(small_release)
    done = process("--send")
    lines = done.communicate()[0].decode().splitlines()
    assert (
        done.returncode == 1
        and len(lines) == 1
        and lines[0].startswith(f"error: {small_release / 'README.md'}: expected")
    )
    assert not hub.requests


def test_a_manifest_of_another_model_is_refused(hub, refused_upload):
    refused_upload(["--send", "--name", "other-9e"], "manifest.json", "other-9e", NAME)
    assert not hub.requests


@pytest.mark.parametrize("send", [[], ["--send"]])
def test_gates_that_do_not_pass_refuse_before_the_server_is_asked(hub, small_release, refused_upload, send, capfd):
    (small_release / "README.md").write_text("refuse\n")
    write_manifest(small_release)
    refused_upload(send, small_release, "gates all pass", "exit code 1", "found 1 that fails")
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
def test_a_card_without_its_owner_is_refused(hub, small_release, refused_upload, send):
    (small_release / "README.md").write_text("ollama run hf.co/USER/tiny-12e-GGUF:Q4_K_M\n")
    write_manifest(small_release)
    refused_upload(send, small_release / "README.md", "commands for me/...", "USER/...", "OWNER=me")
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


@pytest.mark.parametrize("error", [httpx2.TooManyRedirects("in a circle"), httpx2.DecodingError("no gzip")])
def test_a_server_that_leads_nowhere_is_one_line(error):
    with pytest.raises(InputError, match="expected a server that answers"), hub_upload.one_line("me/x"):
        raise error


@pytest.mark.parametrize("error", [TypeError("list indices"), KeyError("rfilename"), AttributeError("no size")])
def test_an_answer_of_another_form_than_the_hub_s_is_one_line(error):
    with pytest.raises(InputError, match="expected an upload that the Hub accepts"), hub_upload.one_line("me/x"):
        raise error
