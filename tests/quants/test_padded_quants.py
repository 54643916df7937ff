"""Padded quants: plans of the 26B, files equal to their plan, and AUTO with padding never worse than without."""

import json
from pathlib import Path

import measure_sensitivity
import plan_quants
import quantize_gguf
from calls import call
from cards.card_tables import padding_in_words
from files.input_errors import sha256_file
from files.safe_files import GIB, gib
from gates.lineage import Lineage, architecture_of
from gates.written_again import plan_breaks, quantised_lines, recipe_of
from ggufs.gguf_header import read_header
from ggufs.gguf_padding import DENSE, EXPERTS, widths_in
from llama.llama_tools import find_llama_cpp
from makers.quantize_runs import quantize_arguments
from makers.shared_ggufs import demo_ggufs, made_in, shared_folder
from makers.tiny_models import build_tiny_model, text_config
from plan_quants import disk_line, padding_notes
from quants import target_sizes
from quants.quant_plan import plan_quant
from quants.recipes import RECIPES, target_bytes
from quants.target_sizes import ways_to_pad
from release.gguf_facts import facts_of

import pytest

WIDTHS = {EXPERTS: [224, 256], DENSE: [448, 512]}


@pytest.fixture(scope="module")
def ragged(demo_model, tmp_path_factory, monkeypatch_module) -> Path:
    """A folder with F16.gguf, text.txt and imatrix.gguf of a tiny model whose widths are no multiples of 256."""
    changes = {"moe_intermediate_size": 224, "intermediate_size": 448, "hidden_size": 256, "num_experts": 8}
    monkeypatch_module.setattr("makers.tiny_models.text_config", lambda size: text_config(size, **changes))
    checkpoint = build_tiny_model(tmp_path_factory.mktemp("ragged") / "model", "text", demo_model)
    return made_in(shared_folder(tmp_path_factory, "ragged-ggufs"), checkpoint, "ragged")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def plan(tmp_path: Path, *options: object) -> dict[str, dict]:
    """Return the rows of a plan by name."""
    call(plan_quants.main, *options, "--output", tmp_path / "plan.json")
    return {row["name"]: row for row in json.loads((tmp_path / "plan.json").read_text())["quants"]}


def test_small_files_of_the_26b_are_as_small_as_their_names_say(tmp_path):
    names = ["PAD-IQ2_XXS", "IQ2_XXS", "PAD-IQ2_M", "AUTO-6.5", "AUTO-5"]
    rows = plan(tmp_path, "--shape", "gemma-4-26b-a4b", "--keep", 109, "--types", *names)
    sizes = {name: round(row["bytes"] / GIB, 2) for name, row in rows.items() if "bytes" in row}
    assert sizes["PAD-IQ2_XXS"] == 6.07 and sizes["IQ2_XXS"] == 7.51 and sizes["PAD-IQ2_M"] == 7.44
    assert 0.99 * 6.5 * GIB < rows["AUTO-6.5"]["bytes"] <= 6.5 * GIB and not rows["AUTO-6.5"]["fallback_of"]
    # 768 for 704 in the experts, 2304 for 2112 in the dense MLP: what a padded F16 file takes for a time.
    wider = rows["PAD-IQ2_M"]["padded_f16_bytes"]
    assert round(wider / GIB, 1) == 44.1
    assert f"a padded one of {gib(wider)} GiB" in disk_line([*rows.values()], 0, tmp_path)
    assert "padded_f16_bytes" not in rows["IQ2_XXS"] and not padding_notes([*rows.values()])
    (note,) = padding_notes([rows["PAD-IQ2_M"] | {"bytes": rows["PAD-IQ2_M"]["usual_bytes"] + 1}])
    assert note.startswith("PAD-IQ2_M is larger than Q4_K_M without padding (13.5")
    assert "AUTO-5" in rows["AUTO-5"]["refused"] and "lowest types" in rows["AUTO-5"]["refused"]


def test_padded_files_equal_their_plan_and_pass_the_gates_of_a_release(ragged, tmp_path, capsys):
    source = ("--source", ragged / "F16.gguf", "--imatrix", ragged / "imatrix.gguf")
    rows = plan(tmp_path, *source, "--types", "PAD-IQ2_XXS", "IQ2_XXS")
    output = tmp_path / "PAD-IQ2_XXS.gguf"
    quantize_gguf.main(quantize_arguments(ragged, "PAD-IQ2_XXS", output))
    record = json.loads(Path(f"{output}.json").read_text())
    assert output.stat().st_size == rows["PAD-IQ2_XXS"]["bytes"] == record["bytes"] < rows["IQ2_XXS"]["bytes"]
    assert {t.name: t.kind.name for t in read_header(output).tensors} == rows["PAD-IQ2_XXS"]["types"]
    assert record["padded"] == widths_in(read_header(output)) == WIDTHS
    assert padding_in_words(record) == ". Padded: experts 224 to 256, dense 448 to 512"
    assert record["source_sha256"] == sha256_file(ragged / "F16.gguf")  # the padded model is nobody's input
    assert record["imatrix_sha256"] == sha256_file(ragged / "imatrix.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {output.name, f"{output.name}.json", "plan.json"}
    assert [what for what, expected, found in facts_of(record, output) if expected != found] == []
    assert architecture_of(read_header(output)) == architecture_of(read_header(ragged / "F16.gguf"))
    assert refusals(ragged, record, output) == []
    assert "gemma4.expert_feed_forward_length" in refusals(ragged, {**record, "padded": {}}, output)[0]
    for lie in ({"padded": {EXPERTS: [224, 256]}}, {"parameters": record["parameters"] + 1}, {"type": "IQ2_XXS"}):
        assert [what for what, expected, found in facts_of({**record, **lie}, output) if expected != found], lie
    capsys.readouterr()
    quantize_gguf.main(quantize_arguments(ragged, "PAD-IQ2_XXS", output))
    assert "built already" in capsys.readouterr().out


def test_where_nothing_is_ragged_there_is_nothing_to_pad(ragged, tmp_path, tmp_path_factory, refusal):
    assert all(recipe.base == name.removeprefix("PAD-") for name, recipe in RECIPES.items() if recipe.pad)
    assert ways_to_pad(read_header(ragged / "F16.gguf")) == [(), (EXPERTS,), (DENSE,), (EXPERTS, DENSE)]
    # The demo's widths of 32 and 128 would become many times as wide: AUTO files of it are as they were.
    assert ways_to_pad(read_header(demo_ggufs(tmp_path_factory) / "F16.gguf")) == [()]


def test_an_auto_file_pads_where_that_costs_less_and_is_never_worse_than_without(
    ragged, demo_model, few_questions, tmp_path, monkeypatch
):
    # Without IQ2_S and IQ2_XS: for each file that has one, llama-quantize computes for seconds before it begins.
    monkeypatch.setattr(target_sizes, "WIDE", ("Q8_0", "Q6_K", "Q4_K", "Q3_K", "Q2_K", "IQ2_XXS"))
    sensitivity, inputs = tmp_path / "s.json", ("--input", ragged / "F16.gguf", "--imatrix", ragged / "imatrix.gguf")
    measure = ("--model", demo_model, "--questions", few_questions, "--threads", 1, "--limit", 2)
    call(measure_sensitivity.main, *inputs, *measure, "--output", sensitivity)
    found = json.loads(sensitivity.read_text())
    assert {"Q4_0", "Q3_K", "IQ2_XXS"} <= found["roles"]["experts, down"].keys() and found["inputs"]["padded"]
    source, padded_somewhere = ("--source", ragged / "F16.gguf", "--imatrix", ragged / "imatrix.gguf"), False
    small = (ragged / "F16.gguf").stat().st_size / GIB
    for share in (0.2, 0.3, 0.45):
        name = f"AUTO-{share * small:.6f}"
        args = (*source, "--sensitivity", sensitivity, "--types", name)
        with_padding = plan(tmp_path, *args)[name]
        without = plan(tmp_path, *args, "--no-padding")[name]
        assert "refused" in without or expected_kld(with_padding) <= expected_kld(without)
        assert with_padding["bytes"] <= target_bytes(name)
        output = tmp_path / f"{name}.gguf"
        quantize_gguf.main(quantize_arguments(ragged, name, output, "--sensitivity", sensitivity))
        assert output.stat().st_size == with_padding["bytes"]
        record = json.loads(Path(f"{output}.json").read_text())
        assert [what for what, expected, got in facts_of(record, output) if expected != got] == []
        assert refusals(ragged, record, output) == []
        padded_somewhere |= bool(record.get("padded"))
    assert padded_somewhere


def refusals(ragged: Path, record: dict, output: Path) -> list[str]:
    """Return what the gate "headers" of a release says of a file and its record."""
    own, tool = read_header(ragged / "F16.gguf"), find_llama_cpp(None).tool("llama-quantize")
    lineage = Lineage("ragged", {}, {}, {"origins": {"imatrix": ragged / "imatrix.gguf.json"}})
    plan = plan_quant(tool, recipe_of(record), own, ragged / "imatrix.gguf")
    planned = plan_breaks(output, record, plan, own.experts)
    return [*quantised_lines(lineage, record, output, own), *map(str, planned)]


def expected_kld(row: dict) -> float:
    """Return what a plan's note expects."""
    return float(row["note"].rsplit("expected KLD ", 1)[1].split()[0])
