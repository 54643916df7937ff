"""Whether each rename survives a power cut: the file is flushed before it, and its folder after it. Seen by strace."""

import re
import shutil
from collections import Counter
from pathlib import Path

from demo_stages import Place

CALLS = "fsync,fdatasync,rename,renameat,renameat2,write,pwrite64,writev,copy_file_range,sendfile,ftruncate"
# Such as: 71 fsync(3</a/b>) = 0 | 71 rename("/a/b", "/a/c") = 0 | 71 write(4</a/b>, ""..., 8) = 8
TRACED = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
OF_HANDLE = re.compile(r"^\d+<([^>]*)>")
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"')
# The second file name of a call is what it writes to.
COPIES = re.compile(r"\d+<[^>]*>")
# What a long step keeps to go on from is not flushed each time. It holds sums of its bytes, and is read by these.
# The loader's copy of the questions is removed before lm-eval starts.
STATE = re.compile(r"\.state\d*/|/task/datasets/")
# A folder that counts for nothing before it is renamed as a whole; then all in it must have been flushed.
PARTIAL = re.compile(r"^.*?\.partial/")


def written_by(call: str, arguments: str) -> str | None:
    """Return the path of the file that a call has written to."""
    if call == "copy_file_range":
        handles = COPIES.findall(arguments)
        arguments = handles[1] if len(handles) > 1 else ""
    found = OF_HANDLE.match(arguments)
    return found[1] if found else None


def moved(path: str, old: str, new: str) -> str:
    """Return where a path leads after a rename of it, or of a folder that it lies in."""
    return new + path[len(old) :] if path == old or path.startswith(f"{old}/") else path


def within_partial(old: str, new: str) -> bool:
    """Tell whether both names lie in the same folder that counts for nothing yet."""
    before, after = PARTIAL.match(old), PARTIAL.match(new)
    return bool(before and after and before[0] == after[0])


def unflushed_renames(lines: list[str], folder: Path) -> tuple[int, list[str]]:
    """Return how many renames inside a folder a trace holds, and in words those that a power cut could undo or empty.

    A rename is safe when all that was written under the old name is flushed since, so is a folder that is renamed, and
    the folder that holds the new name is flushed later.
    """
    renames, found = 0, []
    dirty: set[str] = set()  # paths that were written to and not flushed since
    waiting: dict[str, str] = {}  # new names by the folder that must be flushed for them
    for line in lines:
        if not (match := TRACED.match(line)) or match[3].startswith("-"):
            continue
        call, arguments = match[1], match[2]
        if call.startswith("rename"):
            old, new = [str((folder / text).resolve()) for text in TEXT.findall(arguments)[:2]]
            if not new.startswith(f"{folder}/") or STATE.search(new):
                continue
            renames += 1
            if not within_partial(old, new):
                found += [f"written and not flushed: {path}" for path in dirty if moved(path, old, new) != path]
            dirty = {moved(path, old, new) for path in dirty}
            waiting = {moved(name, old, new): moved(parent, old, new) for name, parent in waiting.items()}
            waiting[new] = str(Path(new).parent)
        elif path := written_by(call, arguments):
            if "sync" in call:
                dirty.discard(path)
                waiting = {new: parent for new, parent in waiting.items() if parent != path}
            else:
                dirty.add(path)
    return renames, found + [f"its folder not flushed: {path}" for path in waiting]


def whole_lines(text: str) -> list[str]:
    """Return a trace's lines; a call that another thread interrupted stands in two, which are put together."""
    begun: dict[str, str] = {}
    lines = []
    for line in text.splitlines():
        process = line.split(" ", 1)[0]
        if line.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>").rstrip()
        elif match := re.match(r"\d+ +<\.\.\. \w+ resumed>(.*)", line):
            lines.append(begun.pop(process, "") + match[1])
        else:
            lines.append(line)
    return lines


def traced_calls(place: Place, stage: str) -> list[str]:
    """Run a stage under strace; return the calls that write, flush and rename, a line each."""
    place.restore(stage)
    trace = place.folder / "trace.txt"
    words = (
        "strace",
        "-f",
        "--seccomp-bpf",
        "-q",
        "-y",
        "-s",
        "0",
        "-e",
        f"trace={CALLS}",
        "-e",
        "signal=none",
        "-o",
        str(trace),
    )
    if code := place.start(stage, place.folder / "traced.txt", words).wait():
        raise SystemExit(f"error: {stage} under strace: expected exit code 0, found {code}")
    lines = whole_lines(trace.read_text(errors="replace"))
    trace.unlink()
    return lines


def files_by_call(lines: list[str], folder: Path) -> dict[str, Counter[str]]:
    """Return the files inside a folder that each call of a trace wrote to, flushed or renamed, and how often."""
    found: dict[str, Counter[str]] = {}
    for line in lines:
        if match := TRACED.match(line):
            call, arguments = match[1], match[2]
            path = TEXT.findall(arguments)[0] if call.startswith("rename") else written_by(call, arguments)
            if path and path.startswith(f"{folder}/"):
                found.setdefault(call, Counter())[path] += 1
    return found


def count_flushes(place: Place, stage: str) -> str:
    """Return the renames of a stage and how many of them were not flushed, in words for the table."""
    if not shutil.which("strace"):
        return "no strace"
    renames, bare = unflushed_renames(traced_calls(place, stage), place.work)
    for line in bare:
        print(f"{stage}: {line}", flush=True)
    return f"{renames}, {len(bare)}"
