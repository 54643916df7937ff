"""What a run needs of the Hub: a token, the model, GPQA. A network fault is told from a missing permission.

Each question is one short request, the one that the download would begin with. After a network fault nothing more is
asked: every further request would wait for the same end.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from chats.questions import GPQA_DATASET, GPQA_FILE
from files.deadline import CHECK_SECONDS, TimeOver, within
from files.hub_client import open_session, own_token
from files.input_errors import InputError, reason_of
from files.tokenizer_names import TOKENIZER_FILES
from stages.checks import FAIL, OK, WARN, Check

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo

SECONDS_TO_ANSWER = 6.0  # and from one byte to the next
NETWORK, PERMISSION, ABSENT, SERVER = "network fault", "no permission", "not there", "server fault"
HIDDEN = (
    "not there or private"  # the Hub answers both alike, so that strangers do not learn which private ones there are
)
LOG_IN = "make a token on the Hub's page of settings, then `hf auth login`"
NOT_ASKED = "not asked: the Hub was not reached"
Answer = TypeVar("Answer")


@contextmanager
def downloading(what: str, expected: str, advice: str = "") -> Iterator[None]:
    """Raise InputError for whatever the Hub's client raises at an answer; a full disk and the like pass as they are."""
    open_session()
    try:
        yield
    except Exception as error:  # a server that is no Hub makes the client raise anything
        of_hub = isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError))
        # ssl's own, as it reads its certificates: no file is named.
        if isinstance(error, FileNotFoundError) and not (of_hub or error.filename):
            found = "one that is not there"
            raise InputError("SSL_CERT_FILE", "a file of certificates", found, "unset it, or name one") from error
        if isinstance(error, InputError) or (isinstance(error, OSError) and error.errno and not of_hub):
            raise
        words = str(error).splitlines()[:1] if of_hub else []
        raise InputError(what, expected, words[0][:200] if words else reason_of(error), advice) from error


@dataclass(frozen=True)
class Fault:
    """Why a request had no answer: one of the kinds above, and the reason in words."""

    kind: str
    reason: str

    @property
    def words(self) -> str:
        """The kind and the reason."""
        return f"{self.kind}: {self.reason}"


def network_reason(error: BaseException) -> str:
    """Return in words why the Hub was not reached."""
    root = error
    while deeper := root.__cause__ or root.__context__:  # httpcore names only the context of what the system said
        root = deeper
    reasons: list[tuple[type[BaseException], str]] = [
        (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set"),
        (httpx2.TimeoutException, f"no answer in {SECONDS_TO_ANSWER:g} seconds"),
        (httpx2.ProxyError, "the proxy refused"),
        (socket.gaierror, "its name is not found (DNS)"),
        (ConnectionRefusedError, "connection refused"),
    ]
    named = (words for kind, words in reasons if isinstance(error, kind) or isinstance(root, kind))
    return next(named, type(root).__name__)


def fault_of(error: Exception, has_token: bool) -> Fault:
    """Return what an exception of huggingface_hub means."""
    if not isinstance(error, HfHubHTTPError):
        return Fault(NETWORK, f"{constants.ENDPOINT}: {network_reason(error)}")
    status = error.response.status_code
    if isinstance(error, GatedRepoError):  # before its parent, RepositoryNotFoundError
        who = "this token has" if has_token else "without a token there is"
        return Fault(PERMISSION, f"it is gated, and {who} no access")
    if isinstance(error, (RepositoryNotFoundError, RemoteEntryNotFoundError)) and status == 404:
        return Fault(ABSENT, "the Hub has none of that name (404)")
    if isinstance(error, RepositoryNotFoundError) or (status == 401 and not has_token):
        return Fault(HIDDEN, f"the Hub does not say which ({status})")
    if status in (401, 403):
        return Fault(
            PERMISSION, f"the Hub refuses this token ({status})" if has_token else f"a token is needed ({status})"
        )
    return Fault(SERVER, f"the Hub answered {status}; try again later")


class Hub:
    """The Hub as the user's token sees it."""

    def __init__(self) -> None:
        self.token = own_token()
        self.unreachable: Fault | None = None

    def ask(self, request: Callable[[], Answer]) -> Answer | Fault:
        """Return the answer to a request, or why there is none."""
        if self.unreachable:
            return self.unreachable
        try:
            answer = within(CHECK_SECONDS, constants.ENDPOINT, lambda: self._answer(request))
        except TimeOver:
            answer = Fault(NETWORK, f"{constants.ENDPOINT}: no end of an answer in {CHECK_SECONDS:g} seconds")
        if isinstance(answer, Fault) and answer.kind == NETWORK:
            self.unreachable = answer
        return answer

    def _answer(self, request: Callable[[], Answer]) -> Answer | Fault:
        try:
            open_session().timeout = httpx2.Timeout(SECONDS_TO_ANSWER)  # huggingface_hub's own client waits for ever
        except InputError as error:
            return Fault(NETWORK, str(error))
        try:
            return request()
        except (HfHubHTTPError, httpx2.HTTPError, OfflineModeIsEnabled) as error:
            return fault_of(error, bool(self.token))
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # JSON of another form than the Hub's
            return Fault(SERVER, f"{constants.ENDPOINT} answered otherwise than the Hub ({reason_of(error)})")

    def model_info(self, model_id: str) -> ModelInfo | Fault:
        """Return what the Hub tells about a model: files with sizes, licence."""
        # False: else huggingface_hub would look for a token by itself.
        return self.ask(lambda: HfApi().model_info(model_id, files_metadata=True, token=self.token or False))

    def file_access(self, repository: str, name: str, kind: str) -> Fault | None:
        """Return why a file of a repository cannot be downloaded, None when it can."""
        url = hf_hub_url(repository, name, repo_type=kind)
        answer = self.ask(lambda: get_hf_file_metadata(url, token=self.token or False, timeout=SECONDS_TO_ANSWER))
        return answer if isinstance(answer, Fault) else None


def failed(what: str, name: str, fault: Fault, terms: str) -> Check:
    """Return the check of something of the Hub that cannot be had; terms: where its terms can be accepted."""
    advice = {
        NETWORK: "check the network or HF_ENDPOINT; a token would not help",
        PERMISSION: f"accept its terms at {terms} and run `hf auth login`",
        ABSENT: "check the spelling",
        HIDDEN: "check the spelling; for a private one run `hf auth login`",
        SERVER: "",
    }
    return Check(FAIL, what, f"{name}: {fault.words}", advice[fault.kind])


def check_token(hub: Hub) -> Check:
    """Check the user's token, which is never printed."""
    if not hub.token:
        return Check(WARN, "Hub token", "none", f"gated models and GPQA need one: {LOG_IN}")
    answer = hub.ask(lambda: HfApi().whoami(token=hub.token))
    if not isinstance(answer, Fault):
        return Check(OK, "Hub token", "the Hub takes it")  # whose it is would stand in a log
    if answer.kind == NETWORK:
        return Check(FAIL, "Hub token", answer.words, "check the network or HF_ENDPOINT; a token would not help")
    return Check(FAIL, "Hub token", answer.words, LOG_IN)


def check_gpqa(hub: Hub) -> Check:
    """Check that GPQA, a gated data set, can be downloaded."""
    already_known = hub.unreachable is not None
    fault = hub.file_access(GPQA_DATASET, GPQA_FILE, "dataset")
    if fault is None:
        return Check(OK, "GPQA", f"{GPQA_DATASET} can be downloaded")
    if already_known:
        return Check(WARN, "GPQA", NOT_ASKED)
    check = failed("GPQA", GPQA_DATASET, fault, f"{constants.ENDPOINT}/datasets/{GPQA_DATASET}")
    return Check(check.state, check.what, check.found, f"{check.advice}, or give QUESTIONS=FILE")


def check_hub_model(hub: Hub, model_id: str) -> tuple[list[Check], int, dict | None]:
    """Check a model of the Hub: access, tokenizer.

    Return also the bytes of its weights, 0 if not known, and its card's front matter, None if it could not be asked.
    """
    already_known = hub.unreachable is not None
    info = hub.model_info(model_id)
    if isinstance(info, Fault):
        if already_known:
            return [Check(WARN, "model", f"{model_id}: {NOT_ASKED}")], 0, None
        return [failed("model", model_id, info, f"{constants.ENDPOINT}/{model_id}")], 0, None
    files = {file.rfilename: file.size if isinstance(file.size, int) else 0 for file in info.siblings or []}
    size = sum(count for name, count in files.items() if name.endswith(".safetensors"))
    # The list of files is public for a gated model as well; its files are not.
    fault = hub.file_access(model_id, "config.json", "model")
    terms = f"{constants.ENDPOINT}/{model_id}"
    model = failed("model", model_id, fault, terms) if fault else Check(OK, "model", f"{model_id} can be downloaded")
    tokenizer = next((name for name in TOKENIZER_FILES if name in files), None)
    advice = "its chats could not be rendered: choose a model that was trained to chat"
    checks = [
        model,
        Check(OK, "tokenizer", f"{tokenizer}; its chat template is tried after the download")
        if tokenizer
        else Check(FAIL, "tokenizer", f"none of {', '.join(TOKENIZER_FILES)}", advice),
    ]
    if not size:
        checks.append(Check(FAIL, "weights", "no .safetensors file", "only checkpoints in safetensors are read"))
    return checks, size, info.card_data.to_dict() if info.card_data else {}
