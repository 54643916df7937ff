"""Release folders of real quants: links, parts that llama-server loads, cards from records, what is missing, kills, refusals."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import build_release
from conftest import DEMO, REPO
from files.safe_files import GIB, InputError, sha256_file
from ggufs.context_cache import cache_bytes
from ggufs.gguf_header import empty_header, header_bytes, key_value, read_header
from llama.llama_server import LlamaServer, request_json, server_command
from release.card_tables import memory_table
from release.front_matter import check_front_matter, front_matter
from release.gguf_card import method_section, reproduce_section, run_section
from release.made_texts import release_of
from release.release_files import read_manifest, sources_path, tensors_of
from release_inputs import KEPT, NAME, first_ids, write_quality, write_scores

QUANTS = ("F16", "Q8_0", "Q6_K_L", "Q6_K", "Q4_K_M")
SIDECARS = ["--template", REPO / "modelfiles/gemma4.template", "--params", REPO / "modelfiles/gemma4.params.json"]


def arguments_of(
    pruned: Path, output: Path, *more: object, quants: tuple[str, ...] = QUANTS, base: str = "google/gemma-4-26B-A4B-it"
) -> list[object]:
    """The arguments of build_release.py for a folder of GGUF files."""
    files = [pruned / f"{NAME}-{quant}.gguf" for quant in quants]
    return [
        "--name",
        NAME,
        "--base",
        base,
        "--gguf",
        *files,
        "--metadata",
        pruned / "checkpoint/expert_drop_metadata.json",
        *SIDECARS,
        "--output",
        output,
        *more,
    ]


def build(pruned: Path, output: Path, *more: object, **kwargs) -> str:
    """Build a release; return its card."""
    build_release.main([str(part) for part in arguments_of(pruned, output, *more, **kwargs)])
    return (output / "README.md").read_text()


def test_a_folder_links_its_files_and_its_manifest_is_true(pruned_demo, tmp_path):
    output = tmp_path / f"{NAME}-GGUF"
    build(pruned_demo, output)
    manifest = read_manifest(output)
    assert (manifest["repository"], manifest["kind"], len(manifest["records"])) == (
        f"{NAME}-GGUF",
        "standard",
        len(QUANTS),
    )
    for name, entry in manifest["files"].items():
        assert (entry["bytes"], entry["sha256"]) == ((output / name).stat().st_size, sha256_file(output / name))
    assert {path.name for path in output.iterdir()} == {*manifest["files"], "manifest.json"}
    assert all(os.path.samefile(output / name, pruned_demo / name) for name in manifest["records"])
    sources = json.loads(sources_path(output).read_text())
    assert all((tmp_path / path).is_file() for paths in sources.values() for path in paths.values()) and str(
        tmp_path
    ) not in json.dumps(sources)
    assert {*sources["records"]} == {*manifest["records"]} and {*sources["copies"]} == {
        "template",
        "expert_drop_metadata.json",
    }
    before = {name: (output / name).read_bytes() for name in manifest["files"]}
    build(pruned_demo, output)  # again, in its place: the same bytes
    assert before == {name: (output / name).read_bytes() for name in read_manifest(output)["files"]}


def test_the_card_has_every_number_from_its_record(pruned_demo, tmp_path):
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "eval_questions.csv", 4))
    quality = write_quality(pruned_demo, tmp_path, {"F16": 0.0, "Q8_0": 0.0025, "Q6_K": 0.031})
    card = build(
        pruned_demo,
        tmp_path / "r",
        "--scores",
        scores,
        "--quality",
        quality,
        "--license",
        "gemma",
        "--quantized-by",
        "someone",
    )
    data = check_front_matter(tmp_path / "r/README.md", "standard")
    assert data == {
        "license": "gemma",
        "base_model": "google/gemma-4-26B-A4B-it",
        "base_model_relation": "quantized",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "quantized_by": "someone",
        "tags": ["moe", "expert-pruning", "gguf", "imatrix"],
    }
    for quant in QUANTS:
        record = json.loads((pruned_demo / f"{NAME}-{quant}.gguf.json").read_text())
        row = next(line for line in card.splitlines() if line.startswith(f"| {NAME}-{quant}.gguf "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:4] == [quant, record["note"], f"{record['bytes'] / 1e9:.4f}"]
        assert cells[4:6] == [f"{record['bytes'] / GIB:.4f}", f"{record['bits_per_weight']:.2f}"]
        assert (
            cells[6:]
            == [{"F16": "0 ± 0", "Q8_0": "0.00250 ± 0.00025", "Q6_K": "0.0310 ± 0.0031"}.get(quant, "not measured")] * 2
        )
    assert f"| {NAME} | {KEPT} | 1/4 = 25.00% | 1/4 = 25.00% | 2/4 = 50.00% | " in card and "2: 2 empty (0.5)" in card
    assert "The experts were chosen on 6 other questions; none of the 4 scored ones is among them." in card
    assert "- KLD of Q6_K_L, Q4_K_M: not measured" in card and "- picture scores.png" in card
    assert "patched score: the evaluation" not in card and "licence: none" not in card
    for digest in re.findall(r"`([0-9a-f]{64})`", card):
        assert any(
            digest in path.read_text()
            for path in [*pruned_demo.glob("*.json"), pruned_demo / "checkpoint/expert_drop_metadata.json"]
        )


def test_without_evaluation_and_quality_the_card_says_so_and_has_no_number_of_them(pruned_demo, tmp_path):
    card = build(pruned_demo, tmp_path / "r", base="some local model")
    assert "- scores: no evaluation belongs to this build" in card and "## Scores" not in card
    assert "not measured" in card.split("## Missing")[1] and "KLD" not in card.split("## Missing")[0]
    assert (
        not {"base_model", "license", "quantized_by"} & check_front_matter(tmp_path / "r/README.md", "standard").keys()
    )
    for words in ("licence: none was given", "the base is a local one", "quantized_by: no name was given"):
        assert words in card


def test_an_evaluation_that_was_not_patched(pruned_demo, tmp_path):
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "calibration_questions.csv", 4), None)
    card = build(pruned_demo, tmp_path / "r", "--scores", scores)
    assert f"| {NAME} | {KEPT} | 1/4 = 25.00% | 1/4 = 25.00% | - | " in card and "nothing was patched" in card
    assert "- patched score: the evaluation was not patched" in card
    assert "**In-sample:** 4 of the 4 scored questions also chose the experts." in card
    assert card.lower().count("in-sample") == 1  # said once of the released model: its metadata know


def test_pictures_are_copied_and_others_refused(pruned_demo, tmp_path, refusal):
    picture, other = tmp_path / "quality.png", tmp_path / "cat.png"
    for path in (picture, other):
        path.write_bytes(b"\x89PNG\r\n")
    card = build(pruned_demo, tmp_path / "r", "--pictures", picture)
    assert "](quality.png)" in card and (tmp_path / "r/quality.png").read_bytes() == picture.read_bytes()
    refusal(
        build_release.main, arguments_of(pruned_demo, tmp_path / "s", "--pictures", other), "cat.png", "a picture among"
    )


def test_cd_files_get_a_repository_of_their_own(pruned_demo, tmp_path, refusal):
    card = build(pruned_demo, tmp_path / f"{NAME}-dynamic-GGUF", "--kind", "dynamic", quants=("CD-Q4_K_M",))
    assert f"hf.co/USER/{NAME}-dynamic-GGUF:{NAME}-CD-Q4_K_M.gguf" in card
    refusal(
        build_release.main,
        arguments_of(pruned_demo, tmp_path / "s", quants=("Q4_K_M", "CD-Q4_K_M")),
        "CD-Q4_K_M",
        "standard types",
    )
    assert not (tmp_path / "s").exists()


def test_a_clash_of_names_stops_the_release(pruned_demo, tmp_path, refusal):
    for quant in ("Q8_0", "Q4_K_M"):  # a model's name that holds a label
        for end in ("", ".json"):
            shutil.copyfile(pruned_demo / f"{NAME}-{quant}.gguf{end}", tmp_path / f"Q8_0-tuned-{quant}.gguf{end}")
    command = arguments_of(pruned_demo, tmp_path / "r")
    command[command.index("--gguf") + 1 : command.index("--metadata")] = [
        tmp_path / f"Q8_0-tuned-{quant}.gguf" for quant in ("Q4_K_M", "Q8_0")
    ]
    refusal(build_release.main, command, "Q8_0-tuned-Q4_K_M.gguf", "no label takes for another")
    assert not (tmp_path / "r").exists() and not (tmp_path / "r.partial").exists()


def test_a_large_file_is_split_and_its_parts_load(pruned_demo, tmp_path, tools):
    limit, output, whole = 4_000_000, tmp_path / "r", pruned_demo / f"{NAME}-Q6_K.gguf"
    card = build(pruned_demo, output, "--max-file-bytes", limit, quants=("Q6_K", "Q4_K_M"))
    parts = sorted(output.glob(f"{NAME}-Q6_K-*.gguf"))
    assert len(parts) > 1 and all(part.stat().st_size <= limit for part in parts) and not (output / whole.name).exists()
    split, single = tensors_of(parts[0]), tensors_of(whole)
    assert {name: (t.dims, t.kind) for name, (_, t) in split.items()} == {
        name: (t.dims, t.kind) for name, (_, t) in single.items()
    }
    assert read_manifest(output)["records"][whole.name]["files"] == [part.name for part in parts]
    assert f"in {len(parts)} parts" in card
    command = server_command(tools.tool("llama-server"), parts[0], "parts", 0, ["-c", "512", "-np", "1"])
    with LlamaServer(command, parts[0], tmp_path / "log") as server:
        assert request_json(f"{server.url}/completion", {"prompt": "What is", "n_predict": 4})["tokens_predicted"] == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r.split").rglob("*.gguf")}
    build(pruned_demo, output, "--max-file-bytes", limit, quants=("Q6_K", "Q4_K_M"))
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "r.split").rglob("*.gguf")
    }  # the parts were kept


def test_a_limit_that_cannot_be_held_is_refused(pruned_demo, tmp_path, refusal):
    refusal(
        build_release.main,
        arguments_of(pruned_demo, tmp_path / "r", "--max-file-bytes", 200_000, quants=("Q6_K",)),
        "Q6_K",
        "header",
    )
    refusal(
        build_release.main,
        arguments_of(pruned_demo, tmp_path / "r", "--max-file-bytes", 1_500_000, quants=("Q6_K",)),
        "at most 1500000 bytes",
    )
    assert not (tmp_path / "r").exists()


def test_commands_of_the_card_hold_the_thought_and_can_be_run(pruned_demo, tmp_path):
    card = build(pruned_demo, tmp_path / "r", base="some local model")
    assert (
        card.count("-c 4096 -ngl 99 --reasoning-format deepseek --reasoning-budget 2048") == 2
    )  # all of the demo's context, half for the thought
    manifest = read_manifest(tmp_path / "r")
    assert f"make release MODEL=DIRECTORY PRUNED_NAME={NAME} KEEP={KEPT} " in card
    of_26b = replace(release_of(tmp_path / "r", manifest), caches={8192: 1, 32768: 2, 131072: 3}, base="google/x")
    assert "-c 32768 -ngl 99 --reasoning-format deepseek --reasoning-budget 16384" in run_section(of_26b)
    assert "-c 32768 " in run_section(replace(of_26b, caches={})) and "MODEL=google/x " in reproduce_section(of_26b)
    held_out = replace(
        of_26b,
        metadata={**of_26b.metadata, "method": {**of_26b.metadata["method"], "held_out_question_ids": ["a", "b"]}},
    )
    assert "FOLD=I/K" in reproduce_section(held_out) and "| Questions held out of the choice | 2 |" in method_section(
        held_out
    )


def test_the_checkpoint_has_a_card_of_its_own_and_stays_as_it_was(pruned_demo, tmp_path, script):
    checkpoint, output = pruned_demo / "checkpoint", tmp_path / NAME
    before = {path.name: sha256_file(path) for path in checkpoint.iterdir()}
    build_release.main(
        [
            str(part)
            for part in (
                "--kind",
                "checkpoint",
                "--name",
                NAME,
                "--base",
                "google/gemma-4-26B-A4B-it",
                "--license",
                "gemma",
                "--checkpoint",
                checkpoint,
                "--metadata",
                checkpoint / "expert_drop_metadata.json",
                "--output",
                output,
            )
        ]
    )
    assert before == {path.name: sha256_file(path) for path in checkpoint.iterdir()}
    assert {path.name for path in output.iterdir()} == {*before, "README.md", "manifest.json"}
    linked = {name for name in before if os.path.samefile(output / name, checkpoint / name)}
    assert linked == {name for name in before if name.endswith(".safetensors")}  # an edited copy harms no checkpoint
    data, card = check_front_matter(output / "README.md", "checkpoint"), (output / "README.md").read_text()
    assert data["library_name"] == "transformers" and "base_model_relation" not in data
    for name, digest in json.loads((checkpoint / "expert_drop_metadata.json").read_text())["shards"].items():
        assert f"| {name} |" in card and digest in card
    done = script(
        "expert_drop.py",
        "--source",
        DEMO / "model",
        "--drop-map",
        pruned_demo / "map.json",
        "--output",
        output,
        "--verify",
    )
    assert done.returncode == 0, done.stderr


def test_a_kill_leaves_no_folder_and_the_next_run_builds_it(pruned_demo, tmp_path):
    output = tmp_path / "r"
    command = [
        sys.executable,
        REPO / "scripts/build_release.py",
        *arguments_of(pruned_demo, output, "--max-file-bytes", 4_000_000),
    ]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "r.partial").exists():
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists() and (tmp_path / "r.partial").exists()
    build(pruned_demo, output)
    assert read_manifest(output) and not (tmp_path / "r.partial").exists()


@pytest.mark.parametrize(
    "damage, words",
    [
        ("record", ("no such file's record",)),
        ("bytes", ("Q6_K.gguf", "other bytes")),
        ("source", ("quants of one F16 model",)),
        ("experts", ("112 experts",)),
        ("quality", ("--quality", "make quality")),
        ("scores", ("--scores", "make eval")),
        ("metadata", ("'shards'",)),
        ("no sidecar", ("expected --template",)),
        ("in place", ("no directory",)),
    ],
)
def test_inputs_of_another_build_end_in_one_line(pruned_demo, tmp_path, script, damage, words):
    folder = tmp_path / "inputs"
    shutil.copytree(pruned_demo, folder)
    quality, scores = (
        write_quality(folder, tmp_path, {"Q6_K": 0.1}),
        write_scores(folder, tmp_path, first_ids(DEMO / "eval_questions.csv", 4)),
    )
    record, metadata, output = (
        folder / f"{NAME}-Q6_K.gguf.json",
        folder / "checkpoint/expert_drop_metadata.json",
        tmp_path / "r",
    )

    def change(path: Path, **values: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    if damage == "record":
        record.unlink()
        words = (record.name, "nothing")
    elif damage == "bytes":
        with open(folder / f"{NAME}-Q6_K.gguf", "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\xa5")
    elif damage == "source":
        change(record, source_sha256="1" * 64)
    elif damage == "experts":
        change(record, experts=111)
    elif damage == "quality":
        change(quality, inputs={"pruned_sha256": "1" * 64})
    elif damage == "scores":
        content = json.loads(scores.read_text())
        content["rows"][1]["gguf_sha256"] = "1" * 64
        scores.write_text(json.dumps(content))
    elif damage == "metadata":
        content = json.loads(metadata.read_text())
        del content["shards"]
        metadata.write_text(json.dumps(content))
    elif damage == "in place":
        output.mkdir()
        (output / "mine.txt").write_text("mine")
    command = arguments_of(folder, output, "--scores", scores, "--quality", quality)
    if damage == "no sidecar":
        del command[command.index("--template") : command.index("--template") + 2]
    done = script("build_release.py", *command)
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode != 0 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert all(word in lines[0] for word in words), lines[0]
    assert not (output / "manifest.json").exists()


def test_the_context_cache_is_what_llama_server_says(pruned_demo, tools, tmp_path):
    gguf = pruned_demo / f"{NAME}-Q4_K_M.gguf"
    for context in (512, 1000, 4096):
        command = server_command(
            tools.tool("llama-server"), gguf, "cache", 0, ["-c", str(context), "-np", "1", "-lv", "5"]
        )
        with LlamaServer(command, gguf, tmp_path / "log"):
            said = re.findall(r"llama_kv_cache: size = +([\d.]+) MiB", (tmp_path / "log").read_text())
        # Said once for the trial that fits the model into memory and once for the context itself: full attention, then sliding.
        assert len(said) == 4 and sum(map(float, said[2:])) == pytest.approx(
            cache_bytes(read_header(gguf), context) / 2**20, abs=0.0101
        ), context


def test_the_context_cache_of_the_26b_by_hand(tmp_path):
    pairs = {
        "general.architecture": "gemma4",
        "gemma4.block_count": 30,
        "gemma4.attention.sliding_window": 1024,
        "gemma4.attention.key_length": 512,
        "gemma4.attention.value_length": 512,
        "gemma4.attention.key_length_swa": 256,
        "gemma4.attention.value_length_swa": 256,
        "gemma4.attention.head_count_kv": [8, 8, 8, 8, 8, 2] * 5,
        "gemma4.attention.sliding_window_pattern": [True, True, True, True, True, False] * 5,
    }
    path = tmp_path / "a.gguf"
    path.write_bytes(header_bytes(empty_header(path), [key_value(*pair) for pair in pairs.items()], []))
    # 25 layers of 1,536 cells (1,024 + 512), 8 heads, 512 values; 5 layers of 8,192 cells, 2 heads, 1,024 values; 2 bytes each.
    assert cache_bytes(read_header(path), 8192) == 25 * 1536 * 8 * 512 * 2 + 5 * 8192 * 2 * 1024 * 2 == 482_344_960
    other = {**pairs, "general.architecture": "qwen3moe"}
    path.write_bytes(header_bytes(empty_header(path), [key_value(*pair) for pair in other.items()], []))
    assert cache_bytes(read_header(path), 8192) is None


def test_which_file_for_which_memory_by_hand():
    records = {
        name: {"files": [name], "bytes": int(size * GIB)}
        for name, size in (("large", 13.5), ("middle", 10.8), ("small", 2.9))
    }
    table = memory_table(records, {8192: GIB // 2, 32768: GIB})
    # 4 GiB: 3 are free, 2.9 + 0.5 do not fit; 6: small; 12: 11 free, 10.8 + 0.5 do not; 16: large.
    assert [line.split(" | ")[0:2] for line in table.splitlines()[2:]] == [
        ["| 6 GiB or more", "small"],
        ["| 16 GiB or more", "large"],
    ]
    assert table.splitlines()[-1].endswith("| 14.00 | 14.50 |")


@pytest.mark.parametrize(
    "change, words",
    [
        (("license: gemma", "license: [gemma"), "huggingface_hub reads"),
        (("license: gemma", "license: Gemma Terms"), "license an identifier"),
        (("pipeline_tag: text-generation", "pipeline_tag: chat"), "pipeline_tag text-generation"),
        (("base_model: google/x", "base_model: google/x/y"), "OWNER/NAME"),
        (("base_model_relation: quantized", "base_model_relation: shrunk"), "one of adapter"),
        (("library_name: gguf\n", ""), "library_name"),
        (("- moe", "- 5"), "tags words"),
        (("---\n", "", 1), "front matter"),
        (("license:", "licence:"), "front matter of"),
    ],
)
def test_front_matter_is_checked(tmp_path, change, words):
    path = tmp_path / "README.md"
    text = front_matter("standard", "google/x", "gemma", "me", ["moe"]) + "\n# x\n"
    path.write_text(text)
    assert check_front_matter(path, "standard")["license"] == "gemma"
    path.write_text(text.replace(*change))
    with pytest.raises(InputError, match=re.escape(words)):
        check_front_matter(path, "standard")
