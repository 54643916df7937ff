"""A release folder sent to a repository on the Hub: large files one by one, then one commit of all.

huggingface_hub does the work. Its upload_folder may split a folder into several commits; here the large files go first,
each with preupload_lfs_files, and create_commit then makes one commit whose message carries the manifest's sha256. A file
that is on the server already is not sent again, and nothing is committed when nothing changed: after a break or a kill
the same call goes on (the file that was under way begins anew, or with Xet goes on by its chunks).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, logging

from files.safe_files import InputError, sha256_file
from release.release_files import MANIFEST

GO_ON = "the same command goes on"
SHA1_LETTERS = 40
REASONS = {
    401: ("a token that the server accepts", "401 Unauthorized"),
    402: ("an account that may store this", "402 Payment Required"),
    403: ("the right to write to it", "403 Forbidden"),
    404: ("a repository that the token may see", "404 Not Found"),
}


@dataclass(frozen=True)
class Sent:
    """What is sent of a release: its folder, the model's name, bytes and sha256 of every file by path, the manifest included."""

    folder: Path
    name: str
    bytes: dict[str, int]
    sha256: dict[str, str]


def sent_of(folder: Path, manifest: dict) -> Sent:
    """Return what is sent of a release that has been checked."""
    files = {
        **manifest["files"],
        MANIFEST: {"bytes": (folder / MANIFEST).stat().st_size, "sha256": sha256_file(folder / MANIFEST)},
    }
    return Sent(
        folder, manifest["name"], *({path: entry[key] for path, entry in files.items()} for key in ("bytes", "sha256"))
    )


def be_quiet() -> None:
    """Keep huggingface_hub from printing addresses (those of uploads are signed) and progress bars."""
    logging.set_verbosity_error()
    disable_progress_bars()


def token_of(needed: bool) -> str | None:
    """Return the user's token; raise InputError when it is needed and there is none. It is never printed or written."""
    token = get_token()
    if needed and not token:
        raise InputError("token", "one in HF_TOKEN or from `hf auth login`", "none")
    return token


def cause_of(error: BaseException, kind: type) -> BaseException | None:
    """Return the first exception of that kind among an exception and its causes."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__
    return error


@contextmanager
def one_line(repo: str) -> Iterator[None]:
    """Turn what the Hub refuses, and what breaks on the way there, into an InputError without the server's own text.

    A server's text may repeat the request, token included.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # huggingface_hub wraps what happens in its threads in errors of many kinds
        if refused := cause_of(error, HfHubHTTPError):
            status = refused.response.status_code if refused.response is not None else 0
            expected, found = REASONS.get(status, ("an answer that is no error", f"HTTP status {status}"))
            raise InputError(repo, expected, found) from None
        if broken := cause_of(error, (httpx2.TransportError, OfflineModeIsEnabled, TimeoutError)):
            raise InputError(constants.ENDPOINT, "a server that answers", type(broken).__name__, GO_ON) from None
        if isinstance(error, (ValueError, RuntimeError)):
            words = " ".join(str(error).split()).replace(get_token() or "\0", "...")
            raise InputError(repo, "an upload that the Hub accepts", words[:200]) from None
        raise


def blob_sha1(path: Path) -> str:
    """Return git's name of a file's content, by which the Hub lists small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


def remote_files(repo: str, token: str | None) -> dict[str, tuple[int, str]] | None:
    """Return bytes and digest (sha256 of large files, git's sha1 of others) by path on the Hub; None without a repository."""
    try:
        info = HfApi().model_info(repo, files_metadata=True, token=token or False)
    except RepositoryNotFoundError:
        return None
    return {
        file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or []
    }


def same_there(release: Sent, path: str, remote: tuple[int, str]) -> bool:
    """Tell whether a file of the release is on the Hub with the same bytes."""
    size, digest = remote
    if size != release.bytes[path]:
        return False
    return digest == (blob_sha1(release.folder / path) if len(digest) == SHA1_LETTERS else release.sha256[path])


def plan(release: Sent, there: dict[str, tuple[int, str]] | None) -> dict[str, str]:
    """Return "new", "changed" or "same" for every file of the release against what is on the Hub."""
    there = there or {}
    return {
        path: "new" if path not in there else "same" if same_there(release, path, there[path]) else "changed"
        for path in release.bytes
    }


def additions_of(release: Sent, paths: list[str]) -> list[CommitOperationAdd]:
    """Return one addition per path, the smallest first; sha256 as checked, so that files are not read for it again."""
    made, sizes = [], release.bytes
    for path in sorted(paths, key=lambda path: (sizes[path], path)):
        addition = CommitOperationAdd(path_in_repo=path, path_or_fileobj=release.folder / path)
        addition.upload_info.sha256 = bytes.fromhex(release.sha256[path])
        made.append(addition)
    return made


def send(release: Sent, repo: str, token: str, paths: list[str], said: Callable[[str], None]) -> str:
    """Send these files of a release in one commit and return its address; compare what is then on the Hub with the release.

    `said` is called with a line for each large file that the server has stored. Raises InputError when the Hub refuses or
    is out of reach, or holds other files in the end.
    """
    api = HfApi(token=token)
    with one_line(repo):
        api.whoami()
        api.create_repo(repo, exist_ok=True)
        additions = additions_of(release, paths)
        for addition in additions:
            api.preupload_lfs_files(repo, [addition], free_memory=False)
            if addition._is_uploaded:  # false for small files, which go with the commit
                said(f"stored {addition.path_in_repo}")
        done = api.create_commit(
            repo, additions, commit_message=f"{release.name}, manifest sha256 {release.sha256[MANIFEST]}"
        )
        left = [path for path, state in plan(release, remote_files(repo, token)).items() if state != "same"]
    if left:
        raise InputError(repo, "the release's files on the Hub", f"others under {', '.join(left)[:200]}", GO_ON)
    return str(done.commit_url)


def gate_environment() -> dict[str, str]:
    """Return the environment without the token, for programs that do not need it."""
    return {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")}
