"""The servers that an evaluation asks: so many of ours, or those of given addresses.

The key of a given server is in the environment: SERVER_KEY for all of them, SERVER_KEY_2 for the second one. It is
never written, and goes to a server on this machine or through TLS alone, whose certificate is verified (SSL_CERT_FILE
names an authority of your own).
"""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from files.input_errors import InputError
from llama.hardware import hardware_of, listed_devices
from llama.llama_server import SERVER_KEY, LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from scoring.eval_protocol import OpenAiProtocol, Protocol
from scoring.machines import RAN_ALREADY
from scoring.openai_model import OpenAiModel
from scoring.score_records import each_once
from scoring.served_model import LOOPBACK, ServedModel, worded
from scoring.server_pool import AskedServer, ServerPool

MOST_LOCAL = 64


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `asked_servers`. They stay texts: bad ones are refused in one line."""
    add = parser.add_argument_group("how the servers run").add_argument
    add("--port", default="0", help="port of llama-server on 127.0.0.1, of several the first (default: a Unix socket)")
    add("--local-servers", default="1", metavar="COUNT", help="servers that are started here, one per GPU")
    add("--servers", nargs="*", default=[], metavar="URL", help="servers that run already, in place of ours")


def answered_by(known: dict, tools: LlamaCpp | None) -> dict[str, list]:
    """Return `hardware` and `tools_sha256` of what has answered, as a record has them, and of what answers now.

    tools: None where servers that run already answer.
    """
    mine: dict[str, list] = {"hardware": [hardware_of(tools) if tools else RAN_ALREADY]}
    mine["tools_sha256"] = [tools.digest()] if tools else []
    return {key: each_once(known.get(key, []), new) for key, new in mine.items()}


def known_part(address: str) -> str:
    """Return what a message may show of an address: what stands beside scheme and host may be a password or a key."""
    place = re.match(r"(\w+://)?[\w.-]+(:\d+)?(?![^/?#])", address)
    if "@" in address or not place:
        return "one with more than scheme, host and port"
    return repr(place[0]) + (" and more" if place[0] != address else "")


def given_servers(addresses: list[str], environment: dict[str, str]) -> list[AskedServer]:
    """Return servers that run already, with their keys from the environment.

    Raises InputError on what is no plain address, on one that is named twice, and on a key that could be overheard.
    """
    servers: list[AskedServer] = []
    for number, address in enumerate(addresses, start=1):
        url, key = address.rstrip("/"), environment.get(f"{SERVER_KEY}_{number}", environment.get(SERVER_KEY, ""))
        if not re.fullmatch(r"https?://[\w.-]+(:\d{1,5})?", url):
            raise InputError("SERVERS", "addresses such as http://a:8080, without keys and paths", known_part(address))
        if url in {server.name for server in servers}:
            raise InputError("SERVERS", "every address once", f"{url} twice")
        if key and url.startswith("http:") and urlsplit(url).hostname not in LOOPBACK:
            raise InputError(url, "an https address for a server with a key", "http", "others could read the key")
        servers.append(AskedServer(url, url, key))
    return servers


def local_commands(
    tool: Path, name: str, args: argparse.Namespace, flags: list[str], gpus_used: bool
) -> list[list[str]]:
    """Return the command lines of our servers; of several each has a GPU of its own, as far as there are GPUs.

    args: with `gguf`, `local_servers` and `port`; flags: what the evaluation or measurement asks of each.
    """
    if not args.local_servers.isdecimal() or not 0 < int(args.local_servers) <= MOST_LOCAL:
        raise InputError("LOCAL_SERVERS", f"a whole number, 1 to {MOST_LOCAL}", repr(args.local_servers))
    count = int(args.local_servers)
    first = server_command(tool, args.gguf, name, args.port, flags)
    if count == 1:
        return [first]
    gpus = [device for device, _ in listed_devices(tool)] if gpus_used else []
    return [
        server_command(tool, args.gguf, name, int(args.port) + number if int(args.port) else 0, flags)
        + (["--device", gpus[number % len(gpus)]] if gpus else [])
        for number in range(count)
    ]


@contextmanager
def local_servers(commands: list[list[str]], gguf: Path, log: Path) -> Iterator[list[AskedServer]]:
    """Start our servers, each with a log of its own, and end them with the block."""
    with ExitStack() as started:
        servers = []
        for number, command in enumerate(commands, start=1):
            own_log = log if number == 1 else log.with_stem(f"{log.stem}-{number}")
            own = started.enter_context(LlamaServer(command, gguf, own_log))
            servers.append(AskedServer(f"local {number}", own=own))
        yield servers


@contextmanager
def asked_servers(
    args: argparse.Namespace, tool: Path, name: str, protocol: Protocol, log: Path, at_once: int
) -> Iterator[ServerPool]:
    """Start our servers, or take the given ones; yield their pool, which is not opened yet.

    args: with `gguf` and the options of `add_server_arguments`; at_once: requests at once for each server.
    """
    given = given_servers(args.servers, dict(os.environ))
    if isinstance(protocol, OpenAiProtocol):
        if not given:
            raise InputError("SERVERS", "the addresses of OpenAI-compatible servers", "none")
        yield ServerPool(given, at_once, protocol.timeout_seconds, OpenAiModel(name).check)
        return
    if given and args.local_servers != "1":
        raise InputError("SERVERS", "either SERVERS or LOCAL_SERVERS", "both")
    flags, on_gpus = protocol.server_flags, protocol.gpu_layers > 0
    commands = [] if given else local_commands(tool, name, args, flags, on_gpus)
    with local_servers(commands, args.gguf, log) as own:
        servers = [replace(server, worded=lambda body: worded(body, protocol)) for server in given] + own
        # A single one of ours serves what it was started with.
        check = None if len(commands) == 1 else ServedModel(args.gguf, protocol).check
        yield ServerPool(servers, at_once, protocol.timeout_seconds, check)
