"""The quants of a release, as one table: base type of llama-quantize, flags, overrides, and a line for people.

Names and notes follow the model card; what llama-quantize makes of a type: llama.cpp tools/quantize/README.md.
`EDGES` puts embedding and output at Q8_0, as the card's _L and _XL quants have them. A recipe is a base type plus
overrides (regular expression of tensor names, ggml type); a recipe with `tiers` gets its overrides from layer_tiers.py.
Which recipes need an imatrix is not written here: llama-quantize is asked (quant_plan.py). `CD_RECIPES` are the named
ways to make the ContribDynamic quants.
"""

import difflib
import re
from dataclasses import dataclass, field, replace

from files.input_errors import InputError
from files.safe_files import GIB

TARGET_SIZE = re.compile(r"AUTO-(\d+(?:\.\d+)?)")
PADDED = ("experts", "dense")  # the roles of ggufs/gguf_padding.py
EDGES = ("--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0")


@dataclass(frozen=True)
class Recipe:
    """One quant.

    name, base: its name and the llama-quantize type it builds on; note: a line for people; flags: extra flags;
    overrides: (pattern, ggml type) pairs, the first match wins; tiers: ggml types of the layers of high, middle and low
    contribution; larger_than: the recipe that its file must exceed; opt_in: built only when asked for; pad: roles
    whose MLPs are padded first (ggufs/gguf_padding.py).
    """

    name: str
    base: str
    note: str
    flags: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    tiers: tuple[str, ...] = ()
    larger_than: str = ""
    opt_in: bool = False
    pad: tuple[str, ...] = ()

    @property
    def arguments(self) -> list[str]:
        """The flags of llama-quantize, overrides included."""
        return [
            *self.flags,
            *(part for pattern, kind in self.overrides for part in ("--tensor-type", f"{pattern}={kind}")),
        ]


# One recipe per line: the Makefile reads the names of the known quants from here.
TABLE = (
    Recipe("F16", "F16", "full precision"),
    Recipe("Q8_0", "Q8_0", "near-lossless, large"),
    Recipe("Q6_K_L", "Q6_K", "Q6_K with embedding and output at Q8_0", EDGES, larger_than="Q6_K"),
    Recipe("Q6_K", "Q6_K", "very high quality"),
    Recipe("Q5_K_L", "Q5_K_M", "Q5_K_M with embedding and output at Q8_0", EDGES, larger_than="Q5_K_M"),
    Recipe("Q5_K_M", "Q5_K_M", "high quality"),
    Recipe("Q5_K_S", "Q5_K_S", "high quality, a little smaller"),
    Recipe("Q4_K_L", "Q4_K_M", "Q4_K_M with embedding and output at Q8_0", EDGES, larger_than="Q4_K_M"),
    Recipe("Q4_K_M", "Q4_K_M", "the usual choice"),
    Recipe("Q4_K_S", "Q4_K_S", "a little smaller and worse than Q4_K_M"),
    Recipe("Q4_1", "Q4_1", "legacy 4-bit"),
    Recipe("Q4_0", "Q4_0", "legacy 4-bit"),
    Recipe("IQ4_NL", "IQ4_NL", "4-bit, non-linear"),
    Recipe("IQ4_XS", "IQ4_XS", "smaller than Q4_K_S"),
    Recipe("Q3_K_XL", "Q3_K_L", "Q3_K_L with embedding and output at Q8_0", EDGES, larger_than="Q3_K_L"),
    Recipe("Q3_K_L", "Q3_K_L", "3-bit, the larger mixture"),
    Recipe("Q3_K_M", "Q3_K_M", "3-bit, lower quality"),
    Recipe("Q3_K_S", "Q3_K_S", "3-bit, low quality"),
    Recipe("IQ3_M", "IQ3_M", "3-bit i-quant"),
    Recipe("IQ3_XS", "IQ3_XS", "3-bit i-quant, smaller"),
    Recipe("IQ3_XXS", "IQ3_XXS", "3-bit i-quant, smallest"),
    Recipe("IQ2_M", "IQ2_M", "2-bit i-quant, lossy"),
    Recipe("IQ2_S", "IQ2_S", "2-bit i-quant, low quality"),
    Recipe("IQ2_XS", "IQ2_XS", "2-bit i-quant, very low quality"),
    Recipe("IQ2_XXS", "IQ2_XXS", "2-bit i-quant, smallest"),
    # ContribDynamic. The base is the mixture of the low tier: it types what the tiers leave alone. With layers 0 /
    # 1-10 / 11-29 of the 26B the first three have the card's sizes to 0.2 GiB. What the recipe `card` makes otherwise
    # stands in CD_RECIPES.
    Recipe("CD-Q6_K", "Q5_K_M", "layers at Q8_0, Q6_K, Q5_K by contribution", tiers=("q8_0", "q6_K", "q5_K")),
    Recipe("CD-Q5_K_M", "Q4_K_M", "layers at Q6_K, Q5_K, Q4_K by contribution", EDGES, tiers=("q6_K", "q5_K", "q4_K")),
    Recipe("CD-Q4_K_M", "Q3_K_M", "layers at Q5_K, Q4_K, Q3_K by contribution", EDGES, tiers=("q5_K", "q4_K", "q3_K")),
    Recipe("CD-Q3_K_M", "Q2_K", "layers at Q4_K, Q3_K, Q2_K by contribution", EDGES, tiers=("q4_K", "q3_K", "q2_K")),
    Recipe("CD-Q2_K", "Q2_K", "layers at Q3_K, Q2_K, IQ2_S by contribution", EDGES, tiers=("q3_K", "q2_K", "iq2_s")),
    Recipe("Q2_K", "Q2_K", "2-bit k-quant", opt_in=True),
    Recipe("MXFP4_MOE", "MXFP4_MOE", "experts in MXFP4", opt_in=True),
    # Padded: for models whose rows of 704 or 2112 the small types do not fit. Where they fit, these are refused. Larger
    # ones do not pay (docs/quants.md): Q2_K is hardly smaller when padded, and Q4_K has more error than its fallback.
    Recipe("PAD-IQ3_XXS", "IQ3_XXS", "IQ3_XXS of MLPs padded to multiples of 256", opt_in=True, pad=PADDED),
    Recipe("PAD-IQ2_M", "IQ2_M", "IQ2_M of MLPs padded to multiples of 256", opt_in=True, pad=PADDED),
    Recipe("PAD-IQ2_S", "IQ2_S", "IQ2_S of MLPs padded to multiples of 256", opt_in=True, pad=PADDED),
    Recipe("PAD-IQ2_XS", "IQ2_XS", "IQ2_XS of MLPs padded to multiples of 256", opt_in=True, pad=PADDED),
    Recipe("PAD-IQ2_XXS", "IQ2_XXS", "IQ2_XXS of MLPs padded to multiples of 256", opt_in=True, pad=PADDED),
)
RECIPES = {recipe.name: recipe for recipe in TABLE}


@dataclass(frozen=True)
class CdRecipe:
    """A named way to make the CD quants.

    layers: of CD_DEPTH layers, how many are of high, middle and low contribution; changes: by quant, what is otherwise
    than in TABLE.
    """

    layers: tuple[int, int, int]
    changes: dict[str, dict] = field(default_factory=dict)

    @property
    def cuts(self) -> tuple[float, float]:
        """The shares of the layers at which the high and the middle tier end: so it scales to any depth."""
        high, middle, _ = self.layers
        return high / CD_DEPTH, (high + middle) / CD_DEPTH

    def of(self, recipe: Recipe) -> Recipe:
        """Return the quant of TABLE as this way makes it."""
        return replace(recipe, **self.changes.get(recipe.name, {}))


CD_DEPTH = 30  # layers of the 26B, which the card's tiers are given for
CD_RECIPES = {
    "ours": CdRecipe((1, 10, 19)),
    # The card's tiers, and Q8_0 embedding and output in every file. Its text names Q2_K for the low tier of CD-Q3_K_M,
    # but that file would have 9.12 GiB, and the card's has 10.37; with Q3_K (or IQ3_S, of the same size) it has 10.12,
    # as much below the card as CD-Q5_K_M and CD-Q4_K_M are.
    "card": CdRecipe(
        (1, 7, 22),
        {
            "CD-Q6_K": {"flags": EDGES},
            "CD-Q3_K_M": {
                "base": "Q3_K_M",
                "note": "layers at Q4_K, Q3_K, Q3_K by contribution",
                "tiers": ("q4_K", "q3_K", "q3_K"),
            },
        },
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name; raise InputError, offering the nearest names, when there is none."""
    if name not in RECIPES:
        nearest = difflib.get_close_matches(name.upper(), RECIPES, n=3, cutoff=0.3) or list(RECIPES)
        raise InputError("--type", f"a known quant such as {', '.join(nearest)}", name)
    return RECIPES[name]


def target_bytes(name: str) -> int | None:
    """Return the target size in bytes of a name such as AUTO-10.5 (GiB); None when it names none."""
    match = TARGET_SIZE.fullmatch(name)
    return int(float(match[1]) * GIB) if match else None


def type_in_name(stem: str) -> str | None:
    """Return the quant that a file's name ends with, such as CD-Q4_K_M of demo-CD-Q4_K_M; None where it ends with none.

    stem: the name without .gguf. Cards and tables take a file's type from there.
    """
    ends = [name for name in RECIPES if re.search(rf"(^|-){re.escape(name)}$", stem)]
    target = re.search(rf"(?:^|-)({TARGET_SIZE.pattern})$", stem)
    return target[1] if target else max(ends, key=len, default=None)  # CD-Q4_K_M ends with Q4_K_M, too


def check_quant(name: str) -> None:
    """Raise InputError unless a name is a target size or a known recipe's."""
    if target_bytes(name) is None:
        find_recipe(name)
