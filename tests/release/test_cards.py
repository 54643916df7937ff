"""Cards: every number from its record, what is missing, commands, front matter, memory, the context cache."""

import json
import re
from dataclasses import replace

from conftest import DEMO
from files.safe_files import GIB, InputError
from ggufs.context_cache import cache_bytes
from ggufs.gguf_header import empty_header, header_bytes, key_value, read_header
from llama.llama_server import LlamaServer, server_command
from release.card_sections import method_section, reproduce_section
from release.card_tables import memory_table
from release.front_matter import check_front_matter, front_matter
from release.gguf_card import run_section
from release.made_texts import release_of
from release.manifest import read_manifest
from release_inputs import (
    BASE,
    KEPT,
    NAME,
    STANDARD_QUANTS,
    build,
    first_ids,
    shared_release,
    write_quality,
    write_scores,
)

import pytest


def test_the_card_has_every_number_from_its_record(pruned_demo, tmp_path):
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "eval_questions.csv", 4))
    quality = write_quality(pruned_demo, tmp_path, {"F16": 0.0, "Q8_0": 0.0025, "Q6_K": 0.031})
    more = ["--scores", scores, "--quality", quality, "--license", "gemma", "--quantized-by", "someone"]
    card = build(pruned_demo, tmp_path / "r", *more)
    assert check_front_matter(tmp_path / "r/README.md", "standard") == {
        "license": "gemma",
        "base_model": BASE,
        "base_model_relation": "quantized",
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "quantized_by": "someone",
        "tags": ["moe", "expert-pruning", "gguf", "imatrix"],
    }
    klds = {"F16": "0 ± 0", "Q8_0": "0.00250 ± 0.00025", "Q6_K": "0.0310 ± 0.0031"}
    for quant in STANDARD_QUANTS:
        record = json.loads((pruned_demo / f"{NAME}-{quant}.gguf.json").read_text())
        row = next(line for line in card.splitlines() if line.startswith(f"| {NAME}-{quant}.gguf "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1:4] == [quant, record["note"], f"{record['bytes'] / 1e9:.4f}"]
        assert cells[4:6] == [f"{record['bytes'] / GIB:.4f}", f"{record['bits_per_weight']:.2f}"]
        assert cells[6:] == [klds.get(quant, "not measured")] * 2
    assert "measured on 40 tokens of 4 chats" in card
    assert f"| {NAME} | {KEPT} | 1/4 = 25.00% | 1/4 = 25.00% | 2/4 = 50.00% | " in card and "2: 2 empty (0.5)" in card
    assert "Held out: 6 other questions chose the experts, and none of the 4 scored ones did." in card
    assert "- KLD of Q6_K_L, Q4_K_M: not measured" in card and "- picture scores.png" in card
    assert "patched score: the evaluation" not in card and "licence: none" not in card


def test_every_digest_of_the_card_is_one_of_a_record(pruned_demo):
    card = (shared_release(pruned_demo) / "README.md").read_text()
    digests = re.findall(r"`([0-9a-f]{64})`", card)
    records = [*pruned_demo.glob("*.json"), pruned_demo / "checkpoint/expert_drop_metadata.json"]
    texts = "".join(path.read_text() for path in records)
    assert len(digests) > 5 and all(digest in texts for digest in digests)


def test_without_evaluation_and_quality_the_card_says_so_and_has_no_number_of_them(pruned_demo, tmp_path):
    card = build(pruned_demo, tmp_path / "r", base="some local model", quants=("Q6_K", "Q4_K_M"))
    assert "- scores: no evaluation belongs to this build" in card and "## Scores" not in card
    assert "not measured" in card.split("## Missing")[1] and "KLD" not in card.split("## Missing")[0]
    given = check_front_matter(tmp_path / "r/README.md", "standard").keys()
    assert not {"base_model", "license", "quantized_by"} & given
    for words in ("licence: none was given", "the base model is a local one", "quantized_by: no name was given"):
        assert words in card


def test_an_evaluation_that_was_not_patched(pruned_demo, tmp_path):
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "calibration_questions.csv", 4), False)
    card = build(pruned_demo, tmp_path / "r", "--scores", scores, quants=("Q6_K", "Q4_K_M"))
    assert f"| {NAME} | {KEPT} | 1/4 = 25.00% | 1/4 = 25.00% | - | " in card and "Nothing was patched." in card
    assert "- patched score: the evaluation was not patched" in card
    assert "**In-sample:** 4 of the 4 scored questions also chose the experts." in card
    assert card.lower().count("in-sample") == 1  # once for the released model, whose metadata know


def test_commands_of_the_card_hold_the_thought_and_can_be_run(pruned_demo, tmp_path):
    card = build(pruned_demo, tmp_path / "r", base="some local model", quants=("Q6_K", "Q4_K_M"))
    # All of the demo's context, half of it for the thought.
    assert card.count("-c 4096 -ngl 99 --reasoning-format deepseek --reasoning-budget 2048") == 2
    manifest = read_manifest(tmp_path / "r")
    assert f" PRUNED_NAME={NAME} KEEP={KEPT} " in card and "make release MODEL=DIRECTORY NAME=" in card
    of_26b = replace(release_of(tmp_path / "r", manifest), caches={8192: 1, 32768: 2, 131072: 3}, base="google/x")
    assert "-c 32768 -ngl 99 --reasoning-format deepseek --reasoning-budget 16384" in run_section(of_26b)
    assert "-c 32768 " in run_section(replace(of_26b, caches={})) and "MODEL=google/x " in reproduce_section(of_26b)
    method = {**of_26b.metadata["method"], "held_out_question_ids": ["a", "b"]}
    held_out = replace(of_26b, metadata={**of_26b.metadata, "method": method})
    assert "FOLD=I/K" in reproduce_section(held_out)
    assert "| Questions held out of the choice | 2 |" in method_section(held_out)


def test_the_context_cache_is_what_llama_server_says(pruned_demo, tools, tmp_path):
    gguf = pruned_demo / f"{NAME}-Q4_K_M.gguf"
    for context in (512, 1000, 4096):
        flags = ["-c", str(context), "-np", "1", "-lv", "5"]
        command = server_command(tools.tool("llama-server"), gguf, "cache", 0, flags)
        with LlamaServer(command, gguf, tmp_path / "log"):
            said = re.findall(r"llama_kv_cache: size = +([\d.]+) MiB", (tmp_path / "log").read_text())
        # Said once for the trial that fits the model into memory and once for the context itself: full attention, then
        # sliding.
        assert len(said) == 4
        expected = cache_bytes(read_header(gguf), context) / 2**20
        assert sum(map(float, said[2:])) == pytest.approx(expected, abs=0.0101), context


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
    # 25 layers of 1,536 cells (1,024 + 512), 8 heads, 512 values; 5 layers of 8,192 cells, 2 heads, 1,024 values;
    # 2 bytes each.
    assert cache_bytes(read_header(path), 8192) == 25 * 1536 * 8 * 512 * 2 + 5 * 8192 * 2 * 1024 * 2 == 482_344_960
    other = {**pairs, "general.architecture": "qwen3moe"}
    path.write_bytes(header_bytes(empty_header(path), [key_value(*pair) for pair in other.items()], []))
    assert cache_bytes(read_header(path), 8192) is None


def test_which_file_for_which_memory_by_hand():
    sizes = {"large": 13.5, "middle": 10.8, "small": 2.9}
    records = {name: {"files": [name], "bytes": int(size * GIB)} for name, size in sizes.items()}
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
