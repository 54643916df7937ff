#!/usr/bin/env python3
"""Compare criteria by what dropping costs: KL divergence from the full model, on chats that did not choose the experts.

Inputs:  the full model's F16 GGUF; its statistics file; its checkpoint directory (tokenizer, chat template); questions
         in GPQA's columns to measure on.
Output:  TABLE.md and beside it the same name as .json (every number, digests, versions) and .png.
Example: .venv/bin/python scripts/compare_criteria.py --gguf build/gemma-4-demo/full/f16/gemma-4-demo-F16.gguf \\
             --stats build/gemma-4-demo/full/statistics/calibration_questions/expert_stats.safetensors \\
             --model data/demo/model --questions data/demo/eval_questions.csv --limit 4 --keep 109 --seeds 1 \\
             --output build/try/criteria.md

Every criterion of choice/criteria.py is compared at every keep count, and with it some random choices and the reverse
of the default (worst first), a control that must cost most. The pipeline's own scripts make each drop map and drop the
experts inside the GGUF. Each criterion is used with its own default of generate_drop_map.py for --protect-top.

KL(full || pruned) is taken at every position that predicts a token of the chat (prompt, reasoning, answer), and over
the reply (reasoning, answer) alone. Errors are standard errors over questions, for the tokens of one are not
independent.

Finished results are kept in TABLE.md.state, the full model's logits as well unless --recompute-full is given. After a
kill the same command continues from there.
"""

import argparse
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from chats.chat_sequences import Sequence, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest, read_domains
from choice.criteria import CRITERIA, PROTECTING, answerable
from choice.drop_map import check_keep_count, read_map
from choice.expert_stats import read_stats
from files.input_errors import InputError, sha256_file
from files.json_records import check_fields, read_json
from files.option_types import command_parser, output_file, positive
from files.run_state import RunState
from files.safe_files import check_apart, remove, replace_when_done, run
from files.seals import is_kept
from files.written_records import write_json, write_record
from ggufs.gguf_drop import metadata_beside
from ggufs.gguf_header import read_header
from llama.bindings import bindings_version
from llama.llama_tools import SCRIPTS, LlamaCpp, find_llama_cpp
from losses.criteria_report import (
    CONTROL,
    DEFAULT,
    ChoiceResult,
    Criteria,
    add_comparisons,
    criteria_conclusions,
    criteria_page,
    draw_criteria,
)
from losses.domain_losses import add_domain_losses, domain_lines
from losses.gguf_logits import GgufLogits
from losses.kld_statistics import kl_divergence
from losses.scored_chats import add_chat_arguments
from losses.stored_logits import StoredLogits, open_model, progress

import numpy as np

DEFAULT_KEEP = (109, 96, 64)  # of 128: the card's drop, and two harder ones
RANDOM_SEEDS = 5


@dataclass(frozen=True)
class Choice:
    """One way to choose experts, as generate_drop_map.py knows it, at one keep count."""

    criterion: str
    keep: int
    worst_first: bool = False
    domains: tuple[str, ...] = ()  # arguments of generate_drop_map.py

    @property
    def label(self) -> str:
        """The name in tables."""
        by_domains = " by domains" if self.domains else ""
        return CONTROL if self.worst_first else f"{self.criterion}{by_domains}"

    @property
    def flags(self) -> list[str]:
        """The arguments of generate_drop_map.py."""
        # No bootstrap: it says how certain a map is, which nothing here reads.
        reverse = ["--worst-first"] if self.worst_first else []
        return ["--keep", str(self.keep), "--criterion", self.criterion, *reverse, *self.domains, "--bootstrap", "0"]

    @property
    def file(self) -> str:
        """The name of its result in the state."""
        return f"{self.keep}-{self.label.replace(' ', '-').replace(':', '-')}.json"


def choices_at(
    keep: int, seeds: int, criterion: str = DEFAULT, domains: tuple[str, ...] = (), criteria: Iterable[str] = CRITERIA
) -> list[Choice]:
    """Return every criterion, `seeds` random ones and the control, at one keep count.

    domains: arguments of generate_drop_map.py; where there are any, `criterion` is compared by domains, too.
    """
    names = [*criteria, *(f"random:{seed}" for seed in range(1, seeds + 1))]
    by_domains = [Choice(criterion, keep, domains=domains)] if domains else []
    return [*by_domains, *(Choice(name, keep) for name in names), Choice(DEFAULT, keep, worst_first=True)]


def protection(criterion: str, top: int | None) -> list[str]:
    """Return the arguments that protect other than the default number of experts, where the criterion protects any."""
    return ["--protect-top", str(top)] if top is not None and criterion in PROTECTING else []


def domain_arguments(args: argparse.Namespace) -> tuple[str, ...]:
    """Return the arguments of generate_drop_map.py for a choice by domains, none where none is asked for."""
    if not args.domains:
        return ()
    return ("--domains", *args.domains, "--domain-questions", str(args.domain_questions))


def domain_inputs(args: argparse.Namespace) -> dict:
    """Return what a choice by domains depends on, {} where none is asked for."""
    if not args.domains:
        return {}
    digest = sha256_file(args.domain_questions)  # its domains decide which experts are kept
    return {"criterion": args.criterion, "domains": args.domains, "domain_questions_sha256": digest}


def check_floors(args: argparse.Namespace, folder: Path) -> None:
    """Raise InputError when a choice by domains cannot meet its floors: before hours of work."""
    for keep in args.keep if args.domains else []:
        drop_map = folder / "drop_map.json"
        choice = Choice(args.criterion, keep, domains=domain_arguments(args))
        flags = [*choice.flags, *protection(args.criterion, args.protect_top)]
        run_script("generate_drop_map.py", "--stats", args.stats, *flags, "--output", drop_map)


def question_row(kld: np.ndarray, same_top: np.ndarray, sequence: Sequence) -> dict[str, float]:
    """Return one question's counts and sums, over all predicted tokens and over those of the reply.

    kld, same_top: [tokens]; position i predicts token i + 1, so the last position is left out.
    """
    every, reply = slice(0, len(sequence.ids) - 1), slice(max(sequence.start - 1, 0), len(sequence.ids) - 1)
    return {
        "tokens": len(kld[every]),
        "kld": float(kld[every].sum()),
        "same_top": int(same_top[every].sum()),
        "reply_tokens": len(kld[reply]),
        "reply_kld": float(kld[reply].sum()),
        "reply_same_top": int(same_top[reply].sum()),
    }


def divergences(full: StoredLogits, pruned: GgufLogits, sequences: list[Sequence]) -> dict[str, list[float]]:
    """Return the columns of `question_row`, a value per question."""
    rows = []
    for number, sequence in enumerate(sequences):
        kld, same = [], []
        for mine, theirs in zip(full.chunks(number), pruned.chunks(sequence.ids), strict=True):
            # Reduced at once: `theirs` is llama.cpp's memory, and the next piece overwrites it.
            kld.append(kl_divergence(mine, theirs))
            same.append(mine.argmax(axis=1) == theirs.argmax(axis=1))
        rows.append(question_row(np.concatenate(kld), np.concatenate(same), sequence))
    return {name: [row[name] for row in rows] for name in rows[0]}


def run_script(script: str, *arguments: object) -> None:
    """Run one of the pipeline's scripts; raise InputError with its own message when it fails."""
    # As processes: what is compared is what a user gets from these commands, and commands do not import each other.
    done = subprocess.run([sys.executable, SCRIPTS / script, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise InputError(script, "success", lines[-1].removeprefix("error: ")[:300])


def prune_and_measure(
    choice: Choice,
    args: argparse.Namespace,
    tools: LlamaCpp,
    full: StoredLogits,
    sequences: list[Sequence],
    folder: Path,
) -> dict:
    """Make the drop map and the pruned GGUF of a choice, measure it, and delete the GGUF again."""
    drop_map, pruned = folder / "drop_map.json", folder / "pruned.gguf"
    protected = protection(choice.criterion, args.protect_top)
    try:
        run_script("generate_drop_map.py", "--stats", args.stats, *choice.flags, *protected, "--output", drop_map)
        run_script("expert_drop.py", "--source", args.gguf, "--drop-map", drop_map, "--output", pruned)
        with open_model(pruned, tools, full.texts, args) as model:
            columns = divergences(full, model, sequences)
        return {
            "criterion": choice.criterion,
            "worst_first": choice.worst_first,
            "protect_top": read_map(drop_map)["protect_top"],
            "drop_map_sha256": sha256_file(drop_map),
            "pruned_sha256": sha256_file(pruned),
            "per_question": columns,
        }
    finally:
        remove(pruned)  # as large as the model, once per choice: kept, they would fill a disk
        remove(metadata_beside(pruned))


def read_result(path: Path) -> dict:
    """Return a finished choice's result; raise InputError when the file holds something else."""
    content = read_json(path)
    check_fields(path, content, ChoiceResult, "the result of a choice", "remove it")
    return content


def measure_choices(
    args: argparse.Namespace, tools: LlamaCpp, sequences: list[Sequence], folder: Path
) -> dict[int, dict[str, dict]]:
    """Return the result of every choice by keep count and label; those in `folder` are not measured again."""
    domains = domain_arguments(args)
    criteria = answerable(read_stats(args.stats)[0])
    choices = [
        choice for keep in args.keep for choice in choices_at(keep, args.seeds, args.criterion, domains, criteria)
    ]
    left = [choice for choice in choices if not is_kept(folder / choice.file)]
    if left:
        check_floors(args, folder)
        full = StoredLogits(
            args.gguf, tools, [sequence.ids for sequence in sequences], folder, args, "full", args.recompute_full
        )
        for choice in progress(left, "compare criteria", "choice"):
            write_json(folder / choice.file, prune_and_measure(choice, args, tools, full, sequences, folder))
    results: dict[int, dict[str, dict]] = {keep: {} for keep in args.keep}
    for choice in choices:
        results[choice.keep][choice.label] = read_result(folder / choice.file)
    return results


def check_inputs(args: argparse.Namespace, questions: list[Question]) -> dict:
    """Return what the results depend on; raise InputError when the inputs do not belong together."""
    arrays, metadata = read_stats(args.stats)
    experts = arrays["token_count"].shape[2]
    if (found := read_header(args.gguf).experts) != experts:
        raise InputError(args.gguf, f"{experts} experts, as {args.stats} has", str(found))
    if sha256_file(args.model / "config.json") != metadata["config_sha256"]:
        raise InputError(args.model, f"the checkpoint that {args.stats} was measured on", "another config.json")
    for keep in args.keep:
        check_keep_count("--keep", keep, experts, metadata["top_k"])
    if len(questions) < 2:
        raise InputError(args.questions, "two questions or more", str(len(questions)))
    chose = {question["id"] for question in metadata["questions"]}
    return {
        "gguf_sha256": sha256_file(args.gguf),
        "stats_sha256": sha256_file(args.stats),
        "config_sha256": metadata["config_sha256"],
        "questions_sha256": question_set_digest(questions),
        "question_ids": [question.record_id for question in questions],
        "questions_that_chose": len(chose),
        "in_sample": sum(question.record_id in chose for question in questions),
        "question_seed": QUESTION_SEED,
        "max_tokens": args.max_tokens,
        "gpu_layers": args.gpu_layers,
        **({"reconstruction": metadata["reconstruction"]} if metadata.get("reconstruction") else {}),
        **domain_inputs(args),
        **({} if args.protect_top is None else {"protect_top": args.protect_top}),
        "versions": {
            "llama_cpp": find_llama_cpp(args.llama_cpp).version(),
            "bindings": bindings_version(),
            "transformers": importlib.metadata.version("transformers"),
        },
    }


def write_results(
    args: argparse.Namespace,
    inputs: dict,
    domains: list[str],
    sequences: list[Sequence],
    results: dict[int, dict[str, dict]],
) -> bool:
    """Write the table, the numbers and the picture; return whether the control cost most at every keep count.

    domains: of every question.
    """
    output = args.output
    add_comparisons(results)
    add_domain_losses(results, domains)
    conclusions = criteria_conclusions(results)
    content = {
        "inputs": inputs,
        "truncated": sum(sequence.truncated for sequence in sequences),
        "seeds": args.seeds,
        "domains": domains,
        "conclusions": conclusions,
        "keep": {str(keep): entries for keep, entries in results.items()},
    }
    write_record(output.with_suffix(".json"), content, Criteria)
    draw_criteria(results, output.with_suffix(".png"))
    with replace_when_done(output) as partial:  # last: it is the file that the next run, and make, look for
        lines = "".join(f"{line}\n" for line in domain_lines(results, domains))
        partial.write_text(criteria_page(content, results) + lines, encoding="utf-8")
    return conclusions["control_last"]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--gguf", type=Path, required=True, help="F16 GGUF of the full model")
    add("--stats", type=Path, required=True, help="statistics file of the full model")
    add("--output", type=output_file, required=True, help="Markdown file to write; .json and .png go beside it")
    add = parser.add_argument_group("what is compared").add_argument
    add("--keep", type=positive, nargs="+", default=list(DEFAULT_KEEP), help="keep counts")
    add("--seeds", type=positive, default=RANDOM_SEEDS, help="random choices per keep count")
    few = "experts protected per question and layer by the criteria that protect any: fewer than --keep"
    add("--protect-top", type=positive, metavar="N", help=few)
    by_domains = "compare --criterion by these domains as well, as generate_drop_map.py has them"
    add("--domains", nargs="+", metavar="D", help=by_domains)
    add("--domain-questions", type=Path, metavar="FILE", help="question file whose column names the domains")
    add("--criterion", default=DEFAULT, help="criterion of the choice by domains")
    add_chat_arguments(parser)
    add = parser.add_argument_group("memory and disk").add_argument
    add(
        "--recompute-full",
        action="store_true",
        help="keep the full model in memory beside the pruned one and compute its logits again for every choice; the "
        "default computes them once, into files (4 bytes per token and vocabulary entry)",
    )
    args = parser.parse_args(argv)
    if args.domains and not args.domain_questions:
        parser.error("--domains: expected --domain-questions beside it")
    if args.output.suffix != ".md":
        parser.error(f"--output: expected a name that ends in .md, found {args.output.name}")
    args.keep = list(dict.fromkeys(args.keep))
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    read = [args.gguf, args.stats, args.questions, *([args.domain_questions] if args.domain_questions else [])]
    check_apart(read, [args.output.with_suffix(end) for end in (".md", ".json", ".png")])
    questions = load_questions(args.questions, QUESTION_SEED)[: args.limit]
    inputs, named = check_inputs(args, questions), read_domains(args.questions)
    domains = [named[question.record_id] for question in questions]
    tokenizer = load_tokenizer(args.model)
    sequences = [teacher_forced_sequence(tokenizer, question, args.max_tokens, "answer") for question in questions]
    with RunState(args.output.with_name(f"{args.output.name}.state"), inputs) as state:
        results = measure_choices(args, find_llama_cpp(args.llama_cpp), sequences, state.directory)
        control_last = write_results(args, inputs, domains, sequences, results)
        state.discard()
    print(args.output.read_text(encoding="utf-8"), end="")
    # The files stay, to be looked at: a control that does not cost most says that the measurement cannot be trusted.
    if not control_last:
        sys.exit(
            f"error: {args.output}: expected {CONTROL} to cost most over all tokens at every keep count, found that "
            "it does not"
        )


if __name__ == "__main__":
    run(main)
