"""What is made again: each damage of what a release was made from, with all that names its digest, fails its gate."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import build_release
from checkpoints.checkpoint import source_digest
from choice.drop_map import details_of
from choice.expert_stats import read_stats, write_stats
from conftest import DEMO
from damaged_build import Build
from files.json_records import read_json
from files.safe_files import InputError, sha256_file
from files.seals import INPUTS_NAME
from losses.stored_results import results_folder
from release.manifest import read_manifest
from release.sources import sources_path
from release_inputs import NAME, release_arguments
from scoring.eval_protocol import OpenAiProtocol, Protocol
from scoring.score_records import figures

import numpy as np
import pytest


@pytest.fixture
def build(pruned_demo, tmp_path) -> Build:
    return Build(pruned_demo, tmp_path)


def of_summary(build: Build) -> None:
    """One right answer more, and all that follows from it."""

    def better(run: dict) -> None:
        answer = run["answers"][1]
        answer.update({f"{kind}letter": answer["target"] for kind in ("", "strict_", "patched_")})
        answer.update({f"{kind}correct": True for kind in ("", "strict_", "patched_")})
        run.update(figures(run["answers"], run["patch"]))

    build.change(build.own / "summary.json", better)


def of_letters(build: Build) -> None:
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(letter=row["target"], correct=True))


def of_frozen_answers(build: Build) -> None:
    build.change_lines(build.own / "task/frozen.jsonl", lambda row: row.update(answer="(A)"))
    digest = sha256_file(build.own / "task/frozen.jsonl")
    build.change(build.own / "run.json", lambda run: run.update(questions_sha256=digest))
    build.change(build.own / "patched.json", lambda content: content["run"].update(questions_sha256=digest))


def of_dropped_questions(build: Build) -> None:
    gone = json.loads((build.own / "answers.jsonl").read_text().splitlines()[1])["record_id"]
    for run in (build.full, build.own):
        build.change_lines(run / "task/frozen.jsonl", lambda row: row["Record ID"] != gone)
        digest = {"questions_sha256": sha256_file(run / "task/frozen.jsonl")}
        build.change(run / "run.json", lambda content, digest=digest: content.update(digest))


def of_patched_letters(build: Build) -> None:
    build.change(build.own / "patched.json", lambda content: content["answers"][1].update(letter="A", correct=True))


def of_protocol(build: Build) -> None:
    build.change(build.own / "run.json", lambda run: run["protocol"].update(context=131072))


def of_locked_protocol(build: Build) -> None:
    protocol = read_json(build.own / "run.json")["protocol"] | {"temperature": 0.0}
    digest = Protocol(**protocol).digest
    build.change(build.own / "run.json", lambda run: run.update(protocol=protocol, protocol_sha256=digest))


def of_another_task(build: Build) -> None:
    protocol = read_json(build.own / "run.json")["protocol"] | {"task": "gsm8k_cot_zeroshot"}
    changes = {"protocol": protocol, "protocol_sha256": Protocol(**protocol).digest}
    build.change(build.own / "run.json", lambda run: run.update(changes))


def of_another_backend(build: Build) -> None:
    protocol = OpenAiProtocol()
    changes = {"protocol": asdict(protocol), "protocol_sha256": protocol.digest}
    build.change(build.own / "run.json", lambda run: run.update(changes))


def of_several_servers(build: Build, at_once: int = 4) -> None:
    """Three servers, as they are recorded: no damage, if lm-eval sent as many requests at once."""
    results = build.own / "lm_eval/results.json"
    build.change(results, lambda content: content["config"]["model_args"].update(num_concurrent=at_once))
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(server="local 3"))


def of_longer_answers(build: Build) -> None:
    """Twice the tokens of an answer, in the protocol and all that names its digest."""
    for run in (build.full, build.own):
        protocol = read_json(run / "run.json")["protocol"] | {"max_gen_toks": 49152}
        changes = {"protocol": protocol, "protocol_sha256": Protocol(**protocol).digest}
        build.change(run / "run.json", lambda content, changes=changes: content.update(changes))
        results = run / "lm_eval/results.json"
        build.change(results, lambda content: content["config"]["gen_kwargs"].update(max_gen_toks=49152))


def of_other_settings(build: Build) -> None:
    build.change(build.own / "lm_eval/results.json", lambda content: content["config"].update(random_seed=1))


def of_other_tokenizer(build: Build) -> None:
    for run in (build.full, build.own):
        protocol = read_json(run / "run.json")["protocol"] | {"tokenizer": f"sha256 {'4' * 64}"}
        changes = {"protocol": protocol, "protocol_sha256": Protocol(**protocol).digest}
        build.change(run / "run.json", lambda content, changes=changes: content.update(changes))


def of_smaller_server(build: Build) -> None:
    (build.own / "server.log").write_text("srv    load_model: initializing, n_slots = 1, n_ctx_slot = 4096\n")


def of_cut_answers(build: Build) -> None:
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(finish_reason="length"))


def of_long_answers(build: Build) -> None:
    build.change_lines(build.own / "answers.jsonl", lambda row: row.update(completion_tokens=24577))


def of_label(build: Build) -> None:
    held_out = {"chosen_on": 6, "scored_and_chosen_on": 0}
    build.change(build.own / "summary.json", lambda run: run.update(in_sample=held_out))


def of_another_base(build: Build) -> None:
    """The score of some other model, under the full model's name."""
    record = build.evidence / "gemma-4-demo-Q6_K.gguf.json"
    build.change(record, lambda quant: quant.update(source_sha256="6" * 64))


def of_rows(**changes: object) -> Callable[[Build], None]:
    return lambda build: build.change(build.evidence / "scores.json", lambda scores: scores["rows"][1].update(changes))


def of_foreign_rows(build: Build) -> None:
    """A model that this build never had."""

    def other(scores: dict) -> None:
        row = scores["rows"][0] | {"name": "other", "gguf_sha256": "1" * 64}
        scores.update(rows=[row], pairs=[], evaluated=row["gguf"])

    build.change(build.evidence / "scores.json", other)


def of_third_model(build: Build) -> None:
    """Another pruned model beside this one, of whose map only its summary speaks."""
    record = build.evidence / "other-Q6_K.gguf.json"
    foreign = {"sha256": "3" * 64, "source_sha256": "7" * 64, "experts": 64}
    record.write_text(json.dumps(read_json(build.evidence / "gemma-4-demo-Q6_K.gguf.json") | foreign))
    other = shutil.copytree(build.own, build.evidence / "run-other")
    build.change(other / "run.json", lambda run: run.update(gguf_sha256="3" * 64))
    build.change(other / "patched.json", lambda content: content["run"].update(gguf_sha256="3" * 64))
    drop_map = {"criterion": "99% on GPQA", "sha256": "9" * 64}
    build.change(other / "summary.json", lambda run: run.update(gguf_sha256="3" * 64, drop_map=drop_map))

    def add(sources: dict) -> None:
        sources["runs"]["9"], sources["quants"]["9"] = str(other / "summary.json"), str(record)

    build.change(sources_path(build.release), add)


def of_other_type(build: Build) -> None:
    """A full model of 2 bits under the name of one of 6."""
    build.change(build.evidence / "gemma-4-demo-Q6_K.gguf.json", lambda record: record.update(type="Q2_K"))


def of_other_reference(build: Build) -> None:
    """Another model's row in place of that of the full model."""

    def replaced(scores: dict) -> None:
        scores["evaluated"] = scores["evaluated"].replace(scores["rows"][0]["gguf"], "other-Q6_K.gguf")
        scores["rows"][0].update(name="other", gguf="other-Q6_K.gguf", gguf_sha256="3" * 64)
        scores["pairs"][0]["reference"] = "other"

    build.change(build.evidence / "scores.json", replaced)


def of_name(build: Build) -> None:
    """Another name of the pruned model, in all places of the scores."""

    def renamed(scores: dict) -> None:
        for entry, key in ((scores["rows"][1], "name"), (scores["pairs"][0], "model")):
            entry[key] = "other"

    build.change(build.evidence / "scores.json", renamed)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda build: None, ""),
        (of_summary, "the summary of its answers"),
        (of_letters, "as its text and the question say"),
        (of_frozen_answers, "expected the questions of"),
        (of_dropped_questions, "all of them"),
        (of_patched_letters, "patched.json: expected letter"),
        (of_protocol, "the protocol of protocol_sha256"),
        (of_locked_protocol, "temperature 1.0"),
        (of_another_task, "which a release makes again, found those of gsm8k_cot_zeroshot"),
        (of_another_backend, "found those of gpqa_diamond_cot_zeroshot by BACKEND=openai"),
        (of_several_servers, ""),
        (lambda build: of_several_servers(build, 1), "requests at once, and one more: 2, found 1"),
        (of_longer_answers, "to the request of the protocol in run.json"),
        (of_other_settings, "the seed of lm-eval: 42, found 1"),
        (of_other_tokenizer, "expected the tokenizer sha256"),
        (of_smaller_server, "a server with 32768 tokens for each request"),
        (of_cut_answers, "which was cut, to end at 24576 tokens"),
        (of_long_answers, "of at most 24576 tokens"),
        (of_label, "in_sample.scored_and_chosen_on 4, found 0"),
        (of_another_base, "the name gemma-4-demo for the full model's file and for no other"),
        (of_third_model, "expected a proof of what chose the experts of"),
        (of_other_type, "a name that ends with -Q2_K.gguf, its type, found gemma-4-demo-Q6_K.gguf"),
        (of_other_type, "files of one type of the full and the own model, found Q2_K, Q6_K"),
        (of_other_reference, "gemma-4-demo in the first row, the reference of the card, found other"),
        (of_foreign_rows, "scores of this build's own file"),
        (of_rows(gguf_sha256="5" * 64), "an evaluation of"),
        (of_name, f"the name {NAME} for this build's file and for no other"),
        (of_rows(mcnemar_p=0.01), "mcnemar_p"),
        (of_rows(gpqa="99%"), "gpqa absent"),
        (of_rows(bytes={"Q6_K": 1}), "which was scored"),
        (lambda build: build.change(sources_path(build.release), lambda s: s.update(runs={})), "--runs"),
    ],
)
def test_scores_are_of_this_build_and_come_out_again(build, damage, words):
    damage(build)
    found = build.failing("scores")
    assert any(words in line for line in found) if words else not found, found


def test_scores_of_other_models_are_refused_before_anything_is_written(build, refusal, tmp_path):
    of_foreign_rows(build)
    arguments = release_arguments(build.pruned, tmp_path / "r", "--scores", build.evidence / "scores.json")
    refusal(build_release.main, arguments, "--scores", "this build's own file", "SCORED=no")
    assert not list(tmp_path.glob("r*"))


def of_quality(**changes: object) -> Callable[[Build], None]:
    return lambda build: build.change(build.evidence / "quality.json", lambda quality: quality.update(changes))


def of_losses(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda q: q["files"][0]["losses"]["total"].update(kld=[1e-5, 1e-6]))


def of_conclusions(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["conclusions"]["total"].update(dominated={}))


def of_measured_file(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["files"][0].update(sha256="4" * 64))


def of_inputs(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["inputs"].update(max_tokens=9))


def of_full_model(build: Build) -> None:
    build.change(build.evidence / "quality.json", lambda quality: quality["inputs"].update(full_sha256="4" * 64))


def of_chats(build: Build) -> None:
    (path,) = (build.evidence / "logits").rglob("chats.npz")
    path.unlink()
    np.savez(path, reply=np.full(4, 9), all=np.array([22, 23, 22, 23]))


def of_inputs_everywhere(build: Build, change: Callable[[dict], object]) -> None:
    """Losses that were measured with other inputs, stored under the name that these give."""
    inputs = read_json(build.evidence / "quality.json")["inputs"]
    old = results_folder(build.evidence / "logits", "results", inputs)
    change(inputs)
    new = old.rename(results_folder(build.evidence / "logits", "results", inputs))
    build.write(new / INPUTS_NAME, json.dumps(inputs))
    build.change(build.evidence / "quality.json", lambda quality: quality.update(inputs=inputs))


def of_texts(build: Build) -> None:
    """Losses over the tokens of another tokenizer, such as one that was edited for that time."""
    of_inputs_everywhere(build, lambda inputs: inputs.update(texts_sha256="4" * 64))


def of_no_texts(build: Build) -> None:
    of_inputs_everywhere(build, lambda inputs: inputs.pop("texts_sha256"))


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda build: None, ""),
        (of_texts, "chats by the checkpoint's tokenizer and chat template, sha256"),
        (of_no_texts, "found None; run `make quality REPLACE=quality`"),
        (of_losses, "losses.total.kld[0]"),
        (of_conclusions, "conclusions.total.dominated"),
        (of_measured_file, "losses of this build's Q8_0"),
        (of_inputs, "results of an earlier run"),
        (of_full_model, "losses against the F16 file"),
        (of_chats, "the losses of the stored results"),
        (of_quality(chats=400), "chats 4, found 400"),
        (of_quality(left_out=3), "chats left out: 0, found 3"),
        (of_quality(cut=3), "cut 0, found 3"),
        (of_quality(choice_known=False), "choice_known"),
        (of_quality(gpqa="99%"), "gpqa absent"),
    ],
)
def test_losses_are_of_this_build_and_come_out_again(build, damage, words):
    damage(build)
    found = build.failing("quality")
    assert any(words in line for line in found) if words else not found, found


def of_map(build: Build, change: Callable[[dict], object]) -> None:
    """Change the map, and all that follows from it: metadata and the record of the F16 file."""
    build.change(build.map, change)
    content = read_json(build.map)

    def follow(metadata: dict) -> None:
        metadata.update(method=details_of(content), drop_map_sha256=sha256_file(build.map))
        for number, layer in content["layers"].items():
            metadata["layers"][number] = {key: layer[key] for key in ("keep", "drop")}

    of_metadata(build, follow)


def of_metadata(build: Build, change: Callable[[dict], object]) -> None:
    """Change the metadata and the digest of the checkpoint that holds them."""
    build.change(build.metadata, change)
    digest = source_digest(build.metadata.parent)
    build.change(build.f16, lambda record: record.update(source_sha256=digest))


def as_own_map(content: dict) -> None:
    """Make a map one that a user gave, with another expert in it."""
    for key in ("stats_sha256", "questions_sha256"):
        del content[key]
    content.update(criterion="own map", own_map={"sha256": "0" * 64, "criterion": "magic"})
    layer = content["layers"]["1"]
    layer["keep"], layer["drop"] = sorted({*layer["keep"], 112} - {0}), sorted({*layer["drop"], 0} - {112})


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


@pytest.mark.parametrize(
    "change, words",
    [
        ({"note": "99% on GPQA"}, "the note of its type"),
        ({"arguments": ["--pure"]}, "the arguments of its type"),
        ({"type": "AUTO-0.01", "note": "99% on GPQA"}, "the note of its type"),
        ({"type": "CD-Q6_K", "arguments": ["--tensor-type", "attn_q=q8_0"]}, "tensors of other types than its"),
        ({"type": "Q8_0", "base": "Q8_0", "note": "near-lossless, large"}, "the type of llama-quantize MOSTLY_Q8_0"),
    ],
)
def test_what_a_record_says_is_what_the_file_says(build, change, words):
    records = read_manifest(build.release)["records"]
    name = f"{NAME}-Q6_K.gguf"
    build.change(build.release / "manifest.json", lambda m: m.update(records={**records, name: records[name] | change}))
    assert any(words in line for line in build.failing("records"))


def test_bits_per_weight_are_those_of_size_and_weights(build):
    def change(content: dict) -> None:
        content["records"][f"{NAME}-Q6_K.gguf"]["bits_per_weight"] = 2.0

    build.change(build.release / "manifest.json", change)
    with pytest.raises(InputError, match="with bits_per_weight = 8 x bytes / parameters"):
        read_manifest(build.release)


def test_a_field_that_no_record_has_is_refused(build):
    manifest = build.release / "manifest.json"
    build.change(manifest, lambda content: content.update(gpqa="99%"))
    assert build.failing("build") == [f"{manifest}: expected no field 'gpqa' of manifest.json, found one"]


@pytest.mark.parametrize(
    "change, words",
    [
        ({"settings": {"GPQA": "99%"}}, "expected settings of make, found 'GPQA'"),
        ({"settings": {"QUESTIONS": "99.csv"}}, "expected QUESTIONS among"),
        ({"settings": {"QUESTIONS": "scored.csv"}}, "expected QUESTIONS among calibration_questions.csv, found"),
        ({"settings": {"EVAL_QUESTIONS": "eval_questions.csv"}}, "expected EVAL_QUESTIONS among scored.csv, found"),
        ({"settings": {"QUESTIONS": "GPQA-99/few.csv"}}, "expected QUESTIONS to be a plain name, found"),
        ({"settings": {"FOLD": "1/5"}}, "expected no FOLD, of which the release has no record, found '1/5'"),
        ({"settings": {"DOMAINS": "Physics:9"}}, "expected no DOMAINS, of which the release has no"),
        ({"settings": {"DROP_MAP": "best.json"}}, "expected no DROP_MAP, of which the release has no"),
        ({"settings": {"RUN": "99% on GPQA"}}, "expected RUN to be a plain name, found '99% on GPQA'"),
        ({"settings": {"SENSITIVITY_CHATS": "99%"}}, "expected no SENSITIVITY_CHATS, of which the release has no"),
        ({"settings": {"LOOP_TOKENS": "4321"}}, "expected no LOOP_TOKENS, of which the release has no record, found"),
        ({"settings": {"SENSITIVITY_CHATS": "64"}}, "expected no SENSITIVITY_CHATS, of which the release has no"),
        ({"settings": {"MIN_EXPERT_TOKENS": "9999"}}, "expected no MIN_EXPERT_TOKENS, of which the release has no"),
        ({"settings": {"QUALITY_CHATS": "5000"}}, "expected QUALITY_CHATS 4, as the records say, found '5000'"),
        ({"settings": {"GPU_LAYERS": "98"}}, "expected GPU_LAYERS 99, as the records say, found '98'"),
        ({"settings": {"CALIBRATION": "v5"}}, "expected CALIBRATION text.txt, as the records say, found 'v5'"),
        ({"settings": {"EVAL_QUANT": "Q8_0"}}, "expected EVAL_QUANT Q6_K, as the records say"),
        ({"settings": {"QUALITY_SCORE": "all"}}, "expected QUALITY_SCORE reply, as the records say"),
        ({"settings": {"NO_IMATRIX": "Q4_K_M"}}, "expected no NO_IMATRIX, of which the release has no record"),
        ({"settings": {"CD_CUTS": "1/99,1/2"}}, "expected no CD_CUTS, of which the release has no record"),
        ({"settings": {"CRITERION": "reap"}}, "expected CRITERION coverage, as the records say"),
        ({"settings": {"EVAL_NAME": "GPQA-99.5"}}, "expected no EVAL_NAME, of which the release has no record"),
        ({"settings": {"SCORED": "no"}}, "expected SCORED yes, as the records say"),
        ({"settings": {"OLLAMA_PARAMS": "current"}}, "expected OLLAMA_PARAMS card, as the records say"),
        ({"settings": {"DRAFT": "google/gemma-4"}}, "expected no DRAFT, of which the release has no record"),
        ({"settings": {"QUANTS": "Q9_K"}}, "expected QUANTS to be a plain name"),
        ({"project_version": "9.9 (99%)"}, "found '9.9 (99%)'"),
    ],
)
def test_settings_and_version_are_this_project_s(build, change, words):
    assert not build.failing("build")
    build.change(build.release / "manifest.json", lambda content: content.update(change))
    assert words in build.failing("build")[0]


def test_a_copy_that_no_release_has_is_refused(build):
    (build.release / "RESULTS.md").write_text("99% on GPQA")
    listed = {"RESULTS.md": str(build.release / "RESULTS.md")}
    build.change(sources_path(build.release), lambda sources: sources["copies"].update(listed))
    assert any("RESULTS.md: expected a file that build_release.py" in line for line in build.failing("build"))


def test_the_experts_are_chosen_again(build):
    assert not build.failing("choice")

    def toss(content: dict) -> None:
        content["bootstrap"]["coin_toss"] += 1
        content["layers"]["0"]["coin_toss"].append(127)

    of_map(build, toss)
    assert not build.failing("lineage") and "bootstrap.coin_toss" in build.failing("choice")[0]


@pytest.mark.parametrize("key", ["version", "stats_sha256"])
def test_a_map_that_names_a_criterion_is_chosen_again_or_refused(build, key):
    of_map(build, lambda content: (content.pop("version"), content.pop(key, None)))
    assert "map.json: expected the statistics that coverage chose by, found none" in build.failing("choice")[0]


def test_pictures_are_drawn_again(build):
    assert not build.failing("pictures")
    picture = build.release / "scores.png"
    content = picture.read_bytes()
    picture.unlink()
    picture.write_bytes(content + b" ")
    assert "scores.png: expected the picture of this build's records" in build.failing("pictures")[0]
