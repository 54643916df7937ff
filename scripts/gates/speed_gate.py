"""What must be true of a release's draft model and of what was measured of its speed; an answer with that model."""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, Question, count_without_reasoning, load_questions, question_set_digest
from chats.texts_again import texts_digest
from files.input_errors import InputError, sha256_file
from files.json_records import read_record
from gates.checked import SERVER_FLAGS, Checked, Outcome
from gates.lineage import Breaks, Lineage, breaks_of
from gates.made_again import TEXTS, known_quants
from ggufs.draft_fit import check_fits
from ggufs.gguf_header import GgufHeader, experts_used_key, read_header
from ggufs.sibling_choice import draft_pick
from ggufs.vouched_keys import unvouched
from llama.drafting import DRAFT_TOKENS, draft_flags
from llama.llama_server import LlamaServer, server_command
from llama.llama_tools import LlamaCpp
from quants.draft_record import DraftRecord, is_draft
from quants.quant_record import record_path
from release.manifest import CHECKPOINT, DIGITS
from release.question_roles import asked_by_any
from release.sources import find_evidence
from scoring.score_records import SCORES_NAME, Scores
from speed.active_experts import ACTIVE_NAME, ActiveExperts
from speed.draft_results import DRAFT_NAME, DraftResults, check_same_answers
from speed.greedy_answers import ask_greedily

ANSWER_TOKENS = 128
MEASURE_DRAFT, MEASURE_ACTIVE = DraftResults.again, ActiveExperts.again
SCORE_TOO = "run `make eval`, or `make active-experts REPLACE=draft` without ACTIVE_SCORED"
AS_SCORED = ("context", "reasoning_budget", "gpu_layers")  # of the protocol, as far as a record of speeds has them


def active_breaks(results: dict, f16_sha256: str) -> list[InputError]:
    """Return how active-experts.json is not of this build's model; f16_sha256: of the file all quants are made from."""
    if results["source_sha256"] == f16_sha256:
        return []
    expected = f"a file of this build (F16 sha256 {f16_sha256[:DIGITS]})"
    return [InputError(ACTIVE_NAME, expected, results["source_sha256"][:DIGITS], MEASURE_ACTIVE)]


def draft_breaks(results: dict, draft: Path, f16_sha256: str) -> list[InputError]:
    """Return how draft.json and the draft model are not of this build, or change an answer; draft: the build's file."""
    record, found = read_record(record_path(draft), DraftRecord), []
    pairs = [
        ("the draft model", record["sha256"], results["sha256"]),
        ("a draft model for the F16 file", f16_sha256, record["target_sha256"]),
    ]
    for what, expected, other in pairs:
        if expected != other:
            found.append(
                InputError(DRAFT_NAME, f"{what} with sha256 {expected[:DIGITS]}", other[:DIGITS], MEASURE_DRAFT)
            )
    # The full model may be measured beside it, so one of the models must be of this build, not all.
    if f16_sha256 not in {answers["source_sha256"] for answers in results["models"]}:
        expected = f"a file of this build (F16 sha256 {f16_sha256[:DIGITS]})"
        found.append(InputError(DRAFT_NAME, expected, "others", MEASURE_DRAFT))
    try:
        check_same_answers(results)
    except InputError as error:
        found.append(error)
    return found


def measured_file_breaks(name: str, lineage: Lineage, measured: list[dict], advice: str) -> Breaks:
    """Speeds are of files that have a record, of the pruned or of the full model, by the names of file and model."""
    known, found = known_quants(lineage), []
    # The digest says whose file was measured; the model's name must follow from it.
    models = {lineage.f16_sha256: lineage.name}
    if lineage.knows_full:
        models[lineage.full["sha256"]] = lineage.full["name"]
    for entry in measured:
        file, record = known.get(entry["gguf_sha256"], ("no file with a record", {}))
        source = str(record.get("source_sha256"))
        pairs: list[tuple[str, object, object]] = [("the speed of a file named", file, entry["gguf"])]
        pairs.append(("made of the F16 file", source, entry["source_sha256"]))
        named = models.get(source, " or ".join(models.values()))
        pairs.append(("a model named", named, entry["name"]))
        found += breaks_of(name, pairs, advice)
    return found


def asked_breaks(results: dict, lineage: Lineage) -> Breaks:
    """The drafted answers are to the first questions of the evaluation, as the card says, and no longer than was asked.

    Without an evaluation they are to those of a question file of the build, and the card does not say more.
    """
    count, longest = results["questions"], max(max(a["tokens"], default=0) for a in results["models"])
    digests = {question_set_digest(load_questions(path, QUESTION_SEED)[:count]) for path in scored_files(lineage)}
    whose = "the evaluation" if lineage.sources["runs"] else "a question file of the build"
    pairs: list[tuple[str, object, object]] = [
        (f"the first {count} questions of {whose}:", True, results["questions_sha256"] in digests),
        (f"answers of at most {results['max_tokens']} tokens:", True, longest <= results["max_tokens"]),
    ]
    return breaks_of(DRAFT_NAME, pairs, MEASURE_DRAFT)


def draft_number_breaks(results: dict, draft: Path, name: str) -> Breaks:
    """The draft model is of the size and type that its record and header say, and each draft could give what it gave.

    name: of the model that it drafts for, which its header has.
    """
    record, header = read_record(record_path(draft), DraftRecord), read_header(draft)
    tensors = header.tensors
    weights, size, most = sum(math.prod(t.dims) for t in tensors), draft.stat().st_size, results["draft_tokens"]
    pairs: list[tuple[str, object, object]] = [
        ("weights of the draft model:", (weights, weights), (results["parameters"], record["parameters"])),
        ("bytes of the draft model:", (size, size), (results["bytes"], record["bytes"])),
        ("the type of the draft model:", record["type"], results["type"]),
        ("the name of the draft model:", (name, name), (header.value("general.name"), record["name"])),
        ("general keys that nobody vouches for:", [], unvouched(header)),
    ]
    for answers in results["models"]:
        rows = list(zip(answers["tokens"], answers["drafted"], answers["accepted"]))
        # A pass gives one token and what it keeps of its draft: there were tokens - kept passes, one more at most.
        possible = all(0 <= kept <= drafted <= most * (tokens - kept + 1) for tokens, drafted, kept in rows)
        pairs.append((f"possible counts of {answers['name']}:", True, possible))
    return breaks_of(DRAFT_NAME, pairs, MEASURE_DRAFT)


def active_number_breaks(results: dict, header: GgufHeader) -> Breaks:
    """The sweep goes down from the model's own number of active experts."""
    counts = [row["experts"] for row in results["rows"]]
    pairs: list[tuple[str, object, object]] = [
        ("the model's own active experts:", header.value(experts_used_key(header)), results["own"]),
        ("the key of active experts:", experts_used_key(header), results["key"]),
        ("rows from there down:", sorted({results["own"], *counts}, reverse=True), counts),
    ]
    return breaks_of(ACTIVE_NAME, pairs, MEASURE_ACTIVE)


def scored_files(lineage: Lineage) -> list[Path]:
    """Return the question files whose questions the evaluation asked; all of the build where it has no scores."""
    runs = lineage.sources["runs"].values()
    return [path for path in lineage.sources["questions"].values() if not runs or asked_by_any(runs, path)]


def active_asked_breaks(results: dict, lineage: Lineage) -> Breaks:
    """Losses and answers are over the first questions of a question file of the build, as its own tokenizer reads them.

    Right answers are over those that were scored: the card has both counts.
    """
    scored = any(row["right"] is not None for row in results["rows"])
    if scored and not lineage.sources["runs"]:
        return [InputError(ACTIVE_NAME, "right answers beside scores, whose label they need", "no scores", SCORE_TOO)]
    files = scored_files(lineage) if scored else list(lineage.sources["questions"].values())
    counts, found = (results["chats"], results["questions"]), (results["chats_sha256"], results["questions_sha256"])
    for path in files:
        questions = load_questions(path, QUESTION_SEED)
        if tuple(question_set_digest(questions[:count]) for count in counts) == found:
            texts = texts_digest(lineage.metadata_path.parent, questions[: counts[0]], results["chat_max_tokens"])
            # As make measures: of chats that are cut shorter the card does not speak.
            longest = ("chats of so many tokens at most:", MAX_TOKENS, results["chat_max_tokens"])
            short = count_without_reasoning(questions[: counts[0]]), results.get("no_reasoning", 0)
            pairs = [longest, ("chats without a reasoning:", *short), (TEXTS, texts, results["texts_sha256"])]
            return breaks_of(ACTIVE_NAME, pairs, MEASURE_ACTIVE)
    whose = "the evaluation's question file" if scored else "a question file of the build"
    expected = f"the first {counts[0]} chats and the first {counts[1]} questions of {whose}"
    return [InputError(ACTIVE_NAME, expected, "others", MEASURE_ACTIVE)]


def protocol_breaks(name: str, results: dict, lineage: Lineage, advice: str) -> Breaks:
    """What was measured ran as the scored answers did that the card shows beside it; without scores there is no rule.

    Right answers had as many tokens, too. Drafted answers and those that are only timed are shorter, as the card says.
    """
    path = lineage.sources["copies"].get(SCORES_NAME)
    scores = read_record(path, Scores) if path else {"protocol": {}, "rows": []}
    protocol = scores["protocol"]
    mine = {key: results[key] for key in AS_SCORED if key in results}
    counted = any(row["right"] is not None for row in results.get("rows", []))
    if counted:
        mine["max_gen_toks"] = results["max_tokens"]
    pairs = [(f"the evaluation's {key}:", protocol[key], value) for key, value in mine.items() if key in protocol]
    if counted and path:
        known = {row["gguf_sha256"] for row in scores["rows"]}
        pairs.append(("right answers of a file that was scored:", True, results["gguf_sha256"] in known))
    return breaks_of(name, pairs, advice)


def drafts_of(checked: Checked) -> list[str]:
    """Return the draft models of a release, by name."""
    return [name for name in sorted(checked.manifest["files"]) if is_draft(Path(name))]


def speed_gate(checked: Checked) -> Outcome:
    """The draft model is the one that was measured, fits every file, and is fetched with it by -hf.

    Fewer experts were measured on this model.
    """
    drafts, results = drafts_of(checked), find_evidence(checked.folder, DRAFT_NAME)
    active = find_evidence(checked.folder, ACTIVE_NAME)
    outcome = Outcome("the draft model, and what was measured of speed", applies=bool(drafts or results or active))
    f16_sha256 = checked.lineage.f16_sha256 if outcome.applies else ""
    found = active_breaks(active, f16_sha256) if active else []
    if outcome.applies and not checked.records:
        found.append(InputError(checked.folder, "no speeds without GGUF files, which they are of", "some"))
    elif active and not found:
        found += measured_file_breaks(ACTIVE_NAME, checked.lineage, [active], MEASURE_ACTIVE)
        found += active_number_breaks(active, read_header(checked.first_part(next(iter(checked.records.values())))))
        found += active_asked_breaks(active, checked.lineage)
        found += protocol_breaks(ACTIVE_NAME, active, checked.lineage, MEASURE_ACTIVE)
    if bool(drafts) != bool(results) or results and drafts != [results["file"]]:
        expected = f"one draft model and its {DRAFT_NAME}"
        found.append(InputError(checked.folder, expected, ", ".join(drafts) or "no draft model"))
    elif results:
        draft = checked.folder / results["file"]
        if (digest := sha256_file(draft)) != results["sha256"]:
            found.append(
                InputError(draft, f"sha256 {results['sha256'][:DIGITS]}, as {DRAFT_NAME} says", digest[:DIGITS])
            )
        found += draft_breaks(results, checked.sources["copies"][results["file"]], f16_sha256)
        found += measured_file_breaks(DRAFT_NAME, checked.lineage, results["models"], MEASURE_DRAFT)
        found += asked_breaks(results, checked.lineage)
        found += protocol_breaks(DRAFT_NAME, results, checked.lineage, MEASURE_DRAFT)
        found += draft_number_breaks(results, checked.sources["copies"][results["file"]], checked.manifest["name"])
        listed = sorted(checked.manifest["files"])
        for record in checked.records.values():
            check_fits(read_header(draft), read_header(checked.first_part(record)), draft)
            # A user may give -hf a tag or not, and llama.cpp picks the draft by other rules then.
            picked = {draft_pick(listed, record["files"][0], tag) for tag in ("", record["type"])}
            if picked != {results["file"]}:
                expected = f"{results['file']}, fetched by -hf with {record['files'][0]}"
                found.append(InputError(checked.folder, expected, ", ".join(sorted(map(str, picked)))))
    outcome.deviations = [str(error) for error in found]
    return outcome


def drafted_gate(checked: Checked, model: Path, question: Question, tools: LlamaCpp, gpu_layers: int) -> Outcome:
    """llama-server gives the same greedy answer of a file with the release's draft model and without it."""
    drafts = drafts_of(checked)
    looked_at = f"{model.name} by llama-server, with and without the draft model"
    if not drafts:
        return Outcome(looked_at, applies=False)
    flags, answers = [*SERVER_FLAGS, "-ngl", str(gpu_layers)], []
    for more in ([], draft_flags(checked.folder / drafts[0], DRAFT_TOKENS)):
        command = server_command(tools.tool("llama-server"), model, "release", 0, [*flags, *more])
        with (
            tempfile.TemporaryDirectory() as folder,
            LlamaServer(command, model, Path(folder) / "server.log") as server,
        ):
            answers.append(ask_greedily(server, question, ANSWER_TOKENS))
    plain, drafted = answers
    outcome = Outcome(f"{looked_at}: {drafted.accepted} of {drafted.drafted} drafted tokens accepted")
    # Without a drafted token the two would be the same run, and their equality would show nothing.
    if plain.whole != drafted.whole or not drafted.drafted:
        expected = f"{model}: expected the same greedy answer with {drafts[0]}, and tokens drafted"
        outcome.deviations.append(f"{expected}, found {drafted.whole[:60]!r} for {plain.whole[:60]!r}")
    return outcome


def speed_gates(
    choose: Callable[[Checked], Path], question: Question, tools: LlamaCpp, gpu_layers: int
) -> dict[str, Callable[[Checked], Outcome]]:
    """Return the gates of this module by name; choose: the model of a release that is asked."""

    def drafted(checked: Checked) -> Outcome:
        if checked.kind == CHECKPOINT:
            return Outcome("no GGUF file to load", applies=False)
        return drafted_gate(checked, choose(checked), question, tools, gpu_layers)

    return {"speed": speed_gate, "drafted": drafted}
