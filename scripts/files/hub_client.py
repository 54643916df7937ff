"""What the Hub's client takes from the environment before its first request: the token, and proxies."""

from files.input_errors import InputError

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.utils import get_session


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
        raise InputError("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY", proxy, "another one") from None
