"""The losses of compare_criteria.py by domain of the chats: what each choice costs in each, and in the worst one."""

from files.display import digits, markdown_table, with_error
from losses.criteria_report import DEFAULT, DIVERGENCES, METRICS, Results, column, named
from scoring.paired_statistics import mean_and_error

import numpy as np

LEAST_CHATS = 2  # of a domain: one chat gives no error


def measured_domains(domains: list[str]) -> list[str]:
    """Return the domains with enough chats, sorted; domains: of every chat, "" where it is not known."""
    return sorted({name for name in domains if name and domains.count(name) >= LEAST_CHATS})


def domain_losses(entry: dict, domains: list[str], metric: str) -> dict[str, list[float]]:
    """Return the mean of one choice in each domain and its standard error over chats; domains: of every chat."""
    sums, counts = (column(entry, name) for name in METRICS[metric])
    chats = np.array(domains)
    return {
        name: list(mean_and_error(sums[chats == name], counts[chats == name])) for name in measured_domains(domains)
    }


def add_domain_losses(results: Results, domains: list[str]) -> None:
    """Add to every result its `by_domain`: {metric: {domain: [mean, error]}}."""
    for entries in results.values():
        for entry in entries.values():
            entry["by_domain"] = {metric: domain_losses(entry, domains, metric) for metric in DIVERGENCES}


def worst_domain(entry: dict, metric: str) -> str:
    """Return the domain in which a choice costs most."""
    losses = entry["by_domain"][metric]
    return max(losses, key=lambda name: losses[name][0])


def domain_table(entries: dict[str, dict], metric: str) -> str:
    """Return the table of one keep count by one divergence, the least worst domain first."""

    def worst(label: str) -> float:
        return entries[label]["by_domain"][metric][worst_domain(entries[label], metric)][0]

    names = list(next(iter(entries.values()))["by_domain"][metric])
    rows = []
    for label in sorted(entries, key=worst):
        losses = entries[label]["by_domain"][metric]
        cells = [with_error(*losses[name]) for name in names]
        name = f"{label} (default)" if label == DEFAULT else label
        rows.append([name, *cells, worst_domain(entries[label], metric)])
    return markdown_table(["choice", *names, "worst domain"], rows, last_words=1)


def domain_sentence(keep: int, metric: str, entries: dict[str, dict]) -> str:
    """Return in words which criterion costs least in its worst domain."""
    best = min(
        named(entries), key=lambda label: entries[label]["by_domain"][metric][worst_domain(entries[label], metric)][0]
    )
    worst = worst_domain(entries[best], metric)
    value, error = digits(*entries[best]["by_domain"][metric][worst])
    return (
        f"- **{keep} experts kept, {DIVERGENCES[metric]}:** {best} costs least in its worst domain ({worst}, "
        f"{value} ± {error})."
    )


def domain_lines(results: Results, domains: list[str]) -> list[str]:
    """Return the part of the page by domain; nothing where fewer than two domains are known."""
    names = measured_domains(domains)
    if len(names) < 2:
        return []
    left = sum(name not in names for name in domains)
    chats = ", ".join(f"{name} {domains.count(name)}" for name in names)
    words = f"KLD by domain of the chats ({chats} chats{f'; {left} in no domain or alone in one' if left else ''})."
    lines = ["", "## By domain", "", words]
    for keep, entries in results.items():
        for metric, tokens in DIVERGENCES.items():
            lines += ["", f"### {keep} experts kept, {tokens}", "", domain_table(entries, metric)]
    sentences = [domain_sentence(keep, metric, entries) for keep, entries in results.items() for metric in DIVERGENCES]
    return [*lines, "", *sentences]
