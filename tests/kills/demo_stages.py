"""The stages of a small run of the demo: how each is started by make, and the build folder before and after it."""

import argparse
import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
NAME = "gemma-4-demo"
CHOOSING_QUESTIONS, SCORED_QUESTIONS = 20, 6
LOCKS = f"output-locks-{os.getuid()}"  # of files/safe_files.py: they stay, by design
MARK = "KILL_TEST"  # in the environment of every process that a trial starts, also of those with a session of their own
FULL, PRUNED = f"{NAME}/full", f"{NAME}/109e"
QUANTS = "Q6_K CD-Q4_K_M AUTO-0.0068"
# Each stage and what make is asked for; a goal with a slash is a file of the build folder. In the order of the work.
GOALS: dict[str, list[str]] = {
    "fetch": [f"{FULL}/source.txt", f"{FULL}/model.json"],
    "statistics": [f"{FULL}/statistics/choosing/expert_stats.safetensors"],
    "choose": ["analyze"],
    "drop": ["drop"],
    "convert": [f"{FULL}/f16/{NAME}-F16.gguf", f"{PRUNED}/f16/{NAME}-109e-F16.gguf"],
    "imatrix": [f"{FULL}/gguf/choosing/imatrix.gguf", "imatrix"],
    "sensitivity": [f"{PRUNED}/gguf/sensitivity.json"],
    "quants": ["quants"],
    "evaluate": ["eval"],
    "quality": ["quality"],
    "findings": ["findings"],
    "criteria": ["compare-criteria"],
    "held out": ["eval-heldout"],
    "draft": [f"{PRUNED}/draft/draft.md"],  # before the release, which shows the speeds that this one measures
    "release": ["release"],
    "report": ["report", "REPLACE=report"],
}


@dataclass
class Place:
    """The folder of a test: `work` is the build folder of the moment, `states` what it was after each stage."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)  # that each stage takes when nothing disturbs it

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def temporary(self) -> Path:
        return self.folder / "tmp"

    def after(self, stage: str) -> Path:
        """The build folder as it is after a stage that nothing disturbed."""
        return self.folder / "states" / stage.replace(" ", "-")

    def restore(self, stage: str) -> None:
        """Put the build folder as it was before a stage."""
        for path in (self.work, self.temporary):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        known = list(GOALS)
        if number := known.index(stage):
            shutil.copytree(self.after(known[number - 1]), self.work, symlinks=True, dirs_exist_ok=True)

    def command(self, stage: str) -> list[str]:
        """Return the command line by which a person starts a stage."""
        goals = [f"{self.work}/{goal}" if "/" in goal else goal for goal in GOALS[stage]]
        few = ["FOLDS=2", "COMPARE_KEEP=109", "COMPARE_SEEDS=1", "SENSITIVITY_CHATS=2"]
        questions = [f"QUESTIONS={self.folder}/choosing.csv", f"EVAL_QUESTIONS={self.folder}/scored.csv"]
        return ["make", *goals, f"BUILD={self.work}", *questions, f"QUANTS={QUANTS}", *few]

    def environment(self) -> dict[str, str]:
        """Return the environment of a stage: nothing is written outside of the test's folder."""
        inside = {"TMPDIR": self.temporary, "MPLCONFIGDIR": self.folder / "cache", "HF_HOME": self.folder / "cache"}
        words = {key: str(path) for key, path in inside.items()}
        # A make that runs this test hands its own variables on.
        outer = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
        return {**outer, **words, "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", MARK: str(self.folder)}

    def start(
        self, stage: str, output: Path, before: tuple[str, ...] = (), options: tuple[str, ...] = ()
    ) -> subprocess.Popen:
        """Start a stage in a process group of its own; its screen goes into a file.

        before: words before `make`, such as strace and its options; options: more of make's.
        """
        with open(output, "ab") as screen:
            return subprocess.Popen(
                [*before, *self.command(stage), *options],
                cwd=REPO,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def processes(place: Path) -> list[int]:
    """Return the ids of all running processes that a test in a folder has started."""
    mark, found = f"{MARK}={place}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                running = mark in (entry / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended, or belongs to somebody else
                continue
            if running:
                found.append(int(entry.name))
    return sorted(found)


def prepare(place: Place) -> None:
    """Make the folder of a test with its two question files: the first questions of the demo's."""
    shutil.rmtree(place.folder, ignore_errors=True)
    (place.folder / "states").mkdir(parents=True)
    for name, of_demo, count in (
        ("choosing.csv", "calibration_questions.csv", CHOOSING_QUESTIONS),
        ("scored.csv", "eval_questions.csv", SCORED_QUESTIONS),
    ):
        with open(REPO / "data/demo" / of_demo, encoding="utf-8") as file:
            (place.folder / name).write_text("".join(islice(file, count + 1)), encoding="utf-8")


def run_undisturbed(place: Place, last: str) -> None:
    """Run the stages up to `last` one after the other, time them, and keep the build folder after each."""
    place.restore(next(iter(GOALS)))
    for stage in GOALS:
        screen, began = place.folder / "undisturbed.txt", time.monotonic()
        if code := place.start(stage, screen).wait():
            raise SystemExit(f"error: {stage}: expected exit code 0, found {code}; its output: {screen}")
        place.seconds[stage] = time.monotonic() - began
        shutil.copytree(place.work, place.after(stage), symlinks=True)
        print(f"{stage}: {place.seconds[stage]:.1f} s undisturbed", flush=True)
        if stage == last:
            return


def markdown(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]) + "\n"


def stages_parser(words: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all tests of stages have."""
    parser = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the test; it is replaced")
    parser.add_argument("--stages", nargs="+", choices=list(GOALS), default=list(GOALS), help="(default: all)")
    return parser
