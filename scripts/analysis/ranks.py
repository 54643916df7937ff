"""Processes of one machine that share one analysis: the first starts the others, and they meet in its state.

Nothing goes over a network. torch.distributed's ports ask nobody for a key, and take code from whoever joins.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from files.command_start import dying_with_parent
from files.input_errors import InputError

GO = b"."


@dataclass(frozen=True)
class Ranks:
    """This process among `world` ones; 0 is the one that started the others, which it has in `others`."""

    rank: int = 0
    world: int = 1
    others: list[subprocess.Popen] = field(default_factory=list)

    def mine(self, items: list) -> list:
        """Return this process's share of a list: every `world`-th item."""
        return items[self.rank :: self.world]

    def begin(self) -> None:
        """Let the others go on: the state is open. In one of them, wait for that, and end where it does not come."""
        for other in self.others:
            assert other.stdin is not None  # a pipe
            try:
                other.stdin.write(GO)
                other.stdin.close()
            except BrokenPipeError:  # it has refused something, and `finish` sees that
                pass
        if self.rank and os.read(sys.stdin.fileno(), 1) != GO:
            sys.exit(1)  # the first one has refused something and said so

    def finish(self) -> None:
        """Wait for the others; end with their exit code where one refused, raise InputError where one was killed."""
        codes = [other.wait() for other in self.others]
        for rank, code in enumerate(codes, start=1):
            if code < 0:
                raise InputError(f"process {rank}", "it to go on to its end", f"it ended by signal {-code}")
        if any(codes):
            sys.exit(max(codes))  # it has said why


@contextmanager
def shared_out(rank: int, world: int) -> Iterator[Ranks]:
    """Start the other processes of an analysis, by this process's own command line, if this is the first of several.

    They end with the block, or with this process.
    """
    others: list[subprocess.Popen] = []
    try:
        for number in range(1, world if rank == 0 else 1):
            command = [sys.executable, *sys.orig_argv[1:], "--rank", str(number)]
            environment = os.environ | {"RANK": str(number)}  # for its messages (files/safe_files.py)
            others.append(
                subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, preexec_fn=dying_with_parent())
            )
        yield Ranks(rank, world, others)
    finally:
        for other in others:
            other.kill()
            other.wait()
