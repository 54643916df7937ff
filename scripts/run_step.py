#!/usr/bin/env python3
"""Run one step of the pipeline: one line on the screen when it is done, its command and full output in a log.

Inputs:  a command with its arguments; the step's words, its target and its place among all steps.
Output:  LOGS/WORDS.log, and LOGS/WORDS.json with what it took (stages/step_usage.py); on the screen the place, the
         words, the last line of the command's output and the time. On a terminal what the command reports meanwhile
         (its progress bar) stands there until then.
Example: .venv/bin/python scripts/run_step.py --place 1/2 --logs build/logs --words 'Say hello' -- echo hello

When the command fails, its error line is shown, then where the log is. The exit code is the command's own. A target
that another run makes at that moment, here or on another host, is waited for, and not made again (stages/turns.py).
"""

import argparse
import codecs
import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from files.command_start import die_with_parent, dying_with_parent
from files.host_locks import lock_path
from files.input_errors import InputError, own_file, printable, printable_lines
from files.option_types import command_parser, positive
from files.safe_files import run
from files.written_records import write_record
from stages.set_aside import settle
from stages.step_logs import log_of
from stages.step_usage import StepRecord, Usage, step_record_path
from stages.turns import turn

LINE_WIDTH = 100  # of a finished step's line
WORDS_WIDTH = 40
READ_BYTES = 1 << 16
LEAST_ROOM, MOST_ROOM = 20, 1000  # columns for what a command reports, whatever the terminal says of itself
SHOWN_LINES = 5  # of a failed command that printed no error line
CLEAR_LINE = "\r\x1b[K"
# How a step was stopped from outside, by its exit code, and what must be mended first.
STOPPED = {
    128 + signal.SIGINT: ("stopped by Ctrl-C", ""),
    128 + signal.SIGTERM: ("told to stop (SIGTERM)", ""),
    128 + signal.SIGKILL: ("killed (SIGKILL), by somebody or for want of memory", ""),
}
FAILED = {128 + signal.SIGBUS: "ended by SIGBUS: a file that it read has shrunk, or the disk is full"}
PATIENCE = 300
PATH_BEFORE_RESULT = re.compile(r"^\S+: ")  # commands end with "PATH: result" or "NAME: result"


def time_in_words(seconds: float) -> str:
    """Return a duration as a person says it: seconds, then minutes, then hours."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def result_of(output: str) -> str:
    """Return what a command came to: the last line of its output that is no table, without the path before it."""
    lines = [line for line in output.splitlines() if line.strip() and not line.startswith(("|", "#"))]
    return printable(PATH_BEFORE_RESULT.sub("", lines[-1].strip()).expandtabs()) if lines else ""


def step_line(place: str, words: str, result: str, seconds: float) -> str:
    """Return the line of a finished step, at most LINE_WIDTH wide; what is too long in it is the result."""
    begin, end = f"[{place}] {words}".ljust(WORDS_WIDTH), f"   {time_in_words(seconds)}"
    room = LINE_WIDTH - len(begin) - len(end) - 3
    shown = result if len(result) <= room else f"{result[: max(0, room - 3)]}..."
    return f"{begin}   {shown}{end}"


def error_lines(text: str) -> list[str]:
    """Return the lines of a failed command that say why: its `error: ` lines, else its last lines."""
    # A command of others may repeat what a file says: its control characters are for the log alone.
    lines = [printable(line.rstrip().expandtabs()) for line in re.split("[\r\n]+", text) if line.strip()]
    return [line for line in lines if re.match(r"error\b.*: |\S+: error: |FAIL ", line)] or lines[-SHOWN_LINES:]


def seconds_since_1970(text: str) -> float:
    """Parse a time as bash prints it, in the locale's way of writing numbers."""
    return float(text.replace(",", "."))


class Screen:
    """The line at the bottom of a terminal while a step runs; nothing where the output is no terminal."""

    def __init__(self, beginning: str, live: bool) -> None:
        self.beginning, self.live = beginning, live
        self.show("")

    def show(self, report: str) -> None:
        """Put what the command reports behind the beginning of the line."""
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            line = f"{self.beginning}   {printable(report.expandtabs())}"[:width]
            print(f"{CLEAR_LINE}{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line away."""
        if self.live:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)


class Log:
    """The log of a step. A full disk must not keep the step from being read to its end: the reason is kept instead."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.failed = file, ""

    def write(self, chunk: bytes) -> None:
        """Append to the file."""
        try:
            self.file.write(chunk)
        except OSError as error:
            self.failed = str(error.strerror)


def follow(stream: IO[bytes] | int, kept: list[bytes], log: Log, screen: Screen | None, echo: bool) -> None:
    """Read a stream of the command to its end: into the log and `kept`, and its last line onto the screen."""
    handle = stream if isinstance(stream, int) else stream.fileno()
    # A chunk may end in the middle of a letter. A bare carriage return, as progress bars have it, ends a line here: it
    # would put the cursor back over what is shown.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    while True:
        try:
            chunk = os.read(handle, READ_BYTES)
        except OSError:  # how a terminal's other end says that it was closed
            return
        if not chunk:
            return
        kept.append(chunk)
        log.write(chunk)
        if echo:
            try:
                # In bytes of its own: a terminal's encoding that has not a letter must not end the reading.
                sys.stdout.buffer.write(printable_lines(decoder.decode(chunk)).encode())
                sys.stdout.flush()
            except OSError:  # who read it has left. The step goes on, and must be read to its end.
                echo = False
        elif screen and (parts := re.split(rb"[\r\n]+", chunk.strip(b"\r\n"))):
            screen.show(parts[-1].decode(errors="replace"))


def run_logged(command: list[str], log: Log, screen: Screen, echo: bool) -> tuple[int, str, str]:
    """Run a command; return its exit code, what it wrote to stdout and what it wrote to stderr."""
    # A terminal of its own for stderr: progress bars draw themselves only where they see one.
    reader, writer = pty.openpty() if screen.live else os.pipe()
    if screen.live:  # a new one has no width, and a progress bar would be cut to nothing
        room = shutil.get_terminal_size().columns - len(screen.beginning) - 4
        termios.tcsetwinsize(writer, (24, min(max(room, LEAST_ROOM), MOST_ROOM)))
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=writer,
        preexec_fn=dying_with_parent(),  # else its output would be taken when make starts the step again
    ) as process:
        os.close(writer)
        # make ends a step by SIGTERM, sent to this process alone.
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        out: list[bytes] = []
        err: list[bytes] = []
        assert process.stdout is not None  # it is a pipe
        threads = [
            threading.Thread(target=follow, args=(process.stdout, out, log, None, echo)),
            threading.Thread(target=follow, args=(reader, err, log, screen, echo)),
        ]
        try:
            for thread in threads:
                thread.start()
        except RuntimeError:  # the user may have no more: who would read what the command says?
            process.kill()
            raise
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the command has got Ctrl-C as well, and tidies up
            code = process.wait()
        for thread in threads:
            thread.join()
    os.close(reader)
    return code, b"".join(out).decode(errors="replace"), b"".join(err).decode(errors="replace")


def keep_step_record(path: Path, taken: dict) -> None:
    """Write what a step took; where that cannot be, say so: the step itself is done."""
    try:
        write_record(path, taken, StepRecord)
    except (InputError, OSError) as error:
        print(f"warning: {error}", file=sys.stderr)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("the step").add_argument
    add("--place", required=True, metavar="N/ALL", help="its place among the steps of this call of make")
    add("--words", required=True, help="what it does, for the screen and the log's name")
    add("--target", type=Path, help="what it makes: no other run makes that at the same time, on no host")
    add("--began", type=seconds_since_1970, default=0.0, help="when make began; with it a target made since then stays")
    add("--patience", type=positive, default=PATIENCE, help="seconds to wait for a host that gives no sign of life")
    add("--stage", default="", help="its stage, for the record of what it took")
    add("--disk", type=Path, nargs="+", default=[], help="folders whose size on the disk is recorded")
    add("command", nargs="+", help="the command and its arguments, after --")
    add = parser.add_argument_group("what is shown").add_argument
    add("--logs", type=Path, required=True, help="directory of the logs")
    add("--echo", action="store_true", help="show the command and its whole output, too")
    add("--replacing", action="store_true", help="make has REPLACE: what goes on is the command without it")
    aside = "folder of what REPLACE took away: goes when the step is done, is put back when it is refused"
    add("--aside", type=Path, action="append", default=[], help=aside)
    return parser.parse_args(argv)


class Ended(NamedTuple):
    """A step that has ended. code: as a shell reports it; back: the folders where REPLACE's outputs are there again."""

    code: int
    out: str
    err: str
    back: list[Path]


def open_log(path: Path) -> IO[bytes]:
    """Open a step's log; where it is another user's, what is written goes nowhere, as a log stops no step."""
    try:
        return open(path, "a+b", buffering=0, opener=own_file)  # NFS lends no shared lock on what cannot be read
    except PermissionError as error:
        print(f"warning: {path}: expected a log that can be written, found: {error.strerror}", file=sys.stderr)
        return open(os.devnull, "a+b", buffering=0)


def run_step(args: argparse.Namespace, path: Path, screen: Screen) -> Ended:
    """Run the command with its log and keep what it took; then forget what REPLACE took away, or put it back."""
    line = shlex.join(args.command)
    if args.echo:
        print(line, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_log(path) as file:
        # Held while the step works: `make status` sees by it what is running. Some file systems have no locks.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        log = Log(file)
        log.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} $ {line}\n".encode())
        usage = Usage(args.disk)
        try:
            code, out, err = run_logged(args.command, log, screen, args.echo)
        except OSError as error:
            raise InputError(args.command[0], "a command that can be run", str(error.strerror)) from error
    screen.clear()
    if log.failed:
        print(f"warning: {path}: expected a log that can be written, found: {log.failed}", file=sys.stderr)
    code = code if code >= 0 else 128 - code  # as a shell reports an end by a signal
    taken = usage.stop()
    if code == 0:
        taken |= {"stage": args.stage, "words": args.words, "target": str(args.target or "")}
        keep_step_record(step_record_path(args.logs, args.words), taken)
    # Before the exit code is known to make, which may start the next step at once, and before another host's turn.
    refused = args.replacing and 0 < code < 128
    return Ended(code, out, err, settle(args.aside, code == 0, refused))


def take_turn(args: argparse.Namespace, path: Path) -> Ended:
    """Run the command when its turn comes; return as `run_step` does."""
    screen = Screen(f"[{args.place}] {args.words}", sys.stderr.isatty() and not args.echo)

    def tell(report: str) -> None:
        screen.show(report)
        if not screen.live:
            print(f"[{args.place}] {args.words}: {report}", file=sys.stderr, flush=True)

    if args.target is None or (lock := lock_path(args.target)) is None:
        return run_step(args, path, screen)
    with turn(args.target, lock, args.began, args.patience, tell) as to_be_made:
        if not to_be_made:
            screen.clear()
            return Ended(0, "made by another run meanwhile", "", settle(args.aside, True, False))
        return run_step(args, path, screen)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    args.place = printable(args.place)
    path, began = log_of(args.logs, args.words), time.monotonic()
    die_with_parent(signal.SIGTERM)  # a killed make must not leave a step at work, which would refuse the next make
    code, out, err, back = take_turn(args, path)
    if code == 0:
        print(step_line(args.place, args.words, result_of(out), time.monotonic() - began), flush=True)
        return
    if code not in STOPPED:
        for shown in error_lines(err or out):
            print(shown, file=sys.stderr)
    how, mended = STOPPED.get(code, (FAILED.get(code, "failed"), "When that is mended, "))
    print(f"[{args.place}] {args.words}: {how}; full output: {path}", file=sys.stderr)
    for folder in back:
        print(f"{folder}: what REPLACE took away is there again", file=sys.stderr)
    command = "the same command without REPLACE" if args.replacing and not back else "the same command"
    words = f"{mended}{command} goes on from here."
    print(f"{words[0].upper()}{words[1:]}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    run(main)
