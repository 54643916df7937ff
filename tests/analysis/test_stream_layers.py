"""One layer at a time, killed runs, several processes, batches: always the statistics of the plain run."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import teacher_force_analysis as analysis
from analysis.decoder import EMBEDDING, LayerStream, build_empty, decoder_of, load_resident
from chats.questions import chat_answer, chat_prompt
from checkpoints.checkpoint import read_checkpoint
from choice.expert_stats import read_stats
from conftest import DEMO, REPO
from files.safe_files import InputError
from naive_experts import NAMES, naive_sums
from tiny_models import LAYERS


def analyze(model: Path, questions: Path, output: Path, *options: object) -> bytes:
    """Run the script's main in this process and return the statistics file."""
    analysis.main(["--model", str(model), "--questions", str(questions), "--output", str(output), *map(str, options)])
    assert not output.with_name(output.name + ".state").exists()
    return output.read_bytes()


def arguments(output: Path, *options: object, limit: int = 60, model: Path = DEMO / "model") -> list[str]:
    """The command line of a run that takes some seconds: the demo model on its calibration questions."""
    return [
        "--model",
        str(model),
        "--questions",
        str(DEMO / "calibration_questions.csv"),
        "--limit",
        str(limit),
        "--output",
        str(output),
        *map(str, options),
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> bytes:
    output = tmp_path_factory.mktemp("undisturbed") / "stats"
    analysis.main(arguments(output))
    return output.read_bytes()


def test_streamed_equals_resident_byte_for_byte(tiny_model, few_questions, tmp_path):
    resident = analyze(tiny_model, few_questions, tmp_path / "resident")
    assert analyze(tiny_model, few_questions, tmp_path / "streamed", "--stream-layers") == resident
    assert (
        analyze(tiny_model, few_questions, tmp_path / "spilled", "--stream-layers", "--spill", tmp_path / "s")
        == resident
    )
    assert not list((tmp_path / "s").iterdir())
    assert b"spilled" not in resident and str(tmp_path).encode() not in resident


@pytest.mark.parametrize("prefetch", [False, True])
def test_one_layer_at_a_time_has_weights(tiny_text_model, prefetch):
    tensors = read_checkpoint(tiny_text_model)
    stream = LayerStream(
        tiny_text_model, tensors, build_empty(tiny_text_model, torch.bfloat16, "eager"), torch.device("cpu"), prefetch
    )
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
            loaded = {
                name.split(".layers.")[1][0]
                for name, p in stream.model.named_parameters()
                if ".layers." in name and p.device.type != "meta"
            }
            assert loaded == {str(number)} and stream.decoder.get_input_embeddings().weight.is_meta
            hidden = stream.run_layer(number, hidden, None)
            stream.free_layer(number)
            if number + 1 < LAYERS:
                assert torch.equal(hidden, expected[number + 1])
        assert torch.equal(stream.decoder.norm(hidden), expected[-1])
    assert [piece.name for piece in stream.pieces[EMBEDDING]] == ["model.embed_tokens.weight"]


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
    options = {
        "resident": [],
        "streamed": ["--stream-layers"],
        "spilled": ["--stream-layers", "--spill", tmp_path / "spill"],
    }[mode]
    if mode == "spilled":
        state = analysis.state_directory(
            analysis.parse_args([str(a) for a in arguments(output, *options)]), analysis.Ranks()
        )
        assert state.parent == tmp_path / "spill" and state.name.endswith("-stats.state")
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output, *options)]
    enough = (
        (lambda files: len(files) >= 15)
        if mode == "resident"
        else (lambda files: len(files) == 60 and layers_done(files[20]) >= 2)
    )
    kill_when(command, state, enough)
    assert not output.exists()
    finished = {file: layers_done(file) for file in state.glob("questions-*.safetensors")}
    saved = []
    real_save = analysis.AnalysisState.save
    analysis.AnalysisState.save = lambda self, first, sums, layers, hidden=None: (
        saved.append((first, layers)),
        real_save(self, first, sums, layers, hidden),
    )
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


def test_damaged_state_files_are_done_again(undisturbed, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    output, state = tmp_path / "stats", tmp_path / "stats.state"
    kill_when(
        [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *map(str, arguments(output))],
        state,
        lambda files: len(files) >= 8,
    )
    file = [state / f"questions-{number:06d}.safetensors" for number in range(6)]
    whole = load_file(file[0])
    save_file(whole, file[0])  # no metadata
    save_file(whole, file[1], {"layers_done": "999"})
    save_file(
        {name: array for name, array in whole.items() if name != "norm_sum"}, file[2], {"layers_done": str(LAYERS)}
    )
    save_file(whole | {"norm_sum": whole["norm_sum"][:, :, :3].copy()}, file[3], {"layers_done": str(LAYERS)})
    save_file(whole, file[4], {"layers_done": "1"})  # no hidden states
    file[5].unlink()
    file[5].mkdir()
    analysis.main(arguments(output))
    said = capsys.readouterr().out
    assert output.read_bytes() == undisturbed and all(f"{path}: unreadable" in said for path in file)


def test_a_kill_while_the_state_is_removed_leaves_one_that_opens(tmp_path, monkeypatch):
    state = analysis.AnalysisState(tmp_path / "state", {"a": 1}, True, LAYERS, {})
    for number in range(3):
        (state.directory / f"questions-{number:06d}.safetensors").write_bytes(b"")
    removed = []

    def killed(path):
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path)
        path.unlink()

    monkeypatch.setattr("files.run_state.remove", killed)
    with pytest.raises(KeyboardInterrupt):
        state.discard()
    state.__exit__()
    monkeypatch.undo()
    with analysis.AnalysisState(tmp_path / "state", {"a": 1}, True, LAYERS, {}) as again:
        again.discard()
    assert not (tmp_path / "state").exists()


def test_a_changed_shard_is_noticed_by_the_state(model_copy, few_questions, tmp_path, refusal):
    shard = sorted(model_copy.glob("*.safetensors"))[0]
    kill_when(
        [
            sys.executable,
            str(REPO / "scripts/teacher_force_analysis.py"),
            *map(str, arguments(tmp_path / "stats", model=model_copy)),
        ],
        tmp_path / "stats.state",
        lambda files: len(files) >= 2,
    )
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    refusal(analysis.main, arguments(tmp_path / "stats", model=model_copy), "stats.state", shard.name)


def test_a_changed_template_is_noticed_by_the_state(model_copy, few_questions, tmp_path, refusal):
    """Of the same number of tokens, so that the ids alone tell."""
    kill_when(
        [
            sys.executable,
            str(REPO / "scripts/teacher_force_analysis.py"),
            *map(str, arguments(tmp_path / "stats", model=model_copy)),
        ],
        tmp_path / "stats.state",
        lambda files: len(files) >= 2,
    )
    template = model_copy / "chat_template.jinja"
    before = template.read_text()
    template.write_text(before.replace("<|turn>model", "<|turn>user"))
    assert template.read_text() != before
    refusal(analysis.main, arguments(tmp_path / "stats", model=model_copy), "stats.state", "token_ids_sha256")


def test_a_refusal_by_one_of_two_processes_is_one_line(tmp_path):
    (tmp_path / "stats.state").mkdir()
    (tmp_path / "stats.state/mine.txt").write_text("?")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            REPO / "scripts/teacher_force_analysis.py",
            *arguments(tmp_path / "stats"),
        ],
        capture_output=True,
        text=True,
    )
    ours = done.stderr.partition("ChildFailedError")[0]
    assert done.returncode == 1 and ours.count("error: ") == 1 and "something else" in ours, done.stderr
    assert "gloo" not in done.stderr and "[rank" not in done.stderr


def test_another_launcher_leaves_one_process(tiny_text_model, few_questions, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    analyze(tiny_text_model, few_questions, tmp_path / "stats", "--limit", 1)


def test_fp32_bits_depend_neither_on_place_nor_on_threads():
    """Such shapes gave other last bits before MKL was told to be reproducible (decoder.py)."""
    generator = torch.Generator().manual_seed(0)
    threads = torch.get_num_threads()
    try:
        for rows, inner, columns in ((1, 1024, 1024), (7, 1024, 512)):
            left, right = (
                torch.randn(rows, inner, generator=generator),
                torch.randn(columns, inner, generator=generator),
            )
            results = []
            for torch_threads in (1, 2):
                torch.set_num_threads(torch_threads)
                for offset in (0, 3, 10):
                    place = torch.empty(columns * inner + 16)[offset : offset + columns * inner].view(columns, inner)
                    results.append(torch.nn.functional.linear(left, place.copy_(right)))
            assert all(torch.equal(results[0], result) for result in results)
    finally:
        torch.set_num_threads(threads)


def test_attention_in_blocks_is_the_attention_of_the_family(tiny_text_model, monkeypatch):
    from analysis import decoder

    ids = torch.randint(5, 200, (1, 70), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        model = load_resident(tiny_text_model, torch.float32, "eager", None).model
        whole = model(input_ids=ids, use_cache=False).last_hidden_state
        monkeypatch.setattr(decoder, "QUERY_ROWS", 16)
        rows = []
        family = sys.modules[type(model).__module__]
        plain = family.eager_attention_forward
        monkeypatch.setattr(
            family,
            "eager_attention_forward",
            lambda *args, **kwargs: (rows.append(args[1].shape[2]), plain(*args, **kwargs))[1],
        )
        blocks = model(input_ids=ids, use_cache=False).last_hidden_state
    assert set(rows) == {16, 6} and len(rows) == 5 * LAYERS
    torch.testing.assert_close(blocks, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["returns a pair", "reads earlier hidden states", "reads ids"])
def test_layers_that_hand_on_more_than_hidden_states_are_refused(tiny_text_model, kind):
    empty = build_empty(tiny_text_model, torch.bfloat16, "eager")
    decoder = decoder_of(empty)[1]
    plain = type(decoder).forward

    def forward(self, *args, **kwargs):
        if kind == "returns a pair":
            hidden, extra = self.layers[0](torch.zeros(1, 2, 8))
        elif kind == "reads earlier hidden states":
            self.layers[1](torch.zeros(1, 2, 8), [{"earlier": kwargs["inputs_embeds"] + 1}])
        else:
            self.layers[1](torch.zeros(1, 2, 8), input_ids=None)
        return plain(self, *args, **kwargs)

    decoder.forward = forward.__get__(decoder)
    with pytest.raises(InputError, match="take and return hidden states only"):
        LayerStream(tiny_text_model, read_checkpoint(tiny_text_model), empty, torch.device("cpu"))


def test_a_state_of_other_inputs_is_refused_by_name(tmp_path, refusal):
    output, state = tmp_path / "stats", tmp_path / "stats.state"
    command = [sys.executable, str(REPO / "scripts/teacher_force_analysis.py"), *arguments(output)]
    kill_when(command, state, lambda files: len(files) >= 2)
    refusal(analysis.main, arguments(output, "--dtype", "float32"), state, 'dtype "float32"', 'dtype "bfloat16"')
    refusal(analysis.main, arguments(output, "--tokens", "answer"), state, "counted_tokens")
    refusal(analysis.main, arguments(output, limit=50), state, "with 50 questions", "found 60 questions")
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
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            REPO / "scripts/teacher_force_analysis.py",
            *arguments(tmp_path / "stats", *options),
        ],
        capture_output=True,
        text=True,
    )
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
        ids = tokenizer(chat_prompt(tokenizer, question) + chat_answer(tokenizer, question), add_special_tokens=False)[
            "input_ids"
        ]
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
