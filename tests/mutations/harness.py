"""Run a command on a mutated input in a process of its own, with limits, and judge what it did."""

import contextlib
import glob
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from files.safe_files import run
from files.seals import LEDGER
from mutations.command import Command
from mutations.edits import MARKUP, Edit
from mutations.formats import format_of

MEMORY_BYTES = 2 << 30
LOADED = 10  # times as long may a command take on a loaded machine as it may use a processor
TRACEBACK_CODE = 70
# Digest and size of the mutated file, by which a record of the output names its input; and the room on this machine.
DIGEST = re.compile(
    rb"(\"bytes\": \d+,\s+)?(\"sha256\": \")?[0-9a-f]{12,64}|free here: [0-9.]+|\([0-9.]+ there\)|[0-9.]+ GiB free"
)
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
BAR = re.compile(r"[\w -]+: +\d+%\|")
READ_BY_PEOPLE = (".md", ".html", ".txt", ".mk", ".csv")
REFUSED, SAME, DIGEST_ONLY, SUBJECT = "refused", "same output", "only its digest", "its subject"
LABEL, ONCE = "a label", "measured once"
BROKEN = "no run"  # the command fails without a mutation, or the harness does
FAILURES = (
    *("traceback", "hang", "signal", "noise", "half output", "outside", "unsafe output", "changed output"),
    BROKEN,
)
# Texts that a person has given, or a tool says of itself: another text is another label, and no number follows from it.
LABELS = frozenset({"calibration", "name", "gguf", "label", "note", "type", "criterion", "llama_cpp", "lm_eval"})
# What one record alone holds, by file: nothing that the command reads could contradict another value.
# A full model has no map. How many of the scored questions chose is counted where both files are; make check-release
# does it again.
OF_A_RUN = {"experts", "gguf_bytes", "drop_map", "chosen_on", "scored_and_chosen_on"}
OF_AN_ANSWER = {"prompt_tokens", "completion_tokens", "seconds", "asked_at", "attempts"}
OF_A_FOLD = OF_A_RUN | OF_AN_ANSWER | {"order", "record_id", "letter", "strict_letter", "finish_reason"}
MEASURED_ONCE = {
    "answers.jsonl": OF_AN_ANSWER,
    "summary.json": OF_A_RUN,
    "fold0.json": OF_A_FOLD,
    "fold1.json": OF_A_FOLD,
    "scores.json": {"drop_map", "bytes", "experts", "chosen_on", "task"},
    "quality.json": {"losses", "line", "between", "scopes", "imatrix", "difference_error"},
    "findings.json": {"specialisation", "weights", "outputs", "bf16", "maps", "missing"},
    "map.json": {"bootstrap", "layers"},  # how many the model has is looked at where there is a model
    "expert_drop_metadata.json": {"question_ids", "layers", "shards"},  # neither the map nor the full model is at hand
    # Of the records of files. make check-release counts the tensors themselves; a seal holds the others.
    ".gguf.json": {"context", "tensors_per_type"},
}


@dataclass(frozen=True)
class Case:
    """One mutation of one input of one command."""

    command: str
    input: str
    edit: Edit


@dataclass
class Outcome:
    """What a command did: its exit code (None after a kill), what it printed, and its files by name."""

    code: int | None
    out: bytes
    err: bytes
    files: dict[str, bytes] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)


def link(source: Path, target: Path) -> None:
    """Link a file or the files of a tree: what is written in place shows in the time that both have."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=os.link)
    else:
        os.link(source, target)


def parts_of(command: Command) -> list[str]:
    """Return the parts of the artefacts that a command reads; the records of a release name files of other parts."""
    named = {text.split("IN/")[1].split("/")[0] for text in command.arguments.split() if "IN/" in text}
    return sorted(named | ({"pruned", "repo"} if "evidence" in named else set()))


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file of a tree."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            stat = os.lstat(os.path.join(place, name))
            found[os.path.relpath(os.path.join(place, name), folder)] = (stat.st_size, stat.st_mtime_ns)
    return found


def limit(seconds: int) -> None:
    """Limit memory beyond what is there by now, and processor time beyond what was used; no core files."""
    there = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (there + MEMORY_BYTES, there + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


def become(command: Command, folder: Path) -> None:
    """Be that command in a forked process, and end with its exit code."""
    code = TRACEBACK_CODE
    try:
        os.setsid()
        for number, name in enumerate(("stdin", "out.log", "err.log")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY if number else os.O_RDONLY, 0o600), number)
        os.chdir(folder / "case")
        # Without seals, which would refuse nearly all that is mutated: what else holds is the question.
        os.environ |= {"TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1", "SEALS": "no"}
        given = [text.replace("IN/", "in/").replace("OUT/", "out/") for text in command.arguments.split()]
        arguments = [path for text in given for path in (sorted(glob.glob(text)) if "*" in text else [text])]
        sys.argv = [command.name + ".py", *arguments]
        sys.stdin, sys.stdout, sys.stderr = (open(n, "w" if n else "r", closefd=False) for n in range(3))
        limit(command.seconds)
        main: Callable[[list[str]], None] = importlib.import_module(command.name).main
        run(lambda: main(arguments))
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # what it is, is the finding
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


class Workshop:
    """A folder with the artefacts, in which cases run."""

    def __init__(self, artefacts: Path, folder: Path) -> None:
        # Deep, so that ../../../zq of a mutated name stays in the folder, where it is seen.
        self.artefacts, self.root, self.place = artefacts, folder, folder / "a/b/c/d/case"
        self.plain: dict[str, Outcome] = {}

    def outcome(self, command: Command, case: Case | None) -> Outcome:
        """Run a command, on a mutated input if there is a case."""
        shutil.rmtree(self.root, ignore_errors=True)
        (self.place / "case/out").mkdir(parents=True)
        (self.place / "tmp").mkdir()
        (self.place / "stdin").write_text(command.stdin.replace("IN/", "in/"))
        for part in parts_of(command):
            link(self.artefacts / part, self.place / "case/in" / part)
        if case:
            path = self.place / "case/in" / case.input
            data = path.read_bytes()
            stat = path.stat()
            path.unlink()
            path.write_bytes(format_of(case.input).apply(data, case.edit))
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for path in self.written(command):  # written in place: a link would reach the artefacts
            if path.is_file() and not (case and path == self.place / "case/in" / case.input):
                data = path.read_bytes()
                path.unlink()
                path.write_bytes(data)
        before = stamps(self.root)
        code = self.call(command)
        return self.found(command, code, before)

    def written(self, command: Command) -> list[Path]:
        """Return the inputs that a command may write."""
        return [path for name in command.writes.split() for path in (self.place / "case/in").glob(name)]

    def call(self, command: Command) -> int | None:
        """Fork, run, and wait; kill what is left of the process group."""
        child = os.fork()
        if child == 0:
            become(command, self.place)
        end, code = time.monotonic() + LOADED * command.seconds, None
        while time.monotonic() < end and code is None:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        if code is None:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
        return code

    def found(self, command: Command, code: int | None, before: dict) -> Outcome:
        """Return what is there after a command."""
        after, case = stamps(self.root), str(self.place.relative_to(self.root))
        changed = {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)}
        patterns = [f"{case}/case/in/{name}" for name in command.writes.split()]
        ours = {name for name in changed if any(fnmatch(name, pattern) for pattern in patterns)}
        outputs = {name for name in changed if name.startswith(f"{case}/case/out/")} | ours
        expected = {f"{case}/out.log", f"{case}/err.log"}
        # What was read is noted in the ledger of its build folder.
        expected |= {name for name in changed if "/tmp/output-locks-" in name or Path(name).name == LEDGER}
        strays = sorted(changed - outputs - expected)
        if Path("/tmp/zq").exists():
            strays.append("/tmp/zq")
        start = len(f"{case}/case/")
        # A log tells of its process; from its state an analysis goes on, with --allow-nonfinite, say.
        kept = (name for name in outputs if name in after and not name.endswith(".log") and ".state/" not in name)
        files = {name[start:]: (self.root / name).read_bytes() for name in kept}
        out, err = ((self.place / f"{name}.log").read_bytes() for name in ("out", "err"))
        return Outcome(code, out, err, files, strays)

    def unmutated(self, command: Command) -> Outcome:
        """Return what a command does with the artefacts as they are; it must succeed."""
        if command.title not in self.plain:
            outcome = self.outcome(command, None)
            if (outcome.code != 0 and not command.refused) or outcome.strays:
                words = outcome.err.decode(errors="replace")[-2000:]
                raise RuntimeError(f"{command.title}: exit code {outcome.code}, {outcome.strays}\n{words}")
            self.plain[command.title] = outcome
        return self.plain[command.title]

    def verdict(self, command: Command, case: Case) -> tuple[str, str]:
        """Run a case; return REFUSED, why it is harmless, or one of FAILURES; and a line that shows it."""
        plain, outcome = self.unmutated(command), self.outcome(command, case)
        return judged(command, case, plain, outcome)


def lines_of(err: bytes) -> list[str]:
    """Return the lines that stay on a terminal: a progress bar writes over itself, and may stay when it is full."""
    found = [line.rsplit("\r", 1)[-1] for line in err.decode(errors="replace").split("\n")]
    return [line for line in found if line.strip() and not BAR.match(line)]


def unsafe(outcome: Outcome) -> str:
    """Return what of an outcome must not reach a terminal or a page."""
    texts = {"stdout": outcome.out, "stderr": outcome.err}
    texts |= {name: data for name, data in outcome.files.items() if name.endswith(READ_BY_PEOPLE)}
    for name, data in texts.items():
        if control := CONTROL.search(data):
            return f"{control[0]!r} in {name}"
        if MARKUP.encode() in data and name.endswith((".md", ".html")):
            return f"markup in {name}"
    return ""


def judged(command: Command, case: Case, plain: Outcome, outcome: Outcome) -> tuple[str, str]:
    """Return the verdict on an outcome, beside that of the same command without a mutation."""
    lines = lines_of(outcome.err)
    last = lines[-1][:200] if lines else ""
    if outcome.code in (None, -signal.SIGXCPU, -signal.SIGKILL):
        return "hang", f"more than {command.seconds} s"
    if outcome.code < 0:
        return "signal", f"{signal.Signals(-outcome.code).name} {last}"
    if outcome.code == TRACEBACK_CODE or "Traceback (most recent call last)" in "\n".join(lines):
        return "traceback", f"{last} at {place_of(lines)}"
    if outcome.strays:
        return "outside", ", ".join(outcome.strays)[:200]
    if what := unsafe(outcome):
        return "unsafe output", what
    same_end = outcome.code == plain.code and (not outcome.code or lines[-1:] == lines_of(plain.err)[-1:])
    if same_end and outcome.files == plain.files and outcome.out == plain.out:
        return SAME, ""
    if outcome.code != 0 and not (plain.code and outcome.files):  # one that is refused at its end has written all
        return judged_refusal(lines, plain, outcome)
    if without_digests(outcome) == without_digests(plain):
        return DIGEST_ONLY, ""
    if command.is_about(case.input):
        return SUBJECT, ""
    if reason := harmless_field(case):
        return reason, ""
    return "changed output", difference(plain, outcome)


def harmless_field(case: Case) -> str:
    """Return LABEL or ONCE for an edit of a field that no other record could contradict, "" for others."""
    edit = case.edit.get("edit", case.edit)
    fields = [key for key in edit.get("at", []) if isinstance(key, str)]
    if not fields:
        return ""
    if fields[-1] in LABELS and isinstance(edit.get("value"), str):
        return LABEL
    once = next((keys for name, keys in MEASURED_ONCE.items() if case.input.endswith(name)), set())
    return ONCE if once & set(fields) else ""


def judged_refusal(lines: list[str], plain: Outcome, outcome: Outcome) -> tuple[str, str]:
    """Return the verdict on an exit code other than 0."""
    if outcome.files:
        return "half output", ", ".join(sorted(outcome.files))[:200]
    if len(lines) != 1 or not lines[0].startswith("error"):
        return "noise", " / ".join(lines)[:300]
    return REFUSED, lines[0]


def place_of(lines: list[str]) -> str:
    """Return the last place of ours in a traceback."""
    places = [line for line in lines if line.strip().startswith('File "') and "/scripts/" in line]
    return re.sub(r'.*/scripts/(.*?)", line (\d+), in (\w+).*', r"\1:\2 \3", places[-1]) if places else "?"


def same_form(name: str, data: bytes) -> bytes:
    """Return a file's bytes, of JSON in one form: a copy of a record says the same with other blanks or with a mark."""
    if name.endswith(".json"):
        with contextlib.suppress(ValueError, RecursionError):
            return json.dumps(json.loads(data.decode("utf-8-sig")), indent=2).encode()
    return data


def without_digests(outcome: Outcome) -> dict[str, bytes]:
    """Return the texts of an outcome with all digests alike."""
    texts = {"stdout": outcome.out} | {
        n: d for n, d in outcome.files.items() if not n.endswith((".gguf", ".safetensors", ".png"))
    }
    return {name: DIGEST.sub(b"#", same_form(name, data)) for name, data in texts.items()}


def difference(plain: Outcome, outcome: Outcome) -> str:
    """Return the first line in which two outcomes differ."""
    one, two = without_digests(plain), without_digests(outcome)
    for name in sorted(one.keys() | two.keys()):
        if one.get(name) != two.get(name):
            pairs = zip(one.get(name, b"").splitlines(), two.get(name, b"").splitlines())
            first = next(((a, b) for a, b in pairs if a != b), (b"", b"more or fewer lines"))
            i = next((i for i, (a, b) in enumerate(zip(*first)) if a != b), 0)
            shown = [text[max(0, i - 30) : i + 50].decode(errors="replace") for text in first]
            return f"{name}: {shown[0]!r} became {shown[1]!r}"
    return "pictures or models"
