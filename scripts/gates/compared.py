"""Whether the files that a release compares were made alike: those of the full and of the pruned model.

Else a full model that was quantised by a poor text, by none, or by another recipe of that name, would make the pruned
one look good.
"""

from pathlib import Path

from cards.card_sections import IMATRIX_PICTURE
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from gates.lineage import Breaks, Lineage, breaks_of, broken, lineage_breaks
from gates.seen_questions import read_breaks, seen_breaks
from ggufs.imatrix import ImatrixRecord
from loops.loop_results import LOOPS_NAME, LoopResults
from losses.quality_record import QUALITY_NAME, Quality
from quants.quant_record import QuantRecord, is_copy
from quants.recipes import target_bytes
from release.manifest import DIGITS
from release.names import is_standard
from release.seen_ids import seen_ids
from release.task_files import task_copies
from release.used_quants import by_imatrix, measured_digests
from scoring.score_records import SCORES_NAME, Scores

ONE_LINE = "build it again so, then run `make quality REPLACE=quality`"
ANOTHER_IMATRIX = "build it again with the imatrix of its model (REPLACE=quants)"
ONE_RECIPE = "quantise the full model by the same settings (REPLACE=cd)"
ONE_IMATRIX = "measure the imatrix of both models by one context and llama.cpp (REPLACE=imatrix)"
OLDER_AUTO = "quantise it again (REPLACE=auto)"
CD_CHOICES = ("cd_scope", "cd_recipe", "cd_protect", "cd_rule", "cd_cuts", "cd_tiers")
OF_A_RECIPE = ("arguments", "base", "padded", "cd_stats_sha256", *CD_CHOICES)
# AUTO's types and padding follow from the sensitivities, which each model has its own of. What must be one is how these
# were measured, and whether a padding was weighed at all.
OF_AN_AUTO = ("auto_measured_on", "auto_padding")
OF_AN_IMATRIX = ("context", "llama_cpp", "tools_sha256")  # beside the text, which is the build's own for every quant

Quants = list[tuple[Path, dict]]  # paths of records, and what they say


def compared_files(lineage: Lineage) -> set[str]:
    """Return the sha256 of the files whose scores, of further tasks too, or whose loops the release compares."""
    copies = lineage.sources["copies"]
    results = [read_record(path, Scores) for path in task_copies(copies).values()]
    for name, kind in ((SCORES_NAME, Scores), (LOOPS_NAME, LoopResults)):
        results += [read_record(copies[name], kind)] if name in copies else []
    return {row["gguf_sha256"] for result in results for row in result["rows"]}


def text_breaks(lineage: Lineage, quants: Quants) -> Breaks:
    """Quants with an imatrix have the one of this build's text."""
    found: Breaks = []
    for path, record in quants:
        if record["imatrix_sha256"]:
            text = lineage.origin("calibration")
            what = f"a quant by the text {text.name}, sha256"
            found += breaks_of(path, [(what, sha256_file(text), record["calibration_sha256"])], ANOTHER_IMATRIX)
    return found


def one_recipe_breaks(compared: Quants) -> Breaks:
    """Files of one type were made by one recipe, all with an imatrix or all without."""
    found: Breaks = []
    made: dict[str, tuple[bool, dict]] = {}
    for path, record in compared:
        kind, auto = record["type"], target_bytes(record["type"]) is not None
        mine = record["imatrix_sha256"] is not None, {key: record.get(key) for key in OF_AN_AUTO if auto}
        mine[1].update({key: record.get(key) for key in OF_A_RECIPE if not auto})
        by_text, recipe = made.setdefault(kind, mine)
        what = f"the scored {kind} files made with an imatrix:"
        found += breaks_of(path, [(what, by_text, mine[0])], ANOTHER_IMATRIX)
        found += breaks_of(path, [(f"the scored {kind} files made by one recipe:", recipe, mine[1])], ONE_RECIPE)
        if auto and not record.get("auto_measured_on"):
            found.append(InputError(path, "what its sensitivities were measured on", "none", OLDER_AUTO))
    return found


def one_imatrix_breaks(lineage: Lineage, compared: Quants) -> Breaks:
    """Files were made by the imatrices of their own models, and these were measured alike."""
    places = [place for name, place in lineage.sources["origins"].items() if name in ("imatrix", "full imatrix")]
    known = {record["sha256"]: record for record in (read_record(place, ImatrixRecord) for place in places)}
    found: Breaks = []
    first: dict = {}
    for path, record in compared:
        if digest := record["imatrix_sha256"]:
            imatrix = known.get(digest, {})
            what = "an imatrix of its own model, with a record:"
            whose = [(what, record["source_sha256"], imatrix.get("model_sha256"))]
            found += breaks_of(path, whose, ANOTHER_IMATRIX)
            first = first or imatrix
            values = [(f"the {key} of the imatrix:", first.get(key), imatrix.get(key)) for key in OF_AN_IMATRIX]
            pairs = [pair for pair in values if None not in pair]  # an older record has no digest of the tools
            found += breaks_of(path, pairs, ONE_IMATRIX) if imatrix else []
    return found


def line_breaks(lineage: Lineage, known: Quants) -> Breaks:
    """Standard files beside which others are judged have the imatrix that these have, or none where these have none."""
    path = lineage.sources["copies"].get(QUALITY_NAME)
    files = {entry["sha256"] for entry in read_record(path, Quality)["files"]} if path else set()
    measured = [(path, record) for path, record in known if record["sha256"] in files and not is_copy(record)]
    judged = {record["imatrix_sha256"] for _, record in measured if not is_standard(record["type"])}
    found: Breaks = []
    for place, record in measured:
        # Of judged files with several imatrices none may pass beside a file of another's.
        if is_standard(record["type"]) and (others := judged - {record["imatrix_sha256"]}):
            expected, other = (imatrix_in_words(digest) for digest in (next(iter(others)), record["imatrix_sha256"]))
            found.append(
                InputError(place, f"a file made {expected}, as those that are held beside it", other, ONE_LINE)
            )
    return found


def imatrix_in_words(digest: str | None) -> str:
    """Return with which imatrix a file was made."""
    return f"with the imatrix {digest[:DIGITS]}" if digest else "without an imatrix"


def one_type_breaks(lineage: Lineage, quants: Quants) -> Breaks:
    """In a further task and in loops the full model's file, which comes first, is of a type of this model's files."""
    copies, found = lineage.sources["copies"], Breaks()
    results: dict[Path, dict] = {path: read_record(path, Scores) for path in task_copies(copies).values()}
    if LOOPS_NAME in copies:
        results[copies[LOOPS_NAME]] = read_record(copies[LOOPS_NAME], LoopResults)
    known = list(lineage.records.values()) + [record for _, record in quants]
    full = lineage.full["sha256"] if results else ""
    types = {record["sha256"]: record["type"] for record in known if record["source_sha256"] != full}
    for path, result in results.items():
        first = next((r for r in known if r["sha256"] == result["rows"][0]["gguf_sha256"]), {})
        own = {types.get(row["gguf_sha256"]) for row in result["rows"][1:]}
        # Whose files they are is asked elsewhere.
        if first.get("source_sha256") == full and None not in own and first["type"] not in own:
            expected = f"a {first['type']} file of this model beside that of the full model"
            found.append(InputError(path, expected, ", ".join(sorted(map(str, own))) or "none", ONE_RECIPE))
    return found


def one_file_breaks(lineage: Lineage, quants: Quants) -> Breaks:
    """A file of this model beside the published ones is the published file of its type, where there is one.

    Headlines, tables and pictures name the type alone, by which a reader takes the published file for it.
    """
    published = {record["type"]: (name, record["sha256"]) for name, record in lineage.records.items()}
    found: Breaks = []
    for path, record in quants:
        name, sha256 = published.get(record["type"], ("", record["sha256"]))
        if record["source_sha256"] == lineage.f16_sha256 and record["sha256"] != sha256:
            expected = f"{name}, the published {record['type']} file, to be the measured one, sha256"
            found.append(broken(path, expected, sha256, record["sha256"], ANOTHER_IMATRIX))
    return found


def picture_breaks(lineage: Lineage) -> Breaks:
    """A picture of the importance matrix is of one that a file was made with."""
    picture = lineage.sources["copies"].get(IMATRIX_PICTURE)
    if picture is None or by_imatrix(lineage.sources):
        return []
    return [InputError(picture, "no picture of an importance matrix that no file was made with", "one")]


def compared_breaks(lineage: Lineage) -> Breaks:
    """Quants of the full and the own model were made by this build's text, and those that are compared alike."""
    ours = {lineage.f16_sha256, *([lineage.full["sha256"]] if lineage.knows_full else [])}
    quants = [(path, read_record(path, QuantRecord)) for path in lineage.sources["quants"].values()]
    known = [(path, record) for path, record in quants if record["source_sha256"] in ours]
    files, records = compared_files(lineage), lineage.sources["records"].values()
    # What losses and speeds are of is held against nothing of the full model, but it is of this build's imatrix, too.
    measured = {*measured_digests(lineage.sources["copies"])}
    own = {r["sha256"] for _, r in known if r["source_sha256"] == lineage.f16_sha256} & measured
    compared = [(path, record) for path, record in known if record["sha256"] in files | own]
    # Another pruned model's file is compared, too. Its imatrix and text are another build's, which is not here.
    of_others = [(path, record) for path, record in quants if record["sha256"] in files]
    found = line_breaks(lineage, [*known, *((path, read_record(path, QuantRecord)) for path in records)])
    found += one_type_breaks(lineage, quants) + one_file_breaks(lineage, quants) + picture_breaks(lineage)
    return found + text_breaks(lineage, known) + one_recipe_breaks(of_others) + one_imatrix_breaks(lineage, compared)


def build_breaks(lineage: Lineage) -> Breaks:
    """Return what is wrong with the build of a release: its chain, its questions, and the files that it compares."""
    seen = seen_breaks(lineage.sources["questions"].values(), seen_ids(lineage.sources)) + read_breaks(lineage.sources)
    return lineage_breaks(lineage) + seen + compared_breaks(lineage)
