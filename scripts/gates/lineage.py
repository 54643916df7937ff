"""What ties a release to this build: the chain of digests from the drop map to each GGUF file, step by step.

statistics -> drop map -> expert_drop_metadata.json -> checkpoint -> F16 -> imatrix -> quants. Each link is a record
that names the digest of the one before it. build_release.py refuses a broken chain before it writes, and
check_release.py asks again. Every function returns an InputError for each break.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, Question, load_questions, question_set_digest, read_ids
from chats.texts_again import analysed_digests
from checkpoints.checkpoint import INDEX_NAME, read_checkpoint, read_config, source_digest, weights_digest
from checkpoints.licence import CARD, DIGEST, card_digest
from checkpoints.model_record import ModelRecord
from checkpoints.moe_families import family_of, pruned_config, shape_of
from checkpoints.small_files import small_files
from choice.drop_map import OWN_MAP, MapDetails, criterion_of, details_of, dropped_ids, question_ids_of, read_map
from choice.drop_metadata import METADATA_NAME, DropMetadata, methodology_of, read_metadata
from choice.expert_stats import read_stats
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from ggufs.gguf_header import ARRAY, GgufHeader, TensorInfo, array_values, read_header
from ggufs.gguf_outline import check_outline, file_or_outline
from ggufs.gguf_padding import UNPADDED
from ggufs.imatrix import ImatrixRecord, read_imatrix_record
from losses.quality_record import QUALITY_NAME
from quants.quant_record import ConversionRecord, of_other_builds
from release.gguf_parts import tensors_of
from release.manifest import BUILD_AGAIN, DIGITS, MANIFEST
from scoring.score_records import SCORES_NAME

OTHER_BUILD = "it is of another build; run `make release`"
OTHER_FULL = "drop the experts and convert the full model again, both from one checkpoint"
OTHER_FETCHED = "fetch it again (REPLACE=model), and make all of the build by it"
# What only a choice from statistics gives. copy_drop_map.py leaves it out: nothing shows that it belongs to the map.
OF_A_CHOICE = ("analysis", "bootstrap", "domains", "held_out_question_ids", "protect_top", "reconstruction")
ANALYSE = "run `make analyze REPLACE=statistics`"
F16, CONVERT = "f16", "convert it again with --outtype f16"
Breaks = list[InputError]


@dataclass(frozen=True)
class Lineage:
    """A release's name, the records and the GGUF files of its quants, and what it was made from, by kind and name.

    files: of a split quant its first part.
    """

    name: str
    records: Mapping[str, dict]
    files: dict[str, Path]
    sources: dict[str, dict[str, Path]]

    @property
    def metadata_path(self) -> Path:
        """The build's expert_drop_metadata.json, which lies in its checkpoint."""
        return self.sources["copies"][METADATA_NAME]

    def origin(self, name: str) -> Path:
        """Return a path by name: map, f16, full f16, imatrix, statistics...; raise InputError where there is none."""
        if name not in self.sources["origins"]:
            raise InputError("the release", f"the build's {name}", "none", BUILD_AGAIN)
        return self.sources["origins"][name]

    @property
    def knows_full(self) -> bool:
        """Whether the full model's F16 file is to be asked: scores and losses are compared with it."""
        compared = {SCORES_NAME, QUALITY_NAME} & self.sources["copies"].keys()
        return bool(compared) or "full f16" in self.sources["origins"]

    @property
    def full(self) -> dict:
        """The record of the full model's F16 file."""
        return read_record(self.origin("full f16"), ConversionRecord)

    @property
    def full_file(self) -> Path:
        """The full model's F16 file, or what LOW_DISK=yes left of it: header and routers."""
        found = file_or_outline(gguf := self.origin("full f16").with_suffix(""))
        if found != gguf:
            check_outline(found)
        return found

    @property
    def f16_sha256(self) -> str:
        """The digest of the F16 file that every quant of this build was made from."""
        return read_record(self.origin("f16"), ConversionRecord)["sha256"]


def broken(path: object, what: str, expected: object, found: object, advice: str = OTHER_BUILD) -> InputError:
    """Return the error of two values that must be one; digests are cut."""
    shown = [text[:DIGITS] if len(text) == 64 else text[:80] for text in map(str, (expected, found))]
    return InputError(path, f"{what} {shown[0]}", shown[1], advice)


def breaks_of(path: object, pairs: Sequence[tuple[str, object, object]], advice: str = OTHER_BUILD) -> Breaks:
    """Return an error for each (what, expected, found) whose values differ."""
    return [broken(path, what, expected, found, advice) for what, expected, found in pairs if expected != found]


def map_breaks(lineage: Lineage) -> Breaks:
    """The metadata are those of a drop by the map: its digest, its details, its experts in every layer."""
    path, place = lineage.metadata_path, lineage.origin("map")
    metadata, content = read_metadata(path), read_map(place)
    everything = set(range(metadata["experts"]))
    layers = {}
    for layer, ids in dropped_ids(content).items():
        layers[str(layer)] = {"keep": sorted(everything - set(ids)), "drop": sorted(ids)}
    said = {key: metadata["method"].get(key, digest) for key, digest in metadata["source"].items()}
    counts = {len(entry["keep"]) for entry in layers.values()}
    pairs: list[tuple[str, object, object]] = [
        ("the drop map with sha256", sha256_file(place), metadata["drop_map_sha256"]),
        ("kept experts per layer, as the drop map says:", counts, {metadata["keep_count"]}),
    ]
    found = breaks_of(path, pairs)
    unknown = metadata.keys() - DropMetadata.model_fields.keys()
    unknown |= metadata["method"].keys() - MapDetails.model_fields.keys()
    unknown |= metadata["source"].keys() - {"config_sha256", "weights_sha256", "source_sha256", DIGEST}
    for name in sorted(unknown):
        found.append(InputError(path, f"no field {name!r}, which nothing here writes", "one", BUILD_AGAIN))
    for what, mine, theirs in (
        ("experts", layers, metadata["layers"]),
        ("method", details_of(content), metadata["method"]),
        ("methodology", methodology_of(details_of(content)), metadata.get("methodology", {})),
        ("base checkpoint", said, metadata["source"]),
    ):
        if mine != theirs:
            found.append(InputError(path, f"the {what} of {place.name}", "others", BUILD_AGAIN))
    return found


def choice_breaks(lineage: Lineage) -> Breaks:
    """The map was chosen from this build's statistics, over questions that this build has."""
    place = lineage.origin("map")
    method = details_of(read_map(place))
    made_from = {method[key] for key in ("stats_sha256", "imatrix_sha256") if key in method}
    found: Breaks = []
    if "own_map" in method or not made_from:
        said = [key for key in OF_A_CHOICE if method.get(key)]
        found += [InputError(place, f"no {key} in a map that was given", "one", BUILD_AGAIN) for key in said]
        found += breaks_of(place, [("of a map that was given the criterion", OWN_MAP, criterion_of(method))])
    if made_from and "own_map" not in method:
        source = lineage.origin("statistics")
        found += breaks_of(place, [(f"a map chosen from {source.name}, sha256", sha256_file(source), *made_from)])
        if "imatrix_sha256" in method:
            counted = read_imatrix_record(source)["model_sha256"]
            found += breaks_of(source, [("an imatrix of the full model's F16 file", lineage.full["sha256"], counted)])
    if made_from and "own_map" not in method and (chosen := set(question_ids_of(method))):
        known: set[str] = set().union(*map(read_ids, lineage.sources["questions"].values()))
        if unknown := sorted(chosen - known):
            line = f"{len(unknown)} others, such as {unknown[0]}"
            found.append(InputError(place, "question_ids of the build's question files (--questions)", line))
    given = lineage.sources["origins"].get("statistics")
    if "stats_sha256" in method and "own_map" not in method:
        found += analysed_breaks(lineage, method)
    elif given and given.suffix == ".safetensors":  # types of CD files come from them, whatever chose the experts
        found += analysed_breaks(lineage, {})
    return found


def analysed_breaks(lineage: Lineage, method: dict) -> Breaks:
    """The statistics are of these very questions: same ids with other words are other questions.

    method: of the map that was chosen from the statistics, empty for another map.
    """
    source = lineage.origin("statistics")
    _, metadata = read_stats(source)
    analysed = {question["id"]: question.get("sha256") for question in metadata["questions"]}
    # Another file may hold the same questions, a domain's for one: the one that was read comes first.
    read = metadata.get("question_file_sha256")
    digests = {path: sha256_file(path) for path in lineage.sources["questions"].values()}
    files = sorted(digests, key=lambda path: digests[path] != read)
    pairs: list[tuple[str, object, object]] = []
    if method:
        pairs.append(("questions with sha256", metadata["questions_sha256"], method.get("questions_sha256")))
    # Statistics of an older version have no such digest, and could be of any checkpoint with the same samples.
    dropped = read_metadata(lineage.metadata_path)["source"].get("source_sha256")
    what = "the checkpoint that the experts were dropped from, sha256"
    pairs.append((what, dropped, metadata.get("source_sha256")))
    for path in files:
        asked = [q for q in load_questions(path, metadata.get("seed", QUESTION_SEED)) if q.record_id in analysed]
        if {question.record_id: question.digest for question in asked} == analysed:
            pairs.append(("questions with sha256", question_set_digest(asked), metadata["questions_sha256"]))
            pairs.append(("the question file as it is, sha256", digests[path], read))
            empty = {question["id"] for question in metadata["questions"] if question.get("empty_reasoning")}
            mine = {question.record_id for question in asked if not question.explanation}
            pairs.append(("questions without a reasoning:", sorted(mine), sorted(empty)))
            return breaks_of(source, pairs, ANALYSE) or token_breaks(lineage, source, metadata, asked)
    expected = f"the words of the questions of {' or '.join(path.name for path in files) or '--questions'}"
    return [InputError(source, expected, "statistics of others", ANALYSE)]


def token_breaks(lineage: Lineage, source: Path, metadata: dict, questions: list[Question]) -> Breaks:
    """The statistics are over the tokens that the checkpoint's own tokenizer and chat template make of the questions.

    metadata: of the statistics. The tokenizer is the pruned checkpoint's: it is published, the record of the F16 file
    has its digest, and `source_breaks` holds it against the full model's.
    """
    longest = metadata.get("max_tokens") or MAX_TOKENS
    template, digests = analysed_digests(lineage.metadata_path.parent, questions, longest)
    pairs: list[tuple[str, object, object]] = [
        ("the checkpoint's chat template with sha256", template, metadata.get("chat_template_sha256"))
    ]
    for question in metadata["questions"]:
        what = f"tokens of the question {question['id']} by the checkpoint's tokenizer, sha256"
        pairs.append((what, digests[question["id"]], question.get("token_ids_sha256")))
    return breaks_of(source, pairs, ANALYSE)[:1]  # one question after the other would say the same


def checkpoint_breaks(lineage: Lineage) -> Breaks:
    """The F16 file was converted from this checkpoint under this name, and the config has the kept experts."""
    metadata, folder, place = read_metadata(lineage.metadata_path), lineage.metadata_path.parent, lineage.origin("f16")
    f16 = read_record(place, ConversionRecord)
    config = read_config(folder)
    shape = shape_of(folder, family_of(folder, config, []), config)
    # The shards' own bytes are held against these digests where they are published; reading them for every folder of
    # GGUF files would take minutes.
    digest = source_digest(folder, metadata["shards"])
    of_config = [
        ("experts:", metadata["keep_count"], shape.experts),
        ("layers with experts:", len(metadata["layers"]), len(shape.layers)),
        ("experts per token:", metadata["method"].get("top_k") or shape.top_k, shape.top_k),
    ]
    of_f16 = [
        ("a model named", lineage.name, f16["name"]),
        ("a checkpoint whose files have the digest", digest, f16["source_sha256"]),
    ]
    # Its licence is in the header of every GGUF file.
    card = metadata["source"].get(DIGEST, card_digest(folder))
    of_card: list[tuple[str, object, object]] = [("the base's own card, sha256", card, card_digest(folder))]
    found = breaks_of(folder / CARD, of_card)
    return found + breaks_of(folder / "config.json", of_config) + breaks_of(place, of_f16)


def f16_type_breaks(lineage: Lineage) -> Breaks:
    """The files that losses are measured against are F16, as every card says, and were held against transformers."""
    found: Breaks = []
    for name in ("f16", *(["full f16"] if lineage.knows_full else [])):
        place = lineage.origin(name)
        record = read_record(place, ConversionRecord)
        found += breaks_of(place, [("the type", F16, record["outtype"])], CONVERT)
        # The full model of an older build may have gone, its F16 file too (LOW_DISK).
        if not record.get("against_transformers") and (name == "f16" or place.with_suffix("").is_file()):
            again = f"remove it, and run `make {place.with_suffix('')}` and then `make release`"
            found.append(InputError(place, "a conversion that was compared with transformers", "another", again))
    return found


def router_rows(tensors: dict[str, tuple[Path, TensorInfo]], layer: str) -> list[bytes]:
    """Return the rows of a layer's router, one per expert; none where the file has no such router."""
    path, tensor = tensors.get(f"blk.{layer}.ffn_gate_inp.weight", (None, None))
    if path is None or tensor is None or not tensor.size:
        return []
    with open(path, "rb") as file:
        file.seek(tensor.offset)
        data = file.read(tensor.size)
    width = tensor.size // tensor.dims[-1]
    return [data[begin : begin + width] for begin in range(0, tensor.size, width)]


def router_breaks(lineage: Lineage) -> Breaks:
    """Every file routes to the experts that the metadata name: its routers have the full model's rows of these.

    llama-quantize leaves routers as they are, so this is seen in the published bytes themselves.
    """
    layers, f16 = read_metadata(lineage.metadata_path)["layers"], lineage.origin("f16").with_suffix("")
    if not lineage.knows_full:
        return []
    full = tensors_of(lineage.full_file)
    found: Breaks = []
    for path in [*lineage.files.values(), *([f16] if f16.is_file() else [])]:
        tensors = tensors_of(path)
        for layer, entry in layers.items():
            every = dict(enumerate(router_rows(full, layer)))
            kept = [every.get(expert) for expert in entry["keep"]]
            if None in kept or router_rows(tensors, layer) != kept:
                expected = f"the router's rows of the {len(entry['keep'])} kept experts in layer {layer}"
                found.append(InputError(path, expected, "others", OTHER_BUILD))
                break
    return found


def header_breaks(lineage: Lineage) -> Breaks:
    """Every file says of its architecture what the full model's F16 file says, but for the number of experts.

    A card takes the longest context and the experts per token from a header.
    """
    if not lineage.knows_full:
        return []
    place, full, file = lineage.origin("full f16"), lineage.full, lineage.full_file
    header, metadata = read_header(file), read_metadata(lineage.metadata_path)
    pairs: list[tuple[str, object, object]] = [("a model named", header.value("general.name"), full["name"])]
    # Else scores and losses could be held against those of another model of its routers.
    weights = metadata["source"].get("weights_sha256")
    pairs.append(("an F16 file of the full model, weights with sha256", weights, full.get("weights_sha256")))
    pairs.append(("bytes:", file.stat().st_size, full["bytes"]))
    pairs.append(("experts of the full model:", header.experts, metadata["experts"]))
    found = breaks_of(place, pairs)
    # Of all bytes, chat template and tokenizer included; the digest of the weights takes samples.
    dropped, what = metadata["source"].get("source_sha256"), "the checkpoint that the experts were dropped from, sha256"
    found += breaks_of(place, [(what, dropped, full["source_sha256"])], OTHER_FULL)
    wanted = architecture_of(header)
    for path in lineage.files.values():
        mine = architecture_of(read_header(path))
        pairs = [(f"{key} of the full model:", wanted.get(key), mine.get(key)) for key in sorted({*wanted, *mine})]
        found += breaks_of(path, pairs)
    return found


def architecture_of(header: GgufHeader) -> dict[str, object]:
    """Return what a header says of the architecture, by key, without the number of experts and before any padding."""
    begin = f"{header.architecture}."
    own = [pair for pair in header.key_values if pair.key.startswith(begin) and pair.key != f"{begin}expert_count"]
    found = {pair.key: array_values(pair) if pair.kind == ARRAY else pair.value for pair in own}
    # Padded widths are held against the file's own record (release/gguf_facts.py).
    before = {key: value for key, value in found.items() if key.endswith(UNPADDED)}
    plain = {key: value for key, value in found.items() if key not in before}
    return plain | {key.removesuffix(UNPADDED): value for key, value in before.items()}


def fetched_breaks(lineage: Lineage) -> Breaks:
    """The experts were dropped from the checkpoint that the build fetched, or was given, at its beginning.

    Later nobody looks whether it is still that one: the commands take what lies there.
    """
    if not (place := lineage.sources["origins"].get("model")):
        return []
    known, dropped = read_record(place, ModelRecord), read_metadata(lineage.metadata_path)["source"]
    keys = [key for key in ("weights_sha256", "config_sha256", "source_sha256") if dropped.get(key)]
    pairs = [(f"{key} of the model that was fetched:", known.get(key), dropped[key]) for key in keys]
    return breaks_of(lineage.metadata_path, pairs, OTHER_FETCHED)


def small_file_breaks(lineage: Lineage) -> Breaks:
    """The files beside the weights are those that the drop has put there, whether the full model is still there or not.

    A seal alone holds also for a file of its place in another build folder.
    """
    metadata, folder = read_metadata(lineage.metadata_path), lineage.metadata_path.parent
    if not (put := metadata.get("small_files")):
        return [InputError(lineage.metadata_path, "digests of the small files", "none", "drop again (REPLACE=choice)")]
    # A release takes neither card nor manifest from a checkpoint.
    others = {METADATA_NAME, CARD, MANIFEST, *metadata["shards"]}
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found = []
    for name in sorted({*there, *put} - others):
        digest, known = sha256_file(there[name]) if name in there else "none", put.get(name, "none")
        if digest != known:
            expected = f"what the drop has put there, sha256 {known[:DIGITS]}"
            found.append(InputError(folder / name, expected, digest[:DIGITS], OTHER_BUILD))
    return found


def source_breaks(lineage: Lineage) -> Breaks:
    """Config and small files of the checkpoint are the full model's; of the config only the expert count is another."""
    source, folder = lineage.origin("source"), lineage.metadata_path.parent
    if not source.is_dir():  # `lineage_in_words` says so
        return []
    metadata, config = read_metadata(lineage.metadata_path), read_config(source)
    tensors, said = read_checkpoint(source), metadata["source"]
    family = family_of(source, config, list(tensors))
    pairs: list[tuple[str, object, object]] = [
        ("experts of the full model:", shape_of(source, family, config).experts, metadata["experts"]),
        ("a full model whose config has sha256", sha256_file(source / "config.json"), said.get("config_sha256")),
        ("a full model whose weights have sha256", weights_digest(tensors), said.get("weights_sha256")),
    ]
    found = breaks_of(lineage.metadata_path, pairs)
    if read_config(folder) != pruned_config(config, family, metadata["keep_count"]):
        expected = "the full model's config with the new number of experts"
        found.append(InputError(folder / "config.json", expected, "another", BUILD_AGAIN))
    theirs = {path.relative_to(source).as_posix(): path for path in small_files(source)}
    every = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    # Metadata and index are the drop's own, and a release takes neither card nor manifest from a checkpoint.
    own = {"config.json", METADATA_NAME, INDEX_NAME, CARD, MANIFEST, *metadata["shards"]}
    for path in every:
        name = path.relative_to(folder).as_posix()
        if name not in own and (name not in theirs or sha256_file(path) != sha256_file(theirs[name])):
            found.append(InputError(path, "a file of the full model's checkpoint", "another", OTHER_BUILD))
    return found


def imatrix_model_breaks(lineage: Lineage) -> Breaks:
    """Each imatrix is of its own model, whether a published file has it or only one that was measured."""
    models = {"imatrix": lineage.f16_sha256}
    if "full imatrix" in lineage.sources["origins"]:
        models["full imatrix"] = lineage.full["sha256"]
    found: Breaks = []
    for name, sha256 in models.items():
        if place := lineage.sources["origins"].get(name):
            record, file = read_record(place, ImatrixRecord), place.with_suffix("")
            there = sha256_file(file) if file.is_file() else record["sha256"]  # its picture is drawn from it
            pairs: list[tuple[str, object, object]] = [("an imatrix of the F16 file", sha256, record["model_sha256"])]
            found += breaks_of(place, [*pairs, (f"{file.name} with sha256", record["sha256"], there)])
    return found


def quant_breaks(lineage: Lineage) -> Breaks:
    """Every quant was made from that F16 file and its imatrix, by one build of llama.cpp, and has the kept experts."""
    metadata, f16_sha256 = read_metadata(lineage.metadata_path), lineage.f16_sha256
    imatrix: dict = {}
    found = imatrix_model_breaks(lineage)
    pairs: list[tuple[str, object, object]]
    if any(record["imatrix_sha256"] for record in lineage.records.values()):
        place = lineage.origin("imatrix")
        imatrix, file = read_record(place, ImatrixRecord), place.with_suffix("")
        text = lineage.origin("calibration")
        pairs = [
            (f"{file.name} beside its record:", True, file.is_file()),
            (f"the text {text.name} with sha256", sha256_file(text), imatrix["calibration_sha256"]),
            ("a text named", text.name, imatrix["calibration"]),
        ]
        found += breaks_of(place, pairs)
    found += of_other_builds(lineage.records)
    for name, record in lineage.records.items():
        pairs = [("a quant of the F16 file", f16_sha256, record["source_sha256"])]
        pairs.append(("experts:", metadata["keep_count"], record["experts"]))
        if record["imatrix_sha256"]:
            pairs.append(("the imatrix", imatrix.get("sha256"), record["imatrix_sha256"]))
            pairs.append(("the calibration text", imatrix.get("calibration_sha256"), record["calibration_sha256"]))
        header = read_header(lineage.files[name])
        measured = "with" if header.value("quantize.imatrix.entries_count") else "without"
        pairs.append(("a quant made", "with" if record["imatrix_sha256"] else "without", measured))
        pairs.append(("a model named", lineage.name, header.value("general.name")))
        found += breaks_of(lineage.files[name], pairs)
    return found


def lineage_breaks(lineage: Lineage) -> Breaks:
    """Return every break of the chain, from the statistics to the quants."""
    found = map_breaks(lineage) + choice_breaks(lineage) + checkpoint_breaks(lineage) + source_breaks(lineage)
    found += fetched_breaks(lineage) + small_file_breaks(lineage)
    for part in (f16_type_breaks, quant_breaks, header_breaks, router_breaks):
        found += part(lineage)
    return found


def lineage_in_words(lineage: Lineage) -> str:
    """Return what the chain is made of."""
    method = details_of(read_map(lineage.origin("map")))
    return (
        f"drop map ({criterion_of(method)}), metadata, checkpoint, F16 {lineage.f16_sha256[:DIGITS]}, "
        f"{len(lineage.records)} quants: digest by digest"
        f"{'' if lineage.knows_full else ' (routers not compared: there is no F16 file of the full model)'}"
        f"{'' if lineage.origin('source').is_dir() else ' (the full checkpoint is gone: small files not compared)'}"
    )
