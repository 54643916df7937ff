"""A machine that answered, as records hold it and in words; scripts/llama/hardware.py looks at it. Never its name."""

from collections import Counter

from files.display import plural
from files.json_records import Fields

# Of a server at a given address: it tells nothing of the machine that it runs on.
RAN_ALREADY = {"cpu": "not recorded (servers that ran already)", "cores": 0, "gpus": [], "backends": []}


class Hardware(Fields):
    """A machine that answered: processor, cores that it might use, and llama.cpp's devices and backends."""

    cpu: str
    cores: int
    gpus: list[str]
    backends: list[str]


def machine_in_words(machine: dict) -> str:
    """Return a machine that answered: processor and cores, graphics cards, backends of llama.cpp."""
    if not machine["cores"]:  # one that nothing is known of
        return machine["cpu"]
    counts = Counter(machine["gpus"])
    gpus = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items()) or "no GPU"
    processor = f"{machine['cpu']} ({plural(machine['cores'], 'core')})"
    return f"{processor}; {gpus}; llama.cpp's backend: {', '.join(machine['backends'])}"


def machine_sentence(results: dict) -> str:
    """Return on what machine a record's answers were timed, after a blank; "" of an older record."""
    return f" Timed on {machine_in_words(results['hardware'])}." if results.get("hardware") else ""
