"""The front door to every quant: a name becomes the recipe of one model, its tiers or its target size worked out.

The knapsack of the target sizes (target_sizes.py) is imported when one is asked for: no other quant needs its solver.
"""

import argparse
import re
from pathlib import Path

from files.input_errors import InputError
from files.json_records import read_record
from ggufs.gguf_header import GgufHeader
from quants.layer_tiers import add_tier_arguments, resolve_tiers
from quants.quant_plan import QuantPlan, expert_layers
from quants.recipes import Recipe, find_recipe, target_bytes
from quants.sensitivity_record import Sensitivity

# What sensitivities of two models can share: chats, where these were cut, and what computed. Their model, imatrix and
# the widths that a padding gives follow from the model.
MEASURED_ON = ("questions_sha256", "texts_sha256", "chats", "max_tokens", "versions")


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the groups of options that CD-* and AUTO-<GiB> need."""
    add_tier_arguments(parser)
    add = parser.add_argument_group("target sizes (AUTO-<GiB>)").add_argument
    add("--sensitivity", type=Path, help="file of measure_sensitivity.py")
    add("--no-padding", action="store_true", help="choose among files without padded MLPs only")


def recipe_for(
    args: argparse.Namespace,
    name: str,
    header: GgufHeader,
    tool: Path,
    imatrix: Path | None,
    source: Path | None,
    assume_order: bool = False,
) -> Recipe:
    """Return the recipe of a name for a model: of the table with its tiers resolved, or of a target size.

    source: the file whose digest the sensitivities must name; None when the header stands for a file to come.
    """
    target = target_bytes(name)
    if target is None:
        return resolve_tiers(find_recipe(name), args, expert_layers(header), assume_order)
    from quants.target_sizes import target_recipe

    return target_recipe(name, target, header, tool, imatrix, args.sensitivity, source, not args.no_padding)


def auto_choices(recipe: Recipe, args: argparse.Namespace) -> dict:
    """Return how the types of an AUTO file were chosen, for its record; {} of any other."""
    if target_bytes(recipe.name) is None:
        return {}
    inputs = read_record(args.sensitivity, Sensitivity)["inputs"]
    return {"auto_padding": not args.no_padding, "auto_measured_on": {key: inputs.get(key) for key in MEASURED_ON}}


def check_target(plan: QuantPlan) -> None:
    """Raise InputError when a plan is larger than its target size, or gives a tensor another type than was chosen."""
    target = target_bytes(plan.recipe.name)
    if target is None:
        return
    if plan.size > target:
        raise InputError(plan.recipe.name, f"{target} bytes or fewer", f"a plan of {plan.size}")
    # llama-quantize falls back to another type without an error where rows do not fit, and drops overrides over a float
    # base: the size might still be met, but at other costs than were weighed.
    for name, kind in plan.types.items():
        chosen = next((chosen for pattern, chosen in plan.recipe.overrides if re.search(pattern, name)), None)
        if chosen and chosen.upper() != kind.name:
            raise InputError(plan.recipe.name, f"{name} in {chosen.upper()}", f"{kind.name} in llama-quantize's plan")
