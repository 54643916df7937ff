"""Domains of questions: how much each one counts in a choice, and how much of it every layer must keep.

Weights: a question counts by its domain's weight over the number of the domain's questions, so a domain with more
questions does not count more. Floors: the coverage of a domain in a layer is the share of the domain's weighted norm
(sum of w_e(x) ||f_e(x)|| over the tokens of its questions) that the kept experts hold. Where the best-ranked experts
miss a floor, those are kept that meet all floors at the least sum of ranks. That is a knapsack, solved exactly.
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

from chats.questions import read_domains, read_ids
from choice.criteria import RANK, Arrays
from files.input_errors import InputError, sha256_file
from files.json_records import sha256_json
from files.silence import silent_stdout

import numpy as np

TOLERANCE = 1e-6  # a floor is met to a millionth: sums round, and the solver may miss a bound by 1e-7
QUESTION_FILES = (".csv", ".jsonl", ".parquet")
MOST_NAMED = 5  # domains, in the message on one that there is not
UNSCALED = ("norm_max", RANK)  # no sums over tokens
MOST_WEIGHT = 1e9  # sums of weighted values beyond what a float holds would rank nothing
HOW_TO_WRITE = "NAME:WEIGHT or NAME:WEIGHT:FLOOR, such as Physics:2:0.9"


@dataclass(frozen=True)
class Domain:
    """A domain: its name, weight, least coverage in every layer (0: none), and its question file if it has one."""

    name: str
    weight: float
    floor: float = 0.0
    file: Path | None = None


def parse_domain(text: str) -> Domain:
    """Return the domain written as in Physics:2:0.9; raise InputError else."""
    name, *numbers = text.split(":")
    try:
        weight, floor = (*map(float, numbers), *([0.0] if len(numbers) == 1 else []))
    except ValueError:
        raise InputError("DOMAINS", HOW_TO_WRITE, repr(text)) from None
    if not (name and 0 <= weight <= MOST_WEIGHT and 0 <= floor <= 1):
        limits = f"a weight from 0 to {MOST_WEIGHT:.0e} and a floor from 0 to 1"
        raise InputError("DOMAINS", f"{HOW_TO_WRITE}, {limits}", repr(text))
    # Of a file, the bare name: maps are published, and a path there would be this machine's.
    file = Path(name) if Path(name).suffix in QUESTION_FILES else None
    return Domain(file.name if file else name, weight, floor, file)


def check_domains(domains: list[Domain]) -> None:
    """Raise InputError when a domain is named twice, or none has a weight."""
    names = [domain.name for domain in domains]
    if len(set(names)) < len(names):
        raise InputError("DOMAINS", "every domain once", f"{max(names, key=names.count)} twice")
    if not any(domain.weight for domain in domains):
        raise InputError("DOMAINS", "a weight above 0", "none")


def rows_by_domain(domains: list[Domain], ids: list[str], named: dict[str, set[str]]) -> dict[str, list[int]]:
    """Return the rows of each domain's questions.

    ids: of the questions that choose; named: Record IDs by domain. Raises InputError when a question is in no domain or
    in two, or a domain has none.
    """
    rows: dict[str, list[int]] = {domain.name: [] for domain in domains}
    for row, record_id in enumerate(ids):
        found = [name for name in rows if record_id in named[name]]
        if len(found) != 1:
            advice = "a weight of 0 leaves a domain out of the choice"
            raise InputError("DOMAINS", f"question {record_id} in one domain", " and ".join(found) or "none", advice)
        rows[found[0]].append(row)
    for name, own in rows.items():
        if not own:
            raise InputError("DOMAINS", f"questions of the domain {name} among those that choose", "none")
    return rows


def unknown_domain(name: str, known: set[str], questions: Path) -> InputError:
    """Return the error on a domain that no question has, with the nearest of those that there are."""
    if not known:
        return InputError("DOMAINS", f"question files, for {questions} names no domains", name)
    near = difflib.get_close_matches(name, sorted(known), n=MOST_NAMED, cutoff=0)
    return InputError("DOMAINS", f"a domain of {questions} such as {', '.join(near)}, or a question file", name)


def read_members(texts: list[str] | None, questions: Path, ids: list[str]) -> tuple[list[Domain], dict[str, list[int]]]:
    """Return the domains written as `texts`, none where there are none, and the rows of each one's questions.

    questions: the file whose column names the domains; ids: of the questions that choose.
    """
    domains = [parse_domain(text) for text in texts or []]
    if not domains:
        return [], {}
    check_domains(domains)
    column, named = read_domains(questions), {}
    for domain in domains:
        of_column = {record_id for record_id, name in column.items() if name == domain.name}
        if not (of_column or domain.file):
            raise unknown_domain(domain.name, set(column.values()) - {""}, questions)
        named[domain.name] = read_ids(domain.file) if domain.file else of_column
    return domains, rows_by_domain(domains, ids, named)


def members_digests(ids: list[str], rows: dict[str, list[int]]) -> dict[str, str]:
    """Return a digest of each domain's questions, which its name and weight do not tell; rows: as of `read_members`."""
    return {name: sha256_json(sorted(ids[row] for row in of_domain)) for name, of_domain in rows.items()}


def scaled(arrays: Arrays, domains: list[Domain], rows: dict[str, list[int]]) -> Arrays:
    """Return the arrays [questions, layers, experts] with every question scaled by its domain's weight.

    The factors are w_d / n_d, scaled so that their mean over the questions is 1: equal weights of equally large domains
    change nothing.
    """
    factors = np.zeros(len(arrays["token_count"]))
    for domain in domains:
        factors[rows[domain.name]] = domain.weight / len(rows[domain.name])
    factors *= len(factors) / factors.sum()
    return {name: values if name in UNSCALED else values * factors[:, None, None] for name, values in arrays.items()}


def shares_of(arrays: Arrays, domains: list[Domain], rows: dict[str, list[int]]) -> np.ndarray:
    """Return each expert's share of each domain's weighted norm in a layer, [domains, layers, experts]."""
    sums = np.array([arrays["weighted_norm_sum"][rows[domain.name]].sum(axis=0) for domain in domains])
    total = sums.sum(axis=2, keepdims=True)
    return np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)


def solve(cost: np.ndarray, shares: np.ndarray, floors: np.ndarray, keep: int, shortfall: bool) -> np.ndarray | None:
    """Return which experts are kept, [experts] bool, at the least sum of `cost` [experts]; None if none can.

    shares: [domains, experts]; floors: [domains]. With `shortfall` the floors may be missed, by as little as can be,
    and that is what is made least.
    """
    # Imported here: a choice without floors needs no solver.
    from scipy.optimize import Bounds, LinearConstraint, milp

    # One more variable, by which all floors may be missed.
    experts, slack = len(cost), np.ones((len(floors), 1)) * shortfall
    count = LinearConstraint(np.append(np.ones(experts), 0), keep, keep)
    covered = LinearConstraint(np.hstack([shares, slack]), floors, np.inf)
    costs = np.append(np.zeros(experts) if shortfall else cost, float(shortfall))
    kinds = np.append(np.ones(experts), 0)
    with silent_stdout():
        found = milp(
            costs, constraints=[count, covered], integrality=kinds, bounds=Bounds(0, 1), options={"mip_rel_gap": 0}
        )
    return None if found.x is None else found.x[:experts] > 0.5


def keep_by_floors(order: np.ndarray, shares: np.ndarray, floors: np.ndarray, keep: int) -> np.ndarray | None:
    """Return one layer's experts, kept ones first, each part by rank; None when no choice meets the floors.

    order: experts by rank [experts]. Where the best-ranked `keep` meet the floors, the order is as it was.
    """
    if (shares[:, order[:keep]].sum(axis=1) >= floors - TOLERANCE).all():
        return order
    ranks = np.empty(len(order))
    ranks[order] = np.arange(len(order))
    kept = solve(ranks, shares, floors, keep, shortfall=False)
    if kept is None:
        return None
    return np.concatenate([order[kept[order]], order[~kept[order]]])


def unmet(layer: int, shares: np.ndarray, domains: list[Domain], keep: int) -> InputError:
    """Return the error that says which floors of a layer cannot be met; shares: [domains, experts]."""
    best = np.sort(shares, axis=1)[:, -keep:].sum(axis=1)
    floors = np.array([domain.floor for domain in domains])
    advice = "keep more experts or lower the floor"
    if (floors - TOLERANCE > best).any():
        worst = int((floors - best).argmax())
        wanted = f"{floors[worst]:.2%} of {domains[worst].name} kept in every layer"
        return InputError("DOMAINS", wanted, f"at most {best[worst]:.2%} with {keep} experts in layer {layer}", advice)
    kept = solve(np.zeros(shares.shape[1]), shares, floors, keep, shortfall=True)
    reached = shares[:, kept].sum(axis=1)
    short = [
        f"{domain.name} {value:.2%}" for domain, value in zip(domains, reached) if value < domain.floor - TOLERANCE
    ]
    wanted = ", ".join(f"{domain.floor:.2%} of {domain.name}" for domain in domains if domain.floor)
    found = f"each alone can be met with {keep} experts in layer {layer}, all together not: {', '.join(short)} at best"
    return InputError("DOMAINS", f"{wanted} kept in every layer", found, advice)


def order_by_floors(
    order: np.ndarray, layers: list[int], shares: np.ndarray, domains: list[Domain], keep: int
) -> tuple[np.ndarray, list[bool]]:
    """Return the experts of every layer, kept ones first, and in which layers the floors changed the choice.

    order: [layers, experts]; shares: [domains, layers, experts]. Raises InputError, naming the floor, when one cannot
    be met.
    """
    floors, rows, moved = np.array([domain.floor for domain in domains]), [], []
    for row, layer in enumerate(layers):
        found = keep_by_floors(order[row], shares[:, row], floors, keep)
        if found is None:
            raise unmet(layer, shares[:, row], domains, keep)
        rows.append(found)
        moved.append(set(found[:keep].tolist()) != set(order[row, :keep].tolist()))
    return np.array(rows), moved


def domain_entries(
    domains: list[Domain], rows: dict[str, list[int]], shares: np.ndarray, layers: list[int], kept: list[list[int]]
) -> list[dict]:
    """Return what a map records of its domains: weight, floor, questions, and the least coverage with its layer."""
    entries = []
    for domain, share in zip(domains, shares):
        covered = [float(layer[experts].sum()) for layer, experts in zip(share, kept)]
        entries.append(
            {
                "name": domain.name,
                "weight": domain.weight,
                "floor": domain.floor,
                "questions": len(rows[domain.name]),
                "least_coverage": min(covered),
                "least_coverage_layer": layers[int(np.argmin(covered))],
                **({"file_sha256": sha256_file(domain.file)} if domain.file else {}),
            }
        )
    return entries
