"""GGUF: conversion agrees with transformers, imatrix and quants by the real tools, and what is refused."""

import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from files.safe_files import InputError
from ggufs.gguf_header import read_header
from quants.recipes import find_recipe
from tiny_models import EXPERTS, LAYERS, random_drop_map

import pytest
import torch
import transformers


@contextmanager
def llama_server(tools, gguf: Path, log: Path):
    """Start a llama-server on a free port of 127.0.0.1 and yield its URL."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(log, "w") as output:
        process = subprocess.Popen(
            [
                tools.tool("llama-server"),
                "-m",
                gguf,
                "-c",
                "512",
                "-np",
                "1",
                "-fa",
                "off",
                "-ctk",
                "f32",
                "-ctv",
                "f32",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-2000:]
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def next_token_logprobs(url: str, ids: list[int], vocab: int) -> torch.Tensor:
    """The log-probabilities [vocab] that llama.cpp gives the token after `ids`."""
    body = {"prompt": ids, "n_predict": 1, "n_probs": vocab, "temperature": 0, "cache_prompt": False}
    entries = post(f"{url}/completion", body)["completion_probabilities"][0]["top_logprobs"]
    logprobs = torch.full((vocab,), -torch.inf)
    for entry in entries:
        logprobs[entry["id"]] = entry["logprob"]
    return logprobs


@pytest.fixture(scope="module")
def f16(tiny_model, tmp_path_factory, script) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny-F16.gguf"
    done = script("convert_to_gguf.py", "--model", tiny_model, "--name", "tiny", "--output", path)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def imatrix(f16, tiny_model, tmp_path_factory, script) -> Path:
    folder = tmp_path_factory.mktemp("imatrix")
    questions = Path(__file__).parents[2] / "data/demo/calibration_questions.csv"
    done = script(
        "render_calibration.py", "--model", tiny_model, "--questions", questions, "--output", folder / "text.txt"
    )
    assert done.returncode == 0, done.stderr
    done = script(
        "build_imatrix.py", "--model", f16, "--calibration", folder / "text.txt", "--output", folder / "imatrix.gguf"
    )
    assert done.returncode == 0, done.stderr
    return folder / "imatrix.gguf"


@pytest.mark.parametrize("outtype, tolerance", [("f32", 1e-2), ("f16", 3e-2)])
def test_logits_agree_with_transformers(tiny_model, tools, tmp_path, script, outtype, tolerance):
    gguf = tmp_path / "model.gguf"
    done = script("convert_to_gguf.py", "--model", tiny_model, "--name", "tiny", "--outtype", outtype, "--output", gguf)
    assert done.returncode == 0, done.stderr
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vocab = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(3)
    with llama_server(tools, gguf, tmp_path / "log") as url, torch.inference_mode():
        for length in (1, 7, 60):
            ids = [2] + torch.randint(300, vocab, (length,), generator=generator).tolist()
            expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            actual = next_token_logprobs(url, ids, vocab)
            seen = torch.isfinite(actual)
            assert seen.sum() > vocab * 0.9 and expected.std() > 0.1
            assert (actual - expected)[seen].abs().max() < tolerance, length


def test_the_tokenizer_agrees_with_transformers_on_every_chat(demo_model, f16, tools, tmp_path):
    from chats.chat_sequences import chat_answer, chat_prompt
    from chats.chat_tokenizer import load_tokenizer
    from chats.questions import load_questions

    tokenizer = load_tokenizer(demo_model)
    with llama_server(tools, f16, tmp_path / "log") as url:
        for question in load_questions(demo_model.parent / "eval_questions.csv", 42):
            text = chat_prompt(tokenizer, question) + chat_answer(tokenizer, question)
            ids = post(f"{url}/tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
            chat = post(f"{url}/apply-template", {"messages": [{"role": "user", "content": question.prompt}]})["prompt"]
            assert chat.removeprefix("<bos>") == chat_prompt(tokenizer, question).removeprefix("<bos>")


def test_the_f16_file_has_the_checkpoints_experts_and_scales(f16):
    header = read_header(f16)
    assert (header.architecture, header.experts) == ("gemma4", EXPERTS)
    dims = {tensor.name: tensor.dims for tensor in header.tensors}
    for layer in range(LAYERS):
        assert dims[f"blk.{layer}.ffn_down_exps.scale"] == (EXPERTS,)
        assert dims[f"blk.{layer}.ffn_gate_up_exps.weight"][-1] == EXPERTS


@pytest.mark.parametrize("quant", ["Q8_0", "Q6_K", "Q4_K_M", "IQ2_M"])
def test_a_quant_is_built_and_recorded(f16, imatrix, quant, tmp_path, script):
    output = tmp_path / f"{quant}.gguf"
    done = script("quantize_gguf.py", "--input", f16, "--imatrix", imatrix, "--type", quant, "--output", output)
    assert done.returncode == 0, done.stderr
    record = json.loads(Path(f"{output}.json").read_text())
    assert record["bytes"] == output.stat().st_size < f16.stat().st_size and record["type"] == quant
    assert record["llama_cpp"] and len(record["sha256"]) == 64
    assert read_header(output).value("quantize.imatrix.file") == "imatrix.gguf"
    assert str(tmp_path.parent).encode() not in output.read_bytes()


def test_an_unknown_quant_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match="Q4_K_M"):
        find_recipe("Q4_KM")


def test_bad_quantisation_input_is_refused(f16, imatrix, tiny_model, tmp_path, script, refused):
    def quantize(source=f16, matrix=imatrix, quant="Q4_K_M"):
        flags = ["--imatrix", matrix] if matrix else []
        return script("quantize_gguf.py", "--input", source, *flags, "--type", quant, "--output", tmp_path / "out.gguf")

    refused(quantize(source=tmp_path / "none.gguf"), tmp_path / "none.gguf")
    refused(
        quantize(quant="Q4_K_L"), "more than", "Q4_K_M"
    )  # rows too narrow for Q6_K: Q4_K_M has a Q8_0 embedding, too
    refused(quantize(quant="Q4_KM"), "Q4_K_M")
    (tmp_path / "cut.gguf").write_bytes(f16.read_bytes()[:5000])
    refused(quantize(source=tmp_path / "cut.gguf"), tmp_path / "cut.gguf", "whole")
    (tmp_path / "text.gguf").write_text("hello, this is no model")
    refused(quantize(source=tmp_path / "text.gguf"), "GGUF file")
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(12)))
    assert (
        script(
            "expert_drop.py",
            "--source",
            tiny_model,
            "--drop-map",
            tmp_path / "map.json",
            "--output",
            tmp_path / "pruned",
        ).returncode
        == 0
    )
    assert (
        script(
            "convert_to_gguf.py", "--model", tmp_path / "pruned", "--name", "tiny", "--output", tmp_path / "pruned.gguf"
        ).returncode
        == 0
    )
    refused(quantize(source=tmp_path / "pruned.gguf"), "12 experts", str(EXPERTS))
    assert quantize(matrix=None, quant="Q8_0").returncode == 0
    shutil.move(tmp_path / "out.gguf", tmp_path / "q8.gguf")
    (tmp_path / "out.gguf.json").unlink()
    refused(quantize(source=tmp_path / "q8.gguf"), "unquantised", "Q8_0")
    (tmp_path / "short.txt").write_text("too short")
    refused(
        script(
            "build_imatrix.py",
            "--model",
            f16,
            "--calibration",
            tmp_path / "short.txt",
            "--output",
            tmp_path / "short.gguf",
        ),
        "llama-imatrix",
        "tokens",
    )
    assert not list(tmp_path.glob("out*")) and not list(tmp_path.glob("short*.gguf"))
