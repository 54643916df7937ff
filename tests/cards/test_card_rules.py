"""What a card says of made-up records, by hand: words, tables, front matter, sizes."""

import re

from cards.card_results import hardware_rows
from cards.card_sections import RANKED_BY, how_chosen
from cards.card_tables import fallbacks_in_words, memory_table, quality_word, ranges, tiers_in_words
from cards.front_matter import check_front_matter, front_matter
from cards.model_facts import prompt_format, thinks
from choice.criteria import CRITERIA
from files.input_errors import InputError
from files.safe_files import GIB
from ggufs.context_cache import cache_bytes
from ggufs.gguf_header import empty_header, header_bytes, key_value, read_header
from release.input_facts import held_questions
from scoring.machines import machine_in_words

import pytest

BOTH = "[{system}][{prompt}]"


@pytest.mark.parametrize(
    ("template", "shown"),
    [
        ("{% for m in messages %}[{{ m.content }}]{% endfor %}", BOTH),
        ("{{ raise_exception('no') if messages[0].role == 'system' }}{{ messages[0].content }}", "{prompt}"),
        (None, ""),
        ("{{ nothing.at.all }}", ""),
        ("<a href='x'>{{ messages[-1].content }}</a>", ""),
        ("{{ messages[-1].content }}\n```\n", ""),
        ("{prompt}", ""),
        ("{{ messages[-1].content }}" + "x" * 600, ""),
        ("{% for m in messages %}{{ '99%' if m.content == '{system}' }}[{{ m.content }}]{% endfor %}", BOTH),
        ("{{ '99% on GPQA' if ' ' not in messages[0].content }}{{ messages[-1].content }}", ""),
        ("{{ '99% on GPQA' if '\n' in messages[-1].content }}{{ messages[-1].content }}", ""),
        ("{{ strftime_now('%Y') }}{{ messages[-1].content }}", ""),
    ],
)
def test_what_no_card_may_hold_is_no_prompt_format(template, shown):
    assert prompt_format(template) == shown


def test_the_hardware_is_said_once_where_it_is_the_same():
    machine = {"cpu": "AMD EPYC", "cores": 16, "gpus": ["NVIDIA H200"] * 2, "backends": ["CUDA"]}
    words = "AMD EPYC (16 cores); 2 x NVIDIA H200; llama.cpp's backend: CUDA"
    assert machine_in_words(machine) == words
    rows = [{"name": "a", "hardware": [machine]}, {"name": "b", "hardware": [machine]}]
    assert hardware_rows(rows) == [["Hardware", words]]
    assert hardware_rows([{"name": "a"}, rows[1]]) == [["Hardware, a", "not recorded"], ["Hardware, b", words]]
    assert machine_in_words(machine | {"gpus": [], "backends": ["CPU"]}).endswith("; no GPU; llama.cpp's backend: CPU")


def test_a_question_is_found_in_a_text_whatever_its_blanks(tmp_path):
    path = tmp_path / "q.csv"
    columns = "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3"
    path.write_text(f'{columns}\nb,"How  many\nlegs?",a,b,c,d\na,What?,a,b,c,d\nc,Why?,a,b,c,d\n')
    assert held_questions("x How many legs? Because. What?\n", [path]) == ["a", "b"]


def test_types_in_words_by_hand():
    scope = r"\.(attn|ffn)_\w+\.weight"
    arguments = ["--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0"]
    for layers, kind in (("0", "q6_K"), ("1|2|3|10", "q5_K"), ("4|5", "q4_K")):
        arguments += ["--tensor-type", rf"^blk\.({layers}){scope}={kind}"]
    record = {"arguments": arguments, "base": "Q4_K_M", "tensors_per_type": {"F32": 4, "Q5_0<Q4_K": 1, "Q8_0<Q6_K": 3}}
    assert tiers_in_words(record) == (
        "Q6_K in layer 0; Q5_K in layers 1 to 3, 10; Q4_K in layers 4 to 5 (attention, dense part and experts); "
        "embedding Q8_0, output Q8_0; what is left follows Q4_K_M"
    )
    assert "(the experts of a layer)" in tiers_in_words(record | {"cd_scope": "experts"})
    assert fallbacks_in_words(record) == "1 tensor Q5_0 in place of Q4_K, 3 tensors Q8_0 in place of Q6_K"
    assert ranges([5, 1, 2, 3]) == "1 to 3, 5" and ranges([]) == ""


def test_a_word_of_quality_for_every_file_by_hand():
    def entry(kld: float) -> dict:
        return {"losses": {"quantisation": {"kld": [kld, 0.0]}}}

    record = {"bits_per_weight": 4.8}
    by_loss = [(0.0, "exact"), (0.001, "near-lossless"), (0.009, "very high"), (0.05, "good"), (9.0, "very low")]
    assert [quality_word(record, entry(kld)) for kld, _ in by_loss] == [word for _, word in by_loss]
    by_bits = [(16.01, "exact"), (8.5, "near-lossless"), (5.5, "high"), (4.8, "good"), (3.9, "fair"), (2.1, "very low")]
    padded = {"bits_per_weight": 17.6, "padded": {"dense": [1408, 1536], "down": [32, 256]}}
    assert quality_word(padded, None) == "very low (by size)"  # 2.2 bits for each weight that is not a zero
    words = [quality_word({"bits_per_weight": bits}, None) for bits, _ in by_bits]
    assert words == [f"{word} (by size)" for _, word in by_bits]


def by_size(sizes: dict[str, float]) -> dict[str, dict]:
    return {name: {"files": [name], "bytes": int(size * GIB), "sha256": name} for name, size in sizes.items()}


def test_which_file_for_which_memory_by_hand():
    records = by_size({"large": 13.5, "middle": 10.8, "small": 2.9})
    table = memory_table(records, {8192: GIB // 2, 32768: GIB})
    # 4 GiB: 3 are free, 2.9 + 0.5 do not fit; 6: small; 12: 11 free, 10.8 + 0.5 do not; 16: large.
    assert [line.split(" | ")[0:3] for line in table.splitlines()[2:]] == [
        ["| 6 GiB or more", "small", "size"],
        ["| 16 GiB or more", "large", "size"],
    ]
    assert table.splitlines()[-1].endswith("| 14.00 | 14.50 |")
    # A model that sees is loaded with a file for pictures: 13.5 + 0.5 + 1.5 are more than 15.
    sight = {"mmproj-m-F16.gguf": 2 * GIB, "mmproj-m-Q8_0.gguf": 3 * GIB // 2}
    seeing = memory_table(records, {8192: GIB // 2}, None, sight).splitlines()
    assert [line.split(" | ")[0] for line in seeing[2:]] == ["| 6 GiB or more", "| 16 GiB or more", "| 20 GiB or more"]
    assert seeing[-1].endswith("| 15.50 |")
    # A padded file is large by its zeros.
    padded = by_size({"large": 13.5, "small": 2.9})
    padded["large"]["padded"] = {"down": [32, 256]}
    assert [line.split(" | ")[1] for line in memory_table(padded, {8192: GIB // 2}).splitlines()[2:]] == ["small"]


def test_a_file_that_is_measured_as_worse_than_a_smaller_one_is_not_recommended():
    def taken(klds: dict[str, float]) -> list[list[str]]:
        files = [{"sha256": name, "losses": {"quantisation": {"kld": [kld, 0.1]}}} for name, kld in klds.items()]
        records = by_size({"large": 13.5, "middle": 10.8, "small": 2.9})
        table = memory_table(records, {8192: GIB // 2}, {"files": files})
        return [line.split(" | ")[1:3] for line in table.splitlines()[2:]]

    assert taken({"large": 0.3, "middle": 0.2, "small": 0.1}) == [["small", "measured loss"]]
    assert taken({"large": 0.1, "middle": 0.9, "small": 0.5})[-1] == ["large", "measured loss"]
    # What was not measured is taken by size: nothing says that it is worse.
    assert taken({"middle": 0.1, "small": 0.05}) == [["small", "measured loss"], ["large", "size"]]


def test_a_model_thinks_if_its_template_says_so():
    assert thinks("{% if enable_thinking %}") and thinks("<think>") and not thinks("[INST]") and not thinks(None)


def test_every_criterion_says_what_it_ranks_by():
    assert RANKED_BY.keys() == CRITERIA.keys()
    assert "tokens that the router sends" in how_chosen({"criterion": "frequency"})
    assert "chance" in how_chosen({"criterion": "random:1"})
    floors = {"criterion": "coverage", "domains": [{"name": "a", "weight": 1.0, "floor": 0.9}]}
    assert how_chosen(floors).endswith("ranked last are dropped, but for those that a floor of a domain keeps.")
    assert "ranked first are dropped" in how_chosen({"criterion": "reap", "worst_first": True})


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
    text = front_matter("standard", "google/x", {"license": "gemma"}, "me", ["moe"]) + "\n# x\n"
    path.write_text(text)
    assert check_front_matter(path, "standard")["license"] == "gemma"
    path.write_text(text.replace(*change))
    with pytest.raises(InputError, match=re.escape(words)):
        check_front_matter(path, "standard")
