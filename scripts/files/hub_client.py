"""What the Hub's client takes from the environment before its first request, and by what the Hub knows a file."""

import hashlib
import os
import re
from pathlib import Path

from files.byte_ranges import COPY_BYTES
from files.command_start import PROXIES
from files.input_errors import InputError, sha256_file

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import get_session

OTHER_SCHEME = re.compile(r"(?!https?:)[a-z0-9]+://", re.IGNORECASE)  # such as socks://, which a desktop sets


def own_token() -> str | None:
    """Return the user's token, which is never printed or written; InputError for a file of one that is no text."""
    try:
        return get_token()
    except ValueError as error:
        found = "a file that is no text"
        raise InputError(constants.HF_TOKEN_PATH, "a token, as `hf auth login` writes it", found) from error


def open_session() -> httpx2.Client:
    """Return the client of huggingface_hub; raise InputError where the environment's proxy is none that it can use.

    The client's own words would show a piece of a password.
    """
    try:
        return get_session()
    except (ImportError, ValueError, httpx2.InvalidURL):
        proxy = "proxies as http://HOST:PORT, signs of a password as %2F and the like"
        found = [name for name in PROXIES if OTHER_SCHEME.match(os.environ.get(name, ""))]
        advice = f"unset {' and '.join(found)}" if found else ""
        raise InputError(", ".join(found or PROXIES), proxy, "another one", advice) from None


def blob_sha1(path: Path) -> str:
    """Return git's name of a file's content, by which the Hub lists small files."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(COPY_BYTES), b""):
            digest.update(part)
    return digest.hexdigest()


def is_on_hub(path: Path, entry: RepoFile) -> bool:
    """Tell whether a file has the digest that the Hub lists: sha256 of large ones, of small ones git's sha1."""
    return sha256_file(path) == entry.lfs.sha256 if entry.lfs else blob_sha1(path) == entry.blob_id
