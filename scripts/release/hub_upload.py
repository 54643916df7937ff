"""A release folder sent to a repository on the Hub: the large files one by one, then one commit of all.

huggingface_hub does the work. Its upload_folder may split a folder into several commits. Here preupload_lfs_files sends
each large file first, and create_commit then makes one commit, whose message carries the manifest's sha256. A file that
the server has is not sent again, and nothing is committed when nothing changed. So after a break or a kill the same
call goes on. The file that was being sent starts over, or with Xet goes on by its chunks.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from files.command_start import HUB_TOKENS
from files.hub_client import blob_sha1, open_session, own_token
from files.input_errors import InputError, sha256_file
from files.seals import file_state
from release.manifest import DIGITS, EDITED, MANIFEST

import httpx2
from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, logging

GO_ON = "run the same command again to go on"
IN_MEMORY = 64 << 20  # bytes of a file that is held in memory while it is sent
SHA1_LETTERS = 40  # tells git's digests from sha256, which has 64
REASONS = {
    401: ("a token that the server accepts", "401 Unauthorized"),
    402: ("an account that may store this", "402 Payment Required"),
    403: ("the right to write to it", "403 Forbidden"),
    404: ("a repository that the token may see", "404 Not Found"),
}


RemoteFiles = dict[str, tuple[int, str]]  # bytes and digest by path
Kind = TypeVar("Kind", bound=BaseException)


@dataclass(frozen=True)
class Payload:
    """A release to be sent: its folder, the model's name, bytes and sha256 of each file, manifest included, by path."""

    folder: Path
    name: str
    bytes: dict[str, int]
    sha256: dict[str, str]


def payload_of(folder: Path, manifest: dict) -> Payload:
    """Return what is to be sent of a release that has been checked."""
    own = {"bytes": (folder / MANIFEST).stat().st_size, "sha256": sha256_file(folder / MANIFEST)}
    files = {**manifest["files"], MANIFEST: own}
    sizes = {path: entry["bytes"] for path, entry in files.items()}
    return Payload(folder, manifest["name"], sizes, {path: entry["sha256"] for path, entry in files.items()})


def be_quiet() -> None:
    """Keep huggingface_hub from printing addresses (those of uploads are signed) and progress bars."""
    logging.set_verbosity_error()
    disable_progress_bars()


def token_of(needed: bool) -> str | None:
    """Return the user's token; raise InputError when it is needed and there is none. It is never printed or written."""
    token = own_token()
    if needed and not token:
        raise InputError("token", "one in HF_TOKEN or from `hf auth login`", "none")
    return token


def cause_of(error: BaseException | None, kinds: type[Kind] | tuple[type[Kind], ...]) -> Kind | None:
    """Return the first exception of some kinds among an exception and its causes, None where there is none."""
    while error is not None:
        if isinstance(error, kinds):
            return error
        error = error.__cause__
    return None


@contextmanager
def one_line(repo: str) -> Iterator[None]:
    """Turn what the Hub refuses, and what breaks on the way there, into an InputError without the server's own text.

    A server's text may repeat the request, token included.
    """
    open_session()
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # all kinds, since huggingface_hub wraps its errors in many; each is raised again below
        if refused := cause_of(error, HfHubHTTPError):
            status = refused.response.status_code if refused.response is not None else 0
            expected, found = REASONS.get(status, ("an answer that is no error", f"HTTP status {status}"))
            raise InputError(repo, expected, found) from None
        if broken := cause_of(error, (httpx2.RequestError, OfflineModeIsEnabled, TimeoutError)):
            raise InputError(constants.ENDPOINT, "a server that answers", type(broken).__name__, GO_ON) from None
        if isinstance(error, (ValueError, RuntimeError, TypeError, LookupError, AttributeError)):  # also odd answers
            # A NUL byte is in no message: without a token nothing is replaced.
            words = " ".join(str(error).split()).replace(own_token() or "\0", "...")
            raise InputError(repo, "an upload that the Hub accepts", words[:200]) from None
        raise


def remote_files(repo: str, token: str | None) -> RemoteFiles | None:
    """Return the files on the Hub, None without a repository. Large files have their sha256, small ones git's sha1."""
    try:
        # False: else huggingface_hub would look for a token by itself.
        info = HfApi().model_info(repo, files_metadata=True, token=token or False)
    except RepositoryNotFoundError:
        return None
    return {
        file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for file in info.siblings or []
    }


def same_there(payload: Payload, path: str, remote: tuple[int, str]) -> bool:
    """Tell whether a file of the release is on the Hub with the same bytes."""
    size, digest = remote
    if size != payload.bytes[path]:
        return False
    if len(digest) == SHA1_LETTERS:
        return digest == blob_sha1(payload.folder / path)
    return digest == payload.sha256[path]


def plan(payload: Payload, there: RemoteFiles | None) -> dict[str, str]:
    """Return "new", "changed" or "same" for every file of the release, compared with the files on the Hub."""
    states = {}
    for path in payload.bytes:
        if not there or path not in there:
            states[path] = "new"
        else:
            states[path] = "same" if same_there(payload, path, there[path]) else "changed"
    return states


def addition_of(payload: Payload, path: str) -> CommitOperationAdd:
    """Return the addition of a file whose bytes were compared with the digest that was checked, directly before.

    A small file is sent from memory, so these very bytes go. Raises InputError when the file was edited since.
    """
    place = payload.folder / path
    content = place.read_bytes() if payload.bytes[path] <= IN_MEMORY else None
    digest = sha256_file(place) if content is None else hashlib.sha256(content).hexdigest()
    if digest != payload.sha256[path]:
        raise InputError(place, f"sha256 {payload.sha256[path][:DIGITS]}, as it was checked", digest[:DIGITS], EDITED)
    addition = CommitOperationAdd(path_in_repo=path, path_or_fileobj=place if content is None else content)
    # The digest that was checked: huggingface_hub would read the whole file for it again.
    addition.upload_info.sha256 = bytes.fromhex(digest)
    return addition


def send_first(api: HfApi, repo: str, payload: Payload, path: str) -> CommitOperationAdd:
    """Send a file before the commit, if the server takes it so; raise InputError when it changed meanwhile."""
    place = payload.folder / path
    before = file_state(place)
    addition = addition_of(payload, path)
    api.preupload_lfs_files(repo, [addition], free_memory=False)
    if payload.bytes[path] > IN_MEMORY and file_state(place) != before:
        raise InputError(place, "a file that stays as it is while it is sent", "a change", GO_ON)
    return addition


def send(payload: Payload, repo: str, token: str, paths: list[str], report: Callable[[str], None]) -> str:
    """Send these files of a release in one commit and return its address.

    report: called with a line for each large file that the server has stored. Raises InputError when the Hub refuses or
    is out of reach, or when it then holds other files than the payload.
    """
    api = HfApi(token=token)
    with one_line(repo):
        api.whoami()  # a wrong token is refused here, before a repository is made
        api.create_repo(repo, exist_ok=True)
        additions = []
        # The smallest first: a mistake shows before hours of sending.
        for path in sorted(paths, key=lambda path: (payload.bytes[path], path)):
            additions.append(addition := send_first(api, repo, payload, path))
            if addition._is_uploaded:  # false for small files, which go with the commit
                report(f"stored {addition.path_in_repo}")
        message = f"{payload.name}, manifest sha256 {payload.sha256[MANIFEST]}"
        done = api.create_commit(repo, additions, commit_message=message)
        left = [path for path, state in plan(payload, remote_files(repo, token)).items() if state != "same"]
    if left:
        raise InputError(repo, "the release's files on the Hub", f"others under {', '.join(left)[:200]}", GO_ON)
    return str(done.commit_url)


def gate_environment() -> dict[str, str]:
    """Return the environment without the token, for programs that do not need it."""
    return {key: value for key, value in os.environ.items() if key not in HUB_TOKENS}
