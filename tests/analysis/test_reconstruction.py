"""The order by reconstruction: against experts really dropped from the model's own modules, and however it was run."""

import copy
import csv
import json
import subprocess
import sys
from pathlib import Path

import generate_drop_map
import teacher_force_analysis as analysis
from analysis import reconstruction
from analysis.decoder import load_resident
from analysis.sampled_tokens import draw_tokens
from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions, read_rows
from choice.expert_stats import read_stats
from conftest import DEMO, REPO
from files.input_errors import InputError
from makers.tiny_models import EXPERTS, LAYERS, TOP_K, build_family_model

import numpy as np
import pytest
import torch

FAMILIES = ("gemma4", "qwen3_moe", "olmoe", "mixtral", "gpt_oss")
PER_EXPERT = ("gate_up_proj", "down_proj", "gate_up_proj_bias", "down_proj_bias")
PER_ROW = ("weight", "bias", "per_expert_scale")


def arguments(model: Path, questions: Path, output: Path, *more: object) -> list[str]:
    """A run over two questions, all tokens in the order unless told otherwise."""
    named = {"model": model, "questions": questions, "limit": 2, "output": output, "dtype": "float32"}
    named |= {"reconstruction": "all"}
    return [*(str(part) for name, value in named.items() for part in (f"--{name}", value)), *map(str, more)]


@pytest.fixture(scope="module")
def models(tiny_text_model, tmp_path_factory) -> dict[str, Path]:
    """Tiny models by family."""
    folder = tmp_path_factory.mktemp("models")
    others = {name: build_family_model(folder / name, name, DEMO / "model") for name in (*FAMILIES[1:], "deepseek_v3")}
    return {"gemma4": Path(tiny_text_model), **others}


def cut(module: torch.nn.Module, names: tuple[str, ...], kept: list[int]) -> torch.nn.Module:
    """A copy of a module with the kept experts' rows only."""
    smaller = copy.deepcopy(module)
    for name in names:
        if isinstance(getattr(smaller, name, None), torch.nn.Parameter):
            setattr(smaller, name, torch.nn.Parameter(getattr(smaller, name)[kept], requires_grad=False))
    if hasattr(smaller, "num_experts"):
        smaller.num_experts = len(kept)
    return smaller


def output_of(layer: torch.nn.Module, inputs: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """What a layer's experts put out with the kept ones alone, by the family's own code."""
    if hasattr(layer, "router"):  # Gemma 4
        router = cut(layer.router, ("per_expert_scale",), kept)
        router.proj = cut(layer.router.proj, ("weight",), kept)
        _, weights, index = router(inputs)
        mixed = cut(layer.experts, PER_EXPERT, kept)(layer.pre_feedforward_layernorm_2(inputs), index, weights)
        return layer.post_feedforward_layernorm_2(mixed)
    block = copy.copy(layer.mlp)
    block._modules = dict(layer.mlp._modules)
    name = "router" if hasattr(block, "router") else "gate"
    setattr(block, name, cut(getattr(block, name), PER_ROW, kept))
    block.experts = cut(block.experts, PER_EXPERT, kept)
    found = block(inputs[None])
    return (found[0] if isinstance(found, tuple) else found)[0]


def router_inputs(model: torch.nn.Module, texts: list[list[int]]) -> list[torch.Tensor]:
    """What reaches the router of each layer, [tokens, hidden]."""
    seen: dict[int, list[torch.Tensor]] = {}
    for number, layer in enumerate(model.model.layers):
        router = layer.router if hasattr(layer, "router") else getattr(layer.mlp, "router", None) or layer.mlp.gate
        router.register_forward_pre_hook(lambda _, got, number=number: seen.setdefault(number, []).append(got[0]))
    for ids in texts:
        model(input_ids=torch.tensor([ids]), use_cache=False)
    return [torch.cat([part.reshape(-1, part.shape[-1]) for part in seen[number]]) for number in sorted(seen)]


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_expert_that_goes_costs_least_when_experts_are_really_dropped(family, models, few_questions, tmp_path):
    analysis.main(arguments(models[family], few_questions, tmp_path / "stats"))
    arrays, metadata = read_stats(tmp_path / "stats")
    assert metadata["reconstruction"] == {"objective": "all", "tokens": analysis.RECONSTRUCTION_TOKENS, "seed": 1}
    model, tokenizer = load_resident(models[family], torch.float32, "eager", None), load_tokenizer(models[family])
    model.set_experts_implementation("eager")
    questions = load_questions(few_questions, 42)[:2]
    inputs = router_inputs(model, [teacher_forced_sequence(tokenizer, q, 4096, "all").ids for q in questions])
    for row, layer in enumerate(model.model.layers):
        if row == 1:
            continue  # two of three layers tell as much
        full, left = output_of(layer, inputs[row], list(range(EXPERTS))).double(), list(range(EXPERTS))
        for gone in np.argsort(arrays["elimination_rank"][row])[: EXPERTS - TOP_K]:
            errors = {}
            for expert in left:
                less = output_of(layer, inputs[row], [other for other in left if other != expert])
                errors[expert] = float((less.double() - full).square().sum() / full.square().sum())
            assert errors[gone] == pytest.approx(min(errors.values()), rel=1e-4)
            assert arrays["elimination_error"][row, gone] == pytest.approx(errors[gone], rel=1e-3)
            left.remove(gone)


def test_streamed_split_or_interrupted_it_is_the_same_file(models, few_questions, tmp_path, monkeypatch):
    model = models["gemma4"]
    some = ["--reconstruction-tokens", 40]
    analysis.main(arguments(model, few_questions, tmp_path / "plain", *some))
    expected = (tmp_path / "plain").read_bytes()
    analysis.main(arguments(model, few_questions, tmp_path / "streamed", *some, "--stream-layers"))
    assert (tmp_path / "streamed").read_bytes() == expected

    split = arguments(model, few_questions, tmp_path / "split", *some, "--processes", 2)
    command = [sys.executable, REPO / "scripts/teacher_force_analysis.py", *split]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "split").read_bytes() == expected

    calls = []

    def interrupted(*given: object, whole=reconstruction.eliminate) -> object:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*given)

    monkeypatch.setattr(reconstruction, "eliminate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analysis.main(arguments(model, few_questions, tmp_path / "stats", *some))
    (first,) = (tmp_path / "stats.state").glob("elimination-*.json")
    kept = first.read_text()
    for damaged, words in (("{}", "'rank'"), ('{"rank": [0], "error": [0.5]}', "ranks and errors")):
        first.write_text(damaged)
        with pytest.raises(InputError, match=words):
            analysis.main(arguments(model, few_questions, tmp_path / "stats", *some))
    first.write_text(kept)
    del calls[2:]
    analysis.main(arguments(model, few_questions, tmp_path / "stats", *some))
    assert (tmp_path / "stats").read_bytes() == expected
    assert len(calls) == 2 + LAYERS - 1  # the first layer was finished


def test_without_an_order_the_statistics_are_as_they_were(models, few_questions, tmp_path):
    analysis.main(arguments(models["gemma4"], few_questions, tmp_path / "with"))
    plain = arguments(models["gemma4"], few_questions, tmp_path / "without")
    at = plain.index("--reconstruction")
    analysis.main([*plain[:at], *plain[at + 2 :]])
    (arrays, metadata), (others, more) = read_stats(tmp_path / "without"), read_stats(tmp_path / "with")
    assert more == metadata | {"reconstruction": more["reconstruction"]}
    assert set(others) - set(arrays) == {"elimination_rank", "elimination_error"}
    assert all((arrays[name] == others[name]).all() for name in arrays)


def test_a_router_of_another_kind_is_refused(models, few_questions, tmp_path, refusal):
    command = arguments(models["deepseek_v3"], few_questions, tmp_path / "stats")
    refusal(analysis.main, command, "layer 1", "softmax over its experts", "another criterion")
    assert not (tmp_path / "stats").exists()


def test_maps_of_every_keep_count_are_prefixes_of_one_order(models, few_questions, tmp_path, refusal):
    stats, output = tmp_path / "stats", tmp_path / "map.json"
    analysis.main(arguments(models["gemma4"], few_questions, stats))
    choose = ["--stats", str(stats), "--criterion", "reconstruction", "--output", str(output)]
    rank, kept = read_stats(stats)[0]["elimination_rank"], {}
    for keep in range(TOP_K, EXPERTS):
        generate_drop_map.main([*choose, "--keep", str(keep)])
        content = json.loads(output.read_text())
        kept[keep] = [set(entry["keep"]) for entry in content["layers"].values()]
        assert kept[keep] == [set(np.flatnonzero(row >= EXPERTS - keep).tolist()) for row in rank]
        assert content["reconstruction"]["objective"] == "all" and "bootstrap" not in content
    assert all(few <= more for keep in range(TOP_K, EXPERTS - 1) for few, more in zip(kept[keep], kept[keep + 1]))
    refusal(generate_drop_map.main, [*choose, "--keep", "8", "--fold", "1/2"], "all questions", "1 left out")
    domains = ["--domains", "Biology:1", "--domain-questions", str(few_questions)]
    refusal(generate_drop_map.main, [*choose, "--keep", "8", *domains], "domains and weights", "none")


def test_a_domain_of_the_order_has_the_questions_of_the_choice(models, few_questions, tmp_path, refusal):
    """Names and weights alone do not tell: the column of another file can name other questions so."""
    rows, files = read_rows(few_questions), [tmp_path / "first.csv", tmp_path / "other.csv"]
    for file, first in zip(files, ("A", "B")):
        labels = [first, *["AB".replace(first, "")] * (len(rows) - 1)]
        with open(file, "w", newline="") as text:
            writer = csv.DictWriter(text, list(rows[0] | {"High-level domain": ""}))
            writer.writeheader()
            writer.writerows(row | {"High-level domain": label} for row, label in zip(rows, labels))
    domains = ["--domains", "A:2", "B:1", "--domain-questions"]
    analysis.main(arguments(models["gemma4"], few_questions, tmp_path / "stats", *domains, files[0]))
    choose = ["--stats", tmp_path / "stats", "--criterion", "reconstruction", "--keep", 8, "--output", tmp_path / "map"]
    generate_drop_map.main([*map(str, choose), *domains, str(files[0])])
    refusal(generate_drop_map.main, [*choose, *domains, files[1]], files[1], "domain A to have the questions", "others")


def test_tokens_are_drawn_and_weighed_as_asked():
    spans, replies = [(0, 6), (2, 10), (0, 4)], [4, 8, 2]
    even = np.ones(3)
    whole = draw_tokens(spans, replies, None, 100, even, 1)
    assert whole.positions == [list(range(6)), list(range(2, 10)), list(range(4))]
    assert whole.weights == pytest.approx(np.full(18, 1 / 18))
    reply = draw_tokens(spans, replies, 1.0, 100, even, 1)
    assert reply.positions == [[4, 5], [8, 9], [2, 3]]
    mixed = draw_tokens(spans, replies, 0.5, 100, even, 1)
    is_reply = np.concatenate([np.array(own) >= start for own, start in zip(mixed.positions, replies)])
    assert mixed.weights[is_reply].sum() == pytest.approx(0.5) and mixed.weights.sum() == pytest.approx(1)
    # The second question does not count, and a token of the third counts twice one of the first.
    weighed = draw_tokens(spans, replies, None, 100, np.array([1.0, 0, 2]), 1)
    assert weighed.positions[1] == [] and weighed.weights == pytest.approx([1 / 14] * 6 + [2 / 14] * 4)
    few = draw_tokens(spans, replies, None, 5, even, 1)
    assert (
        sum(map(len, few.positions)) == 5 and few.positions != draw_tokens(spans, replies, None, 5, even, 2).positions
    )
    with pytest.raises(InputError, match="none on one of them"):
        draw_tokens([(4, 6)], [4], 0.5, 10, np.ones(1), 1)
