#!/usr/bin/env python3
"""Measure what lower types cost: KL divergence from the F16 model when a role, or one layer of it, goes to a type.

Inputs:  an F16 GGUF and its imatrix; a tokenizer with a chat template; questions (those of calibration: what is scored
         later should not choose).
Output:  a JSON file (`Sensitivity` of quants/sensitivity_record.py), KLD in nats per token: `roles` (each role at each
         legal type, in all layers at once), `layers` (one layer of a role at a low type, named in `low_types`),
         `errors` (standard errors over chats), `inputs` (digests, versions, chats).
Example: .venv/bin/python scripts/measure_sensitivity.py \\
             --input build/gemma-4-demo/109e/f16/gemma-4-demo-109e-F16.gguf \\
             --imatrix build/gemma-4-demo/109e/gguf/imatrix.gguf --model data/demo/model \\
             --questions data/demo/calibration_questions.csv --limit 4 --output build/try/sensitivity.json

Each value is measured on a GGUF file of its own that llama-quantize builds, all else left at F16; the file is removed
again. Tokens: those of the replies. Finished values stay in FILE.json.state, and the same command goes on from there;
an output of the same inputs is left as it is.
"""

import argparse
import math
import os
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS, teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest
from files.input_errors import InputError, sha256_file, shown
from files.json_records import read_json, sha256_json
from files.known_digests import held_sha256, known_sha256
from files.option_types import command_parser, named_path
from files.run_state import RunState
from files.safe_files import check_apart, remove, require_disk_space, run
from files.seals import check_kept, is_kept
from files.written_records import write_json, write_record
from ggufs.gguf_header import GgufHeader, read_header
from ggufs.imatrix import read_imatrix
from llama.bindings import bindings_version
from llama.llama_tools import LlamaCpp, find_llama_cpp, last_words
from losses.chat_masks import Chats, chats_of
from losses.kld_statistics import per_chat
from losses.scored_chats import add_chat_arguments, against
from losses.stored_logits import StoredLogits, open_model, progress
from quants.padded_model import write_padded_pair
from quants.quant_plan import check_covers, check_float, plan_quant, run_quantize
from quants.recipes import RECIPES
from quants.sensitivity_record import Sensitivity
from quants.target_sizes import (
    Group,
    groups_of,
    low_type,
    overrides_of,
    paddable,
    padded_groups,
    read_sensitivity,
    tensor_kind,
)
from scoring.paired_statistics import mean_and_error

REFERENCE = "f16"
LAYER = "layer "  # begins the name of a probe of one layer

Probe = list[tuple[Group, str]]  # groups and their types; all else stays as in the source
ProbeKey = tuple[str, str]  # a role, and a type or LAYER with a number


def probes_of(groups: list[Group], padded: list[Group]) -> dict[ProbeKey, Probe]:
    """Return the files to measure: each role at each type, and each layer of a role at a low type.

    padded: the groups of the padded model, whose rows other types fit.
    """
    probes: dict[ProbeKey, Probe] = {}
    for role in dict.fromkeys(group.role for group in groups):
        own = [group for group in groups if group.role == role]
        for kind in dict.fromkeys(kind for group in own for kind in group.legal):
            probes[role, kind] = [(group, kind) for group in own if kind in group.legal]
        # Every type in every layer would be some 2,000 files: a layer's share is taken from one type instead.
        if len(own) > 1:
            probes |= {(role, f"{LAYER}{group.layer}"): [(group, low_type(group))] for group in own}
    for group in padded:
        for kind in group.legal:
            if (group.role, kind) not in probes or probes[group.role, kind][0][0] in padded:
                probes.setdefault((group.role, kind), []).append((group, kind))
    return probes


def probe_command(tool: Path, imatrix: Path, probe: Probe, model: Path, output: Path, threads: int) -> list[object]:
    """Return the command line of llama-quantize that types groups and leaves all else as it is.

    It takes overrides only where the base type is a quantised one, so all else is overridden, too, after the groups:
    the first match wins.
    """
    overrides = [*overrides_of(probe), (".*", tensor_kind(probe[0][0]).lower())]
    flags = [part for pattern, kind in overrides for part in ("--tensor-type", f"{pattern}={kind}")]
    return [tool, "--imatrix", imatrix.resolve(), *flags, model.resolve(), output.resolve(), "Q8_0", threads]


def check_probe(path: Path, probe: Probe, header: GgufHeader) -> None:
    """Raise InputError unless exactly the groups of a probe have other types than in the source."""
    kinds = {tensor.name: tensor.kind.name for tensor in header.tensors}
    kinds |= {tensor.name: kind for group, kind in probe for tensor in group.tensors}
    for tensor in read_header(path).tensors:
        if tensor.kind.name != kinds[tensor.name]:
            raise InputError(
                "llama-quantize", f"{tensor.name} in {kinds[tensor.name]}", tensor.kind.name, "is it another version?"
            )


def probe_loss(
    args: argparse.Namespace,
    tools: LlamaCpp,
    source: tuple[GgufHeader, Path],
    probe: Probe,
    full: StoredLogits,
    chats: Chats,
    folder: Path,
) -> list[float]:
    """Return the mean KLD of a probe over the replies and its standard error over chats, nats per token.

    source: header and imatrix of the model that it is a file of, padded or not.
    """
    path, (header, imatrix) = folder / "probe.gguf", source
    try:
        command = probe_command(tools.tool("llama-quantize"), imatrix, probe, header.path, path, args.threads)
        code, said = run_quantize(command)
        if code != 0:
            raise InputError("llama-quantize", "success", last_words(said))
        check_probe(path, probe, header)
        with open_model(path, tools, chats.texts, args) as model:
            found = against({REFERENCE: full}, lambda number: model.chunks(chats.texts[number]), chats.texts)
    finally:
        remove(path)
    counts, kld = chats.counts["reply"], found[f"{REFERENCE}_kld"][chats.masks["reply"]]
    return list(mean_and_error(per_chat(kld, counts), counts))


def padded_source(args: argparse.Namespace, header: GgufHeader, folder: Path) -> tuple[GgufHeader, Path]:
    """Return the padded model, written into `folder`, and its imatrix."""
    place = folder / "padded"
    remove(place)  # of a killed run
    place.mkdir()
    model, imatrix = write_padded_pair(header, paddable(header), args.imatrix, place)
    assert imatrix is not None  # one was given
    return read_header(model), imatrix


def measure_probes(
    args: argparse.Namespace,
    tools: LlamaCpp,
    header: GgufHeader,
    groups: list[Group],
    padded: list[Group],
    chats: Chats,
    folder: Path,
) -> dict[ProbeKey, list[float]]:
    """Return the value and error of every probe; those in `folder` are not measured again."""
    probes = probes_of(groups, padded)
    files = {key: folder / f"probe-{sha256_json(key)[:12]}.json" for key in probes}
    if left := [key for key in probes if not is_kept(files[key])]:
        remove(folder / "probe.gguf")  # of a killed run
        require_disk_space(folder, args.input.stat().st_size)
        full = StoredLogits(args.input, tools, chats.texts, folder, args, REFERENCE)
        plain = set(groups)
        wide = padded_source(args, header, folder) if any(probes[key][0][0] not in plain for key in left) else None
        for key in progress(left, "sensitivity", "file"):
            source = wide if wide and probes[key][0][0] not in plain else (header, args.imatrix)
            write_json(files[key], {"kld": probe_loss(args, tools, source, probes[key], full, chats, folder)})
    return {key: kept_value(path) for key, path in files.items()}


def sensitivities(found: dict[ProbeKey, list[float]], groups: list[Group]) -> dict:
    """Return what the output holds besides `inputs`; found: the value and error of every probe."""
    first_of = {group.role: group for group in reversed(groups)}
    content: dict[str, dict] = {
        "low_types": {role: low_type(first_of[role]) for role, _ in found},
        "roles": {role: {} for role, _ in found},
        "layers": {},
        "errors": {},
    }
    for (role, what), (value, error) in found.items():
        if what.startswith(LAYER):
            content["layers"].setdefault(role, {})[what.removeprefix(LAYER)] = value
        else:
            content["roles"][role][what] = value
        content["errors"][f"{role}: {what}"] = error
    return content


def kept_value(path: Path) -> list[float]:
    """Return the value and error of a finished probe's file; raise InputError when it holds something else."""
    check_kept(path)  # hours after it was written
    pair = read_json(path).get("kld")
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(type(number) is float and math.isfinite(number) for number in pair)
    ):
        raise InputError(path, "kld, a value and its error", shown(pair), "remove it")
    return pair


def is_measured(output: Path, inputs: dict, groups: list[Group]) -> bool:
    """Tell whether the output is there, of the same inputs; raise InputError when it is of them but not whole."""
    known = read_json(output) if output.is_file() else {}
    # A file of an older form counts for nothing: this is the step that makes it again.
    if (known.get("version"), known.get("inputs")) != (Sensitivity.current, inputs):
        return False
    read_sensitivity(output, None, None, groups)
    return True


def check_model(args: argparse.Namespace, tools: LlamaCpp) -> tuple[GgufHeader, list[Group], list[Group]]:
    """Return the source's header, its groups, and those of the padded model; none where no padding could pay.

    Raises InputError for a model that is quantised already, and for an imatrix that does not cover it.
    """
    header = read_header(args.input)
    check_float(args.input, header)
    tool = tools.tool("llama-quantize")
    check_covers(read_imatrix(args.imatrix), header, plan_quant(tool, RECIPES["Q8_0"], header, args.imatrix))
    roles = tuple(paddable(header))
    padded = padded_groups(header, tool, args.imatrix, roles) if roles else []
    return header, groups_of(header, tool, args.imatrix), padded


def chats_to_measure(args: argparse.Namespace) -> tuple[list[Question], Chats]:
    """Return the questions and their chats; raise InputError when there are fewer than two: one gives no error."""
    questions = load_questions(args.questions, QUESTION_SEED)[: args.limit]
    if len(questions) < 2:
        raise InputError(args.questions, "two questions or more", str(len(questions)))
    tokenizer = load_tokenizer(args.model)
    texts = [teacher_forced_sequence(tokenizer, question, args.max_tokens, "answer") for question in questions]
    return questions, chats_of(texts)


def inputs_of(args: argparse.Namespace, tools: LlamaCpp, questions: list[Question], chats: Chats) -> dict:
    """Return what the values depend on."""
    return {
        "source_sha256": known_sha256(args.input),
        "imatrix_sha256": held_sha256(args.imatrix),
        "questions_sha256": question_set_digest(questions),
        "texts_sha256": chats.digest,
        "chats": len(questions),
        "reply_tokens": int(chats.counts["reply"].sum()),
        # Only another value than the default: values of hours that were measured with it stay valid.
        **({"max_tokens": args.max_tokens} if args.max_tokens != MAX_TOKENS else {}),
        "gpu_layers": args.gpu_layers,
        "versions": {"llama_cpp": tools.version(), "bindings": bindings_version()},
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--input", type=Path, required=True, help="unquantised GGUF file")
    add("--imatrix", type=Path, required=True, help="imatrix of the same model (GGUF form)")
    add("--output", type=named_path, required=True, help="JSON file to write")
    add_chat_arguments(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    tools = find_llama_cpp(args.llama_cpp)
    check_apart([args.input, args.imatrix, args.questions], [args.output])
    header, groups, padded = check_model(args, tools)
    questions, chats = chats_to_measure(args)
    inputs = inputs_of(args, tools, questions, chats)
    if widths := paddable(header):
        inputs["padded"] = {role: width.then for role, width in widths.items()}
    if is_measured(args.output, inputs, groups + padded):
        os.utime(args.output)  # for make, which goes by time
        print(f"{args.output}: measured already")
        return
    with RunState(args.output.with_name(f"{args.output.name}.state"), inputs) as state:
        of_file = {"question_file_sha256": sha256_file(args.questions)}
        found = measure_probes(args, tools, header, groups, padded, chats, state.directory)
        write_record(args.output, {"inputs": inputs, **of_file, **sensitivities(found, groups)}, Sensitivity)
        state.discard()
    print(f"{args.output}: {len(found)} values over {len(questions)} chats")


if __name__ == "__main__":
    run(main)
