"""Dropping experts from checkpoints: bytes, configs, shards, equality with the masked full model, --verify."""

import json
from pathlib import Path

from checkpoints.checkpoint import TensorRange, read_checkpoint
from checkpoints.checkpoint_drop import SHARD_BYTES, plan_shards, plan_tensors
from checkpoints.moe_families import GEMMA4, expert_tensors, pruned_config
from choice.drop_map import Shape
from choice.drop_metadata import METADATA_NAME, read_metadata
from conftest import DEMO, REPO
from expert_drop import main
from makers.drop_runs import KEEP, digests, drop
from makers.tiny_models import EXPERTS, LAYERS, TOP_K, build_family_model, random_drop_map

import pytest
import torch
import transformers
from safetensors import safe_open


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, read by the safetensors library."""
    result = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            result |= {name: file.get_tensor(name) for name in file.keys()}
    return result


def load(directory: Path) -> torch.nn.Module:
    """Load in fp32 with the exact implementation; no key may be missing or unexpected."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return model.eval()


def test_shards_are_filled_in_order_and_a_large_tensor_gets_its_own():
    sizes = {"a": 4000, "b": 4000, "c": 9000, "d": 1}
    assert plan_shards(sizes, 9000) == [["a", "b"], ["c"], ["d"]]
    # Headers count, too: 8,000 bytes and two entries are more than 8,100.
    assert plan_shards(sizes, 8100) == [["a"], ["b"], ["c"], ["d"]]


def test_shards_are_as_equal_as_their_number_allows():
    assert plan_shards(dict.fromkeys("abcdef", 1000), 5000) == [["a", "b", "c"], ["d", "e", "f"]]


def test_the_26b_at_109_experts_has_the_cards_nine_shards():
    """Its tensors by name and shape, vision tower included, made from the config alone: no weights."""
    text = json.loads((REPO / "data/shapes/gemma-4-26b-a4b.json").read_text()) | {"enable_moe_block": True}
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "head_dim": 72}
    config = transformers.Gemma4Config(text_config=text, vision_config=vision)
    with torch.device("meta"):
        model = transformers.Gemma4ForConditionalGeneration(config)
    tensors = {
        name: TensorRange("BF16", tuple(tensor.shape), Path("full"), 0, 2 * tensor.numel())
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embedding, so it is not on the disk
    }
    shape = Shape(128, 8, tuple(range(30)))
    experts = expert_tensors(Path("full"), GEMMA4, tensors, shape)
    planned = plan_tensors(tensors, experts, dict.fromkeys(range(30), list(range(109))))
    sizes = {name: tensor.size for name, tensor in planned.items()}
    assert sum(sizes.values()) == pytest.approx(44.83e9, rel=0.01)
    assert (len(plan_shards(sizes, SHARD_BYTES)), len(plan_shards(sizes, 5 * 10**9))) == (9, 11)


def test_no_shard_is_larger_than_asked(tiny_model, tmp_path):
    output = drop(tiny_model, tmp_path / "out", random_drop_map(KEEP), "--shard-bytes", "300000")
    sizes = {path.name: path.stat().st_size for path in output.glob("*.safetensors")}
    largest = max(place.size for place in read_checkpoint(output).values())
    assert len(sizes) > 2 and all(size <= max(300_000, largest + 1000) for size in sizes.values()), sizes


def test_only_the_expert_count_changes_in_the_config():
    config = {"text_config": {"num_experts": 128, "top_k_experts": 8, "x": 1}, "y": 2}
    assert pruned_config(config, GEMMA4, 109) == {
        "text_config": {"num_experts": 109, "top_k_experts": 8, "x": 1},
        "y": 2,
    }


def test_kept_experts_and_routers_equal_their_source_rows(tiny_model, tmp_path):
    drop_map = random_drop_map(KEEP)
    pruned, original = tensors(drop(tiny_model, tmp_path / "out", drop_map)), tensors(tiny_model)
    touched = 0
    for name, tensor in original.items():
        layer = next((layer for layer in range(LAYERS) if f"layers.{layer}." in name and "vision" not in name), None)
        if any(part in name for part in (".experts.", ".router.proj.", ".per_expert_scale")):
            keep = [expert for expert in range(EXPERTS) if expert not in drop_map[str(layer)]]
            assert torch.equal(pruned[name], tensor[keep]), name
            touched += 1
        else:
            assert torch.equal(pruned[name], tensor), name
    assert touched == 4 * LAYERS


def test_two_runs_in_two_places_give_equal_files_and_no_path(tiny_model, tmp_path):
    first = drop(tiny_model, tmp_path / "a", random_drop_map(KEEP), "--shard-bytes", "150000")
    assert read_metadata(first / METADATA_NAME)["shard_bytes"] == 150000  # by which a card says it
    whole = drop(tiny_model, tmp_path / "c", random_drop_map(KEEP), "--shard-bytes", str(SHARD_BYTES - 1))
    assert "shard_bytes" not in read_metadata(whole / METADATA_NAME)
    (tmp_path / "deep/er").mkdir(parents=True)
    second = drop(tiny_model, tmp_path / "deep/er/b", random_drop_map(KEEP), "--shard-bytes", "150000")
    assert digests(first) == digests(second)
    assert len(list(first.glob("model-*-of-*.safetensors"))) > 1
    for path in first.glob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_only_known_small_files_come_along_and_the_closing_line_names_the_others(model_copy, tmp_path, capsys):
    odd = (
        "EVALUATION.md",
        "scores.svg",
        "scores.json",
        "quality.json",
        "draft.json",
        "cat.png",
        "modeling_x.py",
        "LICENSES",
    )
    kept = ("LICENSE", "LICENSE-MODEL", "USE_POLICY.md", "merges.txt", "additional_chat_templates/tools.jinja")
    (model_copy / "additional_chat_templates").mkdir()
    for name in (*odd, *kept, "additional_chat_templates/scores.json", "original.bin", ".gitattributes"):
        (model_copy / name).write_text("99% on GPQA")
    output = drop(model_copy, tmp_path / "out", random_drop_map(KEEP))
    there = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert {*kept} <= there and not there & {*odd, "additional_chat_templates/scores.json", "original.bin"}
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.endswith("; left out: EVALUATION.md, LICENSES, cat.png, draft.json, modeling_x.py and 3 more")


def test_index_and_metadata_agree_with_the_files(tiny_model, tmp_path):
    output = drop(tiny_model, tmp_path / "out", random_drop_map(KEEP))
    found = read_checkpoint(output)
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.size for tensor in found.values())
    metadata = read_metadata(output / "expert_drop_metadata.json")
    assert metadata["shards"] == {
        name: digest for name, digest in digests(output).items() if name.endswith(".safetensors")
    }
    assert metadata["keep_count"] == KEEP and set(metadata["layers"]) == {str(layer) for layer in range(LAYERS)}
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (output / name).read_bytes() == (tiny_model / name).read_bytes()


@pytest.mark.parametrize("keep", [KEEP, TOP_K])
def test_pruned_logits_equal_the_masked_full_model(tiny_model, tmp_path, keep):
    drop_map = random_drop_map(keep)
    pruned, full = load(drop(tiny_model, tmp_path / "out", drop_map)), load(tiny_model)
    layers = full.model.language_model.layers if hasattr(full.model, "language_model") else full.model.layers
    for number, layer in enumerate(layers):

        def mask(module, inputs, output, dropped=drop_map[str(number)]):
            return output.index_fill(-1, torch.tensor(dropped), -torch.inf)

        layer.router.proj.register_forward_hook(mask)
    ids = torch.randint(5, 200, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, actual = full(input_ids=ids).logits, pruned(input_ids=ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def masked(model: torch.nn.Module, drop_map: dict[str, list[int]]) -> torch.nn.Module:
    """Mask the dropped experts' router logits to -inf before the router's own softmax and top-k."""
    for number, layer in enumerate(model.model.layers):
        router = layer.mlp.gate

        def forward(hidden, router=router, dropped=drop_map[str(number)]):
            logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), router.weight)
            logits = logits.index_fill(-1, torch.tensor(dropped), -torch.inf)
            scores = torch.softmax(logits, dim=-1, dtype=torch.float32)
            values, index = torch.topk(scores, router.top_k, dim=-1)
            if getattr(router, "norm_topk_prob", True):
                values = values / values.sum(dim=-1, keepdim=True)
            return logits, values, index

        router.forward = forward
    return model


@pytest.mark.parametrize("family", ["qwen3_moe", "olmoe", "mixtral"])
def test_other_families_load_whole_and_equal_the_masked_full_model(family, tmp_path):
    source = build_family_model(tmp_path / "full", family, DEMO / "model")
    drop_map = random_drop_map(KEEP)
    output = drop(source, tmp_path / "out", drop_map)
    pruned, full = load(output), masked(load(source), drop_map)
    config = json.loads((output / "config.json").read_text())
    before = json.loads((source / "config.json").read_text())
    key = "num_experts" if "num_experts" in before else "num_local_experts"
    assert config == before | {key: KEEP}
    ids = torch.randint(5, 200, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, actual = full(input_ids=ids).logits, pruned(input_ids=ids).logits
        assert (load(source)(input_ids=ids).logits - expected).abs().max() > 0.01  # the mask does something
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    names, kept = tensors(source), tensors(output)
    assert len(names) - len(kept) == 3 * LAYERS * (EXPERTS - KEEP)
    drop(source, tmp_path / "out", drop_map, "--verify")


def test_verify_finds_changes_of_weights_config_template_and_index(tiny_model, tmp_path, refusal):
    drop_map = random_drop_map(KEEP)
    output = drop(tiny_model, tmp_path / "out", drop_map)
    before = digests(output)
    drop(tiny_model, output, drop_map, "--verify")
    assert digests(output) == before
    arguments = ["--source", tiny_model, "--drop-map", tmp_path / "out.map.json", "--output", output, "--verify"]
    for name in ("layers.0.experts.down_proj", "layers.1.router.proj.weight", "embed_tokens.weight"):
        full = next(found for found in read_checkpoint(output) if found.endswith(name))
        place = read_checkpoint(output)[full]
        whole = place.file.read_bytes()
        at = place.offset + place.size - 1
        place.file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refusal(main, arguments, "the source's bytes", name)
        place.file.write_bytes(whole)
    config = (output / "config.json").read_text()
    (output / "config.json").write_text(config.replace(f'"num_experts": {KEEP}', f'"num_experts": {KEEP + 1}'))
    refusal(main, arguments, "config.json")
    (output / "config.json").write_text(config)
    for name, old, new in (
        ("chat_template.jinja", "{", "{ "),
        ("model.safetensors.index.json", '"total_size": ', '"total_size": 1'),
        ("expert_drop_metadata.json", '"version": 2', '"version": 0'),
    ):
        text = (output / name).read_text()
        (output / name).write_text(text.replace(old, new, 1))
        refusal(main, arguments, name)
        (output / name).write_text(text)
    other = random_drop_map(KEEP, seed=5)
    (tmp_path / "out.map.json").write_text(json.dumps(other))
    refusal(main, arguments, "the source's bytes")
