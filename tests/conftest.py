"""Shared fixtures: tiny models made on the spot, the llama.cpp tools, and running the scripts as a user does."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))
# A key of the tests, whatever the environment says: they seal what was made up. All workers have the same one.
os.environ["SEAL_KEY"] = f"{tempfile.gettempdir()}/seals-of-tests-{os.getuid()}/seal.key"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Containers often set it. A thousand processes would each compile our modules anew, and the workers the test files.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
gc.disable()  # until all test files are imported, see files/command_start.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of these sizes gain nothing by more, and the workers share them
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy waiting starves other jobs on the same processors

from files.safe_files import InputError, gib  # noqa: E402
from files.seals import set_command  # noqa: E402
from install_browser import find_browser  # noqa: E402

DEMO = REPO / "data/demo"
NEEDED_BYTES = 2 << 30  # two workers take 1.5 GiB at most
pytest_plugins = ["makers.uploads"]  # two files use its fixtures


def why_no_browser(config: pytest.Config) -> str:
    """Return why the tests have no browser, or nothing when there is one. The first call may install one."""
    try:
        with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            find_browser()
    except (InputError, OSError) as error:
        return f"no browser for the tests: {error}"
    return ""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Run not all tests on a disk that cannot hold their folders: a thousand errors would hide the one reason.

    Nor anything without a browser where CI is set: nobody would see there that tests were skipped.
    """
    a_worker_of_xdist = hasattr(session.config, "workerinput")  # whoever started it has looked already
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if session.config.args == ["tests"] and not a_worker_of_xdist and free < NEEDED_BYTES:
        found = f"{place}: expected {gib(NEEDED_BYTES)} GiB for the folders of the tests, found {gib(free)} GiB free"
        pytest.exit(f"error: {found}; set TMPDIR to a folder of another disk", returncode=1)
    if os.environ.get("CI") and not a_worker_of_xdist and (reason := why_no_browser(session.config)):
        pytest.exit(reason, returncode=1)


# The files that take longest, the longest first. Two workers share the files: a long one that is begun last would keep
# one of them waiting.
LONG_FILES = [
    *("test_make_release", "test_docs", "test_interrupted_analysis", "test_mutations", "test_padded_quants"),
    *("test_eval_faults", "test_plan_quants", "test_target_sizes", "test_convert_streamed", "test_makefile"),
    *("test_compare_criteria", "test_convert_to_gguf", "test_gguf_drop", "test_eval_gpqa", "test_mmproj"),
    *("test_eval_tasks", "test_quantize_gguf", "test_draft", "test_check_release", "test_sight", "test_page_tables"),
    *("test_measure_findings", "test_plot_expert_stats", "test_measure_quality", "test_install_browser"),
]


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Import torch before the first of our test files: no command may hide it from transformers for all later tests.

    Not at the top: the process that only hands out the tests needs none, nor do those that a test starts.
    """
    if module_path.is_relative_to(REPO / "tests"):
        import makers.tiny_models  # noqa: F401


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest."""
    items.sort(key=lambda item: LONG_FILES.index(item.path.stem) if item.path.stem in LONG_FILES else len(LONG_FILES))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Skip the tests of the browser where there is none. Asked only here, as most tests need no download."""
    gc.freeze()  # what was imported stays
    gc.enable()
    users = [item for item in session.items if "browser" in getattr(item, "fixturenames", ())]
    if users and not session.config.option.collectonly and (reason := why_no_browser(session.config)):
        for item in users:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def no_command() -> Iterator[None]:
    """Seal as no command until a test calls one: not as the last one of another test, nor with the files it held.

    After it, too: what fixtures of a whole file call comes before this one of its first test.
    """
    set_command("")
    yield
    set_command("")


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The embedded demo checkpoint."""
    return DEMO / "model"


@pytest.fixture(scope="session")
def tools():
    """The llama.cpp tools; their absence fails the tests, it does not skip them."""
    from llama.llama_tools import find_llama_cpp

    return find_llama_cpp(None)


@pytest.fixture(scope="session")
def llama_cpp_source(tools) -> Path:
    """A directory that holds llama.cpp's models/templates/."""
    return Path(os.environ.get("LLAMA_CPP_SOURCE", tools.directory))


@pytest.fixture(scope="session", params=["text", "multimodal"])
def tiny_model(request, tmp_path_factory) -> Path:
    """A random Gemma 4 with 16 experts in each of the two layouts on disk (see build_tiny_model)."""
    from makers.tiny_models import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp(request.param) / "model", request.param, DEMO / "model")


@pytest.fixture(scope="session")
def tiny_text_model(tmp_path_factory) -> Path:
    """A random text-only Gemma 4 with 16 experts."""
    from makers.tiny_models import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("plain") / "model", "text", DEMO / "model")


@pytest.fixture
def model_copy(tiny_text_model, tmp_path) -> Path:
    """A copy of the tiny text model that a test may damage."""
    return Path(shutil.copytree(tiny_text_model, tmp_path / "copy"))


@pytest.fixture(scope="session")
def few_questions(tmp_path_factory) -> Path:
    """The first six evaluation questions of the demo."""
    lines = (DEMO / "eval_questions.csv").read_text().splitlines(keepends=True)
    path = tmp_path_factory.mktemp("questions") / "few.csv"
    path.write_text("".join(lines[:7]))
    return path


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script with arguments in a process of its own; never raises."""

    def call(name: str, *arguments: object, **environment: object) -> subprocess.CompletedProcess:
        launcher = [] if name.endswith(".sh") else [sys.executable]
        return subprocess.run(
            [*launcher, REPO / "scripts" / name, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHON": sys.executable, **{k: str(v) for k, v in environment.items()}},
        )

    return call


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Assert that a finished script refused its input in one line on stderr, and return that line."""

    def check(done: subprocess.CompletedProcess, *words: object) -> str:
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert done.returncode != 0, done.stdout
        assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
        for word in words:
            assert str(word) in lines[0], lines[0]
        return lines[0]

    return check


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """Assert that a script's main refuses arguments with an InputError of one line, and return that line.

    The same as `refused`, without a process: for many refusals of one script.
    """
    from files.input_errors import InputError

    def check(main: Callable[[list[str]], None], arguments: list[object], *words: object) -> str:
        with pytest.raises(InputError) as caught:
            main(list(map(str, arguments)))
        line = str(caught.value)
        assert "\n" not in line
        for word in words:
            assert str(word) in line, line
        return line

    return check


@pytest.fixture
def without_proc() -> Callable[..., subprocess.CompletedProcess]:
    """Run a command in the repository where nothing is mounted at /proc; skipped where that cannot be."""
    hidden = ["unshare", "-rm", "bash", "-c", 'mount -t tmpfs none /proc && exec "$@"', "bash"]
    if subprocess.run([*hidden, "true"], capture_output=True).returncode != 0:
        pytest.skip("this system lets no user hide /proc from a command of his own (unshare -rm mount)")
    return lambda *command: subprocess.run([*hidden, *command], cwd=REPO, capture_output=True, text=True)


@pytest.fixture
def impatient(monkeypatch) -> Iterator[None]:
    """Let a chat template that does not end be found out sooner; the process that renders is begun anew."""
    from chats import template_sandbox

    template_sandbox._renderers.clear()
    monkeypatch.setattr(template_sandbox, "WORK_SECONDS", 0.2)
    yield
    template_sandbox._renderers.clear()


@pytest.fixture(scope="session")
def pruned_demo(script, tmp_path_factory) -> Path:
    """A folder with the demo pruned to 112 experts by its first six questions: checkpoint/, quants, their records."""
    from makers.pruned_models import build_pruned_demo

    return build_pruned_demo(script, DEMO, tmp_path_factory.mktemp("pruned"))


@pytest.fixture
def build(pruned_demo, tmp_path):
    """A build of the pruned demo, with its release, that a test may damage (see damaged_build.Build)."""
    from makers.damaged_build import Build

    return Build(pruned_demo, tmp_path)


@pytest.fixture
def release(pruned_demo) -> Path:
    """A release of the demo's standard quants with scores and quality, which no test may change."""
    from makers.release_inputs import shared_release

    return shared_release(pruned_demo)


@pytest.fixture
def copied(release, tmp_path) -> Path:
    """A copy of the release that a test may damage; what it was made from is found from there, too."""
    from makers.release_copies import copy_of_release

    return copy_of_release(release, tmp_path / "place")
