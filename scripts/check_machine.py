#!/usr/bin/env python3
"""Check whether this machine, its programs and its access to the Hub are up to a run, before any work is done.

Inputs:  the run's model (a directory or a Hub id), its questions (a file, or gpqa), its plan if there is one.
Output:  a line per check on stdout: ok, warn or FAIL, what, found, and what to do; then a summary.
         The exit code is 1 if a check failed.
Example: .venv/bin/python scripts/check_machine.py --model data/demo/model \\
             --questions data/demo/calibration_questions.csv --build build

Nothing is downloaded or written. Of a local model and local questions nothing is asked on the Hub. A network fault, a
missing permission and a name that does not exist are two different lines.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, load_questions
from checkpoints.assistant import check_assistant, check_states
from checkpoints.checkpoint import TensorRange, check_weights_alone, read_checkpoint, read_config
from checkpoints.licence import TO_SAY, Licence, licence_in, licence_of, released_licence
from checkpoints.moe_families import expert_tensors, family_of, shape_of, text_config
from choice.drop_map import check_keep_count
from files.input_errors import InputError
from files.option_types import command_parser, positive, whole_number
from files.safe_files import gib, run
from files.seals import build_folder
from release.names import is_hub_id
from stages.checks import FAIL, OK, WARN, Check, needed
from stages.hub_checks import NOT_ASKED, Hub, check_gpqa, check_hub_model, check_token, failed
from stages.machine_checks import (
    check_compiler,
    check_disk,
    check_gpu,
    check_make,
    check_memory,
    check_python,
    check_tools,
    said,
    tools_are_built,
    tools_folder,
    torch_has_gpu,
)
from stages.needs import (
    RunSizes,
    all_quants,
    disk_of_run,
    machine_memory,
    memory_of_analysis,
    sizes_of_plan,
    with_estimated_quants,
)

from huggingface_hub import constants

GPQA = "gpqa"
NAME_WIDTH = 15


def check_headers(directory: Path, keep: int | None, protect_top: int) -> tuple[Check, RunSizes]:
    """Check a checkpoint by its config and headers; return also its sizes.

    Raises InputError when it is of no known family or incomplete, or cannot keep so many experts.
    """
    config, tensors = read_config(directory), read_checkpoint(directory)
    family = family_of(directory, config, list(tensors))
    shape = shape_of(directory, family, config)
    experts = expert_tensors(directory, family, tensors, shape)
    if keep is not None:
        check_keep_count("KEEP", keep, shape.experts, shape.top_k)
        # Where each question protects as many as stay, nearly all experts have the same coverage, and ties decide.
        if protect_top >= keep:
            few = f"fewer than the {keep} experts that stay"
            raise InputError("PROTECT_TOP", few, str(protect_top), f"set PROTECT_TOP={max(1, keep // 8)} or so")
    full = sum(tensor.size for tensor in tensors.values())
    of_experts = sum(tensors[name].size for name in experts)
    pruned = full - of_experts * (shape.experts - (keep or shape.experts)) // shape.experts
    layers = layer_bytes(tensors)
    found = f"{family.name}, {shape.experts} experts in {len(shape.layers)} layers, {gib(full)} GiB"
    return Check(OK, "model", found), RunSizes(full, pruned, max(layers), full - sum(layers), {})


def layer_bytes(tensors: dict[str, TensorRange]) -> list[int]:
    """Return the bytes of every layer, by the number behind "layers." in the names of its tensors."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        place, mark, rest = name.partition("layers.")
        if mark:
            key = place + rest.partition(".")[0]
            sizes[key] = sizes.get(key, 0) + tensor.size
    return list(sizes.values()) or [0]


def check_licence(model: str, given: str, base: Licence | None, releases: bool) -> Check:
    """Check that the licence of a release is known; base: what the base names, releases: whether one is to be made."""
    try:
        found = released_licence(given, base, model)
    except InputError as error:
        state = FAIL if releases else WARN
        if given:
            return Check(state, "licence", str(error))
        files = ", ".join(sorted(path.name for path in Path(model).glob("LICENSE*")))
        unknown = f"not known: nothing names one that can be taken{f', though there is {files}' if files else ''}"
        return Check(state, "licence", unknown, f"make release will be refused: {TO_SAY}")
    other = f", where {base.named_by} says {base.words}" if base and base != found else ""
    return Check(OK, "licence", f"{found.words} (by {found.named_by}{other})")


def check_local_model(directory: Path, keep: int | None, protect_top: int) -> tuple[list[Check], RunSizes | None]:
    """Check a checkpoint directory: headers, tokenizer; return also its sizes, None if it is refused."""
    checks: list[Check] = []
    sizes: RunSizes | None = None
    try:
        check, sizes = check_headers(directory, keep, protect_top)
        checks.append(check)
    except InputError as error:
        checks.append(Check(FAIL, "model", str(error)))
    try:
        load_tokenizer(directory)
        checks.append(Check(OK, "tokenizer", "loads, and its chat template renders"))
    except InputError as error:
        checks.append(Check(FAIL, "tokenizer", str(error)))
    return checks, sizes


def check_low_disk(model: Path) -> list[Check]:
    """Return what keeps LOW_DISK=all from taking the weights of a local model, found out before hours of work."""
    try:
        check_weights_alone(model)
    except InputError as error:
        return [Check(FAIL, "weights", str(error))]
    return []


def check_run_model(args: argparse.Namespace, hub: Hub | None) -> tuple[list[Check], RunSizes | None]:
    """Check the model, a directory or one of the Hub; return also its sizes as far as they are known."""
    model = Path(args.model)
    if hub is None or model.exists():
        checks, sizes = check_local_model(model, args.keep, args.protect_top)
        if sizes and args.low_disk == "all" and (model.is_symlink() or not build_folder(model)):  # the user's own
            checks += check_low_disk(model)
        if (model / "config.json").is_file():  # else there is no model, which has been said
            checks.append(check_licence(args.model, args.license, licence_of(model), args.releases))
        return checks, sizes
    if not is_hub_id(args.model):
        return [Check(FAIL, "model", f"{args.model}: no directory and no Hub id OWNER/NAME", "check MODEL")], None
    checks, size, card = check_hub_model(hub, args.model)
    if card is not None:
        base = licence_in(card, "its card on the Hub")
        checks.append(check_licence(args.model, args.license, base, args.releases))
    # Of a model that is not here only the size is known. The pruned one counts as large: that is on the safe side.
    return checks, RunSizes(size, size, 0, 0, {}) if size else None


def check_question_source(name: str, hub: Hub | None) -> Check:
    """Check the questions: a file that can be read, or GPQA, which the user must have access to."""
    if name == GPQA and hub:
        return check_gpqa(hub)
    try:
        return Check(OK, "questions", f"{name}: {len(load_questions(Path(name), QUESTION_SEED))} questions")
    except InputError as error:
        return Check(FAIL, "questions", str(error))


def check_draft(draft: str, model: Path, hub: Hub | None) -> Check:
    """Check the draft model: an assistant that is here and of the model, or one of the Hub that can be downloaded."""
    if hub is None or Path(draft).exists():
        try:
            config = check_assistant(Path(draft))
            own = text_config(read_config(model)).get("hidden_size") if (model / "config.json").is_file() else None
            if own:  # said here, long before the draft model is built
                check_states(config, own, draft, model)
            return Check(OK, "draft model", f"{draft}: {config['model_type']}")
        except InputError as error:
            return Check(FAIL, "draft model", str(error))
    if not is_hub_id(draft):
        return Check(FAIL, "draft model", f"{draft}: no directory and no Hub id OWNER/NAME", "check DRAFT")
    if hub.unreachable:
        return Check(WARN, "draft model", f"{draft}: {NOT_ASKED}")
    fault = hub.file_access(draft, "config.json", "model")
    if fault:
        return failed("draft model", draft, fault, f"{constants.ENDPOINT}/{draft}")
    return Check(OK, "draft model", f"{draft} can be downloaded")


def check_programs(args: argparse.Namespace) -> list[Check]:
    """Check compiler, make, git, Python, the tools and the GPU."""
    ggufs = args.gguf_needed
    folder = tools_folder(args.llama_cpp, args.cmake_args)
    built = tools_are_built(folder, args.llama_cpp is not None)
    return [
        check_python(),
        check_make(),
        needed("git", said("git", "--version"), "only needed to fetch newer versions of this project", WARN),
        check_compiler(built, ggufs),
        check_tools(folder, args.llama_cpp is not None, ggufs),
        check_gpu(folder, args.cmake_args, built, ggufs),
    ]


def check_room(args: argparse.Namespace, sizes: RunSizes | None) -> list[Check]:
    """Check disk and memory, by the plan where there is one, else by the sizes of the model where they are known."""
    plan = sizes_of_plan(args.plan) if args.plan and args.plan.exists() else None
    room = plan or (with_estimated_quants(sizes, args.quants or all_quants()) if sizes else None)
    if room is None:
        return [Check(WARN, "disk and memory", "not known without the model", "run `make plan`, then this again")]
    # What was fetched lies in the build folder: it is part of what the run needs, and of what is there already.
    fetched = Path(args.model).resolve().is_relative_to(args.build.resolve())
    downloads = fetched or not Path(args.model).exists()
    wanted = args.needed_bytes or disk_of_run(
        room, downloads, args.gguf_needed, args.reference_quants, args.low_disk != "no"
    )
    how = "given" if args.needed_bytes else "by the plan" if plan else "an estimate: there is no plan yet"
    # The checkpoint itself says best what it takes in memory: it need not be stored at 16 bits, as the plan has it.
    held = sizes if sizes and sizes.layer else room
    return [
        check_disk(args.build, wanted, how, exact=plan is not None),
        check_analysis(held, args.stream_layers, torch_has_gpu()),
    ]


def check_analysis(sizes: RunSizes, streams: bool, gpu: bool) -> Check:
    """Check the memory of the analysis; gpu: whether the model would lie on one."""
    streamed = memory_of_analysis(sizes, True) if sizes.layer else None
    check = check_memory(memory_of_analysis(sizes, False), streamed, streams, machine_memory())
    if check.state == FAIL and gpu:  # how much of it fits there only the analysis can tell
        return replace(check, state=WARN, advice=f"{check.advice}, unless the GPU holds the model")
    return check


def yes_or_no(text: str) -> bool:
    """Parse yes, no or nothing, which is no."""
    if text not in ("yes", "no", ""):
        raise argparse.ArgumentTypeError(f"expected yes or no, found {text!r}")
    return text == "yes"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    what = parser.add_argument_group("the run")
    what.add_argument("--model", required=True, help="checkpoint directory or Hub id")
    what.add_argument("--questions", required=True, help=f"question file, or {GPQA} if it is to be downloaded")
    what.add_argument("--eval-questions", help="question file that is scored, if it is another")
    what.add_argument("--draft", help="assistant that drafts for the model: a directory or a Hub id")
    what.add_argument("--build", type=Path, required=True, help="where its files go; those there already are counted")
    what.add_argument("--stream-layers", type=yes_or_no, default=False, metavar="YES-NO", help="one layer in memory")
    low = "yes, all: files go once no step needs them"
    what.add_argument("--low-disk", choices=("yes", "no", "all"), default="no", help=low)
    what.add_argument("--gguf-needed", type=yes_or_no, default=True, metavar="YES-NO", help="whether quants are made")
    what.add_argument("--license", default="", help="licence that is given for the release, in place of the base's own")
    what.add_argument("--releases", action="store_true", help="fail where the licence is not known: a release is made")
    size = parser.add_argument_group("its size")
    size.add_argument("--plan", type=Path, help="plan.json of plan_quants.py; without it sizes are estimated")
    size.add_argument("--needed-bytes", type=positive, help="disk for the whole run, in place of plan and estimate")
    size.add_argument("--keep", type=positive, help="experts that stay in each layer, for the estimate")
    size.add_argument("--protect-top", type=whole_number, default=0, help="experts protected per question and layer")
    size.add_argument("--quants", nargs="*", default=[], help="quants, for the estimate (default: all not opt-in)")
    size.add_argument("--reference-quants", nargs="*", default=[], help="quants of the full model")
    tools = parser.add_argument_group("tools")
    tools.add_argument("--llama-cpp", default="", help="folder of a llama.cpp build (default: the one built here)")
    tools.add_argument("--cmake-args", default="", help="extra flags of the tools' build")
    output = parser.add_argument_group("output")
    output.add_argument("--problems-only", action="store_true", help="print no line of a check that is ok")
    args = parser.parse_args(argv)
    args.llama_cpp = Path(args.llama_cpp) if args.llama_cpp else None
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    models = [Path(model) for model in (args.model, args.draft) if model]
    hub = None if all(path.exists() for path in models) and args.questions != GPQA else Hub()
    checks = check_programs(args)
    if hub:
        checks.append(check_token(hub))
    of_model, sizes = check_run_model(args, hub)
    # Both files: a wrong column of the scored ones would else show after the analysis and the quants.
    sources = [args.questions, *([args.eval_questions] if args.eval_questions else [])]
    of_draft = [check_draft(args.draft, Path(args.model), hub)] if args.draft else []
    checks += [*of_model, *of_draft, *(check_question_source(name, hub) for name in sources), *check_room(args, sizes)]
    for check in checks:
        if not (args.problems_only and check.state == OK):
            print(check.line(NAME_WIDTH))
    states = [check.state for check in checks]
    print(f"{len(checks)} checks: {', '.join(f'{states.count(state)} {state}' for state in (OK, WARN, FAIL))}")
    if failed := [check for check in checks if check.state == FAIL]:
        first, *more = failed
        others = f" (failed, too: {', '.join(check.what for check in more)})" if more else ""
        sys.exit(f"error: {first.what}: {first.found}{f'; {first.advice}' if first.advice else ''}{others}")


if __name__ == "__main__":
    run(main)
