"""The opening of the report: what a reader wants to know first, and the best file at each size."""

from dataclasses import dataclass, field

from files.safe_files import gib
from page.pipeline import Table
from page.records import Records
from page.sections import kld_cell
from scoring.score_tables import sample_labels

PERCENT = 100


@dataclass(frozen=True)
class Fact:
    """One thing to know: its name, its value in a few words, and sentences that explain it."""

    name: str
    value: str
    notes: list[str] = field(default_factory=list)


def saved(before: int, after: int) -> str:
    """Return by how much one size is below another, in per cent."""
    return f"{PERCENT * (1 - after / before):.1f}% saved"


def base_fact(records: Records, base: str | None) -> Fact:
    """Return what the model was made from; `base`: its name, None to take that of the reference of the scores."""
    name = base or (records.summaries[0]["name"] if records.summaries else "not named")
    experts = records.experts
    if experts is None:
        return Fact("Base model", name)
    return Fact("Base model", name, [f"{experts.dropped.shape[1]} experts in each of {len(experts.layers)} layers"])


def kept_fact(records: Records) -> Fact:
    """Return how many experts stay, what chose them, and how sure that choice is."""
    experts, chosen = records.experts, records.drop_map
    if experts is None:
        return Fact("Experts kept", "not known", ["Run make analyze."])
    whole, kept = experts.dropped.shape[1], int((~experts.dropped[0]).sum())
    notes = [f"in each layer, by {chosen.get('criterion')} over {experts.questions} questions"]
    if sure := chosen.get("bootstrap"):
        notes.append(
            f"With other questions {PERCENT * sure['expected_overlap']:.1f}% of them would be kept again; "
            f"{sure['coin_toss']} experts are a coin toss."
        )
    return Fact("Experts kept", f"{kept} of {whole}", notes)


def size_fact(records: Records) -> Fact:
    """Return the sizes of the full and the pruned model: of the scored files and of the F16 files."""
    pairs = []
    if records.summaries:
        full, pruned = records.summaries
        pairs.append((f"the scored files, {pruned['gguf']}", full["gguf_bytes"], pruned["gguf_bytes"]))
    if records.f16 and records.full_f16:
        pairs.append(("F16", records.full_f16["bytes"], records.f16["bytes"]))
    sizes = [f"{gib(full)} to {gib(pruned)} GiB, {saved(full, pruned)}" for _, full, pruned in pairs]
    if sizes:
        notes = [f"Of {pairs[0][0]}."] + [f"{what}: {text}." for (what, *_), text in zip(pairs[1:], sizes[1:])]
        return Fact("Size, full to pruned", sizes[0], notes)
    if records.f16:
        return Fact("Size, pruned", f"{gib(records.f16['bytes'])} GiB", ["F16. The full model's size is not recorded."])
    return Fact("Size, full to pruned", "not known", ["Run make quants."])


def score_fact(records: Records) -> Fact:
    """Return the pruned model's score with its interval beside the full model's, and whether it is in-sample."""
    rows, pairs = records.scores.get("rows", []), records.scores.get("pairs", [])
    if len(rows) < 2:
        return Fact("Score", "not measured", ["Run make eval."])
    reference = rows[0]
    row = next((each for each in rows[1:] if each["name"] == records.name), rows[-1])
    shown = [
        f"{PERCENT * each['score']:.1f}% ({PERCENT * each['interval'][0]:.1f} to {PERCENT * each['interval'][1]:.1f})"
        for each in (row, reference)
    ]
    notes = [f"{row['gguf']}; {row['questions']} answers; 95% interval. Full model: {shown[1]}."]
    for pair in pairs:
        if (pair["reference"], pair["model"]) == (reference["name"], row["name"]):
            low, high = (PERCENT * limit for limit in pair["difference_interval"])
            notes.append(f"Paired difference {PERCENT * pair['difference']:+.1f} points ({low:+.1f} to {high:+.1f}).")
    # In Markdown the label is bold, here it is a sentence of its own.
    return Fact("Score", shown[0], notes + [label.replace("**", "") for label in sample_labels([reference, row])])


def tools_of(records: Records) -> list[str]:
    """Return the programs that made the records, with their versions."""
    protocol = records.summaries[0]["protocol"] if records.summaries else {}
    measured = records.quality.get("inputs", {}).get("versions", {})
    made = [records.f16, records.imatrix_record, *records.quants.values(), measured, protocol]
    builds = {each["llama_cpp"].removeprefix("version: ") for each in made if each.get("llama_cpp")}
    tools = [f"llama.cpp {build}" for build in sorted(builds)]
    tools += [f"{tool} {records.analysis[tool]}" for tool in ("transformers", "torch") if tool in records.analysis]
    return tools + ([f"lm-eval {protocol['lm_eval']}"] if protocol.get("lm_eval") else [])


def records_fact(records: Records, dates: tuple[str, str]) -> Fact:
    """Return when the records were written and what made them; dates: of the oldest and of the newest."""
    oldest, newest = dates
    days = newest if oldest == newest else f"{oldest} to {newest}"
    return Fact("Records of", days, ["; ".join(tools)] if (tools := tools_of(records)) else [])


def facts(records: Records, base: str | None, dates: tuple[str, str]) -> list[Fact]:
    """Return what a reader wants to know first."""
    return [
        base_fact(records, base),
        kept_fact(records),
        size_fact(records),
        score_fact(records),
        records_fact(records, dates),
    ]


def best_files(records: Records) -> Table | None:
    """Return the files that no file of no more bytes beats in total loss, the largest first; None without losses."""
    if not records.quality:
        return None
    beaten = records.quality["conclusions"]["total"]["dominated"]
    rows = [
        [entry["label"], gib(entry["bytes"]), f"{entry['bits_per_weight']:.2f}", kld_cell(entry, "total")]
        for entry in sorted(records.quality["files"], key=lambda entry: (-entry["bytes"], entry["label"]))
        if entry["label"] not in beaten
    ]
    heads = ["file", "GiB", "bits per weight", "total loss"]
    return Table("best", "Best file at each size: none that is no larger has less loss", heads, rows)
