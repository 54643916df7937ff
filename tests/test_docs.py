"""README.md and docs/: every command runs as printed on the demo, and every name and link in them exists.

A block marked ```sh is run in one shell, in a copy of this checkout with a finished demo. Where it would take long or
needs a network, a comment above it says `<!-- make -n: why -->`. Its make commands are then only planned, and the
options of its scripts only parsed. ```console shows output, and text, json, csv and make show files.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from conftest import REPO
from makers.make_runs import write_known_speed

import pytest

SETTINGS = REPO / "make/settings.mk"

README = REPO / "README.md"
RUN_PAGES = [README, *sorted((REPO / "docs").glob("*.md"))]
PAGES = [*RUN_PAGES, *(REPO / folder / "README.md" for folder in ("data", "data/measurements", "modelfiles"))]
KINDS = {"sh", "console", "text", "json", "csv", "make", ""}
FENCE = re.compile(r"```(\w*)")
ONLY_PLANNED = re.compile(r"<!-- make -n: (.+) -->")
CODE = re.compile(r"`([^`]+)`")
COMMAND_FILE = re.compile(r"\b(?:scripts|bench|docs)/[\w/]+\.(?:py|sh)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")

# Words in capitals that are no setting: of the environment, of other programs, and stand-ins for a reader's own.
OTHER_CAPITALS = {
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "GGML_BACKEND_PATH",
    "ATEN_CPU_CAPABILITY",
    "LD_PRELOAD",
    "MAKEFLAGS",
    "MAKEFILES",
    "LD_LIBRARY_PATH",
    "PYTHONPATH",
    "NOTICE",
    "PORT",
    "PATCH",
    "OUTPUT",
    "TOKENIZER",
    "CHOSEN_BY",
    "HELD_OUT_OF",
    "CI",
}
OTHER_CAPITALS |= {
    "TARGET",
    "FILE",
    "DIR",
    "STAGE",
    "QUESTION_SET",
    "LETTERS",
    "FROM",
    "RANDOM_SEEDS",
    "RENDERER",
    "PARSER",
    "TEMPLATE",
    "BACKEND",
    "EXAMPLES",
    "SERVER_KEY",
    "SSL_CERT_FILE",
    "LLAMA_ARG_THREADS",
}
OTHER_OPTIONS = {"--dry-run", "--kl-divergence", "--help", "--version"}  # of llama.cpp's tools, and of every command


@dataclass(frozen=True)
class Block:
    """A fenced block: its page and first line, its kind, its text, and whether it is only planned."""

    page: Path
    line: int
    kind: str
    text: str
    planned: bool

    @property
    def lines(self) -> list[str]:
        """The commands, those continued by a backslash as one line, without comments."""
        joined = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line for line in joined if shlex.split(line, comments=True)]

    @property
    def place(self) -> str:
        """Where the block stands, for messages."""
        return f"{self.page.relative_to(REPO)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        match = FENCE.fullmatch(line)
        if start is None and match:
            start, kind = number, match[1]
        elif start is not None and line == "```":
            above = lines[start - 1] if start else ""
            yield Block(
                page, start + 1, kind, "\n".join(lines[start + 1 : number]), bool(ONLY_PLANNED.fullmatch(above))
            )
            start = None
    assert start is None, f"{page}: the block at line {start} has no end"


def prose_of(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands_of(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command in the blocks and in the code within lines."""
    for block in blocks_of(page):
        if block.kind == "sh":
            yield from (shlex.split(line, comments=True) for line in block.lines)
        if block.kind == "console":
            yield from (shlex.split(line[2:]) for line in block.text.splitlines() if line.startswith("$ "))
    yield from (code.split() for code in CODE.findall(prose_of(page)) if code.startswith("make "))


def without_environment(words: list[str]) -> list[str]:
    """Return the words of a command without the variables that a shell would set for it."""
    first = next((place for place, word in enumerate(words) if "=" not in word), len(words))
    return words[first:]


def settings_page() -> ModuleType:
    return loaded(REPO / "docs/make_settings_page.py")


def known_settings() -> set[str]:
    rows = settings_page().read_settings(SETTINGS).values()
    return {name for section in rows for name, _, _ in section}


def known_targets() -> set[str]:
    files = [REPO / "Makefile", *(REPO / "make").glob("*.mk")]
    return {name for file in files for name in re.findall(r"^([a-z][a-z-]*):", file.read_text(), re.MULTILINE)}


def loaded(file: Path) -> ModuleType:
    """Return a command's file as a module."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors_of(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def by_name(pages: list[Path]) -> dict:
    return {"argvalues": pages, "ids": [str(page.relative_to(REPO)) for page in pages]}


def test_the_readme_has_at_most_200_lines():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_no_place_waits_for_output():
    waiting = [str(page.relative_to(REPO)) for page in PAGES if "<!-- real output" in page.read_text(encoding="utf-8")]
    assert not waiting


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_block_says_what_it_is(page):
    blocks = list(blocks_of(page))
    assert {block.kind for block in blocks} <= (KINDS - {""} if page in RUN_PAGES else KINDS)
    marks = len(ONLY_PLANNED.findall(page.read_text(encoding="utf-8")))
    assert marks == sum(block.planned and block.kind == "sh" for block in blocks), "a mark that is above no sh block"


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_target_and_setting_exists(page):
    targets, settings = known_targets(), known_settings()
    for words in commands_of(page):
        if words[0] != "make":
            continue
        assigned = {word.partition("=")[0] for word in words if re.match(r"[A-Z_]+=", word)}
        assert assigned <= settings, f"{' '.join(words)}: settings are {sorted(settings)}"
        asked = {word for word in words[1:] if re.fullmatch(r"[a-z][a-z-]*", word)}
        assert asked <= targets, f"{' '.join(words)}: targets are {sorted(targets)}"
    # In prose a name in capitals is a setting: `KEEP`, `KEEP=109`. One with a digit is the name of a quant.
    named = {
        match[1] for code in CODE.findall(prose_of(page)) if (match := re.fullmatch(r"([A-Z_]{2,})(?:=.*)?", code))
    }
    assert named <= settings | OTHER_CAPITALS


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_command_file_exists_and_takes_the_options_shown(page):
    for file in set(COMMAND_FILE.findall(page.read_text(encoding="utf-8"))):
        assert (REPO / file).is_file(), file
    for words in map(without_environment, commands_of(page)):
        words = words[1:] if words and words[0].endswith("python") else words
        if words and COMMAND_FILE.fullmatch(words[0]) and words[0].endswith(".py"):
            loaded(REPO / words[0]).parse_args(words[1:])


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_option_in_prose_is_one_of_ours(page):
    sources = "".join(file.read_text(encoding="utf-8") for file in (REPO / "scripts").rglob("*.py"))
    ours = set(re.findall(r'"(--[a-z][a-z-]*)', sources))
    named = {option for code in CODE.findall(prose_of(page)) for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)}
    assert named <= ours | OTHER_OPTIONS


@pytest.mark.parametrize("page", **by_name(PAGES))
def test_every_link_leads_somewhere(page):
    broken = []
    for target in LINK.findall(prose_of(page)):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors_of(file)):
            broken.append(target)
    assert not broken


def test_the_tree_names_every_command_and_room():
    tree = (REPO / "docs/tree.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `([\w./]+)` \|", tree, re.MULTILINE))
    commands = {file.name for file in (REPO / "scripts").iterdir() if file.suffix in (".py", ".sh")}
    rooms = {f"{file.parent.name}/" for file in (REPO / "scripts").glob("*/__init__.py")}
    benches = {file.name for file in (REPO / "bench").glob("*.py")}
    assert rows == commands | rooms | benches


def test_the_settings_page_has_a_table_for_each_heading(tmp_path):
    source, page = tmp_path / "settings.mk", tmp_path / "settings.md"
    source.write_text(
        "# Words that are no heading.\n\n# ---- the run\nRUN = demo#  settings file\nV =#  1 shows every command\n\n"
        "# ---- quantise\nQUANTS = Q8_0 \\\n  Q6_K#  a|b, or all\nTOOLS ?=#  a build\nhelper = $(1)\n"
    )
    settings_page().main(["--settings", str(source), "--output", str(page)])
    assert page.read_text().endswith(
        "\n## The run\n\n| variable | default | meaning |\n| --- | --- | --- |\n| `RUN` | `demo` | settings file |\n"
        "| `V` |  | 1 shows every command |\n\n## Quantise\n\n| variable | default | meaning |\n| --- | --- | --- |\n"
        "| `QUANTS` | `Q8_0 Q6_K` | a\\|b, or all |\n| `TOOLS` |  | a build |\n"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# ---- run\nKEEP = 109\n", "expected a comment with the meaning of KEEP, found none"),
        ("KEEP = 109#  experts\n", "expected a heading `# ---- words` above KEEP, found none"),
        ("# ---- run\n", "expected settings `NAME = default#  meaning`, found none"),
    ],
)
def test_a_settings_file_that_explains_nothing_is_refused(text, words, tmp_path):
    from files.input_errors import InputError

    source = tmp_path / "settings.mk"
    source.write_text(text)
    with pytest.raises(InputError, match=re.escape(words)):
        settings_page().main(["--settings", str(source), "--output", str(tmp_path / "page.md")])
    assert not (tmp_path / "page.md").exists()


def test_the_settings_page_is_the_one_of_the_settings():
    page = settings_page()
    expected = page.settings_page(page.read_settings(SETTINGS))
    assert (REPO / "docs/settings.md").read_text(encoding="utf-8") == expected, "run docs/make_settings_page.py"


def environment() -> dict[str, str]:
    """Return the environment of a person at a shell: what a make above this test has set is left out."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


def run(folder: Path, text: str) -> subprocess.CompletedProcess:
    command = ["bash", "-euo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of this checkout with a finished demo, which commands may change."""
    folder = tmp_path_factory.mktemp("docs") / "checkout"
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=REPO, text=True)
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPO / name, folder / name)
    (folder / ".venv").symlink_to((REPO / ".venv").resolve())
    # The environment is the one that runs this test: a newer list of packages would make it anew.
    os.utime(folder / "requirements.txt", (0, 0))
    # Fewer questions make the same files in a third of the time.
    for name, questions in (("calibration_questions", 24), ("eval_questions", 12)):
        path = folder / f"data/demo/{name}.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[: 1 + questions]))
    with (folder / "runs/demo.mk").open("a") as settings:
        settings.write("DRAFT_QUESTIONS = 2\n")
    done = run(folder, "make demo")
    assert done.returncode == 0, done.stdout + done.stderr
    write_known_speed(folder / "build/plans/calibration.json")
    return folder


def planned(line: str) -> str:
    """Return a line of a block that is only planned as it is run: make with -n, but for a new run's file."""
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        return line if words[1] == "new" else re.sub(r"^make\b", "make -n", line)
    # A script's options are parsed elsewhere. A line of anything else would go unchecked.
    assert COMMAND_FILE.search(line), f"{line}: expected make or one of our commands in a block that is only planned"
    return ":"


@pytest.mark.parametrize("page", **by_name(RUN_PAGES))
def test_every_command_runs_as_printed(page, checkout):
    for block in blocks_of(page):
        if block.kind == "sh":
            done = run(checkout, "\n".join(map(planned, block.lines)) if block.planned else block.text)
            assert done.returncode == 0, f"{block.place}:\n{block.text}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
