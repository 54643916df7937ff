"""Runs that are killed, interrupted, started twice or split over processes: always the statistics of one plain run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import teacher_force_analysis as analysis
from analysis.analysis_state import CHECK_SUMS, AnalysisState, check_sum, state_directory
from conftest import DEMO, REPO
from files.seals import MARKER
from makers.tiny_models import LAYERS

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

COMMAND = REPO / "scripts/teacher_force_analysis.py"
FEW, MANY = 10, 60  # questions; a run of many takes long enough to be killed in its middle


def arguments(output: Path, *options: object, limit: int = FEW, model: Path = DEMO / "model") -> list[str]:
    """The command line of a run of the demo model on its calibration questions."""
    named = {"model": model, "questions": DEMO / "calibration_questions.csv", "limit": limit, "output": output}
    return [*(str(part) for name, value in named.items() for part in (f"--{name}", value)), *map(str, options)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[int, bytes]:
    """The statistics of whole runs, by number of questions."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for limit in (FEW, MANY):
        analysis.main(arguments(folder / str(limit), limit=limit))
    return {limit: (folder / str(limit)).read_bytes() for limit in (FEW, MANY)}


def leave_unfinished(options: list[str], saves: int = 6) -> None:
    """Run the analysis in this process and interrupt it when so many files of its state are saved."""
    saved = []

    def save(state: AnalysisState, *values: object, whole=AnalysisState.save) -> None:
        if len(saved) == saves:
            raise KeyboardInterrupt
        whole(state, *values)
        saved.append(values)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AnalysisState, "save", save)
        analysis.main(options)


def test_an_edited_state_is_made_again_though_its_sums_of_bytes_agree(undisturbed, tmp_path, capsys):
    """What it became would be sealed as our own."""
    (tmp_path / MARKER).touch()
    output = tmp_path / "stats"
    leave_unfinished(arguments(output))
    path = sorted(output.with_name("stats.state").glob("*.safetensors"))[1]
    with safe_open(path, framework="numpy") as file:
        notes = file.metadata()
    arrays = load_file(path)
    arrays["weighted_norm_sum"][:] += 1
    sums = {name: check_sum(torch.from_numpy(array)) for name, array in arrays.items()}
    save_file(arrays, path, notes | {CHECK_SUMS: json.dumps(sums)})
    analysis.main(arguments(output))
    assert f"{path}: expected what this command wrote, found one edited" in capsys.readouterr().out
    assert output.read_bytes() == undisturbed[FEW]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    """The state of a run of FEW questions, interrupted after six of them."""
    output = tmp_path_factory.mktemp("unfinished") / "stats"
    leave_unfinished(arguments(output))
    return output.with_name("stats.state")


@pytest.fixture
def state(unfinished, tmp_path) -> Path:
    """A copy of that state, beside the output tmp_path/stats."""
    return Path(shutil.copytree(unfinished, tmp_path / "stats.state"))


def start_until(
    command: list[str], state: Path, ready: Callable[[list[Path]], bool], stderr: int = subprocess.DEVNULL
) -> subprocess.Popen:
    """Start a run in a process of its own; return as soon as ready(files of its state) holds."""
    process = subprocess.Popen([sys.executable, COMMAND, *command], stdout=subprocess.DEVNULL, stderr=stderr)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if ready(sorted(state.glob("questions-*.safetensors"))):
            return process
        time.sleep(0.005)
    process.kill()
    process.wait()
    raise AssertionError("the run ended before it came so far")


def layers_done(file: Path) -> int:
    try:
        with safe_open(file, "pt") as opened:
            return int(opened.metadata()["layers_done"])
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("mode", ["resident", "streamed", "spilled"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(mode, undisturbed, tmp_path, capsys, monkeypatch, refusal):
    """Until it is killed, no other run gets at its state."""
    output, spill = tmp_path / "stats", tmp_path / "spill" if mode == "spilled" else None
    options = [] if mode == "resident" else ["--stream-layers"]
    options += ["--spill", str(spill)] if spill else []
    command = arguments(output, *options, limit=MANY)
    state = state_directory(output, spill)
    assert state.parent == (spill or tmp_path) and state.name.endswith("stats.state")

    def far_enough(files: list[Path]) -> bool:
        if mode == "resident":
            return len(files) >= 15
        return len(files) == MANY and layers_done(files[20]) >= 2

    process = start_until(command, state, far_enough)
    process.send_signal(signal.SIGSTOP)
    try:
        refusal(analysis.main, command, "stats.state", "being written")
    finally:
        process.kill()
        process.wait()
    assert not output.exists()
    finished = {file: layers_done(file) for file in state.glob("questions-*.safetensors")}
    saved = []

    def save(state, first, sums, layers, hidden=None, whole=AnalysisState.save) -> None:
        saved.append((first, layers))
        whole(state, first, sums, layers, hidden)

    monkeypatch.setattr(AnalysisState, "save", save)
    analysis.main(command)
    assert output.read_bytes() == undisturbed[MANY] and "going on" in capsys.readouterr().out
    redone = {(int(file.stem.split("-")[1]), layer) for file, done in finished.items() for layer in range(done + 1)}
    assert not redone & set(saved)
    if mode == "resident":
        assert len(saved) == MANY - len(finished)


def test_a_state_changes_from_resident_to_streamed(state, undisturbed, tmp_path):
    analysis.main(arguments(tmp_path / "stats", "--stream-layers"))
    assert (tmp_path / "stats").read_bytes() == undisturbed[FEW] and not state.exists()


def test_damaged_state_files_are_done_again(state, undisturbed, tmp_path, capsys):
    file = [state / f"questions-{number:06d}.safetensors" for number in range(6)]
    whole, all_done = load_file(file[0]), {"layers_done": str(LAYERS)}
    save_file(whole, file[0])  # no metadata
    save_file(whole, file[1], {"layers_done": "999"})
    save_file({name: array for name, array in whole.items() if name != "norm_sum"}, file[2], all_done)
    save_file(whole | {"norm_sum": whole["norm_sum"][:, :, :3].copy()}, file[3], all_done)
    save_file(whole, file[4], {"layers_done": "1"})  # no hidden states
    file[5].unlink()
    file[5].mkdir()
    analysis.main(arguments(tmp_path / "stats"))
    said = capsys.readouterr().out
    assert (tmp_path / "stats").read_bytes() == undisturbed[FEW]
    assert all(f"{path}: unreadable" in said for path in file)


def test_a_state_file_cut_short_is_done_again(state, undisturbed, tmp_path, capsys):
    cut = state / "questions-000002.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    analysis.main(arguments(tmp_path / "stats"))
    assert (tmp_path / "stats").read_bytes() == undisturbed[FEW]
    assert f"{cut}: unreadable" in capsys.readouterr().out


def test_a_state_file_with_bytes_that_never_reached_the_disk_is_done_again(state, undisturbed, tmp_path, capsys):
    """As a power cut leaves it: of the right size, with zeros in it."""
    holed = state / "questions-000003.safetensors"
    content = bytearray(holed.read_bytes())
    content[-256:] = bytes(256)
    holed.write_bytes(content)
    analysis.main(arguments(tmp_path / "stats"))
    assert (tmp_path / "stats").read_bytes() == undisturbed[FEW]
    assert f"{holed}: unreadable (bytes that were never written)" in capsys.readouterr().out


def test_a_kill_while_the_state_is_removed_leaves_one_that_opens(tmp_path, monkeypatch):
    def opened() -> AnalysisState:
        return AnalysisState(tmp_path / "state", {"a": 1}, owner=True, layers=LAYERS, arrays={})

    state, removed = opened(), []
    for number in range(3):
        (state.directory / f"questions-{number:06d}.safetensors").write_bytes(b"")

    def killed(path: Path) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    monkeypatch.setattr("files.run_state.remove", killed)
    with pytest.raises(KeyboardInterrupt), state:
        state.discard()
    monkeypatch.undo()
    with opened() as again:
        again.discard()
    assert not (tmp_path / "state").exists()


def test_a_changed_shard_is_noticed_by_the_state(model_copy, tmp_path, refusal):
    options = arguments(tmp_path / "stats", model=model_copy)
    leave_unfinished(options, saves=2)
    shard = sorted(model_copy.glob("*.safetensors"))[0]
    content, times = bytearray(shard.read_bytes()), shard.stat()
    content[-1] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size and time: the bytes tell
    refusal(analysis.main, options, "stats.state", "source_sha256")


def test_a_changed_template_is_noticed_by_the_state(model_copy, tmp_path, refusal):
    """There are as many ids as before: the template's digest shows it."""
    options = arguments(tmp_path / "stats", model=model_copy)
    leave_unfinished(options, saves=2)
    template = model_copy / "chat_template.jinja"
    before = template.read_text()
    template.write_text(before.replace("<|turn>model", "<|turn>user"))
    assert template.read_text() != before
    refusal(analysis.main, options, "stats.state", "chat_template_sha256")


def test_a_state_of_other_inputs_is_refused_by_name(state, tmp_path, refusal):
    output = tmp_path / "stats"
    refusal(analysis.main, arguments(output, "--dtype", "float32"), state, 'dtype "float32"', 'dtype "bfloat16"')
    refusal(analysis.main, arguments(output, "--tokens", "answer"), state, "counted_tokens")
    refusal(analysis.main, arguments(output, limit=8), state, "with 8 questions", f"found {FEW} questions")
    shutil.rmtree(state)
    state.mkdir()
    (state / "mine.txt").write_text("?")
    refusal(analysis.main, arguments(output), state, "something else")
    assert (state / "mine.txt").exists() and not output.exists()


def two_processes(output: Path, *options: object) -> subprocess.CompletedProcess:
    """Run the analysis as two processes."""
    command = [sys.executable, COMMAND, *arguments(output, "--processes", 2, *options)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("options", [[], ["--stream-layers"]], ids=["resident", "streamed"])
def test_two_processes_give_the_bytes_of_one(options, undisturbed, tmp_path):
    done = two_processes(tmp_path / "stats", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stats").read_bytes() == undisturbed[FEW]


def test_a_refusal_by_one_of_two_processes_is_one_line(tmp_path):
    (tmp_path / "stats.state").mkdir()
    (tmp_path / "stats.state/mine.txt").write_text("?")
    done = two_processes(tmp_path / "stats")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "something else" in done.stderr, done.stderr


@pytest.fixture
def both(tmp_path):
    """The first of two processes that share an analysis, and the pid of the other one, amid their work."""
    command = arguments(tmp_path / "stats", "--processes", 2, limit=MANY)
    first = start_until(command, tmp_path / "stats.state", lambda files: len(files) > 2, stderr=subprocess.PIPE)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    (other,) = [int(pid) for pid in children if b"--rank" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    yield first, other
    first.kill()
    first.wait()


def goes_on(tmp_path: Path) -> bytes:
    """Run the analysis again in one process; return the statistics."""
    analysis.main(arguments(tmp_path / "stats", limit=MANY))
    return (tmp_path / "stats").read_bytes()


def test_when_one_of_two_processes_is_killed_the_first_says_so(both, undisturbed, tmp_path):
    first, other = both
    os.kill(other, signal.SIGKILL)
    said = first.communicate()[1].decode()
    assert first.returncode == 1 and "process 1: expected it to go on to its end, found it ended by signal 9" in said
    assert "Traceback" not in said and goes_on(tmp_path) == undisturbed[MANY]


def test_when_the_first_of_two_processes_is_killed_the_other_ends(both, undisturbed, tmp_path):
    first, other = both
    first.kill()
    first.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{other}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{other}").exists()
    assert goes_on(tmp_path) == undisturbed[MANY]


def test_processes_that_share_an_analysis_listen_nowhere(both):
    """torch.distributed's ports take a pickle from whoever connects."""
    for pid in (both[0].pid, both[1]):
        ours = psutil.Process(pid).net_connections("inet")
        assert not [connection for connection in ours if connection.status == psutil.CONN_LISTEN]
