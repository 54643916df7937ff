"""What expert_drop.py refuses in one line: other models' maps, unknown families, damaged sources, wrong outputs."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import fetch_model
from checkpoints.checkpoint import read_checkpoint, weights_digest
from checkpoints.small_files import small_files
from choice.drop_metadata import METADATA_NAME
from conftest import DEMO
from expert_drop import main
from files.input_errors import InputError
from files.safe_files import partial_directory
from makers.drop_runs import KEEP, digests, drop
from makers.tiny_models import EXPERTS, build_family_model, random_drop_map

import pytest
from safetensors.torch import load_file, save_file


@pytest.fixture
def refuse(tmp_path, refusal) -> Callable[..., str]:
    """Assert that dropping from a source is refused with a line that holds some words, and that nothing is written."""
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(KEEP)))

    def check(source: Path, *words: object, options: tuple[str, ...] = ()) -> str:
        output = ["--drop-map", tmp_path / "map.json", "--output", tmp_path / "out"]
        line = refusal(main, ["--source", source, *output, *options], *words)
        assert not list(tmp_path.glob("out*"))
        return line

    return check


def test_an_unknown_family_naming_what_looks_like_experts(refuse, tmp_path):
    source = build_family_model(tmp_path / "full", "gpt_oss", DEMO / "model")
    refuse(source, "gpt_oss", "look like experts", "model.layers.0.mlp.experts.")


def test_a_number_of_layers_that_no_model_has(refuse, model_copy):
    config = json.loads((model_copy / "config.json").read_text())
    config["num_hidden_layers"] = 1 << 32  # would be counted to
    (model_copy / "config.json").write_text(json.dumps(config))
    refuse(model_copy, model_copy / "config.json", "as num_hidden_layers", 1 << 32)


def test_a_shard_that_the_digest_of_a_checkpoint_would_leave_out(refuse, model_copy):
    """The digest over all bytes takes files by their endings."""
    shard = next(model_copy.glob("*.safetensors"))
    shard.rename(model_copy / "experts.weights")
    index = model_copy / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"] if index.exists() else {}
    known = names or dict.fromkeys(load_file(model_copy / "experts.weights"), shard.name)
    moved = {name: "experts.weights" if at == shard.name else at for name, at in known.items()}
    index.write_text(json.dumps({"weight_map": moved}))
    refuse(model_copy, "shards named *.safetensors", "experts.weights")


def test_a_model_that_was_pruned_before(refuse, model_copy, tmp_path, refusal):
    """Which questions chose then is not known to the scores of the second drop."""
    (model_copy / METADATA_NAME).write_text("{}")
    refuse(model_copy, model_copy / METADATA_NAME, "no experts were dropped", "prune the full model")
    more = ["--output", tmp_path / "checkpoint", "--record", tmp_path / "model.json"]
    refusal(fetch_model.main, ["--model", model_copy, *more], "no experts were dropped")


def test_a_map_of_another_model(refuse, tiny_model, tmp_path):
    path, layers = tmp_path / "map.json", {k: {"drop": v} for k, v in random_drop_map(KEEP).items()}
    path.write_text(json.dumps({"config_sha256": "0" * 64, "experts": EXPERTS, "layers": layers}))
    refuse(tiny_model, path, "another model")
    path.write_text(json.dumps({str(layer): [] for layer in range(30)}))
    refuse(tiny_model, path, "another model")


def test_force_takes_other_weights_but_never_another_shape(refuse, tiny_model, tmp_path):
    path, other = tmp_path / "map.json", {"config_sha256": "0" * 64, "experts": EXPERTS}
    layers = {k: {"drop": v} for k, v in random_drop_map(KEEP).items()}
    path.write_text(json.dumps(other | {"experts": EXPERTS + 1, "layers": layers}))
    refuse(tiny_model, f"{EXPERTS} experts per layer", options=("--force",))
    path.write_text(json.dumps(other | {"layers": {"0": layers["0"]}}))
    refuse(tiny_model, "another model", options=("--force",))
    path.write_text(json.dumps(other | {"layers": layers}))
    refuse(tiny_model, "another model", "--force")
    main(["--source", str(tiny_model), "--drop-map", str(path), "--output", str(tmp_path / "out"), "--force"])
    assert (tmp_path / "out/config.json").exists()


def test_a_source_that_is_missing_or_cut_short(refuse, model_copy, tmp_path, script, refused):
    refuse(tmp_path / "none", tmp_path / "none", "model directory")
    shard = sorted(model_copy.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    refuse(model_copy, shard.name, "truncated")
    shard.unlink()
    refuse(model_copy, shard.name, "nothing")
    arguments = ["--source", model_copy, "--drop-map", tmp_path / "map.json", "--output", tmp_path / "out"]
    refused(script("expert_drop.py", *arguments), shard.name, "nothing")  # in a process: one line, exit code


def test_weights_beside_those_of_a_model_without_an_index(demo_model, tmp_path):
    """llama.cpp's converter took them in place of the model's: the full model was scored with other weights."""
    model = shutil.copytree(demo_model, tmp_path / "model")
    shutil.copy(model / "model.safetensors", model / "model_old.safetensors")
    with pytest.raises(InputError, match="model_old.safetensors: expected no other file named model"):
        read_checkpoint(model)
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if name.startswith("model.layers."))
    (tmp_path / "twice").mkdir()
    shutil.copy(model / "config.json", tmp_path / "twice")
    twice = tensors | {name.replace("model.", "model.language_model.", 1): tensors[name].clone()}
    save_file(twice, tmp_path / "twice/model.safetensors")
    with pytest.raises(InputError, match="every tensor under one name, found model"):
        read_checkpoint(tmp_path / "twice")
    (model / "model_old.safetensors").rename(model / "adapter_model.safetensors")  # no name that it looks for
    assert read_checkpoint(model)


def test_a_source_with_a_damaged_index_or_config(refuse, model_copy):
    shard = sorted(model_copy.glob("*.safetensors"))[0]
    index, config = model_copy / "model.safetensors.index.json", model_copy / "config.json"
    whole = index.read_text()
    index.write_text(whole.replace(shard.name, "../" + shard.name))
    refuse(model_copy, "inside the directory")
    weight_map = json.loads(whole)["weight_map"]
    index.write_text(json.dumps({"weight_map": weight_map | {next(iter(weight_map)): 7}}))
    refuse(model_copy, "weight_map")
    index.write_text(whole)
    config.write_text(config.read_text().replace('"gemma4_text"', '"llama"'))
    refuse(model_copy, "model_type", "llama")
    config.write_text(config.read_text().replace('"llama"', '"gemma4_text"'))
    (model_copy / "merges.txt").symlink_to("gone")
    refuse(model_copy, "merges.txt", "a link to nothing")
    (model_copy / "merges.txt").unlink()
    (model_copy.parent / "secret").write_text("a token")
    (model_copy / "LICENSE").symlink_to("../secret")
    refuse(model_copy, "LICENSE", "expected a file of the checkpoint, found a link")


def test_links_of_the_hub_s_cache_and_within_a_checkpoint_are_its_files(model_copy, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b/snapshots/123", tmp_path / "models--a--b/blobs"
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir()
    model_copy.rename(snapshot)
    for number, path in enumerate(sorted(snapshot.iterdir())):
        path.rename(blobs / str(number))
        path.symlink_to(f"../../blobs/{number}")
    (snapshot / "LICENSE").symlink_to("README.md")
    (snapshot / "README.md").write_text("mit")
    assert {path.name for path in small_files(snapshot)} >= {"LICENSE", "README.md", "tokenizer.json"}


def test_a_shard_with_a_damaged_header(refuse, model_copy):
    shard = sorted(model_copy.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    name = next(name for name in header if name != "__metadata__")
    begin, end = header[name]["data_offsets"]
    for damage, *words in (
        ({"data_offsets": [begin - 8, end - 8]},),
        ({"data_offsets": [begin + 2, end + 2]}, "right after"),
        ({"dtype": ["BF16"]},),
    ):
        text = json.dumps(header | {name: header[name] | damage}).encode()
        shard.write_bytes(len(text).to_bytes(8, "little") + text + content[start:])
        refuse(model_copy, shard.name, *words)


def test_a_full_disk_before_the_first_byte(tiny_model, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="free disk space"):
        drop(tiny_model, tmp_path / "out", random_drop_map(KEEP))
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out.*partial*"))


def test_an_output_that_overlaps_the_source_or_is_something_else(model_copy, tmp_path, refusal):
    (tmp_path / "map.json").write_text(json.dumps(random_drop_map(KEEP)))
    before = digests(model_copy)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep me")
    begun = partial_directory(tmp_path / "part")
    shutil.copytree(model_copy, begun)  # the temporary name of the output `part`
    for source, output, *words in (
        (begun, tmp_path / "part", "overwrite"),
        *((model_copy, output) for output in (model_copy, model_copy / "inside", tmp_path, tmp_path / "mine")),
    ):
        refusal(main, ["--source", source, "--drop-map", tmp_path / "map.json", "--output", output], *words)
    assert digests(begun) == before == digests(model_copy)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep me"


def test_a_fine_tune_of_the_same_shape_has_another_digest(model_copy):
    before = weights_digest(read_checkpoint(model_copy))
    for shard in model_copy.glob("*.safetensors"):
        weights = load_file(shard)
        for name in weights:
            if name.endswith("layers.0.router.proj.weight"):
                weights[name][0, 0] += 1
                save_file(weights, shard, {"format": "pt"})
    assert weights_digest(read_checkpoint(model_copy)) != before
