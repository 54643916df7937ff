"""The plan: the model card's sizes, sparse headers against the real converter, what is refused."""

import contextlib
import io
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import plan_quants
from calls import call
from choice.expert_stats import write_stats
from choice.stats_record import EXPERT_SUMS, LAYER_SUMS
from conftest import REPO
from files.input_errors import InputError
from files.safe_files import GIB
from files.seals import MARKER
from ggufs.gguf_header import GgufHeader, read_header
from makers.make_runs import write_known_speed
from makers.shared_ggufs import demo_ggufs, tiny_ggufs
from quants.layer_tiers import RULES, cut, parse_tiers, tiers_from_stats, with_tiers
from quants.quant_plan import plan_quant, write_imatrix_stand_in
from quants.recipes import CD_RECIPES, EDGES, RECIPES
from quants.sparse_gguf import from_checkpoint, from_config

import numpy as np
import pytest

# GiB, from the model card (there "GB")
CARD = {
    "F16": 40.72,
    "Q8_0": 21.65,
    "Q6_K_L": 18.40,
    "Q6_K": 18.23,
    "Q5_K_L": 15.59,
    "Q5_K_M": 15.42,
    "Q5_K_S": 14.51,
    "Q4_K_L": 13.71,
    "Q4_K_M": 13.54,
    "Q4_K_S": 12.48,
    "Q4_1": 12.89,
    "Q4_0": 11.67,
    "IQ4_NL": 11.67,
    "IQ4_XS": 11.25,
    "Q3_K_XL": 10.90,
    "Q3_K_L": 11.18,
    "Q3_K_M": 10.74,
    "Q3_K_S": 9.88,
    "IQ3_M": 10.03,
    "IQ3_XS": 9.41,
    "IQ3_XXS": 9.14,
    "IQ2_M": 8.39,
    "IQ2_S": 7.99,
    "IQ2_XS": 7.94,
    "IQ2_XXS": 7.52,
}
CUTS = CD_RECIPES["ours"].cuts
CARD_CD = {"CD-Q6_K": 15.80, "CD-Q5_K_M": 13.51, "CD-Q4_K_M": 11.08, "CD-Q3_K_M": 10.37}


@pytest.fixture(scope="module")
def card_plan(tmp_path_factory) -> dict:
    """The plan of the 109-expert 26B: quant name -> row; "stdout" -> the page."""
    path, page = tmp_path_factory.mktemp("plan") / "plan.json", io.StringIO()
    with contextlib.redirect_stdout(page):
        flags = ["--shape", "gemma-4-26b-a4b", "--keep", 109, "--cd-tiers", "0/1-10/11-29"]
        call(plan_quants.main, *flags, "--output", path)
    return {row["name"]: row for row in json.loads(path.read_text())["quants"]} | {"stdout": page.getvalue()}


def test_the_cards_sizes_are_planned(card_plan):
    sizes = {name: card_plan[name]["bytes"] / GIB for name in CARD}
    for name in CARD.keys() - {"Q3_K_XL"}:
        assert sizes[name] == pytest.approx(CARD[name], abs=0.03), name
    assert sizes["Q3_K_XL"] == pytest.approx(11.35, abs=0.03) and sizes["Q3_K_XL"] > sizes["Q3_K_L"]
    assert sizes["Q3_K_M"] + sizes["Q3_K_XL"] - sizes["Q3_K_L"] == pytest.approx(CARD["Q3_K_XL"], abs=0.03)
    assert "that file is Q3_K_M" in card_plan["stdout"]
    assert len(CARD) == 25


def test_the_tiers_of_contrib_dynamic_are_typed(card_plan):
    types = card_plan["CD-Q5_K_M"]["types"]
    tiers = [types[f"blk.{layer}.ffn_gate_up_exps.weight"] for layer in (0, 1, 10, 11, 29)]
    assert tiers == ["Q6_K", "Q5_K", "Q5_K", "Q4_K", "Q4_K"]
    assert types["blk.11.ffn_down_exps.weight"] == "Q5_0" and types["token_embd.weight"] == "Q8_0"


def test_the_table_of_cd_recipes_in_the_docs_is_planned(tmp_path):
    """docs/quants.md compares each recipe's sizes with the card's: each figure there is planned again."""
    shape, columns = ("--shape", "gemma-4-26b-a4b", "--keep", 109), []
    for flags in (("ours",), ("card",), ("card", "--cd-protect", "attention")):
        path = tmp_path / "plan.json"
        call(plan_quants.main, *shape, "--cd-recipe", *flags, "--types", *CARD_CD, "--output", path)
        columns.append({row["name"]: row["bytes"] / GIB for row in json.loads(path.read_text())["quants"]})
    rows = []
    for name, size in CARD_CD.items():
        cells = [f"{column[name]:.2f} ({round(column[name], 2) - size:+.2f})" for column in columns]
        rows.append(f"| {' | '.join([name, f'{size:.2f}', *cells])} |")
    page = (REPO / "docs/quants.md").read_text()
    assert not [row for row in rows if row not in page], "\n".join(rows)
    # The card's text names Q2_K for the low tier of CD-Q3_K_M. That file would be far smaller.
    low = RECIPES["CD-Q3_K_M"]
    assert low.tiers[2] == "q2_K" and CD_RECIPES["card"].of(low).tiers == ("q4_K", "q3_K", "q3_K")
    assert columns[0]["CD-Q3_K_M"] < CARD_CD["CD-Q3_K_M"] - 1 < columns[1]["CD-Q3_K_M"]


def test_a_cd_recipe_scales_to_other_depths():
    card = CD_RECIPES["card"].cuts
    assert [len(tier) for tier in cut(list(range(30)), card)] == [1, 7, 22]
    assert [len(tier) for tier in cut(list(range(48)), card)] == [2, 11, 35]  # 1.6, 12.8 rounded to 2, 13
    assert [len(tier) for tier in cut(list(range(3)), card)] == [1, 1, 1]  # no tier is empty where there are layers
    assert [len(tier) for tier in cut(list(range(30)), CUTS)] == [1, 10, 19]


def test_protected_attention_is_typed_before_the_tiers():
    tiers = ((1,), (0,), (2,))
    recipe = with_tiers(CD_RECIPES["card"].of(RECIPES["CD-Q6_K"]), tiers, (0, 1, 2), "all", "attention")
    # Layer 1 is at Q8_0 and layer 0 at Q6_K already.
    assert recipe.overrides[0] == (r"^blk\.(2)\.attn_\w+\.weight", "q6_K") and len(recipe.overrides) == 4
    assert recipe.flags == EDGES and recipe.note.endswith(", attention at Q6_K or more")
    low = with_tiers(RECIPES["CD-Q4_K_M"], tiers, (0, 1, 2), "experts", "attention")
    assert low.overrides[0] == (r"^blk\.(0|1|2)\.attn_\w+\.weight", "q6_K")


def test_rows_that_no_256_block_fits_are_named_with_the_type_they_miss(card_plan):
    row, name = card_plan["Q4_K_M"], "blk.4.ffn_down_exps.weight"
    assert (row["types"][name], row["fallback_of"][name]) == ("Q5_0", "Q4_K")
    assert len(row["fallback_of"]) == 60 and "Q5_0<Q4_K 32" in card_plan["stdout"]


def test_which_recipes_need_an_imatrix_is_asked_not_listed(card_plan):
    needing = {name for name, row in card_plan.items() if name != "stdout" and row["needs_imatrix"]}
    assert needing == {"IQ3_XS", "IQ3_XXS", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "CD-Q2_K"}
    assert "IQ2_S" in card_plan["CD-Q2_K"]["imatrix_reason"]


def test_the_plan_covers_every_recipe_that_is_not_opt_in(card_plan):
    assert card_plan.keys() - {"stdout"} == {name for name, recipe in RECIPES.items() if not recipe.opt_in}


@pytest.fixture(scope="module")
def sparse(tiny_text_model, tools, tmp_path_factory) -> GgufHeader:
    """The tiny model's header, written by the converter without data."""
    return from_checkpoint(tiny_text_model, tools, "tiny", tmp_path_factory.mktemp("sparse") / "sparse.gguf")


def test_a_config_alone_gives_the_tensors_that_the_converter_writes(tiny_text_model, sparse, tmp_path):
    config = json.loads((tiny_text_model / "config.json").read_text())
    ours = from_config(tiny_text_model, config, "tiny", tmp_path / "ours.gguf")
    as_set = [{(t.name, t.dims, t.kind) for t in header.tensors} for header in (ours, sparse)]
    assert as_set[0] == as_set[1] and len(as_set[0]) == len(sparse.tensors)
    scalars = {pair.key: pair.value for pair in sparse.key_values if pair.value is not None}
    for pair in ours.key_values:
        assert pair.value is None or scalars[pair.key] == pytest.approx(pair.value), pair.key


def test_the_header_without_data_is_the_converters_and_takes_no_room(tiny_text_model, sparse, tmp_path_factory):
    real = read_header(tiny_ggufs(tmp_path_factory, tiny_text_model) / "F16.gguf")
    first = min(tensor.offset for tensor in real.tensors)
    assert sparse.path.read_bytes()[:first] == real.path.read_bytes()[:first]
    assert sparse.path.stat().st_size == real.path.stat().st_size
    assert os.stat(sparse.path).st_blocks * 512 < first + 65536


def plan_page(capsys, *arguments: object) -> str:
    """Return the page that plan_quants.py prints."""
    capsys.readouterr()
    call(plan_quants.main, *arguments)
    return capsys.readouterr().out


def test_without_an_imatrix_a_recipe_is_refused_in_the_table_with_the_tensor(demo_model, tiny_text_model, capsys):
    types = ("--types", "Q4_K_M", "CD-Q2_K", "--no-imatrix")
    page = plan_page(capsys, "--source", demo_model / "config.json", "--keep", 109, *types)
    row = next(line for line in page.splitlines() if line.startswith("| CD-Q2_K"))
    assert "refused: expected an imatrix" in row and "IQ2_S" in row and "blk.2." in row
    assert "Disk in all" in page
    types = ("--types", "Q4_K_M", "CD-Q2_K", "--no-imatrix", "CD-Q2_K")  # of one quant alone
    page = plan_page(capsys, "--source", demo_model / "config.json", "--keep", 109, *types)
    assert (
        page.count("refused: expected an imatrix") == 1 and "CD recipe: ours (tiers of 1/10/19 of 30 layers)." in page
    )
    types = ("--types", "Q4_K_M", "CD-Q2_K", "--no-imatrix")
    # All rows of the tiny model are too narrow for IQ2_S and fall back, so there the same recipe needs none.
    page = plan_page(capsys, "--source", tiny_text_model / "config.json", *types)
    assert "refused" not in page and "IQ4_NL<IQ2_S" in page


def test_bad_plans_are_refused_in_one_line(tiny_text_model, tmp_path, refusal):
    def plan(*arguments: object, words: tuple) -> None:
        refusal(plan_quants.main, [*arguments, "--types", "Q4_K_M"], *words)

    plan("--shape", "gemma-5", words=("gemma-4-26b-a4b", "gemma-5"))
    plan("--shape", "gemma-4-26b-a4b", "--keep", 129, words=("129", "128"))
    plan("--source", tmp_path / "nothing", words=(tmp_path / "nothing", "Hub id"))
    plan("--source", "nobody/nothing", words=("nobody/nothing", "SHAPE"))
    (tmp_path / "dense.json").write_text(json.dumps({"model_type": "llama"}))
    plan("--source", tmp_path / "dense.json", words=("dense.json", "Gemma 4", "llama"))
    config = json.loads((tiny_text_model / "config.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps({key: value for key, value in config.items() if key != "head_dim"}))
    plan("--source", tmp_path / "part.json", words=("part.json", "head_dim"))
    plan("--source", REPO / "README.md", words=("README.md", "GGUF"))
    refusal(plan_quants.main, ["--shape", "gemma-4-26b-a4b", "--types", "Q4_KM"], "Q4_K_M", "Q4_KM")
    refusal(plan_quants.main, ["--shape", "gemma-4-26b-a4b", "--types", "CD-Q6_K", "--cd-tiers", "0,1"], "0/1-10/11-29")


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_experts", "16"),
        ("hidden_size", -5),
        ("vocab_size", 0),
        ("moe_intermediate_size", 70.5),
        ("num_key_value_heads", None),
        ("intermediate_size", 1 << 40),
        ("rms_norm_eps", None),
        ("layer_types", ["full_attention"]),
        ("layer_types", False),
    ],
)
def test_an_impossible_value_of_a_config_is_refused(tiny_text_model, tmp_path, refusal, key, value):
    config = json.loads((tiny_text_model / "config.json").read_text())
    (tmp_path / "part.json").write_text(json.dumps({**config, key: value}))
    arguments = ["--source", tmp_path / "part.json", "--types", "Q4_K_M"]
    refusal(plan_quants.main, arguments, "part.json", key, str(value)[:10])


def test_an_imatrix_that_would_be_refused_is_refused_in_the_plan(tmp_path_factory, capsys, refusal):
    shared = demo_ggufs(tmp_path_factory)
    inputs = ("--source", shared / "F16.gguf", "--imatrix", shared / "imatrix.gguf")
    flags = (*inputs, "--types", "F16", "Q4_K_M", "Q4_K_M")
    whole, pruned = plan_page(capsys, *flags), plan_page(capsys, *flags, "--keep", 109)
    assert "refused" not in whole and whole.count("| Q4_K_M |") == 1
    rows = {line.split(" | ")[0]: line for line in pruned.splitlines()}
    assert "109 experts" in rows["| Q4_K_M"] and "another model" in rows["| Q4_K_M"] and "refused" not in rows["| F16"]
    source = ["--source", shared / "F16.gguf"]
    refusal(plan_quants.main, [*source, "--imatrix", shared / "text.txt"], "text.txt", "GGUF form")
    refusal(plan_quants.main, [*source, "--output", shared / "F16.gguf"], "would overwrite")


def test_tiers_that_leave_a_layer_out_are_refused_in_the_table(capsys):
    page = plan_page(capsys, "--shape", "gemma-4-26b-a4b", "--types", "CD-Q6_K", "--cd-tiers", "0/1-10/11-28")
    assert "refused" in page and "layer 29" in page


def test_make_knows_every_recipe():
    """The Makefile reads the names from the table of recipes, so the table must stay readable for it."""
    done = subprocess.run(["make", "-n", "quants", "QUANTS=Q9"], cwd=REPO, capture_output=True, text=True)
    known = re.search(r"Q9: unknown quant; known: ([\w -]+?)\.  Stop", done.stderr)
    assert known and known[1].split() == list(RECIPES), done.stderr


def test_make_plan_needs_no_file(tmp_path):
    settings = ("SHAPE=gemma-4-26b-a4b", "KEEP=109", "QUANTS=Q6_K", "MMPROJ=F16 F16", f"BUILD={tmp_path}")
    command = ["make", "--no-print-directory", "plan", *settings]
    write_known_speed(tmp_path / "plans/calibration.json")
    (tmp_path / MARKER).touch()
    done = subprocess.run([*command, "DRAFT=data/demo/assistant"], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("Shape gemma-4-26b-a4b with 109 experts")
    assert "| F16 | 43,702," in done.stdout and "| Q6_K | 19,561," in done.stdout
    assert "mtp-Q8_0 (draft model): refused: data/demo/assistant: expected states of 2816 values" in done.stdout
    assert done.stdout.count("mmproj-F16 (for pictures)") == 1
    assert sorted(path.name for path in tmp_path.rglob("*.json")) == ["calibration.json", "gemma-4-26b-a4b.json"]
    assert "\nAnalyse shape-gemma-4-26b-a4b" in done.stdout  # every step, whatever the run has done
    bare = subprocess.run(["make", "-n", *command[1:]], cwd=REPO, capture_output=True, text=True).stdout
    assert "--shape gemma-4-26b-a4b" in bare and "--draft" not in bare  # the run's own one is no part of a shape


def test_layers_are_cut_into_tiers_by_rank():
    assert cut(list(range(30)), CUTS) == ((0,), tuple(range(1, 11)), tuple(range(11, 30)))
    assert cut([2, 0, 1], CUTS) == ((2,), (0,), (1,))
    assert cut([4, 3, 2, 1, 0], (0.4, 0.6)) == ((3, 4), (2,), (0, 1))
    assert parse_tiers("0/1-3,7/4-6") == ((0,), (1, 2, 3, 7), (4, 5, 6))


def test_layers_rank_by_what_their_experts_contribute(tmp_path):
    arrays = {name: np.zeros((1, 3, 2)) for name in EXPERT_SUMS} | {name: np.full((1, 3), 10) for name in LAYER_SUMS}
    arrays["token_count"] = np.full((1, 3, 2), 5)
    arrays["weighted_norm_sum"][0] = [[1, 1], [5, 5], [2, 2]]  # per token: 0.2, 1.0, 0.4
    arrays["moe_output_norm_sum"] = np.array([[30.0, 10.0, 20.0]])
    arrays["layer_numbers"] = np.array([4, 7, 9])
    digests = dict.fromkeys(("questions_sha256", "config_sha256", "weights_sha256"), "0")
    write_stats(tmp_path / "stats.safetensors", arrays, {"questions": [{"id": "q"}], "top_k": 1, **digests})
    assert RULES["weighted-norm"](arrays) == pytest.approx([0.2, 1.0, 0.4])
    assert tiers_from_stats(tmp_path / "stats.safetensors", "weighted-norm", CUTS) == ((7,), (9,), (4,))
    assert tiers_from_stats(tmp_path / "stats.safetensors", "output-norm", CUTS) == ((4,), (9,), (7,))


def test_an_override_to_a_type_that_needs_an_imatrix_counts(tools, tmp_path):
    """The need follows from what tensors end in: a Q4_0 recipe with one override to IQ2_S needs an imatrix."""
    config = json.loads((REPO / "data/shapes/gemma-4-26b-a4b.json").read_text())
    header = from_config(Path("shape"), config, "x", tmp_path / "x.gguf")
    tool = tools.tool("llama-quantize")
    recipe = replace(RECIPES["Q4_0"], overrides=((r"^blk\.3\.attn_q\.weight", "iq2_s"),))
    with pytest.raises(InputError, match="blk.3.attn_q.weight would be IQ2_S"):
        plan_quant(tool, recipe, header, None)
    ragged = replace(RECIPES["Q4_0"], overrides=((r"^blk\.3\.ffn_down\.weight", "iq2_s"),))  # falls back to IQ4_NL
    assert plan_quant(tool, ragged, header, None).types["blk.3.ffn_down.weight"].name == "IQ4_NL"
    write_imatrix_stand_in(tmp_path / "imatrix.gguf", "text")
    assert plan_quant(tool, recipe, header, tmp_path / "imatrix.gguf").types["blk.3.attn_q.weight"].name == "IQ2_S"
