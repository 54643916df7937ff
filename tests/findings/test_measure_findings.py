"""The command from end to end: other families, streamed, interrupted, without domains, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path

import findings.measured_model as measured_model
import measure_findings
import teacher_force_analysis as analysis
from analysis.analysis_state import AnalysisState
from analysis.decoder import load_resident
from analysis.expert_observer import expert_modules
from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import load_questions
from choice.criteria import answerable
from choice.expert_stats import read_stats
from conftest import DEMO
from files.json_records import read_record
from findings.findings_record import Findings
from generate_drop_map import main as choose
from makers.naive_experts import expert_output
from makers.tiny_models import EXPERTS, LAYERS, TOP_K, build_family_model, random_drop_map

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save

QUESTIONS, KEEP = 20, 12
FEW = ("--shuffles", "19", "--resamples", "20")


def write_analysis(folder: Path, model: Path) -> None:
    """Analyse the model with some of the demo's questions and choose, all in a folder."""
    lines = (DEMO / "calibration_questions.csv").read_text().splitlines(keepends=True)
    (folder / "questions.csv").write_text("".join(lines[: QUESTIONS + 1]))
    given = ["--model", str(model), "--questions", str(folder / "questions.csv")]
    analysis.main([*given, "--output", str(folder / "stats")])
    chosen = ["--stats", str(folder / "stats"), "--output", str(folder / "map.json"), "--protect-top", "4"]
    choose([*chosen, "--keep", str(KEEP), "--bootstrap", "5"])


def command(folder: Path, model: Path, output: Path, *more: object) -> list[str]:
    """The command line of a run on such a folder."""
    inputs = {"stats": "stats", "questions": "questions.csv", "drop-map": "map.json"}
    given = [part for name, file in inputs.items() for part in (f"--{name}", str(folder / file))]
    measured = ["--measured", str(output.with_name("measured")), "--output", str(output)]
    return ["--model", str(model), *given, *measured, *FEW, *map(str, more)]


@pytest.fixture(scope="module")
def folder(tiny_text_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("analysed")
    write_analysis(folder, tiny_text_model)
    measure_findings.main(command(folder, tiny_text_model, folder / "findings.md"))
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("measured", "findings.md", "findings.json", "findings.png")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_record_holds_every_finding(folder):
    found = read_record(folder / "findings.json", Findings)
    assert (found["experts"], found["top_k"], found["keep_count"], found["missing"]) == (EXPERTS, TOP_K, KEEP, {})
    assert sum(found["specialisation"]["domains"].values()) == QUESTIONS
    assert len(found["weights"]) == 2 * LAYERS and len(found["outputs"]) == LAYERS
    assert [entry["tokens"] for entry in found["outputs"]] == [2 * QUESTIONS] * LAYERS
    tokens = read_stats(folder / "stats")[0]["tokens"].sum()
    assert found["bf16"]["norms"] == tokens * TOP_K and found["bf16"]["nonfinite"] == 0
    assert {pair["name"] for pair in found["maps"]} == set(answerable({})) - {"coverage"}
    assert (folder / "findings.md").read_text().count("\n## ") == 5


def test_the_pass_gives_the_sums_of_the_analysis_and_naive_ones_in_bf16(folder, tiny_text_model):
    measured, (arrays, _) = load_file(folder / "measured"), read_stats(folder / "stats")
    np.testing.assert_array_equal(measured["weighted_norm_sum"], arrays["weighted_norm_sum"])
    model, tokenizer = load_resident(tiny_text_model, torch.bfloat16, "eager", None), load_tokenizer(tiny_text_model)
    sequence = teacher_forced_sequence(tokenizer, load_questions(folder / "questions.csv", 42)[3], 4096, "all")
    seen = []
    for module in expert_modules(model).values():
        module.register_forward_pre_hook(lambda module, inputs: seen.append((module, *inputs)))
    with torch.inference_mode():
        model(input_ids=torch.tensor([sequence.ids]), use_cache=False)
        module, hidden, index, weights = seen[1]
        expected = np.zeros(EXPERTS)
        for token in range(len(sequence.ids)):
            for expert, weight in zip(index[token].tolist(), weights[token].bfloat16()):
                output = expert_output(module, expert, hidden[token].float()).bfloat16() * weight
                expected[expert] += float(torch.sqrt((output.float() ** 2).sum()).bfloat16())
    # The naive expert keeps fp32 between its two matrices, so a few norms are rounded to the other side.
    np.testing.assert_allclose(measured["weighted_norm_bf16"][3, 1], expected, rtol=4e-3)
    both = measured["weighted_norm_bf16"], measured["weighted_norm_bf16_sums"]
    np.testing.assert_allclose(*both, rtol=0.1)
    assert (both[0] != both[1]).any()


def test_streamed_layers_give_the_same_bytes(folder, tiny_text_model, tmp_path):
    more = ["--stream-layers", "--spill", tmp_path / "spill"]
    measure_findings.main(command(folder, tiny_text_model, tmp_path / "findings.md", *more))
    assert files_of(tmp_path) == files_of(folder)
    assert not list(tmp_path.rglob("*.state*"))


def interrupted(patch: pytest.MonkeyPatch, owner: object, name: str, calls: int, run: list[str]) -> None:
    """Run the command and break it off at the call of a function after so many."""
    whole, done = getattr(owner, name), []

    def call(*values: object) -> object:
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(values)
        return whole(*values)

    with patch.context() as inner, pytest.raises(KeyboardInterrupt):
        inner.setattr(owner, name, call)
        measure_findings.main(run)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(folder, tiny_text_model, tmp_path, monkeypatch):
    run = command(folder, tiny_text_model, tmp_path / "findings.md", "--stream-layers")
    interrupted(monkeypatch, AnalysisState, "save", 3 * QUESTIONS, run)
    interrupted(monkeypatch, measured_model, "compared", 1, run)
    assert [path.name for path in tmp_path.iterdir()] == ["measured.state"]
    compared, layers = measured_model.compared, []
    monkeypatch.setattr(measured_model, "compared", lambda layer, *rest: layers.append(layer) or compared(layer, *rest))
    measure_findings.main(run)
    assert layers == [1, 2] and files_of(tmp_path) == files_of(folder)


def test_what_was_measured_is_not_measured_again(folder, tiny_text_model, tmp_path):
    (tmp_path / "model").mkdir()
    shutil.copyfile(tiny_text_model / "config.json", tmp_path / "model/config.json")  # no weights
    shutil.copyfile(folder / "measured", tmp_path / "measured")
    (tmp_path / "other.json").write_text(json.dumps(random_drop_map(10)))
    run = command(folder, tmp_path / "model", tmp_path / "findings.md", "--maps", tmp_path / "other.json")
    measure_findings.main(run)
    maps = read_record(tmp_path / "findings.json", Findings)["maps"]
    assert maps[-1]["name"] == "other" and maps[-1]["keep_count"] == 10 and len(maps[-1]["sha256"]) == 64
    assert maps[-1]["dropped"]["chance"] == pytest.approx(1 - 6 / 16) and "top" not in maps[-1]


def test_without_domains_the_other_findings_are_made(folder, tiny_text_model, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "copy")
    with open(folder / "questions.csv", newline="") as file:
        rows = [{k: v for k, v in row.items() if "omain" not in k} for row in csv.DictReader(file)]
    with open(tmp_path / "copy/questions.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run = command(tmp_path / "copy", tiny_text_model, tmp_path / "copy/findings.md")
    measure_findings.main(run)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no topic")]
    assert len(said) == 1 and "expected a column 'High-level domain' or 'Subdomain'" in said[0]
    found, before = (read_record(place / "findings.json", Findings) for place in (tmp_path / "copy", folder))
    assert "expected a column" in found["missing"]["specialisation"] and str(tmp_path) not in json.dumps(found)
    assert found["specialisation"] is None and found["bf16"] == before["bf16"] and found["weights"] == before["weights"]
    assert "Not measured: expected a column" in (tmp_path / "copy/findings.md").read_text()


def test_a_domain_that_cannot_be_printed_is_refused_before_the_model_runs(folder, tiny_text_model, tmp_path, refusal):
    """It would be a label of the record, the page and the picture."""
    for file in ("stats", "map.json"):
        shutil.copy(folder / file, tmp_path)
    questions = (folder / "questions.csv").read_text()
    domain = next(csv.DictReader(questions.splitlines()))["High-level domain"]
    (tmp_path / "questions.csv").write_text(questions.replace(domain, f"{domain}\u202e"))
    run, words = command(tmp_path, tiny_text_model, tmp_path / "findings.md"), "can be printed in 'High-level domain'"
    refusal(measure_findings.main, run, "questions.csv", words, r"\u202e")
    assert not list(tmp_path.glob("findings.*")) and not (tmp_path / "measured").exists()


def test_a_record_that_is_refused_leaves_no_picture(folder, tiny_text_model, tmp_path, refusal):
    """Here by the name of a map, which is that of its folder."""
    (tmp_path / "a\u2028b").mkdir()
    shutil.copy(folder / "map.json", tmp_path / "a\u2028b/drop_map.json")
    (tmp_path / "other").symlink_to("a\u2028b")
    shutil.copy(folder / "measured", tmp_path)
    run = command(folder, tiny_text_model, tmp_path / "findings.md", "--maps", tmp_path / "other/drop_map.json")
    refusal(measure_findings.main, run, "findings.json", "line ends and control characters")
    assert not list(tmp_path.glob("findings.*"))


def test_inputs_of_another_run_are_refused(folder, tiny_text_model, model_copy, tmp_path, refusal):
    main, output = measure_findings.main, tmp_path / "findings.md"
    refusal(main, command(folder, tiny_text_model, output, "--domain-column", "Topic"), "'Topic'", "DOMAIN_COLUMN")
    (tmp_path / "map.json").write_text(json.dumps({"0": [1]}))
    refusal(main, command(folder, tiny_text_model, output, "--maps", tmp_path / "map.json"), "map.json", "3 layers")
    for key in ("weights_sha256", "source_sha256"):  # samples of the weights, and all bytes
        named = json.loads((folder / "map.json").read_text()) | {key: "4" * 64}
        (tmp_path / "map.json").write_text(json.dumps(named))
        asked = command(folder, tiny_text_model, output, "--maps", tmp_path / "map.json")
        refusal(main, asked, key, "that of another model")
    (model_copy / "config.json").write_text((model_copy / "config.json").read_text() + " ")
    refusal(main, command(folder, model_copy, output), model_copy, "config")
    other = shutil.copytree(folder, tmp_path / "other")
    text = (other / "questions.csv").read_text()
    (other / "questions.csv").write_text(text.replace("Recall", "Remember", 1))
    refusal(main, command(other, tiny_text_model, output), "questions.csv", "another question")
    (tmp_path / "measured").write_text("mine")
    refusal(main, command(folder, tiny_text_model, output), "measured", "or nothing")
    described = {"measured": json.dumps({"inputs": ["config_sha256"], "layers": []})}
    (tmp_path / "measured").write_bytes(save({name: np.zeros(1) for name in measured_model.KEPT}, described))
    refusal(main, command(folder, tiny_text_model, output), "measured", "or nothing")
    arrays = load_file(folder / "measured")
    norms, counts = (arrays[name] for name in ("weighted_norm_sum", "norms"))
    with safe_open(folder / "measured", "numpy") as file:
        described = file.metadata()
    for damaged in ({"weighted_norm_sum": counts, "norms": norms}, {"weighted_norm_sum": -norms}):
        (tmp_path / "measured").write_bytes(save(arrays | damaged, described))
        refusal(main, command(folder, tiny_text_model, output), "measured", "or nothing")
    assert sorted(path.name for path in tmp_path.iterdir() if "finding" in path.name or "partial" in path.name) == []


@pytest.mark.parametrize("family", ["mixtral", "deepseek_v3"])
def test_other_families(family, tmp_path):
    model = build_family_model(tmp_path / "model", family, DEMO / "model", torch.bfloat16)
    write_analysis(tmp_path, model)
    measure_findings.main(command(tmp_path, model, tmp_path / "findings.md", "--stream-layers"))
    found = read_record(tmp_path / "findings.json", Findings)
    layers = [1, 2] if family == "deepseek_v3" else [0, 1, 2]
    assert [entry["layer"] for entry in found["outputs"]] == layers
    assert {entry["pairs"] for entry in found["weights"]} == {EXPERTS * (EXPERTS - 1) // 2}


def test_the_choice_by_a_protecting_criterion_is_that_of_its_map(folder, tiny_text_model, tmp_path):
    """A map by norm-plus-count is the map that the findings make of that criterion."""
    other = tmp_path / "by-norm-plus-count.json"
    chosen = ["--stats", str(folder / "stats"), "--output", str(other), "--protect-top", "4", "--keep", str(KEEP)]
    choose([*chosen, "--bootstrap", "5", "--criterion", "norm-plus-count"])
    again = tmp_path / "findings.md"
    measured = ["--measured", str(folder / "measured"), "--maps", str(other)]
    measure_findings.main([*command(folder, tiny_text_model, again, "--stored"), *measured])
    pairs = {pair["name"]: pair for pair in read_record(again.with_suffix(".json"), Findings)["maps"]}
    assert pairs["norm-plus-count"]["dropped"]["differ"] == pairs[other.stem]["dropped"]["differ"]


def of_norms(arrays: dict[str, np.ndarray], layers: list[dict]) -> None:
    arrays["weighted_norm_sum"] *= 1.5


def of_counts(arrays: dict[str, np.ndarray], layers: list[dict]) -> None:
    arrays["norms"] += 1


def of_bf16(arrays: dict[str, np.ndarray], layers: list[dict]) -> None:
    arrays["weighted_norm_bf16"] *= 1.1


def of_cosine(arrays: dict[str, np.ndarray], layers: list[dict]) -> None:
    layers[0]["weights"][0]["largest"] = 0.01


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda arrays, layers: None, ""),
        (of_norms, "the weighted norms of the statistics"),
        (of_counts, "as many norms as the statistics count"),
        (of_bf16, "norms in bf16 near those in fp32"),
        (of_cosine, "as the checkpoint has it"),
    ],
)
def test_a_stored_pass_is_held_against_statistics_and_weights(
    folder, tiny_text_model, tmp_path, refusal, damage, words
):
    with safe_open(folder / "measured", framework="numpy") as file:
        described = json.loads(file.metadata()["measured"])
    arrays = load_file(folder / "measured")
    damage(arrays, described["layers"])
    path = tmp_path / "measured"
    measured_model.write_measured(path, described["inputs"], (arrays, described["layers"]))
    arguments = command(folder, tiny_text_model, tmp_path / "findings.md", "--stored")
    if words:
        refusal(measure_findings.main, arguments, path, words)
        assert not (tmp_path / "findings.json").exists()
    else:
        measure_findings.main(arguments)
        assert path.read_bytes() == (folder / "measured").read_bytes()
