"""Connections to a server of ours that have shown no key yet: so many, and for so long.

Every user of the machine can connect to a port of it. Without a bound, half requests that never end would use up the
files that a process may have open, and the run would end. Here the newest are heard: who knows the key shows it at
once.
"""

import asyncio
import logging
import resource
import socket
from asyncio import Protocol, TimerHandle

from files.input_errors import InputError

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

MOST = 256
SECONDS = 10
# From its connection to its key a client takes some four turns of the event loop. With few new ones in a turn it is not
# the oldest by then, however many come: the others wait in the system's queue.
TAKEN_AT_ONCE, QUEUE = 16, 4096
OPEN_FILES = 4096  # the usual limit is 1,024, on macOS 256


def allow_open_files() -> None:
    """Let this process have some thousand files and connections open, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def worth_a_line(record: logging.LogRecord) -> bool:
    """Tell whether a line of a server's log is worth one: that a client sent no HTTP is not, for anybody can do so."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


class Strangers:
    """What makes the protocol of each new connection of a server, and ends it if it shows no key."""

    def __init__(self, server: web.Server) -> None:
        self.server = server
        self.waiting: dict[web.RequestHandler, TimerHandle] = {}

    def __call__(self) -> Protocol:
        """Take a connection; end the oldest stranger's where there are too many."""
        handler = self.server()
        self.waiting[handler] = asyncio.get_running_loop().call_later(SECONDS, self.end, handler)
        if len(self.waiting) > MOST:
            self.end(next(iter(self.waiting)))
        return handler

    async def listen(self) -> tuple[int, asyncio.Server]:
        """Listen on a free port of 127.0.0.1; return the port and what listens."""
        try:
            place = socket.create_server(("127.0.0.1", 0))
        except OSError as error:  # another user can take them all
            raise InputError("127.0.0.1", "a free port", str(error.strerror)) from error
        listener = await asyncio.get_running_loop().create_server(self, sock=place, backlog=TAKEN_AT_ONCE)
        place.listen(QUEUE)  # asyncio has one number for both
        return place.getsockname()[1], listener

    def forget(self, handler: web.RequestHandler) -> None:
        """Take a connection for that of somebody who has shown the key."""
        if timer := self.waiting.pop(handler, None):
            timer.cancel()

    def end(self, handler: web.RequestHandler) -> None:
        """End a connection, whatever it still sends."""
        self.forget(handler)
        if handler.transport is not None:
            handler.transport.abort()
