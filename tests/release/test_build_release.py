"""Release folders of real quants: links, parts that llama-server loads, what the folder holds, kills, refusals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import build_release
import expert_drop
from calls import call
from cards.chores import chores
from cards.front_matter import check_front_matter
from conftest import DEMO, REPO
from files.input_errors import sha256_file
from files.safe_files import partial_directory
from llama.llama_server import LlamaServer, server_command
from makers.made_up_evidence import write_quality, write_scores
from makers.pruned_models import BASE, NAME, STANDARD_QUANTS, copy_of_quants, first_ids
from makers.release_copies import change_json
from makers.release_inputs import build, origins_of, release_arguments
from release.gguf_parts import shapes_and_types, tensors_of
from release.manifest import read_manifest
from release.sources import sources_path

import pytest


def test_a_folder_links_its_files_and_its_manifest_is_true(pruned_demo, tmp_path):
    output = tmp_path / f"{NAME}-GGUF"
    build(pruned_demo, output)
    manifest = read_manifest(output)
    assert (manifest["repository"], manifest["kind"]) == (f"{NAME}-GGUF", "standard")
    assert len(manifest["records"]) == len(STANDARD_QUANTS)
    for name, entry in manifest["files"].items():
        assert (entry["bytes"], entry["sha256"]) == ((output / name).stat().st_size, sha256_file(output / name))
    assert {path.name for path in output.iterdir()} == {*manifest["files"], "manifest.json"}
    assert all(os.path.samefile(output / name, pruned_demo / name) for name in manifest["records"])
    before = {name: (output / name).read_bytes() for name in manifest["files"]}
    build(pruned_demo, output)  # again, in its place: the same bytes
    assert before == {name: (output / name).read_bytes() for name in read_manifest(output)["files"]}


def test_the_sources_are_listed_beside_the_folder_by_relative_paths(pruned_demo, tmp_path):
    build(pruned_demo, tmp_path / "r", quants=("Q6_K", "Q4_K_M"))
    sources = json.loads(sources_path(tmp_path / "r").read_text())
    del sources["version"]
    paths = [path for named in sources.values() for path in named.values()]
    assert all((tmp_path / path).exists() for path in paths) and str(tmp_path) not in json.dumps(sources)
    assert {*sources["records"]} == {*read_manifest(tmp_path / "r")["records"]}
    assert {*sources["copies"]} == {"template", "expert_drop_metadata.json"}


def test_pictures_are_copied_and_others_refused(pruned_demo, tmp_path, refusal):
    picture, other = tmp_path / "quality.png", tmp_path / "cat.png"
    for path in (picture, other):
        path.write_bytes(b"\x89PNG\r\n")
    card = build(pruned_demo, tmp_path / "r", "--pictures", picture, quants=("Q4_K_M",))
    assert "](quality.png)" in card and (tmp_path / "r/quality.png").read_bytes() == picture.read_bytes()
    arguments = release_arguments(pruned_demo, tmp_path / "s", "--pictures", other)
    refusal(build_release.main, arguments, "cat.png", "a picture among")


@pytest.mark.parametrize("made_by_it", [True, False])
def test_a_picture_of_an_imatrix_that_made_no_file_is_left_out(pruned_demo, tmp_path, monkeypatch, made_by_it):
    """make draws one for every build."""
    picture = tmp_path / "imatrix-coverage.png"
    picture.write_bytes(b"\x89PNG\r\n")
    monkeypatch.setattr(build_release, "by_imatrix", lambda sources: made_by_it)
    build(pruned_demo, tmp_path / "r", "--pictures", picture, quants=("Q4_K_M",))
    assert (tmp_path / "r" / picture.name).exists() == made_by_it


def test_cd_files_get_a_repository_of_their_own(pruned_demo, tmp_path, refusal):
    card = build(pruned_demo, tmp_path / f"{NAME}-dynamic-GGUF", "--kind", "dynamic", quants=("CD-Q4_K_M",))
    assert f"hf.co/USER/{NAME}-dynamic-GGUF:{NAME}-CD-Q4_K_M.gguf" in card
    arguments = release_arguments(pruned_demo, tmp_path / "s", quants=("Q4_K_M", "CD-Q4_K_M"))
    refusal(build_release.main, arguments, "CD-Q4_K_M", "standard types")
    assert not (tmp_path / "s").exists()


def test_a_folder_by_kind_names_the_repository_it_is_told(pruned_demo, tmp_path, refusal):
    names = ["--repository", f"{NAME}-GGUF", "--siblings", f"dynamic={NAME}-dynamic-GGUF"]
    card = build(pruned_demo, tmp_path / "GGUF", *names, quants=("Q6_K", "Q4_K_M"))
    assert read_manifest(tmp_path / "GGUF")["repository"] == f"{NAME}-GGUF"
    assert f"\n# {NAME}-GGUF\n" in card and f"](https://huggingface.co/USER/{NAME}-dynamic-GGUF): GGUF files" in card
    assert set(re.findall(r"USER/([\w.-]+)", card)) == {f"{NAME}-GGUF", f"{NAME}-dynamic-GGUF"}
    for options, words in (
        (["--repository", "me/x"], ("--repository", "a repository's name", "'me/x'")),
        (["--repository", "x", "--siblings", "dynamic=a b"], ("--siblings", "a repository's name", "'a b'")),
        (["--repository", "x", "--siblings", "dynamic=x"], ("--siblings", "another repository than x")),
        (["--repository", "x", "--siblings", "other=y"], ("--siblings", "a kind among", "'other'")),
        (["--owner", "a/b"], ("--owner", "a repository's name", "'a/b'")),
    ):
        arguments = release_arguments(pruned_demo, tmp_path / "s", *options, quants=("Q4_K_M",))
        refusal(build_release.main, arguments, *words)
    assert not list(tmp_path.glob("s*"))


def test_a_clash_of_names_stops_the_release(pruned_demo, tmp_path, refusal):
    clashing = [tmp_path / f"Q8_0-tuned-{quant}.gguf" for quant in ("Q4_K_M", "Q8_0")]  # a model's name holds a label
    for gguf, quant in zip(clashing, ("Q4_K_M", "Q8_0")):
        for end in ("", ".json"):
            shutil.copyfile(pruned_demo / f"{NAME}-{quant}.gguf{end}", f"{gguf}{end}")
    arguments = release_arguments(pruned_demo, tmp_path / "r", "--gguf", *clashing)
    refusal(build_release.main, arguments, "Q8_0-tuned-Q4_K_M.gguf", "no label takes for another")
    assert not (tmp_path / "r").exists() and not partial_directory(tmp_path / "r").exists()


def test_quants_of_two_builds_of_the_tools_are_refused(pruned_demo, tmp_path, refusal):
    built = Path(shutil.copytree(pruned_demo, tmp_path / "built"))
    record = built / f"{NAME}-Q4_K_M.gguf.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "tools_sha256": "f" * 64}))
    arguments = release_arguments(built, tmp_path / "r", quants=("Q8_0", "Q6_K", "Q4_K_M"))
    refusal(
        build_release.main, arguments, "Q4_K_M.gguf: expected the build of llama.cpp that made the others", "f" * 12
    )
    assert not (tmp_path / "r").exists()


def test_a_large_file_is_split_and_its_parts_load(pruned_demo, tmp_path, tools):
    limit, output, whole = 4_000_000, tmp_path / "r", pruned_demo / f"{NAME}-Q6_K.gguf"
    card = build(pruned_demo, output, "--max-file-bytes", limit, quants=("Q6_K", "Q4_K_M"))
    parts = sorted(output.glob(f"{NAME}-Q6_K-*.gguf"))
    assert len(parts) > 1 and all(part.stat().st_size <= limit for part in parts) and not (output / whole.name).exists()
    assert shapes_and_types(tensors_of(parts[0])) == shapes_and_types(tensors_of(whole))
    assert read_manifest(output)["records"][whole.name]["files"] == [part.name for part in parts]
    assert f"in {len(parts)} parts" in card
    command = server_command(tools.tool("llama-server"), parts[0], "parts", 0, ["-c", "512", "-np", "1"])
    with LlamaServer(command, parts[0], tmp_path / "log") as server:
        assert server.request("/completion", {"prompt": "What is", "n_predict": 4})["tokens_predicted"] == 4

    assert not (tmp_path / "r.split").exists()


def test_a_release_that_fails_keeps_the_parts_and_the_next_one_takes_them(pruned_demo, tmp_path, refusal):
    limited = release_arguments(pruned_demo, tmp_path / "r", "--max-file-bytes", 4_000_000, quants=("Q6_K",))
    arguments = [str(argument) for argument in limited]
    refusal(build_release.main, [*arguments, "--kind", "dynamic"], "a dynamic release")  # found out after the split
    before = {path.name: path.stat().st_ino for path in (tmp_path / "r.split").rglob("*.gguf")}
    build_release.main(arguments)
    assert before == {path.name: path.stat().st_ino for path in (tmp_path / "r").glob("*.gguf")}
    assert not (tmp_path / "r.split").exists()


def test_a_limit_that_cannot_be_held_is_refused(pruned_demo, tmp_path, refusal):
    for limit, words in ((200_000, ("Q6_K", "header")), (1_500_000, ("at most 1500000 bytes",))):
        arguments = release_arguments(pruned_demo, tmp_path / "r", "--max-file-bytes", limit, quants=("Q6_K",))
        refusal(build_release.main, arguments, *words)
    assert not (tmp_path / "r").exists()


def test_the_checkpoint_has_a_card_of_its_own_and_stays_as_it_was(pruned_demo, tmp_path):
    checkpoint, output = pruned_demo / "checkpoint", tmp_path / NAME
    metadata = checkpoint / "expert_drop_metadata.json"
    before = {path.name: sha256_file(path) for path in checkpoint.iterdir()}
    origins = origins_of(pruned_demo, ())
    named = ["--kind", "checkpoint", "--name", NAME, "--base", BASE, *origins]
    call(build_release.main, *named, "--checkpoint", checkpoint, "--metadata", metadata, "--output", output)
    assert before == {path.name: sha256_file(path) for path in checkpoint.iterdir()}
    assert {path.name for path in output.iterdir()} == {*before, "README.md", "manifest.json"}
    linked = {name for name in before if os.path.samefile(output / name, checkpoint / name)}
    assert linked == {name for name in before if name.endswith(".safetensors")}  # an edited copy harms no checkpoint
    data, card = check_front_matter(output / "README.md", "checkpoint"), (output / "README.md").read_text()
    assert data["library_name"] == "transformers" and "base_model_relation" not in data
    for name, digest in json.loads(metadata.read_text())["shards"].items():
        assert f"| {name} |" in card and digest in card
    source, drop_map = DEMO / "model", pruned_demo / "map.json"
    call(expert_drop.main, "--source", source, "--drop-map", drop_map, "--output", output, "--verify")


def test_a_kill_leaves_no_folder_and_the_next_run_builds_it(pruned_demo, tmp_path):
    output = tmp_path / "r"
    arguments = release_arguments(pruned_demo, output, "--max-file-bytes", 4_000_000)
    command = [sys.executable, str(REPO / "scripts/build_release.py"), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not partial_directory(tmp_path / "r").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists() and partial_directory(tmp_path / "r").exists()
    build(pruned_demo, output, quants=("Q6_K", "Q4_K_M"))
    assert read_manifest(output) and not partial_directory(tmp_path / "r").exists()


@pytest.fixture
def inputs(pruned_demo, tmp_path) -> Path:
    """A copy of some inputs of a release that a test may damage, with scores and quality."""
    folder = copy_of_quants(pruned_demo, tmp_path / "inputs", "Q6_K", "Q4_K_M")
    write_quality(folder, folder, {"Q6_K": 0.1})
    write_scores(folder, folder, first_ids(DEMO / "eval_questions.csv", 4))
    return folder


def flip_the_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def score_another_file(path: Path) -> None:
    rows = json.loads(path.read_text())["rows"]
    rows[1]["gguf_sha256"] = "1" * 64
    change_json(path, rows=rows)


def forget_shards(path: Path) -> None:
    content = json.loads(path.read_text())
    del content["shards"]
    path.write_text(json.dumps(content))


RECORD = f"{NAME}-Q6_K.gguf.json"


@pytest.mark.parametrize(
    "name, damage, words",
    [
        (RECORD, Path.unlink, (RECORD, "nothing")),
        (f"{NAME}-Q6_K.gguf", flip_the_last_byte, ("Q6_K.gguf", "other bytes")),
        (RECORD, lambda path: change_json(path, source_sha256="1" * 64), ("a quant of the F16 file",)),
        (RECORD, lambda path: change_json(path, experts=111), ("experts 112, as the file has",)),
        ("quality.json", lambda path: change_json(path, inputs={"pruned_sha256": "1" * 64}), ("make quality",)),
        ("scores.json", score_another_file, ("--scores", "make eval")),
        ("checkpoint/expert_drop_metadata.json", forget_shards, ("inputs/checkpoint", "'shards'")),
        ("../r/mine.txt", lambda path: (path.parent.mkdir(), path.write_text("mine")), ("no directory",)),
    ],
)
def test_inputs_of_another_build_end_in_one_line(inputs, refusal, name, damage, words):
    damage(inputs / name)
    output = inputs.parent / "r"
    more = ["--scores", inputs / "scores.json", "--quality", inputs / "quality.json"]
    refusal(build_release.main, release_arguments(inputs, output, *more, quants=("Q6_K", "Q4_K_M")), *words)
    assert not (output / "manifest.json").exists()


def test_a_release_whose_licence_is_unknown_is_refused_and_the_base_s_own_is_taken(pruned_demo, tmp_path, refusal):
    arguments = release_arguments(pruned_demo, tmp_path / "r", quants=("Q6_K",))
    at = arguments.index("--license")
    without = [*arguments[:at], *arguments[at + 2 :]]
    bare = shutil.copytree(DEMO / "model", tmp_path / "bare", ignore=shutil.ignore_patterns("README.md"))
    unknown = [*without, "--source", bare]
    refusal(build_release.main, unknown, "bare/README.md: expected the card that the experts were dropped with")
    own = (DEMO / "model/README.md").read_text()
    (bare / "README.md").write_text(own.replace("license: cc0-1.0", "license: apache-2.0"))
    refusal(build_release.main, unknown, "bare/README.md: expected the card that the experts were dropped with")
    assert not (tmp_path / "r").exists()
    call(build_release.main, *without, "--source", DEMO / "model")
    card = (tmp_path / "r/README.md").read_text()
    assert "\nlicense: cc0-1.0\n" in card and "Licence: `cc0-1.0`." in card and "LICENSE=" not in card
    manifest = read_manifest(tmp_path / "r")
    assert manifest["inputs"]["licence"]["named_by"] == "README.md" and not [
        line for line in chores(manifest) if "licence" in line
    ]
    call(build_release.main, *arguments, "--source", DEMO / "model", "--output", tmp_path / "other")
    assert "LICENSE=gemma" in (tmp_path / "other/README.md").read_text()
    assert "licence: gemma by LICENSE; the base's own is cc0-1.0" in chores(read_manifest(tmp_path / "other"))
    call(build_release.main, *arguments, "--source", bare, "--output", tmp_path / "said")
    assert "LICENSE=gemma" in (tmp_path / "said/README.md").read_text()
    assert "licence: gemma by LICENSE; the base's own is not known" in chores(read_manifest(tmp_path / "said"))


def test_gguf_files_of_gemma_4_need_a_template_and_params(pruned_demo, tmp_path, refusal):
    arguments = release_arguments(pruned_demo, tmp_path / "r", quants=("Q6_K",))
    at, end = arguments.index("--template"), arguments.index("--params")
    refusal(build_release.main, [*arguments[:at], *arguments[end:]], "--template", "found one or none")
    own = {path.suffix: shutil.copy(path, tmp_path / f"own{path.suffix}") for path in (REPO / "modelfiles").iterdir()}
    for path in own.values():
        Path(path).write_text(f"{Path(path).read_text()} ")
    for more, words in (
        (["--params", own[".json"]], "own.json: expected modelfiles/gemma4-card.params.json, as OLLAMA_PARAMS says"),
        (["--settings", "OLLAMA_PARAMS=current"], "expected modelfiles/gemma4-current.params.json, as OLLAMA_PARAMS"),
        (["--settings", "OLLAMA_PARAMS=mine"], "OLLAMA_PARAMS: expected the name of a set of params in modelfiles/"),
        (["--template", own[".template"]], "own.template: expected a template of modelfiles/, found another file"),
    ):
        refusal(build_release.main, [*arguments, *more], words)
    assert not (tmp_path / "r").exists()
