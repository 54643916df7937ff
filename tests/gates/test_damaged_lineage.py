"""Damage of what a model was made from (map, statistics, checkpoint, records) fails the gate `lineage`."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from checkpoints.checkpoint import source_digest
from checkpoints.model_record import ModelRecord
from choice.expert_stats import read_stats, write_stats
from conftest import DEMO
from fetch_model import check_model_directory
from files.input_errors import sha256_file
from files.json_records import read_json
from files.written_records import write_record
from gates.lineage import fetched_breaks, imatrix_model_breaks, lineage_breaks, small_file_breaks
from makers.damaged_build import Build, as_own_map, of_map, of_metadata
from makers.pruned_models import NAME
from release.sources import sources_path

import pytest


def as_given_map(content: dict) -> None:
    """Take the digest of its statistics and the version off a map, so that none is known to have chosen it."""
    content.pop("version", None)
    content.pop("stats_sha256", None)
    content.update(protect_top=16)


def of_scored_full(**changes: object) -> Callable[[Build], None]:
    """Another record of the full model's scored quant."""
    return lambda build: build.change(build.evidence / "gemma-4-demo-Q6_K.gguf.json", lambda r: r.update(changes))


def of_statistics(build: Build) -> None:
    path = build.pruned / "statistics.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-8] + bytes(8))


def of_metadata_of_statistics(build: Build, change: Callable[[dict], object]) -> None:
    """Change what statistics say of themselves, and choose by them."""
    path = build.pruned / "statistics.safetensors"
    arrays, metadata = read_stats(path)
    path.unlink()
    change(metadata)
    write_stats(path, arrays, metadata)
    of_map(build, lambda content: content.update(stats_sha256=sha256_file(path)))


def of_empty_reasonings(build: Build) -> None:
    """Statistics that say of every question that it has no reasoning, and the map by them."""
    change = {"empty_reasoning": True}
    of_metadata_of_statistics(build, lambda metadata: [one.update(change) for one in metadata["questions"]])


def of_other_tokens(build: Build) -> None:
    """Statistics over the tokens of a tokenizer that was edited for the time of the analysis."""
    change = {"token_ids_sha256": "4" * 64}
    of_metadata_of_statistics(build, lambda metadata: metadata["questions"][2].update(change))


def of_other_tokens_and_an_own_map(build: Build) -> None:
    of_other_tokens(build)
    of_map(build, as_own_map)


def of_other_template(build: Build) -> None:
    of_metadata_of_statistics(build, lambda metadata: metadata.update(chat_template_sha256="4" * 64))


def of_no_tokens(build: Build) -> None:
    of_metadata_of_statistics(build, lambda metadata: [one.pop("token_ids_sha256") for one in metadata["questions"]])


def of_reworded_questions(build: Build) -> None:
    """The question file says something else under the same ids."""
    sources = read_json(sources_path(build.release))
    for number, place in sources["questions"].items():
        path = build.evidence / f"reworded-{Path(place).name}"
        path.write_text(Path(place).read_text().replace("What", "Which"))
        sources["questions"][number] = str(path)
    build.write(sources_path(build.release), json.dumps(sources))


def of_header(build: Build) -> None:
    """Another longest context in the header of a quant, from which a card takes it."""
    path, key = build.release / f"{NAME}-Q6_K.gguf", b"gemma4.context_length"
    content = bytearray(path.read_bytes())
    at = content.index(key) + len(key) + 4  # behind the type of the value
    content[at : at + 4] = (131072).to_bytes(4, "little")
    path.unlink()
    path.write_bytes(content)


def of_edited_card(build: Build) -> None:
    """Another licence in the pruned checkpoint, from where it comes into the headers, before that is converted."""
    card = build.metadata.with_name("README.md")
    build.write(card, card.read_text().replace("license: cc0-1.0", "license: apache-2.0"))
    digest = source_digest(card.parent, read_json(build.metadata)["shards"])
    build.change(build.f16, lambda record: record.update(source_sha256=digest))


def of_record(file: str, **changes: object) -> Callable[[Build], None]:
    return lambda build: build.change(build.pruned / file, lambda record: record.update(changes))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda build: None, ""),
        (lambda build: build.change(build.metadata, lambda m: m["source"].update(x="9")), "a checkpoint whose files"),
        (lambda build: of_metadata(build, lambda m: m.update(keep_count=96)), "layers.0 that keep keep_count experts"),
        (lambda build: of_metadata(build, lambda m: m.update(gpqa="99%")), "no field 'gpqa'"),
        (lambda build: of_metadata(build, lambda m: m["source"].update(gpqa="99%")), "no field 'gpqa'"),
        (lambda build: of_metadata(build, lambda m: m["source"].update(weights_sha256="9" * 64)), "base checkpoint"),
        (lambda build: of_metadata(build, lambda m: m["method"].update(questions=600)), "the method of map.json"),
        (lambda build: of_metadata(build, lambda m: m["methodology"].update(gpqa=9)), "the methodology of map.json"),
        (lambda build: build.change(build.map, lambda m: m.update(seed=1)), "the drop map with sha256"),
        (lambda build: of_map(build, as_own_map), "the router's rows of the 112 kept experts in layer 1"),
        (lambda build: of_map(build, lambda m: m.update(top_k=16)), "experts per token: 16, found 8"),
        (of_empty_reasonings, "questions without a reasoning: []"),
        (
            lambda build: of_metadata_of_statistics(build, lambda m: m.update(source_sha256="4" * 64)),
            "statistics.safetensors: expected the checkpoint that",
        ),
        (
            lambda build: of_metadata_of_statistics(build, lambda m: m.pop("source_sha256")),
            "statistics.safetensors: expected the checkpoint that",
        ),
        (of_other_tokens, "by the checkpoint's tokenizer, sha256"),
        (of_other_tokens_and_an_own_map, "by the checkpoint's tokenizer, sha256"),
        (of_no_tokens, "found None; run `make analyze REPLACE=statistics`"),
        (of_other_template, "the checkpoint's chat template with sha256"),
        (of_reworded_questions, "expected the words of the questions of"),
        (of_statistics, "a map chosen from statistics.safetensors"),
        (of_header, "gemma4.context_length of the full model: 4096, found 131072"),
        (of_record("F16.gguf.json", name="other"), "a model named"),
        (of_record("full-F16.gguf.json", name="other"), "a model named gemma-4-demo, found other"),
        (of_record("F16.gguf.json", outtype="f32"), "expected the type f16, found f32"),
        (of_record("full-F16.gguf.json", outtype="bf16"), "expected the type f16, found bf16"),
        (of_record("F16.gguf.json", against_transformers=None), "compared with transformers, found another"),
        (of_record("full-F16.gguf.json", against_transformers=None), "compared with transformers, found another"),
        (of_edited_card, "README.md: expected the base's own card, sha256"),
        (of_record("full-F16.gguf.json", source_sha256="4" * 64), "checkpoint that the experts were dropped from"),
        (of_scored_full(calibration_sha256="4" * 64), "a quant by the text text.txt, sha256"),
        (of_scored_full(imatrix_sha256=None, calibration_sha256=None), "Q6_K files made with an imatrix:"),
        (of_scored_full(cd_tiers="1/2/0"), "the scored Q6_K files made by one recipe:"),
        (of_scored_full(padded={"down": [704, 768]}), "the scored Q6_K files made by one recipe:"),
        (of_scored_full(imatrix_sha256="4" * 64), "an imatrix of its own model, with a record:"),
        (of_record("full-imatrix.gguf.json", model_sha256="4" * 64), "an imatrix of its own model, with a record:"),
        (of_record("full-imatrix.gguf.json", context=2048), "the context of the imatrix: 2048, found 512"),
        (of_record("full-imatrix.gguf.json", llama_cpp="version: 1"), "the llama_cpp of the imatrix: version: 1"),
        (of_record("full-imatrix.gguf.json", tools_sha256="4" * 64), "the tools_sha256 of the imatrix:"),
        (of_record("full-imatrix.gguf.json", tools_sha256=None), ""),  # of an older version, which knew no digest
        (lambda build: of_map(build, as_given_map), "no protect_top in a map that was given"),
        (lambda build: of_map(build, as_given_map), "a map that was given the criterion own map, found coverage"),
        (of_record("F16.gguf.json", sha256="4" * 64), "a quant of the F16 file"),
        (of_record("imatrix.gguf.json", model_sha256="4" * 64), "an imatrix of the F16 file"),
        (of_record("imatrix.gguf.json", sha256="4" * 64), "imatrix.gguf with sha256"),
        (of_record("imatrix.gguf.json", calibration="calibration_datav5.txt"), "a text named text.txt"),
        (of_record("imatrix.gguf.json", calibration_sha256="4" * 64), "the text text.txt with sha256"),
    ],
)
def test_the_chain_of_digests_has_no_gap(build, damage, words):
    damage(build)
    found = build.failing("lineage")
    assert any(words in line for line in found) if words else not found, found


def of_added_file(build: Build) -> None:
    (build.metadata.parent / "RESULTS.md").write_text("99% on GPQA")


def of_odd_files_of_the_base(build: Build) -> None:
    """A pruned checkpoint gets none of them; one that has them all the same is refused."""
    source = build.metadata.parents[1] / "base"
    shutil.copytree(DEMO / "model", source)
    for name in ("RESULTS.md", "scores.png"):
        (source / name).write_text("99% on GPQA")
    build.change(sources_path(build.release), lambda s: s["origins"].update(source=str(source)))


def of_odd_file_of_both(build: Build) -> None:
    of_odd_files_of_the_base(build)
    of_added_file(build)


def of_tokenizer(build: Build) -> None:
    build.change(build.metadata.parent / "tokenizer_config.json", lambda config: config.update(gpqa=99))


def of_base_digest(build: Build) -> None:
    build.change(build.metadata, lambda metadata: metadata["source"].update(weights_sha256="9" * 64))


def of_experts(build: Build) -> None:
    """Twice as many experts as the full model had, so that the card shows twice the parameters before the drop."""

    def twice(content: dict) -> None:
        content.update(experts=256, drop_count=256 - content["keep_count"], bootstrap={"resamples": 9, "seed": 0})
        content["bootstrap"] |= {"coin_toss": 0, "expected_overlap": 1.0}
        for layer in content["layers"].values():
            layer["drop"] = sorted({*layer["drop"], *range(128, 256)})
            del layer["score"], layer["margin"]  # of the experts that were scored

    of_map(build, lambda content: (as_own_map(content), twice(content)))
    of_metadata(build, lambda metadata: metadata.update(experts=256))


def of_config(build: Build) -> None:
    build.change(build.metadata.parent / "config.json", lambda config: config.update(max_position_embeddings=131072))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda build: None, ""),
        (of_added_file, "RESULTS.md: expected a file of the full model's checkpoint"),
        (of_odd_files_of_the_base, ""),
        (of_odd_file_of_both, "RESULTS.md: expected a file of the full model's checkpoint"),
        (of_tokenizer, "tokenizer_config.json: expected a file of the full model's checkpoint"),
        (of_base_digest, "a full model whose weights have sha256"),
        (of_experts, "experts of the full model: 128, found 256"),
        (of_experts, "no bootstrap in a map that was given"),
        (of_config, "config.json: expected the full model's config with the new number of experts"),
    ],
)
def test_the_checkpoint_has_the_full_model_s_small_files_and_no_others(build, damage, words):
    build.change(sources_path(build.release), lambda s: s["origins"].update(source=str(DEMO / "model")))
    damage(build)
    build.change(build.f16, lambda record: record.update(source_sha256=source_digest(build.metadata.parent)))
    found = build.failing("lineage")
    assert any(words in line for line in found) if words else not found, found


@pytest.mark.parametrize("damage, name", [(of_tokenizer, "tokenizer_config.json"), (of_added_file, "RESULTS.md")])
def test_small_files_are_those_of_the_drop_where_the_full_model_has_gone(build, damage, name):
    assert not small_file_breaks(build.checked.lineage)
    damage(build)
    (error,) = small_file_breaks(build.checked.lineage)
    assert f"{name}: expected what the drop has put there" in str(error)


@pytest.mark.parametrize("key", ["weights_sha256", "config_sha256", "source_sha256"])
def test_the_experts_were_dropped_from_the_model_that_was_fetched(build, tmp_path, key):
    """Nobody looks at it again: an edit of a fetched checkpoint would be published as the base."""
    lineage, all_bytes = build.checked.lineage, {"source_sha256": source_digest(DEMO / "model")}
    known = check_model_directory(DEMO / "model") | all_bytes
    assert not fetched_breaks(lineage)
    lineage.sources["origins"]["model"] = tmp_path / "model.json"
    write_record(tmp_path / "model.json", known, ModelRecord)
    assert not fetched_breaks(lineage)
    write_record(tmp_path / "model.json", check_model_directory(DEMO / "model"), ModelRecord)
    assert "source_sha256 of the model that was fetched: None" in str(lineage_breaks(lineage)[0]), "a record of before"
    write_record(tmp_path / "model.json", {**known, key: "4" * 64}, ModelRecord)
    (error,) = lineage_breaks(lineage)
    assert f"{key} of the model that was fetched: {'4' * 12}" in str(error) and "REPLACE=model" in str(error)


def test_an_imatrix_is_the_file_of_its_record_though_no_published_file_has_it(build):
    """Its picture is drawn from it, and a scored file can have it."""
    lineage = build.checked.lineage
    assert not imatrix_model_breaks(lineage)
    record = lineage.origin("imatrix")
    other = build.pruned / "other.gguf.json"
    other.write_bytes(record.read_bytes())
    other.with_suffix("").write_bytes(b"another imatrix")
    exchanged = replace(
        lineage, sources={**lineage.sources, "origins": {**lineage.sources["origins"], "imatrix": other}}
    )
    (error,) = imatrix_model_breaks(exchanged)
    assert "expected other.gguf with sha256" in str(error)
    full = {**lineage.sources["origins"], "full imatrix": record}  # that of the pruned model
    (error,) = imatrix_model_breaks(replace(lineage, sources={**lineage.sources, "origins": full}))
    assert "an imatrix of the F16 file" in str(error)
