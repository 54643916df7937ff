"""What the analysis refuses in one line before it runs: questions, outputs, configs, checkpoints, tokenizers."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import teacher_force_analysis as analysis
from chats.questions import load_questions
from files.safe_files import run
from makers.tiny_models import EXPERTS, LAYERS, build_tiny_model

import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file, save_file

IN_BOTH_MODES = pytest.mark.parametrize("mode", [[], ["--stream-layers"]], ids=["resident", "streamed"])


@pytest.fixture
def refuse(tiny_text_model, few_questions, tmp_path, refusal) -> Callable[..., str]:
    """Assert that the analysis refuses its input with a line that holds some words, and writes nothing."""

    def check(*words: object, options: tuple[object, ...] = (), **changed: Path) -> str:
        named = {"model": tiny_text_model, "questions": few_questions, "output": tmp_path / "out"} | changed
        line = refusal(
            analysis.main, [*(part for name in named for part in (f"--{name}", named[name])), *options], *words
        )
        assert not list(tmp_path.glob("out*"))
        return line

    return check


@pytest.fixture
def rows(few_questions) -> list[dict[str, str]]:
    """The questions as read from their file."""
    return list(csv.DictReader(few_questions.read_text().splitlines()))


def test_missing_paths(refuse, tmp_path):
    refuse(tmp_path / "none", "model directory", model=tmp_path / "none")
    refuse(tmp_path / "none.csv", questions=tmp_path / "none.csv")
    refuse(tmp_path, "a directory", output=tmp_path)


def test_an_output_that_cannot_be_written(tiny_text_model, few_questions, tmp_path):
    """The system's own errors, which the command turns into one line."""
    options = ["--model", str(tiny_text_model), "--questions", str(few_questions), "--output"]
    for output, word in ((few_questions / "stats", str(few_questions)), (tmp_path / ("o" * 260), "too long")):
        with pytest.raises(SystemExit) as left:
            run(lambda output=output: analysis.main([*options, str(output)]))
        line = str(left.value)
        assert line.startswith("error: ") and word in line and "\n" not in line


def test_questions_without_a_column_or_twice_or_empty(refuse, rows, few_questions, tmp_path):
    bad, lines = tmp_path / "bad.csv", few_questions.read_text().splitlines(keepends=True)
    bad.write_text(lines[0].replace("Correct Answer", "Answer") + lines[1])
    refuse(bad, "'Correct Answer'", questions=bad)
    bad.write_text(lines[0] + lines[1] + lines[1])
    refuse(bad, "twice", questions=bad)
    with open(bad, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerow(rows[0] | {"Question": " "})
    refuse(bad, "empty field", questions=bad)
    refuse("question demo", "within 40 tokens", "--max-tokens", options=("--max-tokens", 40))


def test_questions_in_a_damaged_file(refuse, rows, tmp_path):
    nested, damaged, text = tmp_path / "nested.jsonl", tmp_path / "damaged.parquet", tmp_path / "q.jsonl"
    nested.write_text("[" * 100_000)
    refuse(nested, questions=nested)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), damaged, compression="NONE")
    content = bytearray(damaged.read_bytes())
    content[4:2000] = bytes(1996)
    damaged.write_bytes(content)
    refuse(damaged, questions=damaged)
    text.write_text(json.dumps(rows[0] | {"Question": "a\u2028b"}, ensure_ascii=False) + "\n")
    assert load_questions(text, 42)[0].text == "a\u2028b"  # a line end to splitlines, not to JSON
    text.write_text(json.dumps(rows[0] | {"Question": "a\ud800b"}) + "\n")
    refuse(text, "surrogate", questions=text)


@IN_BOTH_MODES
def test_a_config_that_does_not_fit(refuse, model_copy, mode):
    config = json.loads((model_copy / "config.json").read_text())
    layer_types = [*config["layer_types"], "full_attention"]
    for changed, *words in (
        ({"num_hidden_layers": LAYERS + 1, "layer_types": layer_types}, "layers.3", "missing"),
        ({"moe_intermediate_size": 48}, "another shape"),
        ({"vocab_size": 50},),
        ({"model_type": "nonsense"},),
        ({"dtype": "foo"},),
        ({"dtype": {"a": 1}},),
        ({"hidden_size": "x"},),
        ({"dtype": "float64"}, "--dtype"),
        ({"top_k_experts": EXPERTS + 1}, "as many as there are"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
    ):
        (model_copy / "config.json").write_text(json.dumps(config | changed))
        refuse(model_copy, *words, model=model_copy, options=mode)


def test_a_template_or_a_tokenizer_that_does_not_work(refuse, model_copy):
    template = (model_copy / "chat_template.jinja").read_text()
    (model_copy / "chat_template.jinja").write_text("{{ 1 // (messages[0]['content'] | length - 1) }}" + template)
    refuse(model_copy, "ZeroDivisionError", model=model_copy)
    (model_copy / "chat_template.jinja").unlink()
    refuse(model_copy, "chat template", model=model_copy)
    (model_copy / "tokenizer.json").unlink()
    refuse(model_copy, "tokenizer", model=model_copy)


def test_a_tokenizer_of_another_model(refuse, model_copy, tmp_path):
    tokenizer = json.loads((model_copy / "tokenizer.json").read_text())
    small = build_tiny_model(tmp_path / "small", "text", model_copy, vocab_size=1500)
    assert len(tokenizer["model"]["vocab"]) > 1500
    refuse(small, "1500 rows", "tokenizer of another model", model=small)


def missing(model: Path, shard: Path) -> None:
    shard.unlink()


def truncated(model: Path, shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-10])


def without_a_tensor(model: Path, shard: Path) -> None:
    weights = load_file(shard)
    weights.popitem()
    save_file(weights, shard, {"format": "pt"})


def quantised(model: Path, shard: Path) -> None:
    weights = load_file(shard)
    name = next(name for name, weight in weights.items() if weight.dim() > 1)
    save_file(weights | {name: weights[name].to(torch.int8)}, shard, {"format": "pt"})


def offsets_in_words(model: Path, shard: Path) -> None:
    content = shard.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    next(entry for name, entry in header.items() if name != "__metadata__")["data_offsets"] = ["0", "x"]
    text = json.dumps(header).encode()
    shard.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])


def two_models(model: Path, shard: Path) -> None:
    shutil.copyfile(shard, model / "model.safetensors")


def a_norm_of_integers(model: Path, shard: Path) -> None:
    weights = load_file(shard)
    name = next(name for name in weights if name.endswith("layernorm.weight"))
    save_file(weights | {name: weights[name].long()}, shard, {"format": "pt"})


@IN_BOTH_MODES
@pytest.mark.parametrize(
    "damage, words",
    [
        (missing, ["nothing"]),
        (two_models, ["both"]),
        (a_norm_of_integers, ["I64"]),
        (offsets_in_words, ["whole numbers"]),
        (truncated, ["truncated"]),
        (without_a_tensor, ["no such tensor"]),
        (quantised, ["I8", "BF16"]),
    ],
)
def test_a_damaged_checkpoint(refuse, model_copy, mode, damage, words):
    damage(model_copy, sorted(model_copy.glob("model-*.safetensors"))[1])
    refuse(model_copy, *words, model=model_copy, options=mode)


def test_spilling_needs_streaming(capsys):
    with pytest.raises(SystemExit) as left:
        analysis.main(["--model", "m", "--questions", "q.csv", "--output", "o", "--spill", "d"])
    assert left.value.code == 2 and "--stream-layers" in capsys.readouterr().err
