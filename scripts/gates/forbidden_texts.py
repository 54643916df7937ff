"""What must not be published: tokens, paths and the name of this machine, private hosts, the text of the questions.

GPQA asks that its questions are not published. Texts are compared with them by runs of NGRAM_WORDS words; case, digits
and punctuation are ignored. A shorter text is compared as a whole, if it has LEAST_WORDS or more: fewer words are found
by chance. A finding names the place and the question's id, not its text.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from chats.questions import read_questions_of
from files.input_errors import InputError
from release.published_texts import Published

NGRAM_WORDS, LEAST_WORDS = 8, 6
GPQA_FRAME = "What is the correct answer to this question:"  # of each prompt in GPQA's form; no question's own words
# Tokens of the Hub, GitHub, GitLab and the services whose tokens begin with sk-; keys of AWS; private keys.
TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[oprsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}|"
    r"\b(?:glpat-[\w-]{20,}|sk-[\w-]{32,}|AKIA[A-Z0-9]{16}\b)|"
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
)
# Paths in the folders where people keep their files; /usr and the like are the same everywhere. A path within a longer
# path or a URL does not count.
MACHINE_PATH = re.compile(
    r"(?<![\w.~:/-])/(?:home|root|tmp|var|mnt|media|Users|srv|scratch|workspace|work)/[\w.+-]+|\b[A-Z]:\\Users\\\w+"
)
URL = re.compile(r"\b(?:https?|ssh|git|ftp|file)://[^\s\"'<>()\[\]{}|\\`]+")
# A host outside of a URL counts only where its address or its ending is a private one: any word can be a host.
BARE_HOST = re.compile(
    r"(?<![\w./@-])(?:(?:10\.\d{1,3}|169\.254|172\.(?:1[6-9]|2\d|3[01])|192\.168)(?:\.\d{1,3}){2}|"
    r"(?:[a-z0-9-]+\.)+(?:internal|lan|corp|intranet|localdomain))(?![\w-]|\.\w)(?::\d+)?"
)
PRIVATE_ENDINGS = (".local", ".internal", ".lan", ".corp", ".intra", ".intranet", ".home", ".localdomain")
HOST = "the host's name"
WORD = re.compile(r"[^\W\d_]{2,}")  # two letters or more: single ones are mostly symbols of formulas

QuestionRuns = dict[int, dict[tuple[str, ...], str]]  # Record ID by run of words, by the length of the run


def is_private(url: str) -> bool:
    """Tell whether a URL is not a public one.

    That is so if its host has a private address or ending or no dot, or if the URL has a port or a user.
    """
    try:
        parts = urlsplit(url)
        host, extra = parts.hostname or "", parts.port or parts.username
    except ValueError:
        return False
    if host in ("localhost", "127.0.0.1", "0.0.0.0", "::1"):  # the same words on every machine
        return False
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return bool(extra) or "." not in host or host.endswith(PRIVATE_ENDINGS)


def machine_names(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Return the names and paths of this machine (text: what it is), and the names that cannot be searched for.

    A host name without a digit, dot or dash is a plain word: it would be found in any card.
    """
    named = (
        (Path(os.path.expanduser("~")), "the home directory"),
        (Path.cwd(), "the working directory"),
        (folder.resolve().parent, "the folder of releases"),
    )
    places = {f"{place}/": what for place, what in named if len(place.parts) > 1}  # not "/", which is in any URL
    names = {socket.gethostname(), socket.getfqdn()} - {"localhost", "localhost.localdomain"}
    known = {name: HOST for name in names if len(name) > 3 and re.search(r"[\d.-]", name)}
    return places | known, sorted(f"host name {name!r}" for name in names - known.keys())


def token_kind(token: str) -> str:
    """Return the first letters of a token, which say of which service it is and are the same for everyone."""
    match = re.match("[a-z]*[_-]?", token)
    return match[0] if match else ""


def names_in(text: str, names: dict[str, str]) -> list[str]:
    """Return what of this machine is named in a text; names: of `machine_names`."""
    found = []
    for name, what in names.items():
        before = r"(?<![\w-])" if what == HOST else ""  # "matchbox-1" does not name the host box-1
        if re.search(before + re.escape(name), text):
            found.append(what)
    return found


def secrets(texts: Iterable[Published], names: dict[str, str]) -> list[str]:
    """Return a line for each token, path, name of this machine and private host in texts, without the token itself.

    names: of `machine_names`.
    """
    found = []
    for entry in texts:
        if token := TOKEN.search(entry.text):
            found.append(f"{entry.place}: expected no token, found {token_kind(token[0])}...")
        known = names_in(entry.text, names)
        found += [f"{entry.place}: expected nothing of this machine, found {what}" for what in known]
        if entry.of_base:
            continue
        urls = [url[:100] for url in URL.findall(entry.text) if is_private(url)]
        hosts = [*urls, *BARE_HOST.findall(entry.text)]
        paths = MACHINE_PATH.findall(entry.text)
        found += [f"{entry.place}: expected no path of a machine, found {path}" for path in dict.fromkeys(paths)]
        found += [f"{entry.place}: expected no private host, found {host}" for host in dict.fromkeys(hosts)]
    return found


def words(text: str) -> list[str]:
    """Return the words of a text, lower case."""
    return WORD.findall(text.lower())


def runs(tokens: list[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of so many words."""
    return (tuple(tokens[i : i + length]) for i in range(len(tokens) - length + 1))


def question_runs(paths: Iterable[Path]) -> tuple[QuestionRuns, int, int]:
    """Return the runs of words of question files, the number of texts compared, and of those too short for it.

    Raises InputError when no text is long enough.
    """
    known: QuestionRuns = {}
    compared = short = 0
    for path in paths:
        for number, row in enumerate(read_questions_of(path, (), lists=True), start=1):
            record_id = str(row.get("Record ID") or f"question {number}")
            for column, text in row.items():
                asked = text.replace(GPQA_FRAME, " ") if isinstance(text, str) and column != "Record ID" else ""
                tokens = words(asked)
                if len(tokens) < LEAST_WORDS:
                    short += bool(tokens)
                    continue
                compared += 1
                length = min(len(tokens), NGRAM_WORDS)
                known.setdefault(length, {}).update((run, record_id) for run in runs(tokens, length))
    if not compared:
        raise InputError("--questions", f"question texts of {LEAST_WORDS} words or more", "none")
    return known, compared, short


def quoted_ids(text: str, known: QuestionRuns) -> set[str]:
    """Return the Record IDs of the questions that a text quotes."""
    tokens = words(text)
    return {by_run[run] for length, by_run in known.items() for run in runs(tokens, length) if run in by_run}


def quoted_questions(texts: Iterable[Published], known: QuestionRuns) -> list[str]:
    """Return a line for each text that quotes a question, with the question's id."""
    found = []
    for entry in texts:
        if ids := quoted_ids(entry.text, known):
            others = f" and {len(ids) - 1} others" if len(ids) > 1 else ""
            found.append(f"{entry.place}: expected no text of a question, found that of {min(ids)}{others}")
    return found
