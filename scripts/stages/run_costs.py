"""What each step of a run costs: its kind, the seconds it takes on the machine of reference, memory, and disk.

`reference_seconds` is a plain model: a step takes a while to start, then goes through its bytes, weights or tokens at a
fixed speed. The speeds below were measured by `make rehearse` on the machine of docs/benchmarks.md. Another machine is
slower or faster by a factor for each kind (stages/calibration.py). Steps whose work is small are all of one kind.
"""

from dataclasses import dataclass
from pathlib import Path

from choice.drop_map import METADATA_NAME
from files.safe_files import GIB
from ggufs.companions import is_companion
from scoring.score_records import SUMMARY_NAME
from stages.needs import FULL_FOLDER, IMATRIX, SLACK_BYTES, STATISTICS, RunSizes, disk_of_step, memory_of_step, quant_of

# Seconds before a command begins its work, and after it: imports, libraries, the server and lm-eval of a score.
START_SECONDS = {
    "small": 1.5,
    "load": 4.5,
    "analyse": 8.0,
    "drop": 2.0,
    "convert": 9.0,
    "imatrix": 4.0,
    "quantise": 3.0,
}
START_SECONDS |= {"score": 12.0, "release": 1.5, "free": 1.0, "free weights": 7.0}
# Per second: bytes; weights, at Q4_K_M; products of a weight with a token. The last is of reading an answer's tokens,
# one after the other.
COPIED, CONVERTED, VOCABULARY_READ, PUBLISHED, QUANTISED = 0.8e9, 0.5e9, 0.27e9, 0.6e9, 36e6
COMPARED = 0.25e9  # bytes of a conversion, held against transformers: read three times, and computed
HASHED = 0.8e9  # as it is read: before a file is removed, its digest is written down
ANALYSED, CALIBRATED, ANSWERED = 400e9, 70e9, 30e9
PASSED = 20e9  # bytes of weights from memory to the processor
IMATRIX_TOKENS = 512  # that llama-imatrix takes at once
# How long a type takes beside Q4_K_M, which has tensors of Q6_K, too.
TYPE_FACTORS = {"F16": 0.02, "Q8_0": 0.26, "Q6_K": 0.67, "IQ": 3.0}
MEMORY_OF_PYTHON = GIB // 2
WEIGHTS_FREED = "weights.freed"
CHARACTERS_PER_TOKEN = 4
PROMPT_TOKENS = 250  # of a question of an evaluation


@dataclass(frozen=True)
class Work:
    """What of a run is no size of a file: tokens, questions, the weights that a token goes through, this memory."""

    analysed_questions: int
    analysed_tokens: int
    imatrix_tokens: int
    questions: int
    answer_tokens: int
    active_weights: int
    memory_bytes: int  # of this machine


@dataclass(frozen=True)
class Cost:
    """A step's kind, and its seconds on the machine of reference: before and after its work, and at work."""

    kind: str
    work_seconds: float

    @property
    def start_seconds(self) -> float:
        """The seconds that it takes whatever its work is."""
        return START_SECONDS[self.kind]

    def seconds(self, factors: dict[str, float]) -> float:
        """Return the seconds on a machine that is slower by a factor for each kind, and by "start" for starts."""
        return self.start_seconds * factors.get("start", 1.0) + self.work_seconds * factors.get(self.kind, 1.0)


def type_factor(quant: str) -> float:
    """Return how long a quant takes to build, beside Q4_K."""
    return next((factor for name, factor in TYPE_FACTORS.items() if quant.removeprefix("CD-").startswith(name)), 1.0)


def step_cost(target: Path, sizes: RunSizes, work: Work, streams: bool) -> Cost:
    """Return what a step costs, by what it makes."""
    full = FULL_FOLDER in target.parts
    model = sizes.full if full else sizes.pruned
    if target.suffix == ".freed":
        return Cost("free weights", sizes.full / HASHED) if target.name == WEIGHTS_FREED else Cost("free", 0.0)
    if target.name == STATISTICS:
        read = sizes.full / COPIED if streams else 0.0
        # Each question goes alone, and its tokens reach nearly all experts: all weights pass the processor once.
        passed = work.analysed_questions * sizes.full / PASSED
        return Cost("analyse", read + passed + work.analysed_tokens * work.active_weights / ANALYSED)
    if target.suffix == ".txt":  # machine.txt, source.txt, and the questions as chats: transformers is imported
        return Cost("load", 0.0)
    if target.name == METADATA_NAME:
        return Cost("drop", sizes.pruned / COPIED)
    if target.name.endswith("-F16.gguf") and target.parent.name == "f16" or target.name.startswith("mmproj-"):
        made = disk_of_step(target, sizes)
        compared = 0.0 if is_companion(target) else made / COMPARED
        return Cost("convert", made / CONVERTED + sizes.rest / VOCABULARY_READ + compared)
    if target.name == IMATRIX:
        # What does not fit into memory is read again for every piece of the text.
        reads = 1 if model < work.memory_bytes - MEMORY_OF_PYTHON else -(-work.imatrix_tokens // IMATRIX_TOKENS)
        # It computes while the system reads.
        return Cost("imatrix", max(reads * model / COPIED, work.imatrix_tokens * work.active_weights / CALIBRATED))
    if quant := quant_of(target, sizes):
        return Cost("quantise", type_factor(quant) * model / 2 / QUANTISED)
    if target.name == SUMMARY_NAME:
        prompts = work.questions * PROMPT_TOKENS * work.active_weights / CALIBRATED
        return Cost("score", prompts + work.questions * work.answer_tokens * work.active_weights / ANSWERED)
    if target.name == "manifest.json":
        published = sizes.pruned if target.parent.name == "checkpoint" else sum(sizes.quants.values())
        return Cost("release", published / PUBLISHED)
    return Cost("small", 0.0)


def peak_memory(target: Path, sizes: RunSizes, streams: bool) -> int:
    """Return the memory that a step takes at once, mapped files included, by what it makes."""
    if target.name.endswith("-F16.gguf") and not is_companion(target):
        # A layer in fp32 and rounded, embedding and head; then llama.cpp's mapped file.
        model = sizes.full if FULL_FOLDER in target.parts else sizes.pruned
        return max(3 * sizes.layer + 2 * sizes.rest, model) + 2 * MEMORY_OF_PYTHON
    if quant_of(target, sizes):  # its largest tensor is two thirds of a layer: mapped, as float32, and quantised
        return sizes.layer * 8 // 3 + MEMORY_OF_PYTHON
    if target.suffix == ".txt":  # transformers, and a tokenizer
        return 2 * MEMORY_OF_PYTHON
    if target.name == IMATRIX:  # what it computes for 512 tokens at once is as long as the vocabulary
        return memory_of_step(target, sizes, streams) + 2 * sizes.rest
    if target.name == SUMMARY_NAME:  # lm-eval, and the server's buffers
        return memory_of_step(target, sizes, streams) + SLACK_BYTES + MEMORY_OF_PYTHON
    return memory_of_step(target, sizes, streams) or MEMORY_OF_PYTHON


def disk_after(target: Path, sizes: RunSizes) -> int:
    """Return the bytes by which a step changes what the run takes on the disk."""
    if target.suffix != ".freed":
        return disk_of_step(target, sizes)
    if target.name == WEIGHTS_FREED:
        return -sizes.full
    return -disk_of_step(target.with_suffix(""), sizes)
