"""Processes that share one analysis, as torchrun starts them (gloo on CPUs, nccl on GPUs); one process otherwise.

torchrun sets RANK, LOCAL_RANK, GROUP_RANK and WORLD_SIZE: https://docs.pytorch.org/docs/stable/elastic/run.html
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from files.input_errors import InputError

import torch
import torch.distributed as dist

REASON_CHARACTERS = 100


@dataclass(frozen=True)
class Ranks:
    """This process among `world` ones; `local` counts from 0 on each machine, `node` counts the machines."""

    rank: int = 0
    local: int = 0
    world: int = 1
    node: int = 0

    def mine(self, items: list) -> list:
        """Return this process's share of a list: every `world`-th item."""
        return items[self.rank :: self.world]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the end until all processes are here; where one raised an InputError the others exit silently."""
        refusal = None
        try:
            yield
        except InputError as error:
            refusal = error
        refused = [refusal is not None] * self.world
        # Without this word the others would wait for the one that is gone, until gloo reports it in a page of its own.
        if self.world > 1:
            self._call(dist.all_gather_object, refused, refusal is not None)
        if refusal:
            raise refusal
        if any(refused):
            sys.exit(1)

    def gather(self, part: dict) -> dict | None:
        """Return the union of all processes' dictionaries on process 0, None on the others."""
        if self.world == 1:
            return part
        parts: list[Any] | None = [None] * self.world if self.rank == 0 else None
        self._call(dist.gather_object, part, parts)
        return None if parts is None else {key: value for piece in parts for key, value in piece.items()}

    @staticmethod
    def _call(collective: Callable, *arguments: object) -> None:
        try:
            collective(*arguments)
        except RuntimeError as error:
            reason = str(error).splitlines()[0][:REASON_CHARACTERS]
            raise InputError("torchrun", "every process to go on", f"one that ended ({reason})") from error

    def leave(self) -> None:
        """End the group, if there is one."""
        if self.world > 1:
            dist.destroy_process_group()


def join_ranks(device: str) -> Ranks:
    """Join the processes that torchrun started; without torchrun return the one process there is."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "LOCAL_RANK" not in os.environ:  # other launchers set one of them
        return Ranks()
    local = int(os.environ["LOCAL_RANK"])
    if device == "cuda":
        torch.cuda.set_device(local)  # before the group: nccl takes the current GPU
    # Processes with shorter questions wait for the others at the end, however long that is.
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=30))
    return Ranks(dist.get_rank(), local, dist.get_world_size(), int(os.environ["GROUP_RANK"]))
