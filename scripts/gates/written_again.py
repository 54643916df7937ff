"""The gates on what only a header or a record says: what this build's own tools would write is compared with it.

The converter writes the header of the pruned checkpoint's F16 file once more, without data. Every GGUF file must have
its key-values and tensors, but for what llama-quantize adds. Dry runs of llama-quantize give the size and the types of
every file that has a record: so they are known of a file that is no longer there, too. And every file that a record
names by its digest, and that is still there, is read.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from chats.texts_again import texts_digest
from checkpoints.checkpoint import read_files
from files.input_errors import InputError, read_whole, sha256_file
from files.json_records import read_record
from files.seals import file_state
from gates.checked import Checked, Outcome
from gates.lineage import Breaks, Lineage, breaks_of
from gates.made_again import TEXTS
from ggufs.gguf_header import GgufHeader, experts_used_key, key_value, read_header
from ggufs.imatrix import ImatrixRecord, read_imatrix
from llama.llama_tools import LlamaCpp
from llama.load_check import count_tokens
from quants.layer_tiers import cd_choices
from quants.padded_model import planned_header, recorded_widths
from quants.quant_plan import QuantPlan, imatrix_pairs, plan_quant, write_imatrix_stand_in
from quants.quant_record import ConversionRecord, QuantRecord
from quants.recipe_choice import add_recipe_arguments, auto_choices, recipe_for
from quants.recipes import RECIPES, Recipe, target_bytes
from quants.sensitivity_record import Sensitivity
from quants.sparse_gguf import from_checkpoint
from release.gguf_parts import OF_A_SPLIT, tensors_of
from release.used_quants import used_quants

from gguf.constants import LlamaFileType

QUANTISE = "make it again with `make quants`"
MEASURE_COSTS = "measure again: make quants REPLACE=auto"
CONVERT = "run `make quants` again"
CD_SETTINGS = ("CD_RULE", "CD_RECIPE", "CD_CUTS", "CD_TIERS", "CD_SCOPE", "CD_PROTECT")  # as quantize_gguf.py's options
# llama-quantize's own: the first is held against the record elsewhere, the second is the format's version.
OF_QUANTIZE = ("general.file_type", "general.quantization_version")
FORMAT_VERSION = 2


def known_records(lineage: Lineage) -> dict[Path, dict]:
    """Return the records of the release's quants, and of those that were scored or measured, by their paths."""
    paths = [*lineage.sources["records"].values(), *lineage.sources["quants"].values()]
    return {path.resolve(): read_record(path, QuantRecord) for path in paths}


def stand_in(lineage: Lineage, folder: Path) -> Path | None:
    """Write what a dry run needs of the imatrix, under its name and with its text's; None without a record of one."""
    if "imatrix" not in lineage.sources["origins"]:
        return None
    place = lineage.origin("imatrix")
    imatrix = folder / place.with_suffix("").name
    write_imatrix_stand_in(imatrix, read_record(place, ImatrixRecord)["calibration"])
    return imatrix


def measured_pairs(lineage: Lineage) -> dict[str, bytes]:
    """Return the key-values that llama-quantize adds for the build's imatrix, with its own counts."""
    path = lineage.origin("imatrix").with_suffix("")
    named = ["quantize.imatrix.file", "quantize.imatrix.dataset"]
    if read_header(path).array("imatrix.datasets") is None:
        named = named[:1]
    counts = {
        "quantize.imatrix.entries_count": len(read_imatrix(path).counts),
        "quantize.imatrix.chunks_count": read_header(path).value("imatrix.chunk_count"),
    }
    return {**dict(zip(named, imatrix_pairs(path))), **{key: key_value(key, count) for key, count in counts.items()}}


def pairs_of(header: GgufHeader) -> dict[str, bytes]:
    """Return the key-values of a header as bytes, without those of a split and llama-quantize's own two."""
    pairs = [pair for pair in header.key_values if not pair.key.startswith(OF_A_SPLIT) and pair.key not in OF_QUANTIZE]
    return {pair.key: pair.raw for pair in pairs}


def header_lines(named: Path, expected: dict[str, bytes], header: GgufHeader) -> list[str]:
    """Return a line for each key-value of a GGUF file that is not the expected one."""
    found = pairs_of(header)
    if header.value("general.quantization_version") not in (None, FORMAT_VERSION):
        found["general.quantization_version"] = b""
    return [
        f"{named}: expected {'the converter and llama-quantize to write' if key in expected else 'no'} {key}, found "
        f"{'another value' if key in found and key in expected else 'one' if key in found else 'none'}; {QUANTISE}"
        for key in sorted({*expected, *found})
        if expected.get(key) != found.get(key)
    ]


def f16_breaks(place: Path, again: GgufHeader | None) -> Breaks:
    """The record of an F16 file has the file's own type, size and digest; again: the header written once more."""
    record, file = read_record(place, ConversionRecord), place.with_suffix("")
    pairs: list[tuple[str, object, object]] = []
    if again:
        pairs.append(("bytes of a conversion:", again.path.stat().st_size, record["bytes"]))
    if file.is_file():
        written = read_header(file).value("general.file_type")
        kind = next((kind.name for kind in LlamaFileType if kind == written), str(written))
        outtype = kind.removeprefix("MOSTLY_").removeprefix("ALL_").lower()
        pairs.append(("the type of the file:", outtype, record["outtype"]))
        pairs.append(("the file's sha256", sha256_file(file), record["sha256"]))
    return breaks_of(place, pairs, CONVERT)


def tokens_of(lineage: Lineage, tools: LlamaCpp, own: GgufHeader) -> int | None:
    """Return the tokens of the calibration text; None for a llama.cpp that the bindings do not know."""
    try:
        return count_tokens(tools, own.path, read_whole(lineage.origin("calibration")))
    except InputError:
        return None


def imatrix_breaks(lineage: Lineage, own: GgufHeader, tokens: int | None) -> Breaks:
    """The imatrix's file says what its record says, and counts the tokens of its text; tokens: None if not known."""
    if not any(record["imatrix_sha256"] for record in lineage.records.values()):
        return []
    place = lineage.origin("imatrix")
    record, file = read_record(place, ImatrixRecord), place.with_suffix("")
    header, size, used = read_header(file), record["context"], own.value(experts_used_key(own))
    chunks = header.value("imatrix.chunk_count") if tokens is None else tokens // size
    # llama-imatrix's own count of chunks is not asked: it goes by its dense tensors, of which it may leave out tokens.
    reached = {int(row.sum()) for row in read_imatrix(file).expert_counts().values()}
    return breaks_of(
        place,
        [
            ("bytes:", file.stat().st_size, record["bytes"]),
            ("tokens per chunk:", header.value("imatrix.chunk_size"), size),
            ("the text:", header.array("imatrix.datasets"), [record["calibration"]]),
            ("tokens that reach the experts of a layer:", {chunks * size * used}, reached),
        ],
        "run `make imatrix REPLACE=imatrix`",
    )


def recipe_of(record: dict) -> Recipe:
    """Return what llama-quantize was asked for, by a record, and which MLPs were padded before."""
    padded = tuple(record.get("padded", {}))
    return Recipe(record["type"], record["base"], record["note"], tuple(record["arguments"]), pad=padded)


def recipe_choices(checked: Checked) -> argparse.Namespace:
    """Return the options of quantize_gguf.py that choose a recipe, from the release's settings and sources."""
    parser, origins = argparse.ArgumentParser(exit_on_error=False), checked.sources["origins"]
    add_recipe_arguments(parser)
    settings, words = checked.manifest["settings"], []
    for name in CD_SETTINGS:
        if settings.get(name):
            words += [f"--{name.lower().replace('_', '-')}", settings[name]]
    for option, origin in (("--stats", "statistics"), ("--sensitivity", "sensitivity")):
        words += [option, str(origins[origin])] if origin in origins else []
    try:
        return parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise InputError("settings", "values that quantize_gguf.py takes", str(error)) from error


def recipe_breaks(checked: Checked, own: GgufHeader, tool: Path, imatrix: Path | None) -> Breaks:
    """The types of CD and AUTO files are those that settings, statistics and sensitivities give; so is the prediction.

    own: the header of the pruned F16 file, written again; imatrix: the build's own, or what stands for it.
    """
    args, lineage = recipe_choices(checked), checked.lineage
    found: Breaks = []
    # Those that were scored or measured, too: what they were made by is what their number is of.
    published = {lineage.sources["records"][name]: record for name, record in checked.records.items()}
    used = [(path, published.get(path, record)) for path, record in used_quants(checked.sources)]
    for path, record in used:
        kind = record["type"]
        if target_bytes(kind) is None and not (kind in RECIPES and RECIPES[kind].tiers):
            continue
        if target_bytes(kind):
            lineage.origin("sensitivity")  # without it recipe_for would assume errors that nobody measured
        if record.get("cd_rule"):
            lineage.origin("statistics")
        found += of_recipe(path, record, recipe_for(args, kind, own, tool, imatrix, None), args, own)
    if args.sensitivity and any(target_bytes(record["type"]) for _, record in used):
        inputs = read_record(args.sensitivity, Sensitivity)["inputs"]
        measured = read_record(lineage.origin("imatrix"), ImatrixRecord)["sha256"]
        of_model = ("sensitivities of the F16 file", lineage.f16_sha256, inputs["source_sha256"])
        found += breaks_of(
            args.sensitivity, [of_model, ("with the imatrix", measured, inputs["imatrix_sha256"])], QUANTISE
        )
        found += sensitivity_text_breaks(lineage, args.sensitivity, inputs)
    return found


def of_recipe(path: Path, record: dict, again: Recipe, args: argparse.Namespace, own: GgufHeader) -> Breaks:
    """What the record of a CD or AUTO file says of its types is what its recipe, made again, gives."""
    pairs = [(f"{key}:", value, record.get(key)) for key, value in cd_choices(again, args).items() if key in record]
    pairs += [("the base type", again.base, record["base"]), ("the note", again.note, record["note"])]
    pairs.append(("the types that its recipe gives:", again.arguments, record["arguments"]))
    if chosen := auto_choices(again, args):  # by this the card says which questions such a file has seen
        pairs.append(("sensitivities measured on", chosen["auto_measured_on"], record.get("auto_measured_on")))
    pairs.append(("padded widths:", recorded_widths(own, again), record.get("padded", {})))
    return breaks_of(path, pairs, QUANTISE)


def sensitivity_text_breaks(lineage: Lineage, path: Path, inputs: dict) -> Breaks:
    """The sensitivities are over the first chats of a question file of the build, as its own tokenizer reads them."""
    count = inputs["chats"]
    for source in lineage.sources["questions"].values():
        questions = load_questions(source, QUESTION_SEED)[:count]
        if question_set_digest(questions) == inputs["questions_sha256"]:
            longest = inputs.get("max_tokens") or MAX_TOKENS
            texts = texts_digest(lineage.metadata_path.parent, questions, longest)
            # As make measures: of chats that are cut shorter the card does not speak.
            pairs: list[tuple[str, object, object]] = [("chats of so many tokens at most:", MAX_TOKENS, longest)]
            return breaks_of(path, [*pairs, (TEXTS, texts, inputs["texts_sha256"])], MEASURE_COSTS)
    return [InputError(path, f"the first {count} chats of a question file of the build", "others", MEASURE_COSTS)]


def plan_breaks(path: Path, record: dict, plan: QuantPlan, experts: int) -> Breaks:
    """Size, weights and types of a record are those of the plan."""
    return breaks_of(
        path,
        [
            ("bytes, as llama-quantize plans the file:", plan.size, record["bytes"]),
            ("weights:", plan.parameters, record["parameters"]),
            ("experts:", experts, record["experts"]),
            ("bits per weight:", round(plan.bits_per_weight, 3), record["bits_per_weight"]),
            ("tensors per type:", plan.type_counts(), record["tensors_per_type"]),
        ],
        QUANTISE,
    )


def planned_breaks(lineage: Lineage, tools: LlamaCpp, own: GgufHeader, folder: Path) -> tuple[Breaks, int, set[str]]:
    """Plan every known quant of the pruned and of the full model again.

    Return what differs, how many were planned, and the versions of llama.cpp that made them. own: the header of the
    pruned F16 file, written again.
    """
    imatrix, here = stand_in(lineage, folder), tools.tool("llama-quantize")
    sources = {lineage.f16_sha256: own}
    if lineage.knows_full:
        sources[lineage.full["sha256"]] = read_header(lineage.full_file)
    found: Breaks = []
    records = {path: record for path, record in known_records(lineage).items() if record["source_sha256"] in sources}
    for path, record in records.items():
        header = sources[record["source_sha256"]]
        plan = plan_quant(here, recipe_of(record), header, imatrix if record["imatrix_sha256"] else None)
        found += plan_breaks(path, record, plan, header.experts)
    return found, len(records), {record["llama_cpp"] for record in records.values()}


def written_again(lineage: Lineage, tools: LlamaCpp) -> GgufHeader:
    """Let the converter write the header of the pruned F16 file once more: for all folders of a call that share it."""
    outtype, checkpoint = read_record(lineage.origin("f16"), ConversionRecord)["outtype"], lineage.metadata_path.parent
    states = tuple((name, file_state(path)) for name, path in read_files(checkpoint))
    return _written(checkpoint.resolve(), states, tools, lineage.name, outtype)[0]


def forget_headers() -> None:
    """Remove the files of the headers that were written again."""
    _written.cache_clear()


@functools.cache
def _written(
    checkpoint: Path, states: tuple, tools: LlamaCpp, name: str, outtype: str
) -> tuple[GgufHeader, tempfile.TemporaryDirectory]:
    """Return a header and the folder of its file, which is there until the process ends; states: of what is read."""
    folder = tempfile.TemporaryDirectory()
    return from_checkpoint(checkpoint, tools, name, Path(folder.name, "again.gguf"), outtype), folder


def quantised_lines(lineage: Lineage, record: dict, first: Path, own: GgufHeader) -> list[str]:
    """Return a line for each key-value, and one for tensors, that llama-quantize would not have written of `own`.

    first: the file of a record, of a split one the first part. A padded file is held against the padded header.
    """
    more = measured_pairs(lineage) if record["imatrix_sha256"] else {}
    with planned_header(own, recipe_of(record)) as wanted:
        found = header_lines(first, pairs_of(wanted) | more, read_header(first))
        shapes = {tensor.name: tensor.dims for tensor in wanted.tensors}
    if shapes != {tensor: info.dims for tensor, (_, info) in tensors_of(first).items()}:
        found.append(f"{first}: expected the tensors of the checkpoint, found others; {QUANTISE}")
    return found


def against_header(checked: Checked, tools: LlamaCpp, own: GgufHeader, folder: Path) -> Outcome:
    """Hold headers and records against the header that was written again; folder: for what a dry run needs."""
    lineage, outcome = checked.lineage, Outcome("")
    found = f16_breaks(lineage.origin("f16"), own)
    if lineage.knows_full:
        found += f16_breaks(lineage.origin("full f16"), None)
    tokens = tokens_of(lineage, tools, own) if "calibration" in lineage.sources["origins"] else None
    found += imatrix_breaks(lineage, own, tokens)
    planned, count, versions = planned_breaks(lineage, tools, own, folder)
    found += planned + recipe_breaks(checked, own, tools.tool("llama-quantize"), stand_in(lineage, folder))
    outcome.deviations = [str(error) for error in found]
    for gguf, first in lineage.files.items():
        outcome.deviations += quantised_lines(lineage, lineage.records[gguf], first, own)
    outcome.looked_at = f"headers of {len(lineage.files)} files written again, {count} quants planned again"
    here = tools.version()
    outcome.exceptions = ["the tokens of the calibration text were not counted"] * (tokens is None)
    outcome.exceptions += [f"made by another llama.cpp than the one here ({here}): {v}" for v in versions - {here}]
    return outcome


def headers_gate(checked: Checked, tools: LlamaCpp) -> Outcome:
    """Headers and records are what converter and llama-quantize write of this checkpoint."""
    own = written_again(checked.lineage, tools)
    with tempfile.TemporaryDirectory() as folder:
        return against_header(checked, tools, own, Path(folder))


def digests_gate(checked: Checked) -> Outcome:
    """Every quant that a record names, and that is still there, is the file of its record, whatever was released."""
    # Links in this folder or one beside it: the gate "files" of that folder reads them.
    published = {path.stat().st_ino for path in checked.folder.resolve().parent.glob("*/*.gguf")}
    outcome, gone = Outcome("", applies=False), 0
    records = known_records(checked.lineage)
    for path, record in records.items():
        gguf = path.with_suffix("")
        gone += not gguf.is_file()
        if gguf.is_file() and gguf.stat().st_ino not in published:
            pairs: list[tuple[str, object, object]] = [("the file with sha256", record["sha256"], sha256_file(gguf))]
            pairs.append(("bytes, as its record says:", record["bytes"], gguf.stat().st_size))
            outcome.deviations += map(str, breaks_of(gguf, pairs, QUANTISE))
    outcome.applies = bool(records)
    outcome.looked_at = f"{len(records) - gone} files against their records, {gone} are no longer there"
    return outcome


def writing_gates(tools: LlamaCpp) -> dict[str, Callable[[Checked], Outcome]]:
    """Return the gates of this module by name."""
    return {"headers": lambda checked: headers_gate(checked, tools), "digests": digests_gate}
