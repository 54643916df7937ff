"""One layer at a time, batches, part of the tokens: always the statistics of the plain run."""

import sys
from functools import partial
from pathlib import Path

import teacher_force_analysis as analysis
from analysis import decoder
from analysis.checkpoint_logits import checkpoint_logits, round_digits, round_weights
from analysis.decoder import build_empty, load_resident
from analysis.layer_stream import EMBEDDING, LayerStream
from analysis.model_parts import decoder_of
from chats.chat_sequences import chat_answer, chat_prompt
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from checkpoints.checkpoint import read_checkpoint
from choice.expert_stats import read_stats
from files.input_errors import InputError
from makers.naive_experts import NAMES, naive_sums
from makers.tiny_models import LAYERS, build_family_model

import numpy as np
import pytest
import torch


def analyze(model: Path, questions: Path, output: Path, *options: object) -> bytes:
    """Run the script's main in this process and return the statistics file."""
    analysis.main(["--model", str(model), "--questions", str(questions), "--output", str(output), *map(str, options)])
    assert not output.with_name(output.name + ".state").exists()
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


@pytest.mark.parametrize("family", ["gemma4", "qwen3_moe"])  # a head that is the embedding, and one of its own
def test_logits_of_one_layer_at_a_time_are_those_of_the_whole_model(family, tiny_model, demo_model, tmp_path):
    own = family == "qwen3_moe"
    model = build_family_model(tmp_path / "model", family, demo_model) if own else tiny_model
    ids = torch.randint(5, 200, (1, 20))
    with torch.inference_mode():
        expected = load_resident(model, torch.float32, "eager", None)(input_ids=ids).logits[0]
    found = checkpoint_logits(model, read_checkpoint(model), ids[0].tolist(), lambda part: None)
    assert expected.std() > 0.1 and np.array_equal(found, expected.numpy())
    for change in (partial(round_weights, dtype=torch.float16), partial(round_digits, bits=11)):
        rounded = checkpoint_logits(model, read_checkpoint(model), ids[0].tolist(), change)
        assert np.abs(rounded - found).max() < 0.1 and np.array_equal(rounded, found) == (
            change.func is round_digits and model is tiny_model  # of bfloat16, which has 8
        )


def test_digits_are_rounded_whatever_the_size():
    numbers = torch.tensor([0.0, 1.0, 1 + 2.0**-12, (1 + 2.0**-9) * 2.0**-100, -(2.0**60)])
    part = torch.nn.ModuleDict({"gate": torch.nn.Linear(1, 5, bias=False), "gate_proj": torch.nn.Linear(1, 5)})
    with torch.no_grad():
        for weights in (part["gate"].weight[:, 0], part["gate_proj"].weight[:, 0], part["gate_proj"].bias):
            weights[:] = numbers
        round_digits(part, 11)
    # A router stays, and so does a vector.
    assert part["gate"].weight[:, 0].tolist() == part["gate_proj"].bias.tolist() == numbers.tolist()
    assert part["gate_proj"].weight[:, 0].tolist() == [0.0, 1.0, 1.0, (1 + 2.0**-9) * 2.0**-100, -(2.0**60)]


def test_fp32_bits_depend_neither_on_place_nor_on_threads():
    """Such shapes gave other last bits before MKL was set to be reproducible (analysis/decoder.py)."""
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
    layers = decoder_of(empty)[1]
    plain = type(layers).forward

    def forward(self, *args, **kwargs):
        if kind == "returns a pair":
            hidden, extra = self.layers[0](torch.zeros(1, 2, 8))
        elif kind == "reads earlier hidden states":
            self.layers[1](torch.zeros(1, 2, 8), [{"earlier": kwargs["inputs_embeds"] + 1}])
        else:
            self.layers[1](torch.zeros(1, 2, 8), input_ids=None)
        return plain(self, *args, **kwargs)

    layers.forward = forward.__get__(layers)
    with pytest.raises(InputError, match="take and return hidden states only"):
        LayerStream(tiny_text_model, read_checkpoint(tiny_text_model), empty, torch.device("cpu"))


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
    tokenizer = load_tokenizer(tiny_text_model)
    model = load_resident(tiny_text_model, torch.float32, "eager", None)
    for row, question in enumerate(load_questions(few_questions, 42)[:2]):
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
