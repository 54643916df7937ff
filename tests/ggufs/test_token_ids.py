"""The tokens that begin and end a text, of a GGUF header against a checkpoint's configs."""

import json
from pathlib import Path

from conftest import DEMO
from files.input_errors import InputError
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.token_ids import TokenIds, checkpoint_tokens, header_tokens, token_differences

import pytest
from gguf import GGUFWriter

TOKENS = ("<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|tool_response>", "<stop>")
WANTED = TokenIds(2, (1, 4, 5))


def header(folder: Path, **ids: int) -> GgufHeader:
    """Write a GGUF header with these token ids by kind; return it read."""
    path = folder / "a.gguf"
    writer = GGUFWriter(path, "gemma4")
    writer.add_token_list(TOKENS)
    for kind, ident in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{kind}_token_id", ident)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return read_header(path)


def test_the_demo_s_configs_name_its_tokens():
    assert checkpoint_tokens(DEMO / "model") == TokenIds(2, (1, 6))


@pytest.mark.parametrize(
    "configs, expected",
    [
        ({"config.json": {"bos_token_id": 2, "eos_token_id": 1}}, TokenIds(2, (1,))),
        ({"config.json": {"text_config": {"bos_token_id": 2, "eos_token_id": [1, 4]}}}, TokenIds(2, (1, 4))),
        (
            {"generation_config.json": {"eos_token_id": [1, 4]}, "config.json": {"bos_token_id": 2, "eos_token_id": 1}},
            TokenIds(2, (1, 4)),
        ),
        ({"config.json": {"bos_token_id": None, "eos_token_id": 0}}, TokenIds(None, (0,))),
        ({}, None),
    ],
)
def test_what_a_checkpoint_names(configs, expected, tmp_path):
    for name, content in configs.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert checkpoint_tokens(tmp_path) == expected


def test_a_checkpoint_without_an_end_is_one_line(tmp_path):
    (tmp_path / "config.json").write_text('{"bos_token_id": 2}')
    with pytest.raises(InputError, match="expected eos_token_id in generation_config.json or config.json, found none"):
        checkpoint_tokens(tmp_path)
    (tmp_path / "config.json").write_text('{"text_config": [], "bos_token_id": 2.0, "eos_token_id": 1}')
    with pytest.raises(InputError, match="bos_token_id .* a token's number, found 2.0"):
        checkpoint_tokens(tmp_path)


@pytest.mark.parametrize(
    "ids",
    [
        {"bos": 2, "eos": 1},  # llama.cpp's converter: the others end by their texts
        {"bos": 2, "eos": 4, "eot": 1},  # as others mend it
        {"bos": 2, "eos": 5, "eot": 4, "eom": 1},
    ],
)
def test_headers_that_agree(ids, tmp_path):
    made = header(tmp_path, **ids)
    assert header_tokens(made) == ids and token_differences(made, WANTED) == []


@pytest.mark.parametrize(
    "ids, wanted, words",
    [
        ({"bos": 1, "eos": 1}, WANTED, ["expected bos 2 (<bos>), as the checkpoint says, found 1 (<eos>)"]),
        ({"eos": 1}, WANTED, ["expected bos 2 (<bos>), as the checkpoint says, found none"]),
        ({"bos": 2}, WANTED, ["expected eos among 1 (<eos>), 4 (<turn|>), 5 (<|tool_response>)"]),
        ({"bos": 2, "eos": 3}, WANTED, ["expected eos among", "found 3 (<|turn>)"]),
        ({"bos": 2, "eos": 1, "eot": 6}, WANTED, ["expected eot among", "found 6 (<stop>)"]),
        ({"bos": 2, "eos": 99}, WANTED, ["found 99 (no token)"]),
        ({"bos": 2, "eos": 1}, TokenIds(2, (1, 6)), ["expected an end at 6 (<stop>)", "found none"]),
    ],
)
def test_each_deviation_is_one_line(ids, wanted, words, tmp_path):
    lines = token_differences(header(tmp_path, **ids), wanted)
    assert len(lines) == 1 and lines[0].startswith(f"{tmp_path}/a.gguf: ") and all(word in lines[0] for word in words)
