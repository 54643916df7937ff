"""Cards: every number from its record, their order, what is missing, commands, words of quality, other families."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import build_release
import check_release
from calls import call
from cards.card_results import count_in_words, counts_table, licence_in_words, map_of, patch_table, variants_table
from cards.card_run import run_checkpoint_section, run_ggufs_section
from cards.card_sections import Release, conversion_limits, method_section
from cards.card_tables import file_table
from cards.card_words import check_card_words
from cards.chores import chores
from cards.front_matter import check_front_matter, check_same_repository
from cards.gguf_card import gguf_card, kld_text
from cards.made_texts import release_of
from cards.model_facts import checkpoint_facts, gguf_facts
from choice.drop_map import OWN_MAP
from conftest import DEMO
from files.input_errors import InputError, sha256_file
from files.json_records import read_json
from files.safe_files import GIB
from files.written_records import write_json
from gates.checked import Checked
from gates.gates import GATES
from ggufs.context_cache import cache_bytes
from ggufs.gguf_header import read_header
from llama.llama_server import LlamaServer, server_command
from makers.made_up_evidence import write_quality, write_scores
from makers.pruned_models import BASE, EXPERTS, KEPT, NAME, STANDARD_QUANTS, copy_of_quants, first_ids
from makers.release_inputs import build, origins_of, shared_release
from quants.quant_record import record_path
from release.manifest import read_manifest
from release.names import has_placeholder
from release.sources import read_sources
from scoring.score_tables import IF_THE_MAP_IS_RIGHT

import pytest

MARKS = ("| Model | Patched score", "| Model | Drop map")  # where the two tables of variants begin
SECTIONS = ["Which file to take", "Run it", "What was done", "Results", "Quants", "Limits", "Reproduce", "Credits"]


def headings(card: str) -> list[str]:
    return re.findall(r"^## (.+)$", card, re.MULTILINE)


def test_the_prompt_format_is_the_chat_templates_own(pruned_demo, tmp_path):
    card = build(pruned_demo, tmp_path / "r", quants=("Q4_K_M",))
    block = card.partition("**Prompt format, with a thought.**")[2].partition("```text\n")[2].partition("\n```")[0]
    assert block == "<|turn>system\n<|think|>\n{system}<turn|>\n<|turn>user\n{prompt}<turn|>\n<|turn>model"


def test_the_card_says_what_of_the_base_s_licence_is_left_out(release):
    facts = {"licence": {"identifier": "other", "left_out": "license_link"}}
    other = replace(release, licence={"license": "other", "license_name": "x-1"}, inputs=release.inputs | facts)
    assert licence_in_words(other) == "Licence: `x-1`. The base's card has a `license_link` that is left out here."


def cells_of(card: str, start: str) -> list[str]:
    """Return the cells of the first row of a table that begins so."""
    row = next(line for line in card.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in row.strip("|").split("|")]


@pytest.fixture
def release(pruned_demo) -> Release:
    """What the card of the shared release is made of."""
    folder = shared_release(pruned_demo)
    return release_of(folder, read_manifest(folder))


def test_the_card_has_every_number_from_its_record_in_the_reader_s_order(pruned_demo, tmp_path):
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "eval_questions.csv", 4))
    quality = write_quality(pruned_demo, tmp_path, {"F16": 0.0, "Q8_0": 0.0025, "Q6_K": 0.031})
    more = ["--scores", scores, "--quality", quality, "--quantized-by", "someone"]
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
    assert headings(card) == SECTIONS
    klds = {"F16": "0 ± 0", "Q8_0": "0.00250 ± 0.00025", "Q6_K": "0.0310 ± 0.0031"}
    words = {
        "F16": "exact",
        "Q8_0": "near-lossless",
        "Q6_K_L": "very high (by size)",
        "Q6_K": "good",
        "Q4_K_M": "high (by size)",
    }
    for quant in STANDARD_QUANTS:
        record = json.loads((pruned_demo / f"{NAME}-{quant}.gguf.json").read_text())
        in_gb, kld = f"{record['bytes'] / 1e9:.4f}", klds.get(quant, "none here")
        file = f"{NAME}-{quant}.gguf"
        in_gib = f"{record['bytes'] / GIB:.4f}"
        assert cells_of(card, f"[{file}]({file})")[1:] == [words[quant], in_gb, in_gib, kld]
        bits = f"{record['bits_per_weight']:.2f}"
        made = record["note"] if quant == "Q6_K_L" else "standard"
        assert cells_of(card, quant)[1:] == [words[quant], made, in_gb, bits, kld, kld]
    assert "measured on 40 tokens of 4 chats" in card
    score = "2/4 = 50.00% (15.0% to 85.0%)"
    patched, counted = (cells_of(card[card.index(mark) :], f"**{NAME}** (this)") for mark in MARKS)
    assert patched[1] == score and counted[2:5] == [str(KEPT), "1", "1"]  # experts, raw, strict
    assert cells_of(card, NAME) == [NAME, "2", "2", "+1", "+0.5"]  # the patch step: two empty answers, one right
    assert "Held out: 6 other questions chose the experts, and none of the 4 scored ones did. Licence: `gemma`." in card
    assert "- This release holds no KLD of Q6_K_L, Q4_K_M." in card
    assert "|\n\n|" not in card, "two tables stand without a line between them"


def test_the_headline_has_both_models(release, pruned_demo):
    full, card = DEMO / "model", gguf_card(release)
    # The full model itself is asked: its parameters were worked out from the pruned one.
    facts = checkpoint_facts(pruned_demo / "checkpoint", EXPERTS)
    assert facts.parameters_before == checkpoint_facts(full, EXPERTS).parameters
    assert gguf_facts(pruned_demo / "F16.gguf", KEPT, EXPERTS).parameters_before > facts.parameters_before
    before, after = (count_in_words(n) for n in (release.facts.parameters_before, release.facts.parameters))
    assert cells_of(card, "Parameters")[1] == before and cells_of(card, "Parameters")[2].startswith(f"{after} (-")
    assert cells_of(card, "Experts per layer")[1:] == [str(EXPERTS), str(KEPT)]
    assert cells_of(card, "Experts per token")[1:] == ["8", "8"]
    assert cells_of(card, "Score as Q6_K, 4 questions (95% interval)")[1:] == [
        "3/4 = 75.00% (30.1% to 95.4%)",
        "2/4 = 50.00% (15.0% to 85.0%)",
    ]
    assert [count_in_words(n) for n in (22_400_000_000, 9_976_746, 5_100, 12)] == ["22.4B", "9.98M", "5.1K", "12"]


def test_every_digest_of_the_card_is_one_of_a_record(pruned_demo):
    folder = shared_release(pruned_demo)
    card, records = (folder / "README.md").read_text(), [*pruned_demo.glob("*.json"), folder / "manifest.json"]
    records += [pruned_demo / "checkpoint/expert_drop_metadata.json", folder / "scores.json"]
    digests = re.findall(r"`([0-9a-f]{64})`", card)
    texts = "".join(path.read_text() for path in records)
    assert len(digests) > 7 and all(digest in texts for digest in digests)


def test_without_evaluation_and_quality_the_card_says_so_and_has_no_number_of_them(pruned_demo, tmp_path):
    card = build(pruned_demo, tmp_path / "r", base="some-local-model", quants=("Q6_K", "Q4_K_M"))
    assert "Not evaluated: this release holds no score." in card and "Results" not in headings(card)
    assert "This release holds no KLD of Q6_K, Q4_K_M." in card and "| KLD" not in card
    assert card.count("nats") == 2 and "in transformers (fp32): KL divergence less than 0.0001 nats per token" in card
    given = check_front_matter(tmp_path / "r/README.md", "standard").keys()
    assert not {"base_model", "quantized_by"} & given
    # What its owner must do is no business of the reader: check_release.py prints it.
    found = chores(read_manifest(tmp_path / "r"))
    for words in ("owner: none was given", "base model: not one", "quantized_by: no name"):
        assert words not in card and any(line.startswith(words) for line in found)


def test_an_evaluation_that_was_not_patched(pruned_demo, tmp_path):
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "calibration_questions.csv", 4), False)
    card = build(pruned_demo, tmp_path / "r", "--scores", scores, quants=("Q6_K", "Q4_K_M"))
    assert cells_of(card, f"**{NAME}** (this)")[1] == "1/4 = 25.00% (4.6% to 69.9%)"
    assert "| Raw score (95% interval) | Points (95% interval) | p |" in card and "| Experts | Strict | Lost |" in card
    assert "Nothing was patched." in card and cells_of(card, NAME)[3] == "-"
    assert "- The evaluation was not patched: invalid answers count as wrong." in card
    assert "**In-sample:** 4 of the 4 scored questions also chose the experts." in card
    assert "- The scored questions also chose the experts" in card


def test_every_variant_has_its_map_and_its_test(release):
    scores = json.loads(json.dumps(release.scores))
    other = scores["rows"][1] | {"name": "other", "drop_map": {"criterion": "reap", "sha256": "a" * 64}}
    scores["rows"] += [other, other | {"name": "older", "drop_map": None}]
    scores["pairs"].append(scores["pairs"][0] | {"model": "other", "lost": 7, "won": 2, "mcnemar_p": 0.18})
    table, counts = variants_table(scores, release.name), counts_table(release, scores)
    assert [map_of(row, release) for row in scores["rows"]] == [
        "none (all experts)",
        f"coverage, `{release.metadata['drop_map_sha256'][:12]}`",
        "reap, `aaaaaaaaaaaa`",
        "not recorded",
    ]
    assert cells_of(table, "other")[-1] == "0.18" and cells_of(table, "gemma-4-demo")[-2:] == ["reference", "-"]
    assert cells_of(counts, "other") == ["other", "reap, `aaaaaaaaaaaa`", str(KEPT), "1", "1", "7", "2"]
    assert cells_of(counts, "gemma-4-demo")[-2:] == ["-", "-"]
    scores["rows"][0]["invalid_classes"] = {"empty": 7, "truncated": 3}
    assert patch_table(scores).splitlines()[0].count("of these") == 2
    for row in scores["rows"]:
        row["invalid_classes"] = {}
    assert patch_table(scores) == ""


def test_commands_hold_the_thought_and_all_of_the_protocol_s_sampling(release):
    flags = "-ngl 99 --reasoning-format deepseek --reasoning-budget"
    sampling = "--temp 1.0 --top-p 0.95 --top-k 64 --dry-multiplier 0.5 --seed 42"
    text = re.sub(r" \\\n +", " ", run_ggufs_section(release))
    # The made-up evaluation has the 26B's context, the demo a shorter one: half of that is for the thought.
    assert text.count(f"-c 4096 {flags} 2048 {sampling}\n") == 2
    of_26b = replace(release, facts=replace(release.facts, longest_context=262144))
    text = re.sub(r" \\\n +", " ", run_ggufs_section(of_26b))
    assert text.count(f"-c 32768 {flags} 16384 {sampling}\n") == 2 and "ends a thought after 16,384 tokens" in text
    assert f"hf download USER/{NAME}-GGUF {NAME}-Q4_K_M.gguf --local-dir .\n" in text
    # What a header sets beside them would be none of the evaluation's: its servers have llama.cpp's own.
    set_by_header = ("top_k", "repeat_penalty", "samplers", "min_p")
    with_others = replace(of_26b, facts=replace(of_26b.facts, samplers=set_by_header))
    text = re.sub(r" \\\n +", " ", run_ggufs_section(with_others))
    order = "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature"
    assert text.count(f"{sampling} --samplers '{order}' --min-p 0.05 --repeat-penalty 1\n") == 2
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        assert all(shlex.split(line) for line in block.splitlines())
    checkpoint = run_checkpoint_section(with_others)
    assert "top_p=0.95, top_k=64, min_p=0.05, repetition_penalty=1)" in checkpoint
    assert "top_p=0.95, top_k=64)" in run_checkpoint_section(of_26b)


def test_what_a_conversion_changed_is_said_of_both_models(release):
    plain = {"tokens": 512, "kld": 0.0, "own_dtype": 0.001, "tokens_alike": 1.0}
    odd = plain | {"kld": 0.27, "rounding": 0.26, "own_dtype": 0.0, "tokens_alike": 0.996}
    card = gguf_card(replace(release, inputs=release.inputs | {"conversion": plain, "full_conversion": odd}))
    assert (
        "less than 0.0001 nats per token over 512 tokens of one chat; in its own dtype the checkpoint differs" in card
    )
    full = (
        "KL divergence 0.2700 nats per token over 512 tokens of one chat; rounding alone costs 0.2600 there; 0.40% of"
    )
    assert f"The same of the full model: {full} its tokens are others in llama.cpp." in card
    assert "The full model is sensitive to rounding: llama.cpp's F16 file differs" in card
    assert "The pruned model is sensitive" not in card
    limits = conversion_limits(replace(release, inputs={"conversion": odd | {"own_dtype": 0.03}}))
    assert [line.count("differs from") for line in limits] == [2]
    (line,) = conversion_limits(replace(release, inputs={"conversion": plain | {"own_dtype": 0.03}}))
    assert "rounding: in its own dtype the checkpoint differs from what it is in fp32 (What" in line


def test_what_a_generation_config_sets_is_known_of_a_checkpoint(pruned_demo, tmp_path):
    folder = Path(shutil.copytree(pruned_demo / "checkpoint", tmp_path / "checkpoint"))
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.3, "top_k": 20}')
    assert checkpoint_facts(folder, EXPERTS).samplers == ("repeat_penalty",)


def test_the_owner_is_in_every_command_and_link(pruned_demo, tmp_path):
    more = ["--owner", "me", "--siblings", f"checkpoint={NAME}", f"dynamic={NAME}-dynamic-GGUF"]
    more += ["--repository", f"{NAME}-GGUF"]
    card = build(pruned_demo, tmp_path / "GGUF", *more, quants=("Q6_K", "Q4_K_M"))
    modelfile = (tmp_path / "GGUF/Modelfile").read_text()
    assert not has_placeholder(card + modelfile) and f"https://huggingface.co/me/{NAME}-GGUF\n" in modelfile
    assert set(re.findall(r"\bme/([\w.-]*\w)", card)) == {f"{NAME}-GGUF", NAME, f"{NAME}-dynamic-GGUF"}
    # The files are quants of the pruned checkpoint.
    assert check_front_matter(tmp_path / "GGUF/README.md", "standard")["base_model"] == f"me/{NAME}"
    manifest = read_manifest(tmp_path / "GGUF")
    assert not [line for line in chores(manifest) if line.startswith("owner")]
    check_same_repository(f"me/{NAME}-GGUF", manifest)
    with pytest.raises(InputError, match=f"expected me/{NAME}-GGUF.* found you/.*; run `make release OWNER=you`"):
        check_same_repository(f"you/{NAME}-GGUF", manifest)
    gates = {name: GATES[name] for name in ("files", "made")}
    checked = Checked(tmp_path / "GGUF", manifest, read_sources(tmp_path / "GGUF"))
    assert not [line for gate in gates.values() for line in gate(checked).deviations]
    (tmp_path / "GGUF/README.md").write_text(card.replace("-hf me/", "-hf you/"))
    assert GATES["made"](checked).deviations


def test_transformers_code_runs_as_it_is_printed(release, pruned_demo, monkeypatch, capsys):
    of_checkpoint = replace(release, kind="checkpoint", records={}, repository=NAME)
    code = re.search(r"```python\n(.*?)```", run_checkpoint_section(of_checkpoint), re.DOTALL)[1]
    assert "do_sample=True, temperature=1.0, top_p=0.95, top_k=64)" in code
    place = pruned_demo / "checkpoint"
    exec(code.replace(f"USER/{NAME}", str(place)).replace("max_new_tokens=512", "max_new_tokens=4"), {})
    assert capsys.readouterr().out.strip()
    wide = replace(of_checkpoint, facts=replace(release.facts, widest_head=512))
    assert 'device_map="auto", attn_implementation="eager")' in run_checkpoint_section(wide)


def test_stars_of_the_names_survive_markdown(pruned_demo, tmp_path):
    more = ["--kind", "dynamic", "--siblings", f"standard={NAME}-GGUF"]
    dynamic = build(pruned_demo, tmp_path / f"{NAME}-dynamic-GGUF", *more, quants=("CD-Q4_K_M",))
    more = ["--siblings", f"dynamic={NAME}-dynamic-GGUF"]
    standard = build(pruned_demo, tmp_path / f"{NAME}-GGUF", *more, quants=("Q6_K", "Q4_K_M"))
    for card in (dynamic, standard):
        assert "(`CD-*`, `AUTO-*`)" in card and not re.search(r"[^`](CD|AUTO)-\*", card)
    assert (
        "- CD-Q4_K_M: Q5_K in layer 0; Q4_K in layer 1; Q3_K in layer 2 (attention, dense part and experts)" in dynamic
    )


def test_a_predicted_loss_never_stands_beside_a_measured_one(release):
    note = "cheapest types under 9 bytes, expected KLD 0.0123 nats per token"
    record = {**release.example, "type": "AUTO-0.1", "note": note, "cd_scope": None}
    auto = replace(release, kind="dynamic", records={"a.gguf": record})
    card = gguf_card(auto)
    assert "0.0123" not in file_table(auto.records, auto.quality) and card.count("0.0123") == 1
    assert "Predicted when its types were picked, not measured: 0.0123 nats per token." in card


def test_a_card_says_whose_chats_chose_the_types_of_auto_files(release):
    roles = {"SENSITIVITY_CHATS": ["a.csv"], "QUESTIONS": ["a.csv"], "EVAL_QUESTIONS": ["b.csv"]}
    dynamic = replace(release, kind="dynamic", inputs=release.inputs | {"roles": roles})
    said = "The loss was estimated on the first chats of `a.csv`"
    assert f"{said}. In padded" in gguf_card(dynamic)
    seen = dynamic.inputs | {"estimated": dynamic.scores["question_ids"][:1]}
    assert "chosen by losses on chats of 1 of the 4 scored questions" in gguf_card(replace(dynamic, inputs=seen))


@pytest.fixture
def of_another_family(pruned_demo, tmp_path) -> Path:
    """Copies of two quants whose headers name another architecture and a chat template without thoughts."""
    folder = copy_of_quants(pruned_demo, tmp_path / "inputs", "Q6_K", "Q4_K_M")
    for gguf in sorted(folder.glob(f"{NAME}-*.gguf")):
        data = gguf.read_bytes().replace(b"gemma4", b"llama4")
        gguf.write_bytes(
            data.replace(b"enable_thinking", b"enable_drinking").replace(b"<|channel>tho", b"<|channel>the")
        )
        record = read_json(record_path(gguf))
        write_json(record_path(gguf), record | {"sha256": sha256_file(gguf)})
    for f16 in (folder / "F16.gguf", folder / "full-F16.gguf"):  # a build is of one family; their digests are recorded
        f16.write_bytes(f16.read_bytes().replace(b"gemma4", b"llama4"))
    return folder


def test_another_family_has_no_file_of_ollama_and_no_flag_of_thoughts(of_another_family, tmp_path, capsys):
    """Gemma 4's renderer, parser and template are for no other family."""
    card = build(of_another_family, tmp_path / "r", quants=("Q6_K", "Q4_K_M"))
    assert {path.name for path in (tmp_path / "r").iterdir()} == {
        *(f"{NAME}-{quant}.gguf" for quant in ("Q6_K", "Q4_K_M")),
        "README.md",
        "manifest.json",
        "expert_drop_metadata.json",
    }
    for words in ("llama", "Ollama", "--reasoning", "--temp", "gemma4"):
        assert (words in card) == (words == "llama"), words
    assert "- Q6_K: " in card and "in place of Q6_K" in card
    checked = Checked(tmp_path / "r", read_manifest(tmp_path / "r"), read_sources(tmp_path / "r"))
    found = {name: check_release.outcome_of(gate, checked).deviations for name, gate in GATES.items()}
    assert not any(found.values()), found
    assert not checked.for_ollama


def test_the_methodology_of_the_metadata_is_shown(release):
    methodology = {"cut_tokens": 4096, "dtype": "float32", "attention": None, "not_known": ["a"], "questions": 9}
    text = method_section(replace(release, metadata={**release.metadata, "methodology": methodology}))
    assert text.count("| Longest input that is not cut (tokens) | 4096 |\n| Dtype | float32 |\n") == 1
    assert "| Attention | not known |\n\n" in text
    said = {"reasoning": "column Explanation, the model's own reasoning"}
    text = method_section(replace(release, metadata={**release.metadata, "methodology": said}))
    assert f"| Reasoning, said by the releaser to be | {said['reasoning']} |\n" in text


FOREIGN = ["<script>x</script>", "<img src=x>", "[x](javascript:x)", "\\\\[x](http://y)", "a\n\n[x]: http://y", "<!--"]


@pytest.mark.parametrize("words", FOREIGN)
def test_foreign_tags_and_links_are_shown_in_tables_and_refused_elsewhere(words, release):
    def card(**changes: object) -> str:
        return check_card_words("README.md", gguf_card(replace(release, metadata={**release.metadata, **changes})))

    shown = card(methodology={"model": f"{words} | a"})
    assert words not in shown and "\\| a |" in shown
    # A map of somebody else: its words are quoted in a sentence.
    assert card(method={"own_map": {"criterion": "plain words"}})
    if "\n" in words:  # on one line, as code, it is no link
        assert "`a [x]: http://y`" in card(method={"own_map": {"criterion": words}})
        return
    with pytest.raises(InputError, match="README.md: expected a card without foreign tags and links"):
        card(method={"own_map": {"criterion": words}})


def test_the_checkpoint_s_card_has_the_same_order(pruned_demo, tmp_path):
    checkpoint, output = pruned_demo / "checkpoint", tmp_path / "r"
    scores = write_scores(pruned_demo, tmp_path, first_ids(DEMO / "eval_questions.csv", 4))
    named = ["--kind", "checkpoint", "--name", NAME, "--base", BASE, "--siblings", f"standard={NAME}-GGUF"]
    named += ["--repository", NAME]
    metadata = checkpoint / "expert_drop_metadata.json"
    more = ["--checkpoint", checkpoint, "--metadata", metadata, "--scores", scores, "--output", output]
    call(build_release.main, *named, *more, *origins_of(pruned_demo, ("--scores", scores)))
    card = (output / "README.md").read_text()
    assert [name for name in headings(card) if name != "Architecture"] == SECTIONS
    assert cells_of(card, "Vocabulary")[1] == "3,001" and f"](https://huggingface.co/USER/{NAME}-GGUF)" in card
    assert f"python llama.cpp/convert_hf_to_gguf.py {NAME} --outtype f16 --outfile {NAME}-F16.gguf\n" in card


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


def test_losses_beside_a_map_that_was_given_are_unseen_only_if_it_is_right(release):
    method = release.metadata["method"] | {"criterion": OWN_MAP}
    quality = {"choice_known": True, "score": "reply", "tokens": {"reply": 84}, "chats": 6}
    quality["files"] = [{"sha256": next(iter(release.records.values()))["sha256"]}]
    for own in (method, release.metadata["method"]):
        given = replace(release, metadata=release.metadata | {"method": own}, quality=release.quality or quality)
        assert (f"has seen, {IF_THE_MAP_IS_RIGHT}." in kld_text(given)) == (own is method)
