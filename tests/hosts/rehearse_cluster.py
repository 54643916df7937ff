#!/usr/bin/env python3
"""Build a release of the demo on two hosts that share a folder, kill one, and compare it with that of one host.

Inputs:  the demo model and the first questions of the demo's.
Output:  FOLDER/one and FOLDER/shared, the two build folders; a line for each thing that must hold. Nothing is written
         outside of FOLDER. The exit code is 1 when one of them does not hold.
Example: .venv/bin/python tests/hosts/rehearse_cluster.py --folder build/cluster

The hosts are processes with a host name, process ids, mounts and a temporary folder of their own (`unshare`, as root or
in a user namespace). node-a takes the lines of `make targets` from the first on, node-b from the last on. node-a is
killed with SIGKILL while it quantises. node-b must then say who holds which lock; the script removes that lock, as the
line tells a person to, and lets node-b finish.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests/kills"), str(REPO / "tests/hosts")]
from files.host_locks import holder_of, locks_in  # noqa: E402
from files.safe_files import InputError, host_digest, run  # noqa: E402

from compare_builds import differences  # noqa: E402
from namespaces import kill_host, start_host, unshare, wait_until  # noqa: E402

QUESTIONS = 20
QUANTS = "F16 Q8_0 Q6_K Q4_K_M IQ4_XS"
PATIENCE = 20  # seconds; more than a loaded machine lets a process wait
MOST_SECONDS = 1800  # of a host's work, on a loaded machine
HOLDER = r"\(pid \d+, since [^)]*\)"
LINE_IN_TURN = 'while read -r line; do bash -c "$line" </dev/null || exit 1; done'


class Cluster:
    """The folder of a rehearsal, and what make is given on every host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with open(REPO / "data/demo/calibration_questions.csv", encoding="utf-8") as file:
            (folder / "few.csv").write_text("".join(islice(file, QUESTIONS + 1)), encoding="utf-8")
        self.failed = False
        self.hosts: list[subprocess.Popen] = []

    def make(self, goal: str, build: str) -> str:
        """Return a line of bash that runs make for one of the two builds."""
        few = self.folder / "few.csv"
        settings = f"QUESTIONS={few} EVAL_QUESTIONS={few} SCORED=no DRAFT= HOST_PATIENCE={PATIENCE}"
        return f"make {goal} BUILD={self.folder / build} {settings} QUANTS='{QUANTS}'"

    def start(self, host: str, line: str, screen: str) -> subprocess.Popen:
        """Start a line of bash on a host."""
        self.hosts.append(start_host(host, line, self.folder / f"tmp-{host}", self.folder / screen, REPO))
        return self.hosts[-1]

    def finish(self, host: str, line: str, screen: str) -> str:
        """Run a line on a host to its end; return what it printed."""
        process = self.start(host, line, screen)
        code = process.wait(MOST_SECONDS)
        text = (self.folder / screen).read_text(errors="replace")
        self.holds(f"{host}: {screen.removesuffix('.txt')} ends well", code == 0, text[-600:])
        return text

    def holds(self, what: str, is_so: bool, otherwise: str = "") -> None:
        """Print whether something that must hold does."""
        self.failed |= not is_so
        print(f"{'pass' if is_so else 'FAIL'}  {what}" + ("" if is_so else f"\n{otherwise}"), flush=True)


def quant_lock_of(shared: Path, host: str) -> Path | None:
    """Return the lock of a quant that a host makes at this moment; an F16 file is a link, made at once."""
    for lock in (shared / ".locks").glob("*109e,gguf,gemma-4-demo-109e-*.gguf.lock"):
        holder = holder_of(lock)
        if holder and holder.host == host_digest(host) and "-F16." not in lock.name:
            return lock
    return None


def build_together(cluster: Cluster) -> None:
    """Let two hosts make the files, kill node-a while it quantises, and let node-b go on to the release."""
    shared, listed = cluster.folder / "shared", cluster.folder / "targets.txt"
    cluster.finish("node-a", f"{cluster.make('targets', 'shared')} >{listed}", "targets.txt.screen")
    lines = listed.read_text().splitlines()
    cluster.holds(f"make targets prints {len(lines)} lines", len(lines) == len(QUANTS.split()), "\n".join(lines))
    first = cluster.start("node-a", f"{LINE_IN_TURN} <{listed}", "node-a.txt")
    second = cluster.start("node-b", f"tac {listed} | ({LINE_IN_TURN})", "node-b.txt")
    came = wait_until(lambda: quant_lock_of(shared, "node-a"), MOST_SECONDS, first)
    lock = quant_lock_of(shared, "node-a")
    kill_host(first)
    cluster.holds(f"node-a is killed while it makes {lock and lock.stem}", came and lock is not None)
    code = second.wait(MOST_SECONDS)
    text = (cluster.folder / "node-b.txt").read_text(errors="replace")
    told = re.search(
        rf"^error: .* one that host {host_digest('node-a')} {HOLDER} makes.*; if .* remove (\S+)$", text, re.MULTILINE
    )
    cluster.holds("node-b names the lock of node-a and what to do", code != 0 and told is not None, text[-900:])
    both = text + (cluster.folder / "node-a.txt").read_text(errors="replace")
    waited = re.search(rf"host [0-9a-f]+ {HOLDER} makes it; waiting", both)
    cluster.holds("one of them waited for what the other made", waited is not None, text[-900:])
    if told:
        Path(told[1]).unlink()
    cluster.finish("node-b", f"{cluster.make('targets', 'shared')} | ({LINE_IN_TURN})", "rest.txt")
    cluster.finish("node-b", cluster.make("release", "shared"), "release.txt")


def rehearse(cluster: Cluster) -> None:
    """Build on one host, then on two, and compare."""
    began = time.monotonic()
    cluster.finish("alone", cluster.make("release", "one"), "one.txt")
    print(f"one host: {time.monotonic() - began:.0f} s", flush=True)
    began = time.monotonic()
    build_together(cluster)
    print(f"two hosts: {time.monotonic() - began:.0f} s", flush=True)
    cluster.finish("node-b", cluster.make("verify", "shared"), "verify.txt")
    found = differences(cluster.folder / "one", cluster.folder / "shared")
    cluster.holds("both builds have the same files and bytes", not found, "\n".join(found))
    cluster.holds("no lock is left", not locks_in(cluster.folder / "shared"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the rehearsal; it is replaced")
    args = parser.parse_args()
    if not unshare():
        raise InputError("unshare", "a host name and process ids of its own for a process", "none allowed here")
    cluster = Cluster(args.folder.resolve())
    try:
        rehearse(cluster)
    finally:
        for host in cluster.hosts:
            if host.poll() is None:
                kill_host(host)
    sys.exit(cluster.failed)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    run(main)
