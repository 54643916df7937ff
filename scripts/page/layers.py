"""The report's sections on layers and experts: what each expert contributes, and which ones calibration reached."""

from choice.drop_map import values_by_layer
from choice.expert_stats import kept_first
from files.display import DROPPED, KEPT
from page.grids import Grid, Mark, Measure
from page.pipeline import Table
from page.records import Experts, Records
from page.sections import Section, grid_chart, number

import numpy as np


def ranks_by_order(order: np.ndarray) -> np.ndarray:
    """Return the rank of every expert, 0 for the best; order: expert ids best first, both [layers, experts]."""
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return ranks


def expert_ranks(experts: Experts, drop_map: dict) -> tuple[np.ndarray, str]:
    """Return the rank of every expert in its layer [layers, experts], and what it goes by.

    That is the criterion of the map, by its own scores, or coverage where it has none.
    """
    own = values_by_layer(drop_map, experts.layers, "score")
    score, name = (experts.coverage, "coverage") if own is None else (np.array(own), drop_map["criterion"])
    return ranks_by_order(kept_first(experts.dropped, score, experts.weighted_norm)), name


def coin_tosses(experts: Experts, drop_map: dict) -> np.ndarray:
    """Mark the experts that other questions might as well have kept as dropped: booleans [layers, experts]."""
    marked = np.zeros(experts.dropped.shape, bool)
    for row, ids in enumerate(values_by_layer(drop_map, experts.layers, "coin_toss") or []):
        marked[row, ids] = True
    return marked


def expert_texts(experts: Experts, ranks: np.ndarray, tosses: np.ndarray) -> list[str]:
    """Return the sentence of every expert, layer by layer."""
    texts = []
    for row, column in np.ndindex(experts.dropped.shape):
        norm = float(experts.weighted_norm[row, column])
        texts.append(
            f"Layer {experts.layers[row]}, expert {column}: rank {ranks[row, column] + 1} of {ranks.shape[1]}; "
            f"weighted norm {number(norm)}; {experts.tokens[row, column]} tokens; "
            f"coverage {experts.coverage[row, column]} of {experts.questions} questions; "
            f"{'dropped' if experts.dropped[row, column] else 'kept'}{', a coin toss' if tosses[row, column] else ''}"
        )
    return texts


def expert_grid(experts: Experts, drop_map: dict) -> Grid:
    """Return layers x experts with the statistics that experts are chosen by, and which were dropped."""
    (ranks, ranked_by), tosses = expert_ranks(experts, drop_map), coin_tosses(experts, drop_map)
    measures = [
        Measure("coverage", "coverage", experts.coverage),
        Measure("weighted_norm", "weighted norm", experts.weighted_norm, log=True),
        Measure("tokens", "tokens", experts.tokens, log=True),
        Measure("dropped", "kept or dropped", experts.dropped.astype(int), classes={"kept": KEPT, "dropped": DROPPED}),
    ]
    marks = [Mark("x", experts.dropped.reshape(-1).tolist(), "×", "dropped", told_by_cut=True)]
    if tosses.any():
        marks.append(Mark("circle", tosses.reshape(-1).tolist(), "o", "coin toss"))
    return Grid(
        "experts",
        "layer",
        "expert",
        [str(layer) for layer in experts.layers],
        experts.dropped.shape[1],
        measures,
        expert_texts(experts, ranks, tosses),
        marks,
        ranks=ranks,
        rank_name=f"rank by {ranked_by}, kept experts first",
        cut=int((~experts.dropped[0]).sum()),
    )


def dropped_table(experts: Experts) -> Table:
    """Return what the dropped experts contribute to each layer."""
    share = (experts.weighted_norm * experts.dropped).sum(axis=1) / experts.weighted_norm.sum(axis=1)
    rows = [
        [
            str(layer),
            number(experts.weighted_norm[row].sum()),
            str((~experts.dropped[row]).sum()),
            str(experts.dropped[row].sum()),
            f"{share[row]:.2%}",
            str((experts.tokens[row] == 0).sum()),
        ]
        for row, layer in enumerate(experts.layers)
    ]
    heads = ["layer", "weighted norm", "kept", "dropped", "share of the dropped", "never used"]
    return Table("layers", "What the dropped experts contribute, by layer", heads, rows, folded=True)


def experts_part(records: Records) -> Section:
    """Return the heat-map of layers x experts and a table by layer."""
    title, experts = "What each expert contributes", records.experts
    if experts is None:
        return Section("experts", title, command="make analyze", waits_for="expert_stats.safetensors and drop_map.json")
    text = (
        f"Over {experts.over}. Weighted norm: routing weight times the norm "
        "of the expert's output, summed over its tokens. Coverage: questions in which the expert is among the "
        f"{experts.top} of its layer with the largest weighted norm. Grey, where the scale is a log scale: zero."
    )
    chart = grid_chart(expert_grid(experts, records.drop_map), "Layers and experts")
    words = ("expert", "coverage", "weighted norm", "coin toss")
    return Section("experts", title, [text], [chart], [dropped_table(experts)], terms=words)


def imatrix_texts(counts: dict[int, np.ndarray], experts: Experts | None) -> list[str]:
    """Return the sentence of every expert of the pruned model; counts: tokens [experts] by layer."""
    kept = {}
    if experts:  # the pruned model numbers its experts anew
        kept = {layer: np.nonzero(~row)[0] for layer, row in zip(experts.layers, experts.dropped)}
    texts = []
    for layer, row in counts.items():
        for place, count in enumerate(row):
            before = f" (expert {kept[layer][place]} of the full model)" if kept else ""
            texts.append(f"Layer {layer}, expert {place}{before}: {count} calibration tokens")
    return texts


def imatrix_grid(counts: dict[int, np.ndarray], experts: Experts | None) -> Grid:
    """Return layers x experts of the pruned model with the calibration tokens that reached them."""
    values = np.array(list(counts.values()))
    return Grid(
        "imatrix",
        "layer",
        "expert of the pruned model",
        [str(layer) for layer in counts],
        values.shape[1],
        [Measure("tokens", "calibration tokens", values, log=True)],
        imatrix_texts(counts, experts),
        [Mark("x", (values == 0).reshape(-1).tolist(), "×", "never reached")],
        ranks=ranks_by_order(np.argsort(-values, axis=1, kind="stable")),
        rank_name="rank by calibration tokens",
    )


def imatrix_part(records: Records) -> Section:
    """Return how many calibration tokens reached each expert of the pruned model."""
    title = "What calibration reached"
    if records.imatrix is None:
        return Section("imatrix", title, command="make imatrix", waits_for="imatrix.gguf")
    counts = dict(sorted(records.imatrix.expert_counts().items()))
    rows = [
        [str(layer), str(row.min()), f"{np.median(row):g}", str(row.max()), str((row == 0).sum())]
        for layer, row in counts.items()
    ]
    heads = ["layer", "least", "median", "most", "never reached"]
    reached = np.concatenate(list(counts.values())) > 0
    text = (
        f"The calibration text never reached {int((~reached).sum())} of {reached.size} experts. For such an expert "
        "llama-quantize takes all inputs as equally important. Counts are those of ffn_down_exps; gate and up see the "
        "same tokens."
    )
    chart = grid_chart(imatrix_grid(counts, records.experts), "Calibration tokens per expert")
    table = Table("calibration", "Calibration tokens per expert, by layer", heads, rows, folded=True)
    return Section("imatrix", title, [text], [chart], [table], terms=("imatrix", "calibration"))
