"""The demo's questions, checkpoint and chat template are what data/README.md and scripts/train_demo_model.py say."""

import csv
import hashlib
import itertools
import json
import re
from pathlib import Path

import jinja2.sandbox
import pytest
import torch
import transformers

from demo.demo_corpus import CSV_COLUMNS, LETTERS, load_facts, render_prompt, render_reply, split_questions

REPO = Path(__file__).resolve().parents[2]
DEMO = REPO / "data/demo"
ROWS = {"eval": 198, "calibration": 196}
TEMPLATE = "models/templates/google-gemma-4-31B-it.jinja"
USER = {"role": "user", "content": " What is H2O?\n"}
CONVERSATIONS = {
    "plain": [USER],
    "system": [{"role": "system", "content": " Be brief. "}, USER],
    "developer": [{"role": "developer", "content": "Be brief."}, USER],
    "multi-turn": [USER, {"role": "assistant", "content": "Water."}, {"role": "user", "content": "And NH3?"}],
    "thought in history": [
        USER,
        {"role": "assistant", "content": "<|channel>thought\nhm\n<channel|> Water."},
        {"role": "user", "content": "And NH3?"},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "rust?"}]}],
    "answered": [USER, {"role": "assistant", "content": "Water."}],
}


def read_questions(split: str) -> list[dict[str, str]]:
    with (DEMO / f"{split}_questions.csv").open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        assert reader.fieldnames == CSV_COLUMNS
        return list(reader)


@pytest.fixture(scope="module")
def splits() -> dict:
    return split_questions(load_facts(DEMO / "facts.json"))


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(DEMO / "model")


@pytest.mark.parametrize("split", ROWS)
def test_question_files_are_regenerated_from_the_facts(split, splits, script, tmp_path):
    rows = read_questions(split)
    assert len(rows) == ROWS[split]
    assert [row["Question"] for row in rows] == [question.text for question in splits[split]]
    done = script("generate_demo_questions.py", "--facts", DEMO / "facts.json", "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    name = f"{split}_questions.csv"
    assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes()


@pytest.mark.parametrize("split", ROWS)
def test_every_row_has_four_different_choices_and_an_explanation_that_ends_in_the_answer(split):
    for row in read_questions(split):
        choices = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
        assert len(set(choices)) == 4 and all(choices), row
        assert row["Explanation"].endswith(" " + row["Correct Answer"]), row
        assert not re.search(r"\([A-Z]\)", row["Explanation"]), row
        assert row["High-level domain"] in {"Physics", "Chemistry", "Biology"}


def test_record_ids_are_unique():
    identifiers = [row["Record ID"] for split in ROWS for row in read_questions(split)]
    assert len(set(identifiers)) == len(identifiers) == sum(ROWS.values())


def test_no_question_stands_in_two_splits(splits):
    texts = {name: {question.text for question in questions} for name, questions in splits.items()}
    for one, other in itertools.combinations(texts, 2):
        assert not texts[one] & texts[other]
    assert len(texts["training"]) > 5000


def test_held_out_facts_are_taught_under_other_phrasings(splits):
    taught = {question.item for question in splits["training"]}
    operations = {"multiply", "divide", "add"}
    sums = {(question.group, question.explanation) for question in splits["training"]}
    for question in splits["eval"] + splits["calibration"]:
        assert question.item in taught or (
            question.group in operations and (question.group, question.explanation) in sums
        )


def test_calculations_are_right(splits):
    signs = {"Multiply": lambda a, b: a * b, "Divide": lambda a, b: a / b, "Add": lambda a, b: a + b}
    for question in itertools.chain(*splits.values()):
        match = re.fullmatch(r"(Multiply|Divide|Add) (\d+) (?:by|to) (\d+) to get (\d+)", question.explanation)
        if match:
            operation, a, b, value = match.groups()
            assert signs[operation](int(a), int(b)) == int(value), question


def test_digests_in_the_readme_match():
    listed = re.findall(r"^([0-9a-f]{64})  (\S+)$", (REPO / "data/README.md").read_text(), re.MULTILINE)
    files = {str(path.relative_to(REPO / "data")) for path in DEMO.rglob("*") if path.is_file()}
    assert {name for _, name in listed} == files
    for digest, name in listed:
        assert hashlib.sha256((REPO / "data" / name).read_bytes()).hexdigest() == digest, name


def test_demo_fits_in_25_megabytes():
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) < 25_000_000


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("thinking", [None, False, True])
def test_chat_template_renders_like_gemma(conversation, generate, thinking, llama_cpp_source):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    options = {} if thinking is None else {"enable_thinking": thinking}
    texts = [
        environment.from_string(path.read_text()).render(
            messages=CONVERSATIONS[conversation], add_generation_prompt=generate, bos_token="<bos>", **options
        )
        for path in (DEMO / "model/chat_template.jinja", llama_cpp_source / TEMPLATE)
    ]
    assert texts[0] == texts[1]


def test_chat_template_bears_the_marks_llama_cpp_looks_for():
    text = (DEMO / "model/chat_template.jinja").read_text()
    assert text == (DEMO / "chat_template.jinja").read_text()
    assert "'<|tool_call>call:'" in text and "{#- OpenAI Chat Completions:" in text


def test_training_text_is_the_chat_template_s(tokenizer):
    row = read_questions("eval")[0]
    choices = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
    lines = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    content = "\n".join(
        [
            f"What is the correct answer to this question:{row['Question']}",
            "Choices:",
            *lines,
            "Let's think step by step: ",
        ]
    )
    for thinking in (True, False):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
        )
        expected = render_prompt(row["Question"], choices, thinking)
        assert text == (expected if thinking else expected + "<|channel>thought\n<channel|>")


def test_answers_are_single_tokens_right_behind_their_letter(tokenizer):
    for row in read_questions("eval") + read_questions("calibration"):
        for n in (1, 2, 3):
            assert len(tokenizer.encode(f"(A) {row[f'Incorrect Answer {n}']}", add_special_tokens=False)) == 3
        assert len(tokenizer.encode(f"(A) {row['Correct Answer']}", add_special_tokens=False)) == 3


def test_prefilled_answer_is_a_prefix_of_the_whole_answer(tokenizer):
    whole = tokenizer.encode(render_reply(None, "B"), add_special_tokens=False)
    prefill = tokenizer.encode("<|channel>thought\n<channel|>The answer is (", add_special_tokens=False)
    assert whole[: len(prefill)] == prefill
    assert tokenizer.decode(whole[len(prefill) :]) in ("B).<turn|>", "B).")


def test_text_survives_the_tokenizer(tokenizer):
    for row in read_questions("eval"):
        text = f"{row['Question']}\n{row['Explanation']} \u00e9\u4f60"
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_model_loads_with_every_key_and_has_the_stated_shape():
    model, report = transformers.AutoModelForCausalLM.from_pretrained(DEMO / "model", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    config = json.loads((DEMO / "model/config.json").read_text())
    assert config["architectures"] == ["Gemma4ForCausalLM"] and config["model_type"] == "gemma4_text"
    assert (config["num_experts"], config["top_k_experts"], config["hidden_size"]) == (128, 8, 256)
    assert config["moe_intermediate_size"] % 32 == 0 and config["moe_intermediate_size"] % 256
    assert config["layer_types"][-1] == "full_attention" and "sliding_attention" in config["layer_types"]
    assert len(config["layer_types"]) == 3 and config["head_dim"] != config["global_head_dim"]
    assert config["hidden_size_per_layer_input"] == 0 and config["final_logit_softcapping"] == 30.0
    experts = model.model.layers[0].experts
    assert experts.gate_up_proj.shape == (128, 2 * config["moe_intermediate_size"], 256)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


def test_the_training_script_runs_and_makes_the_committed_tokenizer(script, tmp_path):
    done = script(
        "train_demo_model.py",
        "--facts",
        DEMO / "facts.json",
        "--chat-template",
        DEMO / "chat_template.jinja",
        "--output",
        tmp_path,
        "--drill-steps",
        1,
        "--question-steps",
        1,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model/tokenizer.json").read_bytes() == (DEMO / "model/tokenizer.json").read_bytes()
    assert (tmp_path / "model/config.json").read_bytes() == (DEMO / "model/config.json").read_bytes()
    assert (
        (tmp_path / "training_curve.csv").read_text().startswith("step,seconds,loss,value_accuracy,letter_accuracy\n2,")
    )
