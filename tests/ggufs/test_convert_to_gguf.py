"""Conversion: logits and tokens agree with transformers, what is done stays, and what lacks a part is refused."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import convert_to_gguf
from calls import call
from chats.chat_sequences import chat_answer, chat_prompt
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from checkpoints.moe_families import GEMMA4
from choice.drop_map import Shape
from files.input_errors import InputError, sha256_file
from ggufs.gguf_header import empty_header, key_value, read_header, write_header_only
from llama import load_check
from llama.llama_tools import LlamaCpp
from llama.serve_check import check_loads
from makers.served_gguf import next_token_logprobs, serve
from makers.shared_ggufs import demo_ggufs, tiny_ggufs
from makers.tiny_models import EXPERTS, LAYERS, build_tiny_model
from quants.quant_record import record_path

import pytest
import torch
import transformers
from gguf import GGMLQuantizationType

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def f16(tiny_model, tmp_path_factory) -> Path:
    """The F16 GGUF of a tiny model in either layout on disk."""
    path = tmp_path_factory.mktemp("gguf") / "tiny-F16.gguf"
    call(convert_to_gguf.main, "--model", tiny_model, "--name", "tiny", "--output", path)
    return path


def assert_logits_agree(gguf: Path, checkpoint: Path, tools, log: Path, tolerance: float) -> None:
    """Hold llama.cpp's log-probabilities against those of transformers after 1, 7 and 60 random tokens."""
    model = transformers.AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    vocab = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(3)
    with serve(tools, gguf, log) as server, torch.inference_mode():
        for length in (1, 7, 60):
            ids = [2, *torch.randint(300, vocab, (length,), generator=generator).tolist()]
            expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            actual = next_token_logprobs(server, ids, vocab)
            seen = torch.isfinite(actual)
            assert seen.sum() > vocab * 0.9 and expected.std() > 0.1
            assert (actual - expected)[seen].abs().max() < tolerance, length


def test_logits_agree_with_transformers(f16, tiny_model, tools, tmp_path):
    assert_logits_agree(f16, tiny_model, tools, tmp_path / "log", 3e-2)


def test_a_write_that_fails_in_a_large_tensor_ends_the_conversion_and_leaves_nothing(demo_model, tmp_path, refused):
    command = [sys.executable, REPO / "scripts/convert_to_gguf.py", "--model", demo_model, "--name", "x"]
    limit = resource.RLIMIT_FSIZE, (9 << 20, 9 << 20)  # of 23 MB: behind the header and in the experts
    done = subprocess.run(
        [*command, "--output", tmp_path / "x.gguf"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(*limit),
        timeout=300,
    )
    refused(done, "convert_hf_to_gguf.py", "File too large")
    assert not list(tmp_path.iterdir())


def test_an_output_without_its_record_is_never_there(tiny_text_model, tmp_path, refusal):
    output = tmp_path / "x.gguf"
    record_path(output).mkdir()  # so that the record cannot be written
    arguments = ["--model", tiny_text_model, "--name", "tiny", "--output", output]
    refusal(convert_to_gguf.main, arguments, record_path(output), "a file to write", "a directory")
    assert not output.exists()  # make, which looks for it, runs the step again


@pytest.mark.parametrize("more", [(), ("--mmproj",)])
def test_an_output_is_named_after_its_type(tmp_path, refusal, more):
    arguments = ["--model", tmp_path, "--name", "tiny", "--outtype", "f32", "--output", tmp_path / "tiny-F16.gguf"]
    refusal(convert_to_gguf.main, [*arguments, *more], "expected a name that ends with -F32.gguf, as --outtype says")


def test_f32_logits_agree_more_closely(tiny_text_model, tools, tmp_path):
    gguf = tmp_path / "model.gguf"
    call(convert_to_gguf.main, "--model", tiny_text_model, "--name", "tiny", "--outtype", "f32", "--output", gguf)
    assert_logits_agree(gguf, tiny_text_model, tools, tmp_path / "log", 1e-2)


def test_the_tokenizer_agrees_with_transformers_on_every_chat(demo_model, tools, tmp_path, tmp_path_factory):
    tokenizer = load_tokenizer(demo_model)
    with serve(tools, demo_ggufs(tmp_path_factory) / "F16.gguf", tmp_path / "log") as server:
        for question in load_questions(demo_model.parent / "eval_questions.csv", 42):
            text = chat_prompt(tokenizer, question) + chat_answer(tokenizer, question)
            body: dict = {"content": text, "add_special": False, "parse_special": True}
            ids = server.request("/tokenize", body)["tokens"]
            assert ids == tokenizer(text, add_special_tokens=False)["input_ids"]
            body = {"messages": [{"role": "user", "content": question.prompt}]}
            chat = server.request("/apply-template", body)["prompt"]
            assert chat.removeprefix("<bos>") == chat_prompt(tokenizer, question).removeprefix("<bos>")


def test_the_f16_file_has_the_checkpoints_experts_and_scales(f16):
    header = read_header(f16)
    assert (header.architecture, header.experts) == ("gemma4", EXPERTS)
    dims = {tensor.name: tensor.dims for tensor in header.tensors}
    for layer in range(LAYERS):
        assert dims[f"blk.{layer}.ffn_down_exps.scale"] == (EXPERTS,)
        assert dims[f"blk.{layer}.ffn_gate_up_exps.weight"][-1] == EXPERTS


def test_a_file_that_lacks_layers_experts_or_their_scales_is_refused(tmp_path):
    def check(experts: int, layers: int, scaled: tuple[int, ...], names: list[str]) -> None:
        pairs = {"general.architecture": "gemma4", "gemma4.expert_count": experts, "gemma4.block_count": layers}
        tensors = [(f"blk.{layer}.ffn_down_exps.weight", (1, 1, 4), GGMLQuantizationType.F32) for layer in (0, 1)]
        tensors += [(f"blk.{layer}.ffn_down_exps.scale", (4,), GGMLQuantizationType.F32) for layer in scaled]
        path = tmp_path / "file.gguf"
        header = write_header_only(empty_header(path), [key_value(*pair) for pair in pairs.items()], tensors, path)
        last = 1 if layers == 2 else 2
        convert_to_gguf.check_converted(path, header, 2, GEMMA4, Shape(4, 2, (0, last)), names)

    names = ["model.layers.0.router.per_expert_scale"]
    check(4, 2, (0, 1), names)
    check(4, 2, (), [])
    with pytest.raises(InputError, match="expected 4 experts, as the checkpoint has, found 3"):
        check(3, 2, (0, 1), names)
    with pytest.raises(InputError, match="expected 2 layers, as the checkpoint has, found 3"):
        check(4, 3, (0, 1), names)
    with pytest.raises(InputError, match=r"blk\.1\.ffn_down_exps\.scale of .*, found no such tensor"):
        check(4, 2, (0,), names)


def test_a_vocabulary_that_does_not_fit_the_embedding_leaves_no_output(demo_model, tmp_path, refusal):
    model, output = build_tiny_model(tmp_path / "model", "text", demo_model, vocab_size=3100), tmp_path / "out.gguf"
    words = (model, "tokens in its tokenizer", "one for every row of the embedding", "3001")
    refusal(convert_to_gguf.main, ["--model", model, "--name", "tiny", "--output", output], *words)
    assert not list(tmp_path.glob("out*"))


def test_a_damaged_tokenizer_is_refused_by_its_name(model_copy, tmp_path, refusal):
    path = model_copy / "tokenizer.json"
    path.write_text(path.read_text()[:1000])
    refusal(convert_to_gguf.main, ["--model", model_copy, "--name", "x", "--output", tmp_path / "x.gguf"], path, "JSON")


def test_a_file_that_llama_cpp_does_not_load_is_refused_with_its_reason(f16, tools, tmp_path, monkeypatch):
    """By the loader alone, and by the server, which takes its place where the bindings are of another version."""
    cut, named = tmp_path / "cut.gguf", tmp_path / "named.gguf"
    cut.write_bytes(f16.read_bytes()[:-100_000])
    check_loads(f16, tools, named)
    with pytest.raises(InputError, match=r"named\.gguf: expected .* data is not within the file bounds"):
        check_loads(cut, tools, named)
    monkeypatch.setattr(load_check, "NOT_LOADED", -1)  # as if the process had ended for another reason
    check_loads(f16, tools, named)
    with pytest.raises(InputError, match=r"named\.gguf: expected .* expected at least \d+ bytes"):
        check_loads(cut, tools, named)


@pytest.fixture(scope="module")
def converted(tiny_text_model, tmp_path_factory) -> Path:
    """A folder with model/, its model.gguf and the record."""
    folder, shared = tmp_path_factory.mktemp("converted"), tiny_ggufs(tmp_path_factory, tiny_text_model)
    shutil.copytree(tiny_text_model, folder / "model")
    for end in ("", ".json"):
        # Without their age: they may be of another worker's copy of the model, and older than ours.
        shutil.copyfile(shared / f"F16.gguf{end}", folder / f"model.gguf{end}")
    return folder


@pytest.fixture
def copied(converted, tmp_path) -> Path:
    """A copy of `converted` that a test may damage."""
    return Path(shutil.copytree(converted, tmp_path / "copied"))


def convert_in(folder: Path, *more: object) -> None:
    """Convert model/ of a folder to model.gguf; a later option wins over an earlier one."""
    flags = ["--model", folder / "model", "--name", "tiny", "--output", folder / "model.gguf"]
    call(convert_to_gguf.main, *flags, *more)


def test_a_conversion_that_is_done_is_left_as_it_is(copied, monkeypatch, capsys):
    monkeypatch.setattr(convert_to_gguf, "convert_streamed", lambda *_, **__: pytest.fail("converted again"))
    monkeypatch.setattr(convert_to_gguf, "require_disk_space", lambda *_: pytest.fail("a finished file needs no room"))
    output, record = copied / "model.gguf", copied / "model.gguf.json"
    before = [sha256_file(path) for path in (output, record)]
    for path in (output, record):
        os.utime(path, (1, 1))
    convert_in(copied)
    assert "converted already" in capsys.readouterr().out
    assert [sha256_file(path) for path in (output, record)] == before
    assert 1 < output.stat().st_mtime_ns <= record.stat().st_mtime_ns  # new to make, and the record no older


class ConverterStarted(Exception):
    """The converter would run now."""


@pytest.fixture
def refuse_to_start(monkeypatch) -> None:
    """Let a conversion end where the converter would start: that it would is what a test asks."""

    def stop(*_: object, **__: object) -> None:
        raise ConverterStarted

    monkeypatch.setattr(convert_to_gguf, "convert_streamed", stop)


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text if path.exists() else text)


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def make_record_old(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["version"]
    path.write_text(json.dumps(content))


CHANGES = {
    "weights": lambda folder: flip_last_byte(next((folder / "model").glob("*.safetensors"))),
    "tokenizer": lambda folder: append(folder / "model/tokenizer.json", "\n"),
    "chat template": lambda folder: append(folder / "model/chat_template.jinja", "\n"),
    "a new model card": lambda folder: append(folder / "model/README.md", "---\nlicense: mit\n---\n"),
    "a file less": lambda folder: (folder / "model/generation_config.json").unlink(),
    "a damaged output": lambda folder: flip_last_byte(folder / "model.gguf"),
    "no output": lambda folder: (folder / "model.gguf").unlink(),
    "an old record": lambda folder: make_record_old(folder / "model.gguf.json"),
    "no record": lambda folder: (folder / "model.gguf.json").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_input_a_damaged_output_or_an_old_record_converts_again(change, copied, refuse_to_start):
    CHANGES[change](copied)
    with pytest.raises(ConverterStarted):
        convert_in(copied)


@pytest.mark.parametrize("option", [("--name", "other"), ("--outtype", "bf16")])
def test_another_name_or_type_converts_again(option, copied, refuse_to_start):
    with pytest.raises(ConverterStarted):
        convert_in(copied, *option)


def test_other_tools_convert_again(copied, refuse_to_start, monkeypatch):
    monkeypatch.setattr(LlamaCpp, "version", lambda _: "version: 1")
    with pytest.raises(ConverterStarted):
        convert_in(copied)


def test_a_removed_file_is_made_again_of_the_same_bytes_and_age(copied):
    """What was built from the first one must not look old to make."""
    output, record = copied / "model.gguf", copied / "model.gguf.json"
    before, known, age = output.read_bytes(), record.read_bytes(), record.stat().st_mtime_ns
    output.unlink()
    convert_in(copied)
    assert (output.read_bytes(), record.read_bytes()) == (before, known)
    assert output.stat().st_mtime_ns == record.stat().st_mtime_ns == age
