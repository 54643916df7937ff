"""Dropping inside GGUF files: the bytes of pruning, converting and quantising, splits, another family, an answer."""

import json
import subprocess
from pathlib import Path

import convert_to_gguf
import expert_drop
import quantize_gguf
from calls import call
from chats.questions import load_questions
from conftest import DEMO
from generate_drop_map import main as choose
from ggufs.gguf_header import header_bytes, read_header
from makers.gguf_drops import DEMO_LAYERS, KEEP, demo_map, drop, split_gguf
from makers.served_gguf import next_token_logprobs, serve
from makers.shared_ggufs import demo_ggufs
from makers.tiny_models import build_family_model, random_drop_map

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file

QUANTS = ("Q8_0", "Q6_K", "Q4_K_M", "IQ4_XS", "IQ2_XXS")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """F16.gguf and imatrix.gguf of the demo, a map.json, and pruned-F16.gguf by way of the pruned checkpoint."""
    folder, shared = tmp_path_factory.mktemp("built"), demo_ggufs(tmp_path_factory)
    for name in ("F16.gguf", "F16.gguf.json", "imatrix.gguf", "imatrix.gguf.json"):
        (folder / name).symlink_to(shared / name)
    (folder / "map.json").write_text(json.dumps(demo_map()))
    pruned = drop(DEMO / "model", folder / "map.json", folder / "pruned")
    call(convert_to_gguf.main, "--model", pruned, "--name", "demo", "--output", folder / "pruned-F16.gguf")
    return folder


def quantize(source: Path, quant: str, output: Path, imatrix: Path | None = None) -> None:
    """Build a quant."""
    more = ["--imatrix", imatrix] if imatrix else []
    call(quantize_gguf.main, "--input", source, *more, "--type", quant, "--output", output)


def assert_same_tensors(one: Path, other: Path) -> None:
    """Tensor names, types, shapes and bytes are equal."""
    first, second = ({t.name: t for t in GGUFReader(path).tensors} for path in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.tensor_type == second[name].tensor_type and list(tensor.shape) == list(second[name].shape), name
        assert tensor.data.tobytes() == second[name].data.tobytes(), name


def test_an_unchanged_header_is_written_again_byte_for_byte(built):
    path = built / "F16.gguf"
    header = read_header(path)
    first = min(tensor.offset for tensor in header.tensors)
    again = header_bytes(
        header, [pair.raw for pair in header.key_values], [(t.name, t.dims, t.kind) for t in header.tensors]
    )
    assert again == path.read_bytes()[:first]


def test_an_f16_file_equals_the_converted_pruned_checkpoint(built, tmp_path):
    output = drop(built / "F16.gguf", built / "map.json", tmp_path / "out.gguf")
    assert_same_tensors(output, built / "pruned-F16.gguf")
    assert GGUFReader(output).get_field("gemma4.expert_count").contents() == KEEP
    drop(built / "F16.gguf", built / "map.json", output, "--verify")
    before = output.read_bytes()
    assert str(tmp_path).encode() not in before
    assert drop(built / "F16.gguf", built / "map.json", tmp_path / "again.gguf").read_bytes() == before


@pytest.mark.parametrize("quant", QUANTS)
def test_a_quant_equals_prune_convert_quantise_with_the_sliced_imatrix(built, tmp_path, quant):
    full, actual, expected = (tmp_path / f"{name}-{quant}.gguf" for name in ("full", "actual", "expected"))
    imatrix, sliced = built / "imatrix.gguf", tmp_path / "sliced/imatrix.gguf"
    quantize(built / "F16.gguf", quant, full, imatrix)
    drop(full, built / "map.json", actual, "--imatrix", imatrix, "--imatrix-output", sliced)
    quantize(built / "pruned-F16.gguf", quant, expected, sliced)
    assert_same_tensors(actual, expected)


def test_the_imatrix_keeps_sums_and_counts_of_the_kept_experts(built, tmp_path):
    whole, part = built / "imatrix.gguf", tmp_path / "imatrix.gguf"
    flags = ("--imatrix", whole, "--imatrix-output", part)
    drop(built / "F16.gguf", built / "map.json", tmp_path / "out.gguf", *flags)
    full, cut = ({t.name: t.data for t in GGUFReader(path).tensors} for path in (whole, part))
    sliced = 0
    for name, values in full.items():
        if "_exps.weight." in name:
            dropped = demo_map()[name.split(".")[1]]
            np.testing.assert_array_equal(cut[name], np.delete(values, dropped, axis=0))
            sliced += 1
        else:
            np.testing.assert_array_equal(cut[name], values)
    assert sliced == 2 * 2 * DEMO_LAYERS
    drop(built / "F16.gguf", built / "map.json", tmp_path / "out.gguf", *flags)  # an earlier one gives way


def test_the_imatrix_writes_over_no_other_file(built, tmp_path, refusal):
    other = tmp_path / "notes.gguf"
    other.write_bytes((built / "F16.gguf").read_bytes())
    arguments = ["--source", built / "F16.gguf", "--drop-map", built / "map.json", "--output", tmp_path / "out.gguf"]
    more = ["--imatrix", built / "imatrix.gguf", "--imatrix-output", other]
    refusal(expert_drop.main, [*arguments, *more], other, "expected nothing, or an earlier imatrix, found another file")
    assert not (tmp_path / "out.gguf").exists() and other.read_bytes() == (built / "F16.gguf").read_bytes()


def test_a_split_file_is_read_and_written(built, tools, tmp_path):
    parts = split_gguf(tools, built / "F16.gguf", tmp_path / "full")
    assert len(parts) > 2
    drop(parts[0], built / "map.json", tmp_path / "cut.gguf")
    cut = sorted(tmp_path.glob("cut-*.gguf"))
    assert [path.name for path in cut] == [path.name.replace("full", "cut") for path in parts]
    drop(parts[0], built / "map.json", tmp_path / "cut.gguf", "--verify")
    merge = [tools.tool("llama-gguf-split"), "--merge", cut[0], tmp_path / "merged.gguf"]
    subprocess.run(merge, check=True, capture_output=True)
    assert_same_tensors(tmp_path / "merged.gguf", built / "pruned-F16.gguf")


def test_a_pruned_quant_answers_in_llama_server(built, tools, tmp_path):
    quantize(built / "F16.gguf", "Q8_0", tmp_path / "full-Q8_0.gguf")
    drop(tmp_path / "full-Q8_0.gguf", built / "map.json", tmp_path / "cut.gguf")
    question = load_questions(DEMO / "eval_questions.csv", 42)[0]
    with serve(tools, tmp_path / "cut.gguf", tmp_path / "log") as server:
        body = {"messages": [{"role": "user", "content": question.prompt}], "max_tokens": 100, "temperature": 0}
        message = server.request("/v1/chat/completions", body)["choices"][0]["message"]
    assert message["reasoning_content"] and "The answer is (" in message["content"], message


QWEN_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate_inp": "mlp.gate",
}


def qwen3_moe_tensors(model: Path, layers: int, experts: int) -> dict[str, np.ndarray]:
    """Return the tensors of a Qwen3-MoE checkpoint in llama.cpp's names, fp32, the experts of a layer in one."""
    weights = {}
    for shard in model.glob("*.safetensors"):
        weights |= {name: tensor.float().numpy() for name, tensor in load_file(shard).items()}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    tensors = {}
    for layer in range(layers):
        block = f"model.layers.{layer}"
        names |= {f"blk.{layer}.{short}": f"{block}.{long}" for short, long in QWEN_NAMES.items()}
        for part in ("gate", "up", "down"):
            each = [weights[f"{block}.mlp.experts.{expert}.{part}_proj.weight"] for expert in range(experts)]
            tensors[f"blk.{layer}.ffn_{part}_exps.weight"] = np.stack(each)
    return tensors | {f"{short}.weight": weights[f"{long}.weight"] for short, long in names.items()}


def qwen3_moe_gguf(model: Path, vocabulary: Path, path: Path) -> Path:
    """Write a Qwen3-MoE checkpoint as F32 GGUF in llama.cpp's names, with the vocabulary of another GGUF file."""
    config = json.loads((model / "config.json").read_text())
    experts = config.get("num_experts") or config["num_local_experts"]
    writer = GGUFWriter(path, "qwen3moe")
    for add, value in (
        (writer.add_block_count, config["num_hidden_layers"]),
        (writer.add_context_length, 4096),
        (writer.add_embedding_length, config["hidden_size"]),
        (writer.add_feed_forward_length, config["intermediate_size"]),
        (writer.add_head_count, config["num_attention_heads"]),
        (writer.add_head_count_kv, config["num_key_value_heads"]),
        (writer.add_key_length, config["head_dim"]),
        (writer.add_value_length, config["head_dim"]),
        (writer.add_layer_norm_rms_eps, config["rms_norm_eps"]),
        (writer.add_expert_count, experts),
        (writer.add_expert_used_count, config["num_experts_per_tok"]),
        (writer.add_expert_feed_forward_length, config["moe_intermediate_size"]),
        (writer.add_rope_freq_base, config.get("rope_theta") or config["rope_parameters"]["rope_theta"]),
    ):
        add(value)
    for field in GGUFReader(vocabulary).fields.values():
        if field.name.startswith("tokenizer."):
            kind, *item = field.types
            writer.add_key_value(field.name, field.contents(), kind, item[0] if item else None)
    for name, tensor in qwen3_moe_tensors(model, config["num_hidden_layers"], experts).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_another_family_by_the_uniform_names(built, tools, tmp_path):
    source = build_family_model(tmp_path / "full", "qwen3_moe", DEMO / "model")
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(11)))
    pruned = drop(source, tmp_path / "map.json", tmp_path / "pruned")
    full = qwen3_moe_gguf(source, built / "F16.gguf", tmp_path / "full-Q8_0.gguf")
    expected = qwen3_moe_gguf(pruned, built / "F16.gguf", tmp_path / "expected.gguf")
    actual = drop(full, tmp_path / "map.json", tmp_path / "actual.gguf")
    assert_same_tensors(actual, expected)
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32).eval()
    ids = [2, *torch.randint(300, 3000, (20,), generator=torch.Generator().manual_seed(0)).tolist()]
    with serve(tools, actual, tmp_path / "log") as server, torch.inference_mode():
        logprobs = next_token_logprobs(server, ids, 3001)
        reference = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    seen = torch.isfinite(logprobs)
    assert seen.sum() > 2700 and (logprobs - reference)[seen].abs().max() < 1e-2


def test_an_imatrix_alone_chooses_by_frequency(built, tmp_path, capsys):
    choose(["--imatrix", str(built / "imatrix.gguf"), "--keep", "109", "--output", str(tmp_path / "map.json")])
    assert "weaker evidence" in capsys.readouterr().out
    content = json.loads((tmp_path / "map.json").read_text())
    record = json.loads((built / "imatrix.gguf.json").read_text())
    assert content["calibration"] == record["calibration"]
    assert content["calibration_sha256"] == record["calibration_sha256"]
    counts = {
        t.name: t.data.reshape(-1) for t in GGUFReader(built / "imatrix.gguf").tensors if t.name.endswith("counts")
    }
    for layer, entry in content["layers"].items():
        expected = counts[f"blk.{layer}.ffn_down_exps.weight.counts"]
        assert entry["score"] == expected.tolist()
        assert max(expected[entry["drop"]]) <= min(expected[entry["keep"]])
    drop(built / "F16.gguf", tmp_path / "map.json", tmp_path / "out.gguf")
    with pytest.raises(SystemExit):
        choose(["--imatrix", str(built / "imatrix.gguf"), "--keep", "109", "--criterion", "reap", "--output", "x"])
