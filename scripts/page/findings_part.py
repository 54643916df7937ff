"""The report's section on what the experts are like: topics, likeness, bf16 and other maps, each with its control."""

from findings.findings_words import (
    BF16_HEADS,
    MAP_HEADS,
    OUTPUT_HEADS,
    TOPIC_HEADS,
    WEIGHT_HEADS,
    bf16_rows,
    bf16_sentences,
    map_rows,
    map_sentence,
    matrix_heads,
    matrix_rows,
    output_rows,
    output_sentence,
    penalty_sentence,
    topic_rows,
    topic_sentences,
    weight_rows,
    weight_sentences,
)
from page.charts import Interval, interval_figure, to_json
from page.pipeline import Table
from page.records import Records
from page.sections import Chart, Section


def topic_chart(found: dict) -> Chart:
    """Return the divergence of the domains beyond chance, by layer, with its 95% interval."""
    lines = []
    for layer in found["layers"]:
        distance, name = layer["distance"], f"layer {layer['layer']}"
        value, (low, high) = distance["beyond"], distance["beyond_interval"]
        text = f"{name}: {value:.4f} bits beyond chance, 95% interval {low:.4f} to {high:.4f}"
        lines.append(Interval(name, 1000 * value, 1000 * low, 1000 * high, text, str(layer["layer"])))
    most = 1000 * found["largest"]
    figure = interval_figure("topic-intervals", lines, "thousandths of a bit", (-most, most))
    return Chart(to_json(figure), "Topics: divergence of the domains beyond chance, with 95% intervals", table="topics")


def topic_tables(found: dict) -> list[Table]:
    """Return the domains' distances by layer, and what dropping by one domain costs the others."""
    layers = [str(layer["layer"]) for layer in found["layers"]]
    words = tuple(range(len(found["domains"]) + 1))
    return [
        Table(
            "topics",
            "Topics: how far the domains' experts differ, by layer",
            TOPIC_HEADS,
            topic_rows(found),
            folded=True,
            links=layers,
            data=found["layers"],
        ),
        Table(
            "domains",
            f"Share of the weighted norm that each domain loses, {found['keep_count']} experts kept",
            matrix_heads(found),
            matrix_rows(found, "norm_lost"),
            words,
            data=found["cells"],
        ),
    ]


def findings_part(records: Records) -> Section:
    """Return what was found about the experts, and the tables of it."""
    title, found = "What the experts are like", records.findings
    if not found:
        return Section("findings", title, command="make findings", waits_for="findings.json")
    topics = found.get("specialisation")
    paragraphs = [f"Topics were not measured: {found['missing'].get('specialisation')}"]
    if topics:
        paragraphs = [" ".join(topic_sentences(topics)), penalty_sentence(topics)]
    paragraphs += [
        " ".join(weight_sentences(found["weights"])),
        output_sentence(found["outputs"]),
        " ".join(bf16_sentences(found["bf16"])),
        map_sentence(found["maps"]),
    ]
    # Cells with intervals in brackets are words: they are no numbers by which a table could be sorted.
    outputs, bf16 = found["outputs"], found["bf16"]
    tables = [
        *(topic_tables(topics) if topics else []),
        Table(
            "weights",
            "Cosines between the weights of two experts",
            WEIGHT_HEADS,
            weight_rows(found["weights"]),
            (0, 1, 4),
            folded=True,
            data=found["weights"],
        ),
        Table(
            "outputs",
            "Cosines between the outputs of two experts on the same tokens",
            OUTPUT_HEADS,
            output_rows(outputs),
            (0, 2, 3, 4, 5),
            folded=True,
            data=outputs,
        ),
        Table("bf16", "Norms in bf16", BF16_HEADS, bf16_rows(bf16), (0, 4, 5), folded=True, data=bf16["layers"]),
        Table("maps", "Other maps against the run's own", MAP_HEADS, map_rows(found["maps"]), (0, 3, 5, 6)),
    ]
    charts = [topic_chart(topics)] if topics else []
    return Section("findings", title, paragraphs, charts, tables, terms=("expert", "weighted norm", "coverage"))
