"""The findings in words and in rows of tables: for the page of measure_findings.py, the report page and the cards.

Every function takes the record findings.json, or a part of it.
"""

import re

from files.display import code

PLAIN = re.compile(r"(?:[^\W_]|[ &/,.()+-])+")  # of words that mean nothing to Markdown
Row = list[str]
RULE = "A difference is shown if shuffled labels give it in fewer than 5 of 100 cases and its interval is above 0."
CARD_COSINE_WORDS = "0.05, the most that the card of gemma-4-A4B-109e-v3 names"


def percent_of(share: float, decimals: int = 1) -> str:
    """Return a share in per cent."""
    return f"{100 * share:.{decimals}f}%"


def span(interval: list[float], decimals: int = 4) -> str:
    """Return an interval of numbers."""
    return f"{interval[0]:.{decimals}f} to {interval[1]:.{decimals}f}"


def percent_span(interval: list[float], decimals: int = 1) -> str:
    """Return an interval of shares in per cent."""
    return f"{100 * interval[0]:.{decimals}f}% to {100 * interval[1]:.{decimals}f}%"


def points(share: float) -> str:
    """Return a difference of shares in percentage points, with its sign; nothing is below zero after rounding."""
    return f"{round(100 * share, 2) + 0.0:+.2f}"


def with_span(values: list[float] | None, decimals: int = 4) -> str:
    """Return a value with its interval; values: [value, low, high], None where there is none."""
    return "none" if values is None else f"{values[0]:.{decimals}f} ({span(values[1:], decimals)})"


def percent_with_span(values: list[float], decimals: int = 1) -> str:
    """Return a share in per cent with its interval; values: [share, low, high]."""
    return f"{percent_of(values[0], decimals)} ({percent_span(values[1:], decimals)})"


def is_shown(p: float, interval: list[float]) -> bool:
    """Tell whether a difference is shown: chance gives it in fewer than 5 of 100 cases, and its interval is above 0."""
    return p < 0.05 and interval[0] > 0


def inert(name: str) -> str:
    """Return a domain's or a column's name, as code where Markdown could read anything into it: it is a file's word."""
    return name if PLAIN.fullmatch(name) else code(name)


def topic_sentences(found: dict) -> list[str]:
    """Return whether experts are specialised by topic; found: the record's `Specialisation`."""
    distance, top = found["distance"], found["top_differs"]
    layers = sum(is_shown(layer["p_corrected"], layer["distance"]["beyond_interval"]) for layer in found["layers"])
    names = ", ".join(f"{inert(name)} {count}" for name, count in found["domains"].items())
    verdict = (
        f"The domains' experts differ beyond chance (p = {distance['p']:.2g}; in {layers} of {len(found['layers'])} "
        "layers by themselves, corrected for their number)."
        if is_shown(distance["p"], distance["beyond_interval"])
        else f"No difference between the domains' experts beyond chance was shown (p = {distance['p']:.2g})."
    )
    size = (
        f"The Jensen-Shannon divergence of the domains' shares of weighted norm is {distance['value']:.4f} bits of at "
        f"most {found['largest']:.2f}; shuffled labels give {distance['chance']:.4f} "
        f"({span(distance['chance_interval'])}). Beyond chance: {distance['beyond']:.4f} bits "
        f"({span(distance['beyond_interval'])})."
    )
    best = (
        f"Of the {found['top']} most important experts of a layer {percent_of(top['value'])} differ between two "
        f"domains; with shuffled labels {percent_of(top['chance'])} ({percent_span(top['chance_interval'])})."
    )
    return [f"Domains by the column '{inert(found['column'])}': {names} questions.", verdict, size, best]


def penalty_sentence(found: dict) -> str:
    """Return what dropping by one domain costs the others; found: the record's `Specialisation`."""
    penalty = found["penalty"]
    value, low, high, chance = map(points, (penalty["value"], *found["penalty_interval"], penalty["chance"]))
    shown = is_shown(penalty["p"], found["penalty_interval"])
    verdict = "" if shown else " That this is more than chance gives was not shown."
    return (
        f"When {found['keep_count']} experts are kept by {found['criterion']} on another domain's questions, the share "
        f"of weighted norm that a domain loses changes by {value} percentage points, against a map by its own "
        f"questions, each held out of it ({low} to {high}; shuffled labels {chance}; p = {penalty['p']:.2g}).{verdict}"
    )


def extreme(entries: list[dict]) -> dict:
    """Return the layer with the largest cosine by absolute value; entries: `WeightLayer`s."""
    return max(entries, key=lambda entry: abs(entry["largest"]))


def weight_sentences(weights: list[dict]) -> list[str]:
    """Return how alike the experts' weights are, a sentence or two per matrix; weights: `WeightLayer`s."""
    sentences = []
    for matrix in dict.fromkeys(entry["matrix"] for entry in weights):
        own = [entry for entry in weights if entry["matrix"] == matrix]
        most, pairs, above = extreme(own), sum(entry["pairs"] for entry in own), sum(entry["above"] for entry in own)
        mean = sum(entry["mean"] * entry["pairs"] for entry in own) / pairs
        sentences.append(
            f"{matrix}: of the cosines between two experts' weights {most['largest']:.4f} is farthest from 0 (layer "
            f"{most['layer']}, experts {most['pair'][0]} and {most['pair'][1]}), the mean {mean:.4f}; independent ones "
            f"would spread by {most['chance']:.4f}. {above} of {pairs} pairs are farther from 0 than "
            f"{CARD_COSINE_WORDS}."
        )
    return sentences


def output_sentence(outputs: list[dict]) -> str:
    """Return how alike the experts' outputs on the same tokens are; outputs: `OutputLayer`s."""
    most = max(outputs, key=lambda entry: entry["largest"][0])
    means = [entry["mean"][0] for entry in outputs]
    chosen = [entry["chosen"][0] for entry in outputs if entry["chosen"]]
    together = f", of those that the router chose together {sum(chosen) / len(chosen):.4f}" if chosen else ""
    return (
        f"On the same {most['tokens']} tokens the outputs of two experts have a mean cosine of "
        f"{sum(means) / len(means):.4f} (by layer {min(means):.4f} to {max(means):.4f}){together}. The most alike pair "
        f"is at {with_span(most['largest'])}, in layer {most['layer']}, experts {most['pair'][0]} and "
        f"{most['pair'][1]}. As the largest of many this value is too high rather than too low."
    )


def bf16_sentences(bf16: dict) -> list[str]:
    """Return what taking the norms in bf16 would change; bf16: the record's `Bf16`."""
    rounded, summed = (percent_with_span(bf16[f"{kind}protected_differ"], 2) for kind in ("", "sums_"))
    return [
        f"Of {bf16['norms']} norms {bf16['nonfinite']} are not finite in fp32; bf16 breaks {bf16['bf16_nonfinite']} "
        "others.",
        f"Norms in bf16 change {rounded} of the protected top {bf16['top']} of a question and layer, and "
        f"{percent_of(bf16['dropped_differ'])} of the experts that coverage drops.",
        f"With their sums in bf16 as well it is {summed}, and {percent_of(bf16['sums_dropped_differ'])}.",
    ]


def map_sentence(maps: list[dict]) -> str:
    """Return how far the other maps differ from the run's own, in one sentence; maps: `MapPair`s."""
    near, far = (pick(maps, key=lambda pair: pair["dropped"]["differ"]) for pick in (min, max))
    return (
        f"Of the dropped experts {percent_of(near['dropped']['differ'])} ({near['name']}) to "
        f"{percent_of(far['dropped']['differ'])} ({far['name']}) differ from the run's map; sets drawn by chance would "
        f"differ by {percent_of(far['dropped']['chance'])}."
    )


TOPIC_HEADS = [
    "layer",
    "JS divergence, bits",
    "shuffled",
    "beyond chance",
    "p, corrected",
    "top differ",
    "shuffled top",
]
WEIGHT_HEADS = ["layer", "matrix", "mean", "largest", "experts", "above 0.05", "pairs", "independent, ±"]
OUTPUT_HEADS = ["layer", "tokens", "mean", "chosen together", "most alike pair", "experts"]
BF16_HEADS = ["layer", "norms", "not finite", "by bf16 alone", "protected that change", "with sums in bf16"]
MAP_HEADS = ["map", "kept", "dropped differ", "by chance", "p", "kept differ", "top differ"]


def topic_rows(found: dict) -> list[Row]:
    """Return the domains' distances by layer; found: the record's `Specialisation`."""
    return [
        [
            str(layer["layer"]),
            f"{layer['distance']['value']:.4f}",
            f"{layer['distance']['chance']:.4f} ({span(layer['distance']['chance_interval'])})",
            f"{layer['distance']['beyond']:.4f} ({span(layer['distance']['beyond_interval'])})",
            f"{layer['p_corrected']:.2g}",
            percent_of(layer["top_differs"]["value"]),
            f"{percent_of(layer['top_differs']['chance'])} ({percent_span(layer['top_differs']['chance_interval'])})",
        ]
        for layer in found["layers"]
    ]


def matrix_heads(found: dict) -> Row:
    """Return the heads of the matrix of domains."""
    return ["experts chosen by", *(f"lost by {inert(name)}" for name in found["domains"])]


def matrix_rows(found: dict, kind: str) -> list[Row]:
    """Return what each domain loses by each map; kind: "norm_lost" or "protected_lost"."""
    rows: dict[str, Row] = {}
    for cell in found["cells"]:
        rows.setdefault(cell["chosen_by"], [inert(cell["chosen_by"])]).append(percent_with_span(cell[kind], 2))
    return list(rows.values())


def weight_rows(weights: list[dict]) -> list[Row]:
    """Return the cosines between weights by layer and matrix."""
    return [
        [
            str(entry["layer"]),
            entry["matrix"],
            f"{entry['mean']:.4f}",
            f"{entry['largest']:.4f}",
            f"{entry['pair'][0]}, {entry['pair'][1]}",
            str(entry["above"]),
            str(entry["pairs"]),
            f"{entry['chance']:.4f}",
        ]
        for entry in weights
    ]


def output_rows(outputs: list[dict]) -> list[Row]:
    """Return the cosines between outputs by layer."""
    return [
        [
            str(entry["layer"]),
            str(entry["tokens"]),
            *(with_span(entry[key]) for key in ("mean", "chosen", "largest")),
            f"{entry['pair'][0]}, {entry['pair'][1]}",
        ]
        for entry in outputs
    ]


def bf16_rows(bf16: dict) -> list[Row]:
    """Return what bf16 changes by layer."""
    return [
        [
            *(str(layer[key]) for key in ("layer", "norms", "nonfinite", "bf16_nonfinite")),
            *(percent_with_span(layer[key], 2) for key in ("protected_differ", "sums_protected_differ")),
        ]
        for layer in bf16["layers"]
    ]


def map_rows(maps: list[dict]) -> list[Row]:
    """Return how far each map differs from the run's own."""
    return [
        [
            pair["name"],
            str(pair["keep_count"]),
            percent_of(pair["dropped"]["differ"]),
            f"{percent_of(pair['dropped']['chance'])} ({percent_span(pair['dropped']['chance_interval'])})",
            f"{pair['dropped']['p']:.2g}",
            f"{percent_of(pair['kept']['differ'])} (by chance {percent_of(pair['kept']['chance'])})",
            f"{percent_of(pair['top']['differ'])} (by chance {percent_of(pair['top']['chance'])})"
            if pair.get("top")
            else "none",
        ]
        for pair in maps
    ]
