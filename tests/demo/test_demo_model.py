"""The demo's questions, checkpoint and chat template are as data/README.md and scripts/train_demo_model.py describe."""

import csv
import hashlib
import itertools
import json
import re
import shutil
from pathlib import Path

import generate_demo_questions
import train_demo_assistant
import train_demo_model
from chats.questions import LETTERS
from demo.demo_corpus import CSV_COLUMNS, load_facts, render_prompt, render_reply, split_questions
from demo.ragged_demo import start_from_demo
from demo.sorted_experts import SortedExperts
from files.input_errors import InputError

import jinja2.sandbox
import pytest
import safetensors.torch
import torch
import transformers

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
def test_question_files_hold_the_split(split, splits):
    rows = read_questions(split)
    assert len(rows) == ROWS[split]
    assert [row["Question"] for row in rows] == [question.text for question in splits[split]]


def test_question_files_are_regenerated_from_the_facts(script, tmp_path):
    done = script(
        "generate_demo_questions.py",
        *("--facts", DEMO / "facts.json", "--output", tmp_path, "--training", tmp_path / "training.csv"),
        *("--tasks", tmp_path / "tasks"),
    )
    assert done.returncode == 0, done.stderr
    for name in (f"{split}_questions.csv" for split in ROWS):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes()
    tasks = {path.name: path.read_bytes() for path in (DEMO / "tasks").iterdir()}
    assert tasks == {path.name: path.read_bytes() for path in (tmp_path / "tasks").iterdir()} and len(tasks) == 5
    assert len((tmp_path / "training.csv").read_text().splitlines()) > 5000


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"layers.1.self_attn.q_proj.weight", b"layers.1.self_attn.x_proj.weight", "q_proj.weight missing"),
        (b'"format":"pt"', b'"format":1   ', "a checkpoint that transformers loads"),
    ],
)
def test_an_assistant_is_trained_on_a_whole_model(tmp_path, refusal, capfd, old, new, words):
    model = Path(shutil.copytree(DEMO / "model", tmp_path / "model"))
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights.replace(old, new))
    arguments = ["--facts", DEMO / "facts.json", "--target", model, "--output", tmp_path / "out", "--steps", 1]
    refusal(train_demo_assistant.main, arguments, model, words)
    assert not (tmp_path / "out").exists() and "x_proj" not in capfd.readouterr().err


def test_an_assistant_learns_nothing_of_a_broken_model(tmp_path, refusal):
    model = Path(shutil.copytree(DEMO / "model", tmp_path / "model"))
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    safetensors.torch.save_file(tensors, model / "model.safetensors", {"format": "pt"})
    arguments = ["--facts", DEMO / "facts.json", "--target", model, "--output", tmp_path / "out", "--steps", 1]
    refusal(train_demo_assistant.main, arguments, "the target", "of which a draft model learns", "a loss of nan")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sign", ["\\u001b", "\\u0007", "\\r", "\\u202e", "\\u2028"])
def test_facts_with_a_sign_that_a_terminal_obeys_make_no_questions(tmp_path, refusal, sign):
    facts = tmp_path / "facts.json"
    facts.write_text((DEMO / "facts.json").read_text().replace("alkaline earth", f"alkaline{sign}earth"))
    arguments = ["--facts", facts, "--output", tmp_path / "out"]
    refusal(generate_demo_questions.main, arguments, facts, "without control characters", "in 'relations.")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("template", [b"{{ 1/0 }}", b"{% for", b"\xff\xfe{"])
def test_a_template_that_does_not_render_is_refused_before_the_training(tmp_path, refusal, template):
    path = tmp_path / "chat_template.jinja"
    path.write_bytes(template)
    arguments = ["--facts", DEMO / "facts.json", "--chat-template", path, "--output", tmp_path / "out"]
    refusal(train_demo_model.main, arguments, path, "a chat template that renders")
    assert not (tmp_path / "out").exists()


def test_training_questions_do_not_go_where_the_folder_is(tmp_path, refusal):
    arguments = ["--facts", DEMO / "facts.json", "--output", tmp_path / "x", "--training", tmp_path / "x"]
    refusal(generate_demo_questions.main, arguments, "an output apart from every input")
    assert not (tmp_path / "x").exists()


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


@pytest.fixture(scope="module")
def templates(llama_cpp_source) -> list[jinja2.Template]:
    """The demo's chat template and Gemma 4's, compiled once."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    paths = (DEMO / "model/chat_template.jinja", llama_cpp_source / TEMPLATE)
    return [environment.from_string(path.read_text()) for path in paths]


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize("thinking", [None, False, True])
def test_chat_template_renders_like_gemma(conversation, generate, thinking, templates):
    options = {} if thinking is None else {"enable_thinking": thinking}
    options |= {"messages": CONVERSATIONS[conversation], "add_generation_prompt": generate, "bos_token": "<bos>"}
    ours, gemma = (template.render(**options) for template in templates)
    assert ours == gemma


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


@pytest.fixture
def torch_settings():
    """Put back what a training sets for its whole process: threads, seed, denormals."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def test_a_short_training_makes_the_committed_tokenizer_and_config(torch_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(train_demo_model, "BATCH_EXAMPLES", 4)
    monkeypatch.setattr(train_demo_model, "DEV_QUESTIONS", 6)
    inputs = ("--facts", DEMO / "facts.json", "--chat-template", DEMO / "chat_template.jinja")
    options = ("--drill-steps", 2, "--question-steps", 2, "--output", tmp_path)
    train_demo_model.main([str(argument) for argument in (*inputs, *options)])
    made = {path.name for path in (tmp_path / "model").iterdir()}
    assert made == {path.name for path in (DEMO / "model").iterdir()}
    for name in made - {"model.safetensors"}:
        assert (tmp_path / "model" / name).read_bytes() == (DEMO / "model" / name).read_bytes(), name
    head, row = (tmp_path / "training_curve.csv").read_text().splitlines()
    assert head == "step,seconds,loss,value_accuracy,letter_accuracy" and row.startswith("4,")


def test_sorted_experts_and_their_gradients_match_a_loop():
    """In fp64, so that equal formulas are equal to 12 digits."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (5, 4), "weight": (5, 2), "gate_up": (3, 12, 4), "down": (3, 4, 6)}
    tensors = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    index = torch.tensor([[0, 2], [2, 0], [0, 2], [2, 0], [0, 2]])  # expert 1 is never used

    def loop(hidden, index, weight, gate_up, down) -> torch.Tensor:
        rows = []
        for token, (experts, weights) in enumerate(zip(index.tolist(), weight)):
            outputs = []
            for expert, scale in zip(experts, weights):
                gate, up = (gate_up[expert] @ hidden[token]).chunk(2)
                outputs.append(scale * (down[expert] @ (torch.nn.functional.gelu(gate, approximate="tanh") * up)))
            rows.append(sum(outputs))
        return torch.stack(rows)

    results = []
    for run in (SortedExperts.apply, loop):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        output = run(leaves["hidden"], index, leaves["weight"], leaves["gate_up"], leaves["down"])
        (output**2).sum().backward()
        results.append([output.detach(), *(leaf.grad for leaf in leaves.values())])
    for one, other in zip(*results):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_damaged_weights_to_start_from_are_refused(demo_model, tmp_path):
    whole = (demo_model / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="model.safetensors: expected .* bytes, as its header says"):
        start_from_demo(None, tmp_path)
