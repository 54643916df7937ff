"""Dropping experts: bytes, configs, equality with the masked full model, and what is refused."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open

from checkpoints.checkpoint import read_checkpoint
from checkpoints.checkpoint_drop import plan_shards, pruned_config
from checkpoints.moe_families import GEMMA4
from conftest import DEMO
from expert_drop import main
from files.byte_ranges import Run, kept_runs, same_bytes, write_hashed, write_runs
from files.safe_files import InputError
from tiny_models import EXPERTS, LAYERS, TOP_K, build_family_model, random_drop_map

KEEP = 11


def drop(source: Path, output: Path, drop_map: dict, *more: str) -> Path:
    """Run expert_drop.py on a map given as an object."""
    map_path = output.with_suffix(".map.json")
    map_path.write_text(json.dumps(drop_map))
    main(["--source", str(source), "--drop-map", str(map_path), "--output", str(output), *more])
    return output


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, read by the safetensors library."""
    result = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            result |= {name: file.get_tensor(name) for name in file.keys()}
    return result


def digests(directory: Path) -> dict[str, str]:
    """sha256 of every file of a directory."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def load(directory: Path) -> torch.nn.Module:
    """Load in fp32 with the exact implementation; no key may be missing or unexpected."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"], report
    return model.eval()


def test_kept_runs_are_consecutive():
    assert list(kept_runs([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]


def test_runs_are_copied_hashed_and_compared(tmp_path):
    (tmp_path / "in").write_bytes(bytes(range(100)) * 1000)
    runs = [Run(tmp_path / "in", 7, 50_000), Run(tmp_path / "in", 3, 1), Run(tmp_path / "in", 99_000, 1000)]
    source, seen = (tmp_path / "in").read_bytes(), []
    pieces = [b"head", *runs[:2], b"\0\0", runs[2]]
    digest = write_hashed({tmp_path / name: pieces for name in ("first", "second", "third", "out")}, seen.append)[
        tmp_path / "out"
    ]
    expected = b"head" + source[7:50_007] + source[3:4] + b"\0\0" + source[99_000:100_000]
    assert (tmp_path / "out").read_bytes() == expected and digest == hashlib.sha256(expected).hexdigest()
    assert sum(seen) == 4 * 51_001
    assert same_bytes(runs[0], tmp_path / "out", 4) and not same_bytes(runs[0], tmp_path / "out", 5)
    with pytest.raises(InputError, match="its end after 1000"):
        write_runs(tmp_path / "more", [Run(tmp_path / "in", 99_000, 1001)], seen.append)
    with pytest.raises(InputError, match="its end after 1000"):  # said by one of two files, whichever ends first
        write_hashed(
            {tmp_path / "long": [runs[0]] * 1000, tmp_path / "short": [Run(tmp_path / "in", 99_000, 1001)]}, seen.append
        )


def test_copying_works_where_the_kernel_cannot(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "cross-device")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "in").write_bytes(os.urandom(20_000_000))
    write_runs(tmp_path / "out", [Run(tmp_path / "in", 5, 19_000_000)], lambda count: None)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()[5:19_000_005]


def test_shards_are_filled_in_order_and_a_large_tensor_gets_its_own():
    sizes = {"a": 4000, "b": 4000, "c": 9000, "d": 1}
    assert plan_shards(sizes, 9000) == [["a", "b"], ["c"], ["d"]]
    assert plan_shards(sizes, 8100) == [
        ["a"],
        ["b"],
        ["c"],
        ["d"],
    ]  # headers count in: 8,000 bytes and two entries are more


def test_shards_are_as_equal_as_their_number_allows():
    assert plan_shards(dict.fromkeys("abcdef", 1000), 5000) == [["a", "b", "c"], ["d", "e", "f"]]


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


def test_keep_all_is_bit_identical(tiny_model, tmp_path):
    kept = tensors(drop(tiny_model, tmp_path / "out", {str(layer): [] for layer in range(LAYERS)}))
    original = tensors(tiny_model)
    assert kept.keys() == original.keys()
    for name, tensor in original.items():
        assert kept[name].dtype == tensor.dtype and torch.equal(kept[name].view(torch.uint8), tensor.view(torch.uint8))


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
    second = (
        drop(tiny_model, tmp_path / "deep/er/b", random_drop_map(KEEP), "--shard-bytes", "150000")
        if (tmp_path / "deep/er").mkdir(parents=True) is None
        else None
    )
    assert digests(first) == digests(second)
    assert len(list(first.glob("model-*-of-*.safetensors"))) > 1
    for path in first.glob("*.json"):
        assert str(tmp_path) not in path.read_text()


def test_index_and_metadata_agree_with_the_files(tiny_model, tmp_path):
    output = drop(tiny_model, tmp_path / "out", random_drop_map(KEEP))
    found = read_checkpoint(output)
    index = json.loads((output / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.size for tensor in found.values())
    metadata = json.loads((output / "expert_drop_metadata.json").read_text())
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
        layer.router.proj.register_forward_hook(
            lambda module, inputs, output, dropped=drop_map[str(number)]: output.index_fill(
                -1, torch.tensor(dropped), -torch.inf
            )
        )
    ids = torch.randint(5, 200, (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, actual = full(input_ids=ids).logits, pruned(input_ids=ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def masked(model: torch.nn.Module, drop_map: dict[str, list[int]]) -> torch.nn.Module:
    """Mask the dropped experts' router logits to -inf before the router's own softmax and top-k."""
    for number, layer in enumerate(model.model.layers):
        router = layer.mlp.gate

        def forward(hidden, weight=router.weight, dropped=torch.tensor(drop_map[str(number)]), router=router):
            logits = torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), weight)
            logits = logits.index_fill(-1, dropped, -torch.inf)
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


def test_an_unknown_family_is_refused_naming_what_looks_like_experts(tmp_path, refusal):
    source = build_family_model(tmp_path / "full", "gpt_oss", DEMO / "model")
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(KEEP)))
    refusal(
        main,
        ["--source", source, "--drop-map", tmp_path / "map.json", "--output", tmp_path / "out"],
        "gpt_oss",
        "look like experts",
        "model.layers.0.mlp.experts.",
    )


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
    ):
        text = (output / name).read_text()
        (output / name).write_text(text.replace(old, new, 1))
        refusal(main, arguments, name)
        (output / name).write_text(text)
    other = random_drop_map(KEEP, seed=5)
    (tmp_path / "out.map.json").write_text(json.dumps(other))
    refusal(main, arguments, "the source's bytes")


def test_a_map_of_another_model_is_refused(tiny_model, tmp_path, script, refused):
    path = tmp_path / "map.json"
    path.write_text(
        json.dumps(
            {
                "config_sha256": "0" * 64,
                "experts": EXPERTS,
                "layers": {k: {"drop": v} for k, v in random_drop_map(KEEP).items()},
            }
        )
    )
    arguments = ["--source", tiny_model, "--drop-map", path, "--output", tmp_path / "out"]
    refused(script("expert_drop.py", *arguments), path, "another model")
    path.write_text(json.dumps({str(layer): [] for layer in range(30)}))
    refused(script("expert_drop.py", *arguments), path, "another model")
    assert not list(tmp_path.glob("out*"))


def test_force_takes_other_weights_but_never_another_shape(tiny_model, tmp_path, refusal):
    path = tmp_path / "map.json"
    layers = {k: {"drop": v} for k, v in random_drop_map(KEEP).items()}
    arguments = ["--source", tiny_model, "--drop-map", path, "--output", tmp_path / "out", "--force"]
    path.write_text(json.dumps({"config_sha256": "0" * 64, "experts": EXPERTS + 1, "layers": layers}))
    refusal(main, arguments, f"{EXPERTS} experts per layer")
    path.write_text(json.dumps({"config_sha256": "0" * 64, "experts": EXPERTS, "layers": {"0": layers["0"]}}))
    refusal(main, arguments, "another model")
    path.write_text(json.dumps({"config_sha256": "0" * 64, "experts": EXPERTS, "layers": layers}))
    refusal(main, arguments[:-1], "another model", "--force")
    main(list(map(str, arguments)))
    assert (tmp_path / "out/config.json").exists()


def test_damaged_sources_are_refused(model_copy, tmp_path, script, refused):
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(KEEP)))
    arguments = ["--drop-map", tmp_path / "map.json", "--output", tmp_path / "out"]
    refused(script("expert_drop.py", "--source", tmp_path / "none", *arguments), tmp_path / "none", "model directory")
    shard = sorted(model_copy.glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    refused(script("expert_drop.py", "--source", model_copy, *arguments), shard.name, "truncated")
    shard.unlink()
    refused(script("expert_drop.py", "--source", model_copy, *arguments), shard.name, "nothing")
    shard.write_bytes(whole)
    index = model_copy / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, "../" + shard.name))
    refused(script("expert_drop.py", "--source", model_copy, *arguments), "inside the directory")
    index.write_text(index.read_text().replace("../" + shard.name, shard.name))
    config = model_copy / "config.json"
    config.write_text(config.read_text().replace('"gemma4_text"', '"llama"'))
    refused(script("expert_drop.py", "--source", model_copy, *arguments), "model_type", "llama")
    config.write_text(config.read_text().replace('"llama"', '"gemma4_text"'))
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    data = whole[8 + int.from_bytes(whole[:8], "little") :]
    names = [name for name in header if name != "__metadata__"]

    def damage(change, *words):
        changed = json.loads(json.dumps(header))
        change(changed)
        text = json.dumps(changed).encode()
        shard.write_bytes(len(text).to_bytes(8, "little") + text + data)
        refused(script("expert_drop.py", "--source", model_copy, *arguments), shard.name, *words)

    def shifted(changed, by):
        changed[names[0]]["data_offsets"] = [place + by for place in changed[names[0]]["data_offsets"]]

    damage(lambda changed: shifted(changed, -8))
    damage(lambda changed: shifted(changed, 2), "right after")
    damage(lambda changed: changed[names[0]].update(dtype=["BF16"]))
    shard.write_bytes(whole)
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"] | {names[0]: 7}}))
    refused(script("expert_drop.py", "--source", model_copy, *arguments), "weight_map")
    assert not list(tmp_path.glob("out*"))


def test_no_disk_space_is_said_before_the_first_byte(tiny_model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Exception, match="free disk space"):
        drop(tiny_model, tmp_path / "out", random_drop_map(KEEP))
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out.partial*"))


def test_an_output_that_overlaps_the_source_or_is_something_else_is_refused(model_copy, tmp_path, script, refused):
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(KEEP)))
    before = digests(model_copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    shutil.copytree(model_copy, tmp_path / "part.partial")  # the temporary name of the output `part`
    refused(
        script(
            "expert_drop.py",
            "--source",
            tmp_path / "part.partial",
            "--drop-map",
            tmp_path / "map.json",
            "--output",
            tmp_path / "part",
        ),
        "overwrite",
    )
    assert digests(tmp_path / "part.partial") == before
    for output in (model_copy, model_copy / "inside", tmp_path, tmp_path / "mine"):
        refused(
            script("expert_drop.py", "--source", model_copy, "--drop-map", tmp_path / "map.json", "--output", output)
        )
    assert digests(model_copy) == before and (tmp_path / "mine/notes.txt").read_text() == "keep me"


def test_a_fine_tune_of_the_same_shape_is_another_model(model_copy, tmp_path):
    from safetensors.torch import load_file, save_file

    from checkpoints.checkpoint import weights_digest

    before = weights_digest(read_checkpoint(model_copy))
    for shard in model_copy.glob("*.safetensors"):
        weights = load_file(shard)
        for name in weights:
            if name.endswith("layers.0.router.proj.weight"):
                weights[name][0, 0] += 1
                save_file(weights, shard, {"format": "pt"})
    assert weights_digest(read_checkpoint(model_copy)) != before


def test_a_foreign_directory_is_never_replaced(tmp_path):
    from files.safe_files import InputError, directory_when_done

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="something else"), directory_when_done(tmp_path / "mine", "manifest.json"):
        pass
    assert (tmp_path / "mine/thesis.txt").exists()
