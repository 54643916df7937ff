"""A client without a key that keeps connections to a port of this machine open, each with half a request.

Run with the port and the number of connections. What is closed is opened again. Each gets a letter more every second.
"""

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

HALF_A_REQUEST = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX-A: "


def half_a_request(port: int) -> socket.socket | None:
    """Open a connection that sends half a request, unless nobody takes it."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=1)
        connection.sendall(HALF_A_REQUEST)
        connection.setblocking(False)
    except OSError:
        return None
    return connection


def goes_on(connection: socket.socket) -> bool:
    """Send one letter more; tell whether the other side still listens."""
    try:
        connection.send(b"a")
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@contextmanager
def besieged(port: int, count: int) -> Iterator[subprocess.Popen]:
    """Let such a client work at a port meanwhile."""
    command = [sys.executable, __file__, str(port), str(count)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def main(port: int, count: int) -> None:
    """Hold the connections until somebody ends this process."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: list[socket.socket] = []
    while True:
        opened = (half_a_request(port) for _ in range(count - len(held)))
        held += [connection for connection in opened if connection]
        time.sleep(1)
        held = [connection for connection in held if goes_on(connection)]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
