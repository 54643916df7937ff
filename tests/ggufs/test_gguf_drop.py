"""Dropping inside GGUF files: the bytes of prune, convert, quantise; splits, another family, an answer, refusals."""

import json
import signal
import struct
import subprocess
import sys
from pathlib import Path

from chats.questions import load_questions
from conftest import DEMO, REPO
from expert_drop import main
from generate_drop_map import main as choose
from ggufs.gguf_header import header_bytes, read_header
from tiny_models import EXPERTS, TOP_K, build_family_model, random_drop_map

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file
from test_gguf import llama_server, next_token_logprobs, post

DEMO_EXPERTS, DEMO_LAYERS, KEEP = 128, 3, 109
QUANTS = ("Q8_0", "Q6_K", "Q4_K_M", "IQ4_XS", "IQ2_M")


def demo_map(seed: int = 0) -> dict[str, list[int]]:
    """Other experts dropped in every layer, first and last ones among them."""
    generator = np.random.default_rng(seed)
    return {
        str(layer): sorted(
            {
                0,
                DEMO_EXPERTS - 1,
                *generator.permutation(range(1, DEMO_EXPERTS - 1))[: DEMO_EXPERTS - KEEP - 2].tolist(),
            }
        )
        for layer in range(DEMO_LAYERS)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory, script) -> Path:
    """full-F16.gguf with imatrix.gguf, and pruned-F16.gguf by way of the pruned checkpoint; map.json."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "map.json").write_text(json.dumps(demo_map()))
    main(["--source", str(DEMO / "model"), "--drop-map", str(folder / "map.json"), "--output", str(folder / "pruned")])
    few = "".join((DEMO / "calibration_questions.csv").read_text().splitlines(keepends=True)[:61])
    (folder / "few.csv").write_text(few)
    for arguments in (
        ("convert_to_gguf.py", "--model", DEMO / "model", "--name", "demo", "--output", folder / "full-F16.gguf"),
        ("convert_to_gguf.py", "--model", folder / "pruned", "--name", "demo", "--output", folder / "pruned-F16.gguf"),
        (
            "render_calibration.py",
            "--model",
            DEMO / "model",
            "--questions",
            folder / "few.csv",
            "--output",
            folder / "text.txt",
        ),
        (
            "build_imatrix.py",
            "--model",
            folder / "full-F16.gguf",
            "--calibration",
            folder / "text.txt",
            "--output",
            folder / "imatrix.gguf",
        ),
    ):
        done = script(*arguments)
        assert done.returncode == 0, done.stderr
    return folder


def drop(source: Path, drop_map: Path, output: Path, *options: object) -> Path:
    main(["--source", str(source), "--drop-map", str(drop_map), "--output", str(output), *map(str, options)])
    return output


def assert_same_tensors(one: Path, other: Path) -> None:
    """Tensor names, types, shapes and bytes are equal."""
    first, second = ({t.name: t for t in GGUFReader(path).tensors} for path in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.tensor_type == second[name].tensor_type and list(tensor.shape) == list(second[name].shape), name
        assert tensor.data.tobytes() == second[name].data.tobytes(), name


def test_an_unchanged_header_is_written_again_byte_for_byte(built):
    path = built / "full-F16.gguf"
    header = read_header(path)
    first = min(tensor.offset for tensor in header.tensors)
    again = header_bytes(
        header, [pair.raw for pair in header.key_values], [(t.name, t.dims, t.kind) for t in header.tensors]
    )
    assert again == path.read_bytes()[:first]


def test_an_f16_file_equals_the_converted_pruned_checkpoint(built, tmp_path):
    output = drop(built / "full-F16.gguf", built / "map.json", tmp_path / "out.gguf")
    assert_same_tensors(output, built / "pruned-F16.gguf")
    assert GGUFReader(output).get_field("gemma4.expert_count").contents() == KEEP
    drop(built / "full-F16.gguf", built / "map.json", output, "--verify")
    before = output.read_bytes()
    assert str(tmp_path).encode() not in before
    assert drop(built / "full-F16.gguf", built / "map.json", tmp_path / "again.gguf").read_bytes() == before


@pytest.mark.parametrize("quant", QUANTS)
def test_a_quant_equals_prune_convert_quantise_with_the_sliced_imatrix(built, tmp_path, script, quant):
    (tmp_path / "sliced").mkdir()
    sliced = tmp_path / "sliced/imatrix.gguf"
    for source, imatrix, output in (
        (built / "full-F16.gguf", built / "imatrix.gguf", tmp_path / "full.gguf"),
        (built / "pruned-F16.gguf", sliced, tmp_path / "expected.gguf"),
    ):
        done = script("quantize_gguf.py", "--input", source, "--imatrix", imatrix, "--type", quant, "--output", output)
        assert done.returncode == 0, done.stderr
        if output.name == "full.gguf":
            drop(
                output,
                built / "map.json",
                tmp_path / "actual.gguf",
                "--imatrix",
                built / "imatrix.gguf",
                "--imatrix-output",
                sliced,
            )
    assert_same_tensors(tmp_path / "actual.gguf", tmp_path / "expected.gguf")


def test_the_imatrix_keeps_sums_and_counts_of_the_kept_experts(built, tmp_path):
    drop(
        built / "full-F16.gguf",
        built / "map.json",
        tmp_path / "out.gguf",
        "--imatrix",
        built / "imatrix.gguf",
        "--imatrix-output",
        tmp_path / "imatrix.gguf",
    )
    full, cut = (
        {t.name: t.data for t in GGUFReader(path).tensors}
        for path in (built / "imatrix.gguf", tmp_path / "imatrix.gguf")
    )
    sliced = 0
    for name, values in full.items():
        if "_exps.weight." in name:
            dropped = demo_map()[name.split(".")[1]]
            np.testing.assert_array_equal(cut[name], np.delete(values, dropped, axis=0))
            sliced += 1
        else:
            np.testing.assert_array_equal(cut[name], values)
    assert sliced == 2 * 2 * DEMO_LAYERS


def test_a_split_file_is_read_and_written(built, tools, tmp_path):
    splitter = tools.tool("llama-gguf-split")
    subprocess.run(
        [splitter, "--split", "--split-max-tensors", "20", built / "full-F16.gguf", tmp_path / "full"],
        check=True,
        capture_output=True,
    )
    parts = sorted(tmp_path.glob("full-*.gguf"))
    assert len(parts) > 2
    drop(parts[0], built / "map.json", tmp_path / "cut.gguf")
    cut = sorted(tmp_path.glob("cut-*.gguf"))
    assert [path.name for path in cut] == [path.name.replace("full", "cut") for path in parts]
    drop(parts[0], built / "map.json", tmp_path / "cut.gguf", "--verify")
    subprocess.run([splitter, "--merge", cut[0], tmp_path / "merged.gguf"], check=True, capture_output=True)
    assert_same_tensors(tmp_path / "merged.gguf", built / "pruned-F16.gguf")


def test_a_pruned_quant_answers_in_llama_server(built, tools, tmp_path, script):
    done = script(
        "quantize_gguf.py", "--input", built / "full-F16.gguf", "--type", "Q8_0", "--output", tmp_path / "full.gguf"
    )
    assert done.returncode == 0, done.stderr
    drop(tmp_path / "full.gguf", built / "map.json", tmp_path / "cut.gguf")
    question = load_questions(DEMO / "eval_questions.csv", 42)[0]
    with llama_server(tools, tmp_path / "cut.gguf", tmp_path / "log") as url:
        body = {"messages": [{"role": "user", "content": question.prompt}], "max_tokens": 100, "temperature": 0}
        message = post(f"{url}/v1/chat/completions", body)["choices"][0]["message"]
    assert message["reasoning_content"] and "The answer is (" in message["content"], message


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
            writer.add_key_value(
                field.name, field.contents(), field.types[0], field.types[1] if len(field.types) > 1 else None
            )
    weights = {}
    for shard in model.glob("*.safetensors"):
        weights |= {name: tensor.float().numpy() for name, tensor in load_file(shard).items()}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        names |= {
            f"blk.{layer}.{short}": f"{block}.{long}"
            for short, long in (
                ("attn_norm", "input_layernorm"),
                ("ffn_norm", "post_attention_layernorm"),
                ("attn_q", "self_attn.q_proj"),
                ("attn_k", "self_attn.k_proj"),
                ("attn_v", "self_attn.v_proj"),
                ("attn_output", "self_attn.o_proj"),
                ("attn_q_norm", "self_attn.q_norm"),
                ("attn_k_norm", "self_attn.k_norm"),
                ("ffn_gate_inp", "mlp.gate"),
            )
        }
        for part in ("gate", "up", "down"):
            writer.add_tensor(
                f"blk.{layer}.ffn_{part}_exps.weight",
                np.stack([weights[f"{block}.mlp.experts.{expert}.{part}_proj.weight"] for expert in range(experts)]),
            )
    for short, long in names.items():
        writer.add_tensor(f"{short}.weight", weights[f"{long}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_another_family_by_the_uniform_names(built, tools, tmp_path):
    source = build_family_model(tmp_path / "full", "qwen3_moe", DEMO / "model")
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(11)))
    pruned = drop(source, tmp_path / "map.json", tmp_path / "pruned")
    full = qwen3_moe_gguf(source, built / "full-F16.gguf", tmp_path / "full.gguf")
    expected = qwen3_moe_gguf(pruned, built / "full-F16.gguf", tmp_path / "expected.gguf")
    actual = drop(full, tmp_path / "map.json", tmp_path / "actual.gguf")
    assert_same_tensors(actual, expected)
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(pruned, dtype=torch.float32).eval()
    ids = [2, *torch.randint(300, 3000, (20,), generator=torch.Generator().manual_seed(0)).tolist()]
    with llama_server(tools, actual, tmp_path / "log") as url, torch.inference_mode():
        logprobs = next_token_logprobs(url, ids, 3001)
        reference = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    seen = torch.isfinite(logprobs)
    assert seen.sum() > 2700 and (logprobs - reference)[seen].abs().max() < 1e-2


def test_an_imatrix_alone_chooses_by_frequency(built, tmp_path, capsys):
    choose(["--imatrix", str(built / "imatrix.gguf"), "--keep", "109", "--output", str(tmp_path / "map.json")])
    assert "weaker evidence" in capsys.readouterr().out
    content = json.loads((tmp_path / "map.json").read_text())
    counts = {
        t.name: t.data.reshape(-1) for t in GGUFReader(built / "imatrix.gguf").tensors if t.name.endswith("counts")
    }
    for layer, entry in content["layers"].items():
        expected = counts[f"blk.{layer}.ffn_down_exps.weight.counts"]
        assert entry["score"] == expected.tolist()
        assert max(expected[entry["drop"]]) <= min(expected[entry["keep"]])
    drop(built / "full-F16.gguf", tmp_path / "map.json", tmp_path / "out.gguf")
    with pytest.raises(SystemExit):
        choose(["--imatrix", str(built / "imatrix.gguf"), "--keep", "109", "--criterion", "reap", "--output", "x"])


def tiny_gguf(
    path: Path,
    architecture: str = "qwen3moe",
    names: tuple[str, ...] = ("blk.0.ffn_up_exps.weight",),
    experts: int = EXPERTS,
    **more: int,
) -> Path:
    """Write a GGUF that has the header of a mixture-of-experts model and little else."""
    writer = GGUFWriter(path, architecture)
    writer.add_expert_count(experts)
    writer.add_expert_used_count(TOP_K)
    for key, value in more.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    for name in names:
        writer.add_tensor(name, np.zeros((EXPERTS, 8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_bad_gguf_input_is_refused_in_one_line(built, tmp_path, refusal):
    (tmp_path / "map.json").write_text(json.dumps({"0": [1]}))

    def refuse(source, *words, output=tmp_path / "out.gguf", drop_map=tmp_path / "map.json", options=()):
        refusal(main, ["--source", source, "--drop-map", drop_map, "--output", output, *options], *words)

    good = tiny_gguf(tmp_path / "good.gguf")
    refuse(
        tiny_gguf(tmp_path / "other.gguf", names=("blk.0.ffn_up.3.weight",)),
        "blk.N.ffn_*_exps",
        "blk.0.ffn_up.3.weight",
    )
    refuse(tiny_gguf(tmp_path / "none.gguf", names=("token_embd.weight",)), "none")
    refuse(tiny_gguf(tmp_path / "count.gguf", experts=EXPERTS + 1), f"{EXPERTS + 1} experts")
    refuse(tiny_gguf(tmp_path / "groups.gguf", expert_group_count=4), "groups of experts")
    refuse(built / "full-F16.gguf", "map of another model")
    refuse(built / "text.txt", "begins with")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes((built / "full-F16.gguf").read_bytes()[:-40_000])
    refuse(cut, cut, "truncated")
    cut.write_bytes((built / "full-F16.gguf").read_bytes()[:5000])
    refuse(cut, cut, "truncated")
    refuse(good, "overwrite", output=good)
    refuse(good, "ends in .gguf", output=tmp_path / "out.bin")
    (tmp_path / "all.json").write_text(json.dumps({"0": list(range(EXPERTS - TOP_K + 1))}))
    refuse(good, f"from {TOP_K}", drop_map=tmp_path / "all.json")
    imatrix = ["--imatrix-output", tmp_path / "i.gguf", "--imatrix"]
    refuse(good, "imatrix of another model", options=[*imatrix, built / "imatrix.gguf"])
    refuse(good, "an imatrix in GGUF form", options=[*imatrix, good])
    refuse(good, "nothing", options=[*imatrix, tmp_path / "absent.gguf"])
    assert not (tmp_path / "i.gguf").exists() and not list(tmp_path.glob("*.partial*"))
    full = ["--drop-map", built / "map.json", "--imatrix", built / "imatrix.gguf"]
    before = (
        (built / "full-F16.gguf").read_bytes(),
        (built / "imatrix.gguf").read_bytes(),
        (built / "map.json").read_bytes(),
    )
    for output, imatrix_output in (
        ("out.gguf", built / "full-F16.gguf"),
        ("i.gguf", tmp_path / "i.gguf"),
        (built / "imatrix.gguf", tmp_path / "i.gguf"),
        (built / "map.json", tmp_path / "i.gguf"),
    ):
        refusal(
            main,
            [
                "--source",
                built / "full-F16.gguf",
                *full,
                "--output",
                tmp_path / output,
                "--imatrix-output",
                imatrix_output,
            ],
        )
    assert before == (
        (built / "full-F16.gguf").read_bytes(),
        (built / "imatrix.gguf").read_bytes(),
        (built / "map.json").read_bytes(),
    )
    assert not (tmp_path / "out.gguf").exists() and not (tmp_path / "i.gguf").exists()
    foreign = json.loads((built / "map.json").read_text())
    foreign = {"imatrix_sha256": "0" * 64, "layers": {layer: {"drop": ids} for layer, ids in foreign.items()}}
    (tmp_path / "foreign.json").write_text(json.dumps(foreign))
    arguments = [
        "--source",
        built / "full-F16.gguf",
        "--drop-map",
        tmp_path / "foreign.json",
        "--output",
        tmp_path / "out.gguf",
        "--imatrix",
        built / "imatrix.gguf",
        "--imatrix-output",
        tmp_path / "i.gguf",
    ]
    refusal(main, arguments, "imatrix_sha256", "--force")
    main([*map(str, arguments), "--force"])
    main([*map(str, arguments), "--force", "--verify"])
    content = bytearray((tmp_path / "i.gguf").read_bytes())
    content[-40] ^= 1
    (tmp_path / "i.gguf").write_bytes(content)
    refusal(main, [*arguments, "--force", "--verify"], "i.gguf", "the source's bytes")


@pytest.mark.parametrize(
    "where, value, word",
    [
        ("alignment", 0, "power of two"),
        ("alignment", "x", "power of two"),
        ("duplicate", None, "twice"),
        ("overlap", None, "after byte"),
        ("ragged", None, "whole blocks"),
        ("no dims", None, "whole blocks"),
        ("router alone", None, "expert weights in the layer"),
        ("groups", "x", "groups"),
        ("split", "x", "split.count"),
    ],
)
def test_inconsistent_gguf_headers_are_refused_in_one_line(tmp_path, refusal, where, value, word):
    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    def pair(key: str, content: object) -> bytes:
        return text(key) + (
            struct.pack("<I", 8) + text(content) if isinstance(content, str) else struct.pack("<II", 4, content)
        )

    pairs = [
        pair("general.architecture", "qwen3moe"),
        pair("qwen3moe.expert_count", 4),
        pair("qwen3moe.expert_used_count", 2),
    ]
    tensors = [["blk.0.ffn_up_exps.weight", (32, 2, 4), 0, 0], ["blk.0.ffn_gate_inp.weight", (32, 4), 0, 1024]]
    if where in ("alignment", "groups", "split"):
        pairs.append(
            pair(
                {"alignment": "general.alignment", "groups": "qwen3moe.expert_group_count", "split": "split.count"}[
                    where
                ],
                value,
            )
        )
    changes = {
        "duplicate": (1, 0, "blk.0.ffn_up_exps.weight"),
        "overlap": (1, 3, 512),
        "ragged": (0, 2, 2),
        "no dims": (1, 1, ()),
        "router alone": (1, 0, "blk.1.ffn_gate_inp.weight"),
    }
    if where in changes:
        row, column, new = changes[where]
        tensors[row][column] = new
    if where == "ragged":
        tensors[0][1] = (33, 2, 4)
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs)
    for name, dims, kind, offset in tensors:
        header += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    (tmp_path / "bad.gguf").write_bytes(header + bytes(4096))
    (tmp_path / "map.json").write_text(json.dumps({"0": [1]}))
    refusal(
        main,
        ["--source", tmp_path / "bad.gguf", "--drop-map", tmp_path / "map.json", "--output", tmp_path / "out.gguf"],
        "bad.gguf",
        word,
    )


def test_a_kill_between_the_renames_of_a_split_leaves_no_mix_of_two_maps(built, tools, tmp_path):
    subprocess.run(
        [
            tools.tool("llama-gguf-split"),
            "--split",
            "--split-max-tensors",
            "20",
            built / "full-F16.gguf",
            tmp_path / "full",
        ],
        check=True,
        capture_output=True,
    )
    first = next(tmp_path.glob("full-00001-of-*.gguf"))
    drop(first, built / "map.json", tmp_path / "cut.gguf")
    (tmp_path / "other.json").write_text(json.dumps(demo_map(seed=1)))
    killed = (
        "import os, signal, sys\nsys.path.insert(0, sys.argv[1])\nimport expert_drop\nreal, left = os.replace, [2]\n"
        "def replace(*paths):\n    left[0] -= 1\n    if left[0] < 0:\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*paths)\nos.replace = replace\nexpert_drop.main(sys.argv[2:])\n"
    )
    arguments = ["--source", first, "--drop-map", tmp_path / "other.json", "--output", tmp_path / "cut.gguf"]
    done = subprocess.run([sys.executable, "-c", killed, REPO / "scripts", *arguments], capture_output=True)
    assert done.returncode == -signal.SIGKILL and not list(tmp_path.glob("cut-00001-of-?????.gguf"))
    drop(first, tmp_path / "other.json", tmp_path / "cut.gguf")
    drop(first, tmp_path / "other.json", tmp_path / "cut.gguf", "--verify")


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import expert_drop
from files import byte_ranges
real, left = byte_ranges._copy, [int(sys.argv[2])]
def copy(run, output):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    yield from real(run, output)
byte_ranges._copy = copy
expert_drop.main(sys.argv[3:])
"""


@pytest.mark.parametrize("kind", ["checkpoint", "gguf", "split"])
def test_a_kill_leaves_nothing_that_looks_whole_and_the_next_run_ends_alike(kind, built, tools, tmp_path):
    source = {
        "checkpoint": DEMO / "model",
        "gguf": built / "full-F16.gguf",
        "split": tmp_path / "full-00001-of-00004.gguf",
    }[kind]
    if kind == "split":
        subprocess.run(
            [
                tools.tool("llama-gguf-split"),
                "--split",
                "--split-max-tensors",
                "20",
                built / "full-F16.gguf",
                tmp_path / "full",
            ],
            check=True,
            capture_output=True,
        )
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / ("cut" if kind == "checkpoint" else "cut.gguf")
    arguments = ["--source", source, "--drop-map", built / "map.json", "--output", output]
    for runs in (0, 60, 150):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, REPO / "scripts", str(runs), *arguments], capture_output=True
        )
        assert done.returncode == -signal.SIGKILL
        assert not [path for path in (tmp_path / "out").iterdir() if ".partial" not in path.name]
    drop(source, built / "map.json", output)
    assert not list((tmp_path / "out").glob("*.partial*"))
    (tmp_path / "again").mkdir()
    drop(source, built / "map.json", tmp_path / "again" / output.name)
    files = sorted(path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
