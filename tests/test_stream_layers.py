"""One layer at a time, killed runs, several processes, batches: always the statistics of the plain run."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import teacher_force_analysis as analysis
import torch
from checkpoint import read_checkpoint
from conftest import DEMO, REPO
from decoder import EMBEDDING, LayerStream, build_empty, load_resident
from expert_stats import read_stats
from naive_experts import NAMES, naive_sums
from questions import chat_answer, chat_prompt
from tiny_models import LAYERS


def analyze(model: Path, questions: Path, output: Path, *options: object) -> bytes:
    """Run the script's main in this process and return the statistics file."""
    analysis.main(["--model", str(model), "--questions", str(questions), "--output", str(output), *map(str, options)])
    assert not output.with_name(output.name + ".state").exists()
    return output.read_bytes()


def arguments(output: Path, *options: object, limit: int = 60) -> list[str]:
    """The command line of a run that takes some seconds: the demo model on its calibration questions."""
    return ["--model", str(DEMO / "model"), "--questions", str(DEMO / "calibration_questions.csv"), "--limit", str(limit),
            "--output", str(output), *map(str, options)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    output = tmp_path_factory.mktemp("undisturbed") / "stats"
    analysis.main(arguments(output))
    return output.read_bytes()


def test_streamed_equals_resident_byte_for_byte(tiny_model, few_questions, tmp_path):
    resident = analyze(tiny_model, few_questions, tmp_path / "resident")
    assert analyze(tiny_model, few_questions, tmp_path / "streamed", "--stream-layers") == resident
    assert analyze(tiny_model, few_questions, tmp_path / "spilled", "--stream-layers", "--spill", tmp_path / "s") == resident
    assert not list((tmp_path / "s").iterdir())
    assert b"spilled" not in resident and str(tmp_path).encode() not in resident


@pytest.mark.parametrize("prefetch", [False, True])
def test_one_layer_at_a_time_has_weights(tiny_text_model, prefetch):
    tensors = read_checkpoint(tiny_text_model)
    stream = LayerStream(tiny_text_model, tensors, build_empty(tiny_text_model, torch.bfloat16, "eager"),
                         torch.device("cpu"), prefetch)
    whole = load_resident(tiny_text_model, torch.bfloat16, "eager", None)
    ids = torch.randint(5, 200, (1, 20))
    with torch.inference_mode():
        expected = whole.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states
        stream.load_embedding()
        hidden = stream.embed(ids, None)
        stream.free_embedding()
        assert torch.equal(hidden, expected[0])
        for number in range(LAYERS):
            stream.load_layer(number, number + 1 if number + 1 < LAYERS else None)
            loaded = {name.split(".layers.")[1][0] for name, p in stream.model.named_parameters()
                      if ".layers." in name and p.device.type != "meta"}
            assert loaded == {str(number)} and stream.decoder.get_input_embeddings().weight.is_meta
            hidden = stream.run_layer(number, hidden, None)
            stream.free_layer(number)
            if number + 1 < LAYERS:
                assert torch.equal(hidden, expected[number + 1])
        assert torch.equal(stream.decoder.norm(hidden), expected[-1])
    assert stream.names[EMBEDDING] == ["model.embed_tokens.weight"]


def kill_when(command: list[str], state: Path, ready) -> set[str]:
    """Start a run, kill -9 it as soon as ready(files of its state) holds; return those files' names."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        files = sorted(state.glob("questions-*.safetensors"))
        if ready(files):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return {file.name for file in state.glob("questions-*.safetensors")}
        time.sleep(0.005)
    process.kill()
    raise AssertionError("the run ended before it could be killed")


def layers_done(file: Path) -> int:
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as opened:
            return int(opened.metadata()["layers_done"])
    except FileNotFoundError:
        return -1


@pytest.mark.parametrize("mode", ["resident", "streamed", "spilled"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(mode, undisturbed, tmp_path, capsys):
    output, state = tmp_path / "stats", tmp_path / "stats.state"
    options = {"resident": [], "streamed": ["--stream-layers"],
               "spilled": ["--stream-layers", "--spill", tmp_path / "spill"]}[mode]
    state = tmp_path / "spill/stats.state" if mode == "spilled" else state
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output, *options)]
    enough = (lambda files: len(files) >= 15) if mode == "resident" else (
        lambda files: len(files) == 60 and layers_done(files[20]) >= 2)
    kill_when(command, state, enough)
    assert not output.exists()
    finished = {file: layers_done(file) for file in state.glob("questions-*.safetensors")}
    saved = []
    real_save = analysis.AnalysisState.save
    analysis.AnalysisState.save = lambda self, first, sums, layers, hidden=None: (
        saved.append((first, layers)), real_save(self, first, sums, layers, hidden))
    try:
        analysis.main(arguments(output, *options))
    finally:
        analysis.AnalysisState.save = real_save
    assert output.read_bytes() == undisturbed
    redone = {(int(file.stem.split("-")[1]), layer) for file, done in finished.items() for layer in range(done + 1)}
    assert not redone & set(saved) and "going on" in capsys.readouterr().out
    if mode == "resident":
        assert len(saved) == 60 - len(finished)


def test_a_state_changes_from_resident_to_streamed(undisturbed, tmp_path):
    output = tmp_path / "stats"
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output)]
    kill_when(command, tmp_path / "stats.state", lambda files: len(files) >= 5)
    analysis.main(arguments(output, "--stream-layers"))
    assert output.read_bytes() == undisturbed


def test_a_state_file_cut_short_is_done_again(undisturbed, tmp_path, capsys):
    output, state = tmp_path / "stats", tmp_path / "stats.state"
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output)]
    kill_when(command, state, lambda files: len(files) >= 5)
    (state / "questions-000002.safetensors").write_bytes((state / "questions-000002.safetensors").read_bytes()[:1000])
    analysis.main(arguments(output))
    assert output.read_bytes() == undisturbed and "questions-000002.safetensors: unreadable" in capsys.readouterr().out


def test_a_state_of_other_inputs_is_refused_by_name(tmp_path, refusal):
    output, state = tmp_path / "stats", tmp_path / "stats.state"
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output)]
    kill_when(command, state, lambda files: len(files) >= 2)
    refusal(analysis.main, arguments(output, "--dtype", "float32"), state, "dtype float32", "dtype bfloat16")
    refusal(analysis.main, arguments(output, "--tokens", "answer"), state, "counted_tokens")
    refusal(analysis.main, arguments(output, limit=50), state, "questions")
    shutil.rmtree(state)
    state.mkdir()
    (state / "mine.txt").write_text("?")
    refusal(analysis.main, arguments(output), state, "something else")
    assert (state / "mine.txt").exists() and not output.exists()


def test_two_runs_at_once_do_not_share_a_state(tmp_path, script, refused):
    output = tmp_path / "stats"
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output, limit=190)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "stats.state").glob("questions-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    try:
        refused(script("teacher_force_analysis.py", *arguments(output, limit=190)), "stats.state", "in use")
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("options", [[], ["--stream-layers"]], ids=["resident", "streamed"])
def test_two_processes_give_the_bytes_of_one(options, undisturbed, tmp_path):
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           REPO / "scripts/teacher_force_analysis.py", *arguments(tmp_path / "stats", *options)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "stats").read_bytes() == undisturbed


def test_batches_agree_and_padding_is_never_counted(tiny_text_model, few_questions, tmp_path):
    analyze(tiny_text_model, few_questions, tmp_path / "one", "--dtype", "float32")
    one, _ = read_stats(tmp_path / "one")
    for size, options in ((3, []), (4, ["--stream-layers"])):
        analyze(tiny_text_model, few_questions, tmp_path / "many", "--dtype", "float32", "--batch-size", size, *options)
        many, metadata = read_stats(tmp_path / "many")
        assert metadata["batch_size"] == size
        assert len({question["tokens"] for question in metadata["questions"]}) > 1
        for name in one:
            if one[name].dtype == np.int64:
                np.testing.assert_array_equal(many[name], one[name])
            else:
                np.testing.assert_allclose(many[name], one[name], rtol=1e-5)


@pytest.mark.parametrize("counted", ["all", "answer"])
def test_the_tokens_that_count(tiny_text_model, few_questions, tmp_path, counted):
    analyze(tiny_text_model, few_questions, tmp_path / "stats", "--dtype", "float32", "--tokens", counted, "--limit", 2)
    arrays, metadata = read_stats(tmp_path / "stats")
    assert metadata["counted_tokens"] == counted and len(metadata["questions"]) == 2
    tokenizer = analysis.load_tokenizer(tiny_text_model)
    model = load_resident(tiny_text_model, torch.float32, "eager", None)
    for row, question in enumerate(analysis.load_questions(few_questions, 42)[:2]):
        ids = tokenizer(chat_prompt(tokenizer, question) + chat_answer(tokenizer, question),
                        add_special_tokens=False)["input_ids"]
        start = len(tokenizer(chat_prompt(tokenizer, question), add_special_tokens=False)["input_ids"])
        expected = naive_sums(model, ids, start if counted == "answer" else 0)
        np.testing.assert_array_equal(arrays["token_count"][row], expected["token_count"])
        for name in NAMES:
            np.testing.assert_allclose(arrays[name][row], expected[name], rtol=2e-5, err_msg=name)


def test_limit_takes_the_first_questions(tiny_text_model, few_questions, tmp_path):
    for name, limit in (("all", 6), ("two", 2)):
        analyze(tiny_text_model, few_questions, tmp_path / name, "--limit", limit)
    (whole, _), (two, metadata) = read_stats(tmp_path / "all"), read_stats(tmp_path / "two")
    assert len(metadata["questions"]) == 2
    for name in NAMES:
        np.testing.assert_array_equal(two[name], whole[name][:2])
