#!/usr/bin/env python3
"""Measure what a model's experts are like: topics, likeness of weights and outputs, norms in bf16, other drop maps.

Inputs:  the full checkpoint; the statistics and the questions of its analysis; the drop map; other maps, if any.
Output:  TABLE.md and beside it the same name as .json (schema: findings/findings_record.py) and .png. What takes long,
         the passes through the model, is kept in --measured and not made again.
Example: .venv/bin/python scripts/measure_findings.py --model data/demo/model \\
             --stats build/gemma-4-demo/full/statistics/calibration_questions/expert_stats.safetensors \\
             --questions data/demo/calibration_questions.csv --drop-map build/gemma-4-demo/109e/drop_map.json \\
             --measured build/try/measured.safetensors --output build/try/findings.md

Each finding has its control. Topics: the domains' labels are shuffled, and no question is held against a map that it
chose. Weights: the cosine of independent vectors. bf16: the fp32 norms of the same pass. Maps: sets drawn by chance.

The model runs as the statistics say: dtype, attention, length and order of choices are taken from there. With
--stream-layers one layer is in memory at a time. A killed run goes on from MEASURED.state (or from --spill).
"""

import argparse
from pathlib import Path

from analysis.analysis_state import state_directory
from analysis.batches import Batch, batches_of
from analysis.decoder import build_empty, check_complete, load_resident
from analysis.layer_stream import SHARING_KEYS, LayerStream
from analysis.mapped_weights import shrinking_told
from analysis.model_checks import RUN_DTYPES, check_sequences, check_unquantised
from chats.chat_sequences import teacher_forced_sequence
from chats.chat_tokenizer import load_tokenizer
from chats.questions import Question, load_questions, read_labels, read_rows
from checkpoints.checkpoint import hold_checkpoint, read_checkpoint, read_config, source_digest, weights_digest
from choice.criteria import BY_ORDER, CRITERIA, PROTECTING, RANK, answerable, scores_of
from choice.drop_map import DropMap, Shape, check_digests, criterion_of, read_drop_map, read_map, values_by_layer
from choice.expert_stats import protected, read_stats
from files.host_locks import only_host
from files.input_errors import InputError, sha256_file
from files.option_types import command_parser, output_file, positive, whole_number
from files.safe_files import check_apart, only_writer, remove, replace_when_done, run
from files.seals import build_folder
from files.written_by import check_written_by
from files.written_records import write_record
from findings.bf16_norms import bf16_figures
from findings.domain_drops import domain_drops, dropped_by
from findings.findings_page import findings_page
from findings.findings_picture import draw_findings
from findings.findings_record import RESAMPLES, SEED, SHUFFLES, TOKENS_PER_QUESTION, Findings
from findings.map_overlap import Sets, best_experts, map_pair
from findings.measured_model import Measured, measure_model, open_measurement, read_measured, write_measured
from findings.specialisation import COLUMNS, LEAST_QUESTIONS, labels_of, specialisation
from findings.stored_pass import check_stored_norms, check_stored_weights

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

TOP = 16  # protected experts of a question and layer, where the map protects none; the model card's number
RUN_AS = ("dtype", "attention", "max_tokens", "counted_tokens", "batch_size", "seed")
DIGITS = 12
OF_THE_MACHINE = ("device", "torch", "transformers")  # inputs that change the last bits alone


def asked_questions(args: argparse.Namespace, metadata: dict) -> list[Question]:
    """Return the questions of the statistics, from the question file; raise InputError when it holds other ones."""
    known = {question.record_id: question for question in load_questions(args.questions, metadata["seed"])}
    for described in metadata["questions"]:
        question = known.get(described["id"])
        if question is None or question.digest != described["sha256"]:
            found = "another question" if question else "none"
            wanted = f"the question {described['id']!r} of {args.stats}"
            raise InputError(args.questions, wanted, found, "give the questions that were analysed")
    return [known[described["id"]] for described in metadata["questions"]]


def check_model_ran(args: argparse.Namespace, metadata: dict) -> None:
    """Raise InputError when the statistics do not say how the model ran, or are those of another model."""
    for key in RUN_AS:
        if key not in metadata:
            raise InputError(args.stats, f"{key} in the metadata", "none", "run make analyze")
    found = sha256_file(args.model / "config.json")
    if found != metadata["config_sha256"]:
        wanted = f"the model of {args.stats} (config {metadata['config_sha256'][:DIGITS]})"
        raise InputError(args.model, wanted, f"another ({found[:DIGITS]})")


def measured_inputs(args: argparse.Namespace, metadata: dict, device: str) -> dict:
    """Return what the measurement of the model depends on."""
    same = ("questions", "questions_sha256", "config_sha256", "weights_sha256")
    return {
        **{key: metadata[key] for key in same},
        "source_sha256": metadata.get("source_sha256"),  # of all bytes; statistics of an older version have none
        "run_as": {key: metadata[key] for key in RUN_AS},
        "tokens_per_question": args.tokens_per_question,
        "resamples": args.resamples,
        "seed": args.seed,
        "device": device,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def prepared(args: argparse.Namespace, metadata: dict) -> tuple[PreTrainedModel, dict, list[Batch]]:
    """Return the model without weights, the checkpoint's tensors, and the questions as the model reads them.

    Raises InputError when the checkpoint or the chats are not those of the statistics.
    """
    config, tensors = read_config(args.model), read_checkpoint(args.model)
    hold_checkpoint(args.model)
    check_unquantised(args.model, config, tensors)
    if (found := weights_digest(tensors)) != metadata["weights_sha256"]:
        wanted = f"the weights of {args.stats} ({metadata['weights_sha256'][:DIGITS]})"
        raise InputError(args.model, wanted, f"others ({found[:DIGITS]})")
    # Of all bytes, which takes a minute: what a killed run keeps, and what is published, is of these.
    if (known := metadata.get("source_sha256")) and (found := source_digest(args.model)) != known:
        wanted = f"the checkpoint of {args.stats} ({known[:DIGITS]})"
        raise InputError(args.model, wanted, f"another ({found[:DIGITS]})")
    model = build_empty(args.model, RUN_DTYPES[metadata["dtype"]], metadata["attention"])
    check_complete(model, args.model, tensors)
    tokenizer, questions = load_tokenizer(args.model), asked_questions(args, metadata)
    limits = (metadata["max_tokens"], metadata["counted_tokens"])
    sequences = [teacher_forced_sequence(tokenizer, question, *limits) for question in questions]
    check_sequences(args.model, model.config.get_text_config(), sequences)
    for sequence, described in zip(sequences, metadata["questions"]):
        if sequence.digest != described["token_ids_sha256"]:
            wanted = f"the tokens of question {described['id']} in {args.stats}"
            raise InputError(args.model, wanted, "others", "did the tokenizer or the chat template change?")
    return model, tensors, batches_of(sequences, metadata["batch_size"])


def stored(args: argparse.Namespace, metadata: dict, inputs: dict, arrays: dict[str, np.ndarray]) -> Measured:
    """Return what --measured holds; raise InputError unless statistics and checkpoint can have given it.

    inputs: as `measured_inputs` has them; arrays: of the statistics.
    """
    found = read_measured(args.measured, inputs, but=OF_THE_MACHINE)
    if found is None:
        raise InputError(args.measured, "what was measured of this model and these questions", "none or others")
    check_stored_norms(args.measured, arrays, found[0])
    model = build_empty(args.model, RUN_DTYPES[metadata["dtype"]], metadata["attention"])
    runner: PreTrainedModel | LayerStream
    if any(getattr(model.config.get_text_config(), key, 0) for key in SHARING_KEYS):  # these cannot be streamed
        runner = load_resident(args.model, model.dtype, metadata["attention"], None)
    else:
        runner = LayerStream(args.model, read_checkpoint(args.model), model, torch.device(inputs["device"]))
    check_stored_weights(args.measured, runner, found[1])
    return found


def measure(args: argparse.Namespace, metadata: dict, arrays: dict[str, np.ndarray]) -> Measured:
    """Return what is measured of the model: from --measured, or by running it; arrays: of the statistics."""
    device = "cpu" if args.device == "cpu" or not torch.cuda.is_available() else "cuda"
    inputs = measured_inputs(args, metadata, device)
    if args.stored:
        return stored(args, metadata, inputs, arrays)
    # The variants of a model share the file: the second one waits, and finds it made.
    shared = args.measured.with_name(f"{args.measured.name}.measuring")
    with only_writer(shared, waits=True), only_host(shared, waits=True):
        return measure_once(args, metadata, device, inputs)


def measure_once(args: argparse.Namespace, metadata: dict, device: str, inputs: dict) -> Measured:
    """Return what --measured holds of these inputs; measure it where it does not."""
    directory = state_directory(args.measured, args.spill)
    if args.again:
        remove(directory)
    elif found := read_measured(args.measured, inputs):
        return found
    model, tensors, batches = prepared(args, metadata)
    stream = LayerStream(args.model, tensors, model, torch.device(device)) if args.stream_layers else None
    spilled = args.spill is not None
    state = open_measurement(directory, inputs, batches, model, args.stream_layers, spilled)
    with state, shrinking_told(args.model):
        placed = "auto" if device == "cuda" else None
        runner = stream or load_resident(args.model, model.dtype, metadata["attention"], placed)
        write_measured(args.measured, inputs, measure_model(runner, batches, state, spilled, inputs))
        state.discard()
    found = read_measured(args.measured, inputs)
    assert found, "it was written for these inputs"
    return found


def column_of(args: argparse.Namespace) -> str | None:
    """Return the column of the domains, None where the question file has none."""
    wanted = [args.domain_column] if args.domain_column else COLUMNS
    return next((name for name in wanted if name in read_rows(args.questions)[0]), None)


def domains_of(args: argparse.Namespace, ids: list[str]) -> tuple[str, dict[str, int], np.ndarray]:
    """Return the column of the domains, their numbers of questions and each question's domain.

    Raises InputError when the question file has no such column, or fewer than two domains that are large enough.
    """
    column = column_of(args)
    if column is None:
        wanted = " or ".join(map(repr, [args.domain_column] if args.domain_column else COLUMNS))
        found = f"columns {', '.join(map(repr, read_rows(args.questions)[0]))}"[:200]
        advice = "name the column with each question's domain (DOMAIN_COLUMN)"
        raise InputError(args.questions, f"a column {wanted}", found, advice)
    domains, labels = labels_of(read_labels(args.questions, column), ids)
    if len(domains) < 2:
        wanted_domains = f"two domains or more of {LEAST_QUESTIONS} questions in the column {column!r}"
        raise InputError(args.questions, wanted_domains, str(len(domains)))
    return column, domains, labels


def domain_findings(
    args: argparse.Namespace, arrays: dict[str, np.ndarray], ids: list[str], method: dict, keep: int, top: int
) -> dict:
    """Return the record's `Specialisation`; raise InputError as `domains_of` does."""
    column, domains, labels = domains_of(args, ids)
    there = labels >= 0
    # By the run's own criterion; a map from elsewhere was chosen by none that is known here, and an order by
    # reconstruction was made from all questions.
    chosen_by = criterion_of(method)
    criterion = chosen_by if chosen_by in CRITERIA and chosen_by != BY_ORDER else "coverage"
    top_of_choice = method.get("protect_top", TOP) if chosen_by in CRITERIA else top
    given = {name: values[there] for name, values in arrays.items() if values.ndim == 3}
    given["protected"] = protected(given["weighted_norm_sum"], top_of_choice)
    layers = arrays["layer_numbers"].tolist()
    draws = (args.shuffles, args.resamples, args.seed)
    distances = specialisation(given["weighted_norm_sum"], labels[there], layers, top, *draws)
    print(f"domains: {', '.join(f'{name} {count}' for name, count in domains.items())}", flush=True)
    guarded = protected(given["weighted_norm_sum"], top)
    drops = domain_drops(given, guarded, list(domains), labels[there], (criterion, keep), draws)
    return {"column": column, "domains": domains, "left_out": int((~there).sum()), **distances, **drops}


def sets_of(drop: dict[int, list[int]], content: dict, layers: list[int], top: int) -> tuple[Sets, Sets | None]:
    """Return the dropped experts of a map and its best ones by its own scores, None where it has none."""
    scores = values_by_layer(content, layers, "score")
    # A random choice has scores, too; they say nothing of importance, but as much as its drops do.
    return drop, best_experts(scores, layers, top) if scores and all(scores) else None


def map_findings(
    args: argparse.Namespace, metadata: dict, arrays: dict[str, np.ndarray], own: DropMap, shape: Shape, top: int
) -> list[dict]:
    """Return the maps by other criteria from the same statistics, and the maps given, against the run's own."""
    layers, keep = list(shape.layers), own.keep_count
    mine = sets_of(own.drop, read_map(args.drop_map), layers, top)
    given = arrays | {"protected": protected(arrays["weighted_norm_sum"], top)}
    given = {name: values for name, values in given.items() if values.ndim == 3 or name == RANK}
    pairs = []
    for criterion in answerable(given):
        if criterion == criterion_of(own.details):
            continue
        # For a criterion that protects nothing `rank` would put the protected first all the same.
        free = given if criterion in PROTECTING else given | {"protected": np.zeros_like(given["protected"])}
        dropped = dropped_by(free, criterion, keep)
        drop = {layer: np.flatnonzero(row).tolist() for layer, row in zip(layers, dropped)}
        pair = map_pair(
            criterion, mine, (drop, best_experts(scores_of(criterion, free).tolist(), layers, top)), shape.experts
        )
        pairs.append(pair)
    weights = {key: metadata[key] for key in ("weights_sha256", "source_sha256") if metadata.get(key)}
    for path in args.maps:
        if build_folder(path):  # under the name of what made it there
            check_written_by(path, ("generate_drop_map", "copy_drop_map"))
        other = read_drop_map(path, shape)
        check_digests(path, other, args.model, weights, "compare maps of one model")
        # Of our own maps, which all have one name, the folder tells more.
        name = path.resolve().parent.name if path.name == "drop_map.json" else path.stem
        pair = map_pair(name, mine, sets_of(other.drop, read_map(path), layers, top), shape.experts)
        pairs.append(pair | {"sha256": other.sha256})
    return pairs


def all_findings(args: argparse.Namespace) -> dict:
    """Return the content of the record; a line is printed for each finding that cannot be made."""
    arrays, metadata = read_stats(args.stats)
    check_model_ran(args, metadata)
    shape = Shape(arrays["token_count"].shape[2], metadata["top_k"], tuple(arrays["layer_numbers"].tolist()))
    own = read_drop_map(args.drop_map, shape)
    top = min(own.details.get("protect_top") or TOP, shape.experts)
    ids = [question["id"] for question in metadata["questions"]]
    if column := column_of(args):  # before hours of work, and a reason to end, where a lack of domains is none
        read_labels(args.questions, column)
    # First: what is refused is refused before the model runs.
    maps = map_findings(args, metadata, arrays, own, shape, top)
    missing, found = {}, None
    try:
        found = domain_findings(args, arrays, ids, own.details, own.keep_count, top)
    except InputError as error:
        if args.domain_column:
            raise
        missing["specialisation"] = str(error).removeprefix(f"{args.questions}: ")
        print(f"no topic specialisation: {error}", flush=True)
    measured, layers = measure(args, metadata, arrays)
    draws = (args.resamples, args.seed)
    return {
        "inputs": {
            "stats_sha256": sha256_file(args.stats),
            "drop_map_sha256": own.sha256,
            "measured_sha256": sha256_file(args.measured),
            **{key: metadata[key] for key in ("questions_sha256", "weights_sha256", "config_sha256", "dtype")},
            "questions": len(ids),
            **{key: getattr(args, key) for key in ("shuffles", "resamples", "seed", "tokens_per_question")},
        },
        "experts": shape.experts,
        "top_k": shape.top_k,
        "keep_count": own.keep_count,
        "missing": missing,
        "specialisation": found,
        "weights": [entry for layer in layers for entry in layer["weights"]],
        "outputs": [layer["outputs"] for layer in layers],
        "bf16": bf16_figures(measured, list(shape.layers), top, own.keep_count, draws),
        "maps": maps,
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("inputs and output").add_argument
    add("--model", type=Path, required=True, help="checkpoint directory of the full model")
    add("--stats", type=Path, required=True, help="statistics file of teacher_force_analysis.py")
    add("--questions", type=Path, required=True, help="the questions of the statistics")
    add("--drop-map", type=Path, required=True, help="the run's drop map")
    add("--maps", type=Path, nargs="*", default=[], help="other drop maps of the model, to compare with")
    add("--name", default="the model", help="name of the model in page and picture")
    add("--measured", type=Path, required=True, help="file that keeps what was measured of the model")
    add("--output", type=output_file, required=True, help="Markdown file to write; .json and .png go beside it")
    add = parser.add_argument_group("what is measured").add_argument
    column = f"column with each question's domain (default: {', else '.join(COLUMNS)})"
    add("--domain-column", metavar="NAME", help=column)
    add(
        "--tokens-per-question",
        type=positive,
        default=TOKENS_PER_QUESTION,
        help="tokens on which all experts' outputs are compared",
    )
    add("--shuffles", type=positive, default=SHUFFLES, help="shuffles of the domains")
    add("--resamples", type=positive, default=RESAMPLES, help="draws of the questions anew, for intervals")
    add("--seed", type=whole_number, default=SEED, help="seed of shuffles, draws and tokens")
    add = parser.add_argument_group("how the model runs").add_argument
    add("--stream-layers", action="store_true", help="hold one layer of the model in memory, not all")
    add("--spill", type=Path, metavar="DIR", help="with --stream-layers: hold hidden states in DIR only")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one")
    stored_help = "run no model: take --measured, and hold it against statistics and weights (make check-release)"
    add("--stored", action="store_true", help=stored_help)
    add("--again", action="store_true", help="measure the model anew, whatever --measured holds")
    args = parser.parse_args(argv)
    if args.spill and not args.stream_layers:
        parser.error("--spill: expected --stream-layers with it")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    outputs = [args.measured, args.output, *(args.output.with_suffix(suffix) for suffix in (".json", ".png"))]
    check_apart([args.model, args.stats, args.questions, args.drop_map, *args.maps], outputs)
    content = all_findings(args)
    write_record(args.output.with_suffix(".json"), content, Findings)  # first: it is checked
    draw_findings(args.name, content, args.output.with_suffix(".png"))
    with replace_when_done(args.output) as partial:  # last: it is the file that make looks for
        partial.write_text(findings_page(args.name, content), encoding="utf-8")
    missing = "".join(f"; without {name}" for name in content["missing"])
    print(f"{args.output}: findings on {content['experts']} experts in {len(content['outputs'])} layers{missing}")


if __name__ == "__main__":
    run(main)
