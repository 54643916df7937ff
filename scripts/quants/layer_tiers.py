"""ContribDynamic: layers in three tiers by what their experts contribute, and the tensor types that follow from them.

The model card gives layers of high contribution more bits than the rest. Its tiers are 0 / 1-6 and 10 / 11-29; it does
not name 7 to 9, and its author's files have them in the low tier. Here a rule ranks the layers by the analysis'
statistics and two cuts make the tiers, those of the named recipe (CD_RECIPES of recipes.py has the numbers) or others,
or a user gives the tiers.
"""

import argparse
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from choice.expert_stats import read_stats
from files.input_errors import InputError, sha256_file
from quants.recipes import CD_RECIPES, Recipe

import numpy as np

Tiers = tuple[tuple[int, ...], ...]
DEFAULT_RECIPE = "ours"
PROTECTED = {"attention": r"attn_\w+\.weight"}
PROTECTED_TYPE = "q6_K"
ABOVE_PROTECTED = (PROTECTED_TYPE, "q8_0")  # tiers of these types protect the tensors themselves
SCOPES = {"all": r"(attn|ffn)_\w+\.weight", "experts": r"ffn_\w*_exps\.weight"}


def weighted_norm_rule(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return per layer the mean over tokens of the sum of w_e(x) ||f_e(x)|| over a token's experts, [layers] fp64."""
    return arrays["weighted_norm_sum"].sum(axis=(0, 2)) / np.maximum(arrays["tokens"].sum(axis=0), 1)


def output_norm_rule(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Return per layer the mean over tokens of the norm of the experts' mixed output, [layers] fp64."""
    return arrays["moe_output_norm_sum"].sum(axis=0) / np.maximum(arrays["tokens"].sum(axis=0), 1)


RULES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "weighted-norm": weighted_norm_rule,
    "output-norm": output_norm_rule,
}


def cut(ranked: list[int], cuts: tuple[float, float]) -> Tiers:
    """Return three tiers of layers, each sorted; `ranked` begins with the highest.

    cuts: the share of the layers at which the high and the middle tier end. Every tier has a layer if there are three.
    """
    count = len(ranked)
    # Rounded and then kept apart: in a model of few layers the cuts would else meet and leave a tier empty.
    first = min(max(round(cuts[0] * count), 1), count)
    second = min(max(round(cuts[1] * count), first + 1), max(count - 1, first))
    return tuple(tuple(sorted(part)) for part in (ranked[:first], ranked[first:second], ranked[second:]))


def tiers_from_stats(path: Path, rule: str, cuts: tuple[float, float]) -> Tiers:
    """Return the tiers of a statistics file; layers of equal contribution rank by their number."""
    arrays, _ = read_stats(path)
    # Stable: the tiers of a build must not hang on how a sort treats equal values.
    order = np.argsort(-RULES[rule](arrays), kind="stable")
    return cut(arrays["layer_numbers"][order].tolist(), cuts)


def parse_tiers(text: str) -> Tiers:
    """Return the tiers written as in 0/1-10/11-29 (a tier: numbers and ranges with commas); raise InputError else."""
    if not re.fullmatch(r"(\d+(-\d+)?(,\d+(-\d+)?)*)(/(\d+(-\d+)?(,\d+(-\d+)?)*)){2}", text):
        raise InputError("--cd-tiers", "three tiers such as 0/1-10/11-29", repr(text))
    tiers = []
    for part in text.split("/"):
        ends = [[int(number) for number in piece.split("-")] for piece in part.split(",")]
        layers = {layer for end in ends for layer in range(end[0], end[-1] + 1)}
        tiers.append(tuple(sorted(layers)))
    return tuple(tiers)


def parse_cuts(text: str) -> tuple[float, float]:
    """Return the two cuts written as in 1/30,11/30 or 0.03,0.37; raise InputError unless 0 < first <= second <= 1."""
    try:
        cuts = [float(Fraction(part)) for part in text.split(",")]
    except (ValueError, ZeroDivisionError):
        cuts = []
    if len(cuts) != 2 or not 0 < cuts[0] <= cuts[1] <= 1:
        raise InputError("--cd-cuts", "two rising shares of the layers, such as 1/30,11/30", repr(text))
    return cuts[0], cuts[1]


def tier_override(tier: tuple[int, ...], tensors: str, kind: str) -> tuple[str, str]:
    """Return the override that types the tensors of a pattern in the layers of a tier."""
    return rf"^blk\.({'|'.join(map(str, tier))})\.{tensors}", kind


def with_tiers(
    recipe: Recipe, tiers: Tiers, layers: tuple[int, ...], scope: str, protect: str = "", by_hand: bool = False
) -> Recipe:
    """Return a recipe whose tiers have become overrides; `layers` are the model's layers with experts.

    protect: a key of PROTECTED, whose tensors get at least PROTECTED_TYPE in every layer. by_hand: the tiers were given
    and do not follow from what the layers contribute, which the note says. Raises InputError when the
    tiers are not a partition of the layers, or when the recipe has none.
    """
    placed = [layer for tier in tiers for layer in tier]
    if sorted(placed) != sorted(layers):
        # Either some layer is in no tier or unknown, or, if the sets are equal, in two.
        odd = sorted(set(layers) ^ set(placed)) or sorted({layer for layer in placed if placed.count(layer) > 1})
        raise InputError(
            "tiers", f"each of the {len(layers)} layers in one tier", f"layer {odd[0]} in none, in two, or not there"
        )
    typed = [(tier, kind) for tier, kind in zip(tiers, recipe.tiers, strict=True) if tier]
    # The first match wins in llama-quantize, so a recipe's own overrides and the protected tensors stay ahead.
    overrides = list(recipe.overrides)
    if protect:
        low = [layer for tier, kind in typed if kind not in ABOVE_PROTECTED for layer in tier]
        overrides += [tier_override(tuple(sorted(low)), PROTECTED[protect], PROTECTED_TYPE)] if low else []
    overrides += [tier_override(tier, SCOPES[scope], kind) for tier, kind in typed]
    return replace(recipe, overrides=tuple(overrides), note=note_with(recipe, protect, by_hand))


def note_with(recipe: Recipe, protect: str, by_hand: bool) -> str:
    """Return the note of a recipe with tiers; protect and by_hand as in `with_tiers`."""
    note = recipe.note.replace("by contribution", "given by hand") if by_hand else recipe.note
    return f"{note}, {protect} at {PROTECTED_TYPE.upper()} or more" if protect else note


def add_tier_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose tiers."""
    add = parser.add_argument_group("ContribDynamic (CD-*)").add_argument
    add("--stats", type=Path, help="statistics file that ranks the layers")
    add("--cd-rule", choices=RULES, default="weighted-norm", help="a layer's contribution")
    add("--cd-recipe", choices=CD_RECIPES, default=DEFAULT_RECIPE, help="shares of the tiers, their types and edges")
    cuts = "shares of the layers where the high and the middle tier end (default: those of the recipe)"
    add("--cd-cuts", type=parse_cuts, metavar="A,B", help=cuts)
    add("--cd-tiers", type=parse_tiers, metavar="TIERS", help="tiers by hand, such as 0/1-10/11-29")
    add("--cd-scope", choices=SCOPES, default="all", help="tensors that the tiers type")
    add("--cd-protect", choices=PROTECTED, help=f"tensors that get {PROTECTED_TYPE.upper()} or more in every layer")


def resolve_tiers(
    recipe: Recipe, args: argparse.Namespace, layers: tuple[int, ...], assume_order: bool = False
) -> Recipe:
    """Return the recipe with its tiers, if it has any, turned into overrides.

    Without statistics and tiers it raises InputError. A plan of sizes (`assume_order`) then takes the layers in their
    order: they are nearly of one size, so it hardly matters which ones are high.
    """
    if not recipe.tiers:
        return recipe
    way = CD_RECIPES[args.cd_recipe]
    cuts = args.cd_cuts or way.cuts
    if args.cd_tiers:
        tiers = args.cd_tiers
    elif args.stats:
        tiers = tiers_from_stats(args.stats, args.cd_rule, cuts)
    elif assume_order:
        tiers = cut(list(layers), cuts)
    else:
        raise InputError(recipe.name, "--stats or --cd-tiers, which say how much each layer contributes", "neither")
    return with_tiers(way.of(recipe), tiers, layers, args.cd_scope, args.cd_protect or "", bool(args.cd_tiers))


def cd_choices(recipe: Recipe, args: argparse.Namespace) -> dict:
    """Return what a record says of a CD quant beside its command line, {} of other quants."""
    if not recipe.tiers:
        return {}
    return {
        "cd_scope": args.cd_scope,
        "cd_recipe": args.cd_recipe,
        "cd_protect": args.cd_protect,
        # Tiers by hand are in no need of a rule.
        "cd_rule": None if args.cd_tiers else args.cd_rule,
        "cd_cuts": [*args.cd_cuts] if args.cd_cuts and not args.cd_tiers else None,
        "cd_tiers": "/".join(",".join(map(str, tier)) for tier in args.cd_tiers) if args.cd_tiers else None,
        # Other statistics can give the same tiers. What a file has seen follows from its own.
        "cd_stats_sha256": sha256_file(args.stats) if args.stats and not args.cd_tiers else None,
    }
