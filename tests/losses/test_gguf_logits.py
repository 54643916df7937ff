"""Logits of GGUF models: those of transformers and llama-perplexity, the same every time, flat in memory; refusals."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from conftest import REPO
from files.input_errors import InputError
from ggufs.gguf_header import read_header
from llama.llama_tools import LlamaCpp
from losses.gguf_logits import CHUNK_TOKENS, GgufLogits
from losses.kld_statistics import MEASURES, kl_divergence, logit_differences, summary
from makers.shared_ggufs import demo_ggufs, link_f16

import numpy as np
import psutil
import pytest
import torch
import transformers
from scipy.special import log_softmax

BOS = 2
WINDOW_TOKENS = 128  # of llama-perplexity: it scores the second half of each window


@pytest.fixture(scope="module")
def gguf(demo_model, tmp_path_factory, script):
    """Convert the demo model to a GGUF of a type, once."""
    folder = tmp_path_factory.mktemp("gguf")
    link_f16(demo_ggufs(tmp_path_factory), folder / "demo-f16.gguf")

    def convert(outtype: str) -> Path:
        path = folder / f"demo-{outtype}.gguf"
        if not path.exists():
            done = script(
                "convert_to_gguf.py", "--model", demo_model, "--name", "demo", "--outtype", outtype, "--output", path
            )
            assert done.returncode == 0, done.stderr
        return path

    return convert


@pytest.fixture(scope="module")
def pruned(gguf, tmp_path_factory, script) -> Path:
    """The demo's F16 with the first 40 experts of each layer dropped."""
    folder = tmp_path_factory.mktemp("pruned")
    (folder / "map.json").write_text(json.dumps({str(layer): list(range(40)) for layer in range(3)}))
    done = script(
        "expert_drop.py", "--source", gguf("f16"), "--drop-map", folder / "map.json", "--output", folder / "p.gguf"
    )
    assert done.returncode == 0, done.stderr
    return folder / "p.gguf"


def some_ids(count: int) -> list[int]:
    generator = torch.Generator().manual_seed(3)
    return [BOS, *torch.randint(300, 3000, (count - 1,), generator=generator).tolist()]


def test_logits_agree_with_transformers_beyond_a_chunk_and_the_sliding_window(demo_model, gguf, tools):
    ids = some_ids(CHUNK_TOKENS + 190)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        demo_model, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.inference_mode():
        expected = model.eval()(input_ids=torch.tensor([ids])).logits[0].numpy()
    with GgufLogits(gguf("f32"), tools, context=1024, threads=1) as loaded:
        actual = loaded.logits(ids)
        assert loaded.vocabulary == expected.shape[1]
    assert actual.dtype == np.float32 and actual.shape == expected.shape
    assert np.abs(actual - expected).max() < 0.01 < expected.std()
    assert kl_divergence(expected, actual).max() < 1e-5


def test_the_same_tokens_give_the_same_bits_whatever_came_before_and_on_any_threads(gguf, tools, capfd):
    first, second = some_ids(CHUNK_TOKENS + 20), some_ids(40)[::-1]
    with (
        GgufLogits(gguf("f16"), tools, context=600, threads=1) as one,
        GgufLogits(gguf("f16"), tools, context=700, threads=2) as two,
    ):
        alone = two.logits(second)
        expected = one.logits(first)
        np.testing.assert_array_equal(one.logits(second), alone)
        np.testing.assert_array_equal(one.logits(first), expected)
        again = two.logits(first)
        np.testing.assert_array_equal(again, expected)
        assert kl_divergence(expected, again).max() == 0
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def slow_exit(tmp_path_factory) -> Path:
    """A library that, preloaded, lets a process end half a second later.

    llama.cpp prints from a thread of its own and does not wait for it: on a busy machine the last lines are lost.
    """
    folder = tmp_path_factory.mktemp("slow_exit")
    code = "#include <unistd.h>\n__attribute__((destructor)) static void wait() { usleep(500000); }\n"
    (folder / "wait.cpp").write_text(code)
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "wait.so", folder / "wait.cpp"], check=True)
    return folder / "wait.so"


def perplexity(tools, slow_exit: Path, model: Path, text: Path, base: Path, *flags: str) -> str:
    """Run llama-perplexity as exactly as this project computes; return what it prints."""
    window = ["-c", str(WINDOW_TOKENS), "-b", str(WINDOW_TOKENS)]
    exact = ["-fa", "off", "-ctk", "f32", "-ctv", "f32", "-t", "1"]
    files = ["-m", model, "-f", text, "--kl-divergence-base", base]
    done = subprocess.run(
        [tools.tool("llama-perplexity"), *files, *window, *exact, *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_PRELOAD": str(slow_exit)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


def number_after(pattern: str, text: str) -> float:
    return float(re.search(pattern + r"\s*(-?[0-9.]+)", text)[1])


def test_plain_text_agrees_with_llama_perplexity(demo_model, gguf, pruned, tools, slow_exit, tmp_path):
    questions = load_questions(demo_model.parent / "eval_questions.csv", 42)[:60]
    text = "\n".join(f"{question.text} {question.explanation}" for question in questions)
    (tmp_path / "text.txt").write_text(text)
    shown_full = perplexity(tools, slow_exit, gguf("f16"), tmp_path / "text.txt", tmp_path / "base.kld")
    shown = perplexity(tools, slow_exit, pruned, tmp_path / "text.txt", tmp_path / "base.kld", "--kl-divergence")
    ids = [BOS, *load_tokenizer(demo_model)(text, add_special_tokens=False)["input_ids"]]
    logs, parts = [], {measure: [] for measure in MEASURES}
    with (
        GgufLogits(gguf("f16"), tools, context=WINDOW_TOKENS, threads=1) as full,
        GgufLogits(pruned, tools, context=WINDOW_TOKENS, threads=1) as other,
    ):
        for start in range(0, len(ids) - WINDOW_TOKENS + 1, WINDOW_TOKENS):
            window = [BOS, *ids[start + 1 : start + WINDOW_TOKENS]]
            scored, following = slice(WINDOW_TOKENS // 2, WINDOW_TOKENS - 1), window[WINDOW_TOKENS // 2 + 1 :]
            mine, theirs = full.logits(window)[scored], other.logits(window)[scored]
            logs.append(log_softmax(mine.astype(np.float64), axis=1)[np.arange(len(following)), following])
            for measure, values in logit_differences(mine, theirs, following).items():
                parts[measure].append(values)
    assert len(logs) > 5
    assert np.exp(-np.concatenate(logs).mean()) == pytest.approx(
        number_after("Final estimate: PPL =", shown_full), rel=1e-3
    )
    found = summary(
        {measure: np.concatenate(values) for measure, values in parts.items()},
        np.full(len(logs), WINDOW_TOKENS // 2 - 1),
    )
    assert found["kld"][0] > 0.01  # llama-perplexity's base file holds 16 bits
    for name, pattern in (
        ("kld", r"Mean\s+KLD:"),
        ("kld_median", r"Median\s+KLD:"),
        ("kld_99", r"99.0%\s+KLD:"),
        ("kld_99.9", r"99.9%\s+KLD:"),
    ):
        assert found[name][0] == pytest.approx(number_after(pattern, shown), rel=5e-3, abs=2e-6), name
    assert 100 * found["same_top"][0] == pytest.approx(number_after(r"Same top p:", shown), abs=0.01)
    assert found["rms_delta_p"][0] == pytest.approx(number_after(r"RMS Δp\s*:", shown), rel=5e-3)


def test_divergence_by_hand():
    full = np.log(np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]], np.float32)) + 7  # logits: any constant may be added
    other = np.log(np.array([[0.25, 0.5, 0.25], [0.9, 0.05, 0.05]], np.float32)) - 3
    expected = 0.5 * np.log(2) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(kl_divergence(full, other), [expected, 0], atol=1e-6)


def test_divergence_in_blocks_is_that_of_the_whole(monkeypatch):
    full, other = np.random.default_rng(0).normal(size=(2, 50, 30)).astype(np.float32)
    whole = kl_divergence(full, other)
    monkeypatch.setattr("losses.kld_statistics.BLOCK_VALUES", 7 * 30)
    np.testing.assert_array_equal(kl_divergence(full, other), whole)


def test_memory_stays_flat_over_texts_and_models(pruned, tools):
    def use_once() -> None:
        with GgufLogits(pruned, tools, context=256, threads=1) as model:
            for _ in range(4):  # 12 MiB of logits: a leak of them, or of a model, passes the bound below
                model.logits(some_ids(256))

    for _ in range(2):
        use_once()
    before = psutil.Process().memory_info().rss
    for _ in range(8):
        use_once()
    assert psutil.Process().memory_info().rss - before < 40 << 20


def test_bad_files_and_tokens_are_refused_in_one_line(gguf, tools, tmp_path):
    def refuse(path: Path, words: str, content: bytes | None = None) -> None:
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=words) as caught:
            GgufLogits(path, tools, context=64, threads=1)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    whole = gguf("f16").read_bytes()
    refuse(tmp_path / "none.gguf", "found nothing")
    refuse(tmp_path / "text.gguf", "begins with", b"hello, this is no model")
    refuse(tmp_path / "header.gguf", "truncated", whole[:3000])
    refuse(tmp_path / "cut.gguf", "truncated", whole[:-100000])
    refuse(tmp_path / "other.gguf", "llama.cpp loads", whole.replace(b"gemma4", b"gemmaX"))

    def with_number(key: str, number: bytes) -> bytes:
        raw = next(pair.raw for pair in read_header(gguf("f16")).key_values if pair.key == key)
        return whole.replace(raw, raw[:-4] + number)

    # llama.cpp ends the process at these: the first while it loads, the second when it plans, the third at a token.
    refuse(tmp_path / "experts.gguf", "SIGABRT", with_number("gemma4.expert_used_count", bytes(4)))
    refuse(tmp_path / "shared.gguf", "SIGABRT", with_number("gemma4.attention.shared_kv_layers", b"\7\0\0\0"))
    refuse(tmp_path / "nan.gguf", "a finite", with_number("gemma4.attention.layer_norm_rms_epsilon", b"\xff" * 4))
    with GgufLogits(gguf("f16"), tools, context=64, threads=1) as model:
        for ids in ([], [BOS] * 65, [BOS, model.vocabulary], [-1]):
            with pytest.raises(InputError, match="demo-f16.gguf"):
                model.logits(ids)
    with pytest.raises(InputError, match="libllama"):
        GgufLogits(gguf("f16"), LlamaCpp(tmp_path), context=64, threads=1)


def test_a_library_of_another_version_is_refused(gguf, tools, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/libllama.so").symlink_to(
        tools.library_folder / "libggml-base.so"
    )  # loads, but lacks the functions
    code = (
        "import sys; from pathlib import Path\n"
        "from files.safe_files import run; from llama.llama_tools import LlamaCpp\n"
        "from losses.gguf_logits import GgufLogits\n"
        "run(lambda: GgufLogits(Path(sys.argv[1]), LlamaCpp(Path(sys.argv[2])), context=64, threads=1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, gguf("f16"), tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPO / "scripts")},
    )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    assert "llama-cpp-python" in done.stderr and "LLAMA_CPP" in done.stderr


def test_other_defaults_betray_another_version(tools, monkeypatch):
    from llama import bindings

    monkeypatch.setitem(bindings.CONTEXT_DEFAULTS, "type_v", 8)
    with pytest.raises(InputError, match="another version \\(type_v 1\\)"):
        bindings.load_bindings(tools.library_folder)
