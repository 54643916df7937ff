"""Scores and losses of a release: whose files they are of, and the same figures made again from what was recorded.

Scores: from each run's answers, the frozen questions and the patch step, to the summary and the comparison. Losses:
from the stored results per token, to quality.json. build_release.py refuses what does not come out the same, and
check_release.py asks again. Somebody who rewrites the answers or the stored results themselves is not seen.
"""

import math
import re
from pathlib import Path
from typing import Any

from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, load_questions, question_set_digest
from chats.texts_again import texts_digest
from choice.drop_metadata import METADATA_NAME, read_metadata
from files.json_records import read_json, read_record
from files.safe_files import InputError, sha256_file, shown
from files.seals import INPUTS_NAME
from gates.lineage import Breaks, Lineage, breaks_of, broken
from gates.variants import choice_of_other
from losses.chat_masks import Chats, unseen_questions
from losses.quality_conclusions import Measured, quality_conclusions
from losses.quality_record import QUALITY_NAME, Quality
from losses.stored_results import measured_again, results_folder
from quants.quant_record import QuantRecord
from release.manifest import DIGITS
from release.names import PLAIN_NAME, is_plain
from scoring.answer_letters import completion_letter
from scoring.answer_record import read_answers
from scoring.comparison import compare, group_runs
from scoring.eval_protocol import BY_DIGEST, DEFAULT_TASK, OpenAiProtocol, Protocol, locked_values, recorded_protocol
from scoring.eval_tasks import EvalTask, task_of
from scoring.frozen_questions import documents_of, other_documents
from scoring.lm_eval_run import request_digest
from scoring.lm_eval_samples import lm_eval_settings, read_frozen, read_shots
from scoring.run_files import ANSWERS, PATCHED, RUN, TASK_FOLDER, read_run
from scoring.run_summary import read_patched, summed_up
from scoring.score_records import SCORES_NAME, Scores, in_a_row, read_summary

CONTEXT_STEP_TOKENS = 256  # llama-server rounds a context up to a multiple of it
SERVER_LOGS = "server*.log"  # of several servers each has its own
TEXTS = "chats by the checkpoint's tokenizer and chat template, sha256"
CUT_SLACK_TOKENS = 8  # llama-server ends a few tokens before its context is full
# A build whose losses make takes for finished is measured again only when told; the stored logits spare most of it.
MEASURE_PUBLISHED = "measure the file that is released"
EVALUATE, MEASURE = "run `make eval` again", "run `make quality REPLACE=quality`"


def first_difference(expected: Any, found: Any, place: str = "") -> str | None:
    """Return "PLACE VALUE, found VALUE" of the first values that differ in two records, None where there are none.

    Floats may differ in their last bits: another numpy sums in another order.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}, key=str):
            inner = f"{place}.{key}" if place else str(key)
            if (key in expected) != (key in found):
                return f"{inner} {'present' if key in expected else 'absent'}, found the opposite"
            if difference := first_difference(expected[key], found[key], inner):
                return difference
        return None
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found))
        return next((line for i, pair in pairs if (line := first_difference(*pair, f"{place}[{i}]"))), None)
    if isinstance(expected, float) or isinstance(found, float):
        numbers = all(type(value) in (int, float) for value in (expected, found))
        if numbers and math.isclose(expected, found, rel_tol=1e-9, abs_tol=1e-12):
            return None
    return None if expected == found else f"{place} {shown(expected)}, found {shown(found)}"


def made_again(path: Path, what: str, again: dict, recorded: dict, advice: str) -> Breaks:
    """Return the error of a record that differs from what its sources give."""
    difference = first_difference(again, {key: value for key, value in recorded.items() if key != "version"})
    if difference is None:
        return []
    expected, found = difference.split(", found ", 1)
    return [InputError(path, f"{what}: {expected}", found, advice)]


def known_quants(lineage: Lineage) -> dict[str, tuple[str, dict]]:
    """Return file and record of the release's quants, and of those that were scored or measured, by sha256.

    Raises InputError for two files of one name: a reader would take the measured one for the published one.
    """
    known = {record["sha256"]: (name, record) for name, record in lineage.records.items()}
    named = {name: record["sha256"] for name, record in lineage.records.items()}
    for path in lineage.sources["quants"].values():
        record = read_record(path, QuantRecord)
        gguf = path.with_suffix("")
        if (other := named.setdefault(gguf.name, record["sha256"])) != record["sha256"]:
            what = f"one file named {gguf.name} in a release and its measurements, sha256"
            raise broken(path, what, other, record["sha256"], MEASURE_PUBLISHED)
        known[record["sha256"]] = (gguf.name, record)
        # The scored file need not be one of the release. Where it is still there, its size is its own.
        if gguf.is_file() and gguf.stat().st_size != record["bytes"]:
            raise broken(gguf, "bytes, as its record says:", record["bytes"], gguf.stat().st_size)
    return known


def question_breaks(run: Path, documents: list[dict], questions: list[Path], protocol: Protocol) -> Breaks:
    """The frozen questions of a run are all those of a question file of the build, in the order of the seed."""
    task, seed = task_of(protocol.task), protocol.choice_order_seed
    if any(documents_of(path, task, seed) == documents for path in questions):
        return []
    expected = f"the questions of {' or '.join(path.name for path in questions) or '--questions'}, all of them"
    return [InputError(run / TASK_FOLDER, expected, f"{len(documents)} others", EVALUATE)]


def shot_breaks(run: Path, task: EvalTask, examples: list[Path]) -> Breaks:
    """The frozen few shots of a run are those of the build's file of them; a task without any has none."""
    expected = [shot for path in examples for shot in other_documents(path, task, shots=True)]
    if read_shots(run / TASK_FOLDER) == expected:
        return []
    return [InputError(run / TASK_FOLDER, f"{len(expected)} few shots of this build", "others", EVALUATE)]


def request_breaks(run: Path, documents: list[dict], protocol: Protocol) -> Breaks:
    """Every answer is one to the request that the protocol sends, and is no longer than the protocol lets it be.

    An answer that was cut ends where the protocol cuts: a run under a shorter context would show it there.
    """
    by_id, found = {document["Record ID"]: document for document in documents}, []
    shots = read_shots(run / TASK_FOLDER)
    for record_id, answer in read_answers(run / ANSWERS).items():
        length, whole = answer.completion_tokens, answer.prompt_tokens + answer.completion_tokens
        place, begin = run / ANSWERS, f"answer {record_id}"
        if request_digest(by_id[record_id], protocol, shots) != answer.request_sha256:
            expected = f"{begin} to the request of the protocol in {RUN}"
            found.append(InputError(place, expected, "one to another request", EVALUATE))
        if length > protocol.max_gen_toks or whole > protocol.context:
            expected = f"{begin} of at most {protocol.max_gen_toks} tokens, in a context of {protocol.context}"
            found.append(InputError(place, expected, f"{length} after {answer.prompt_tokens}", EVALUATE))
        room = min(protocol.max_gen_toks - length, protocol.context - whole)
        if answer.finish_reason == "length" and room > CUT_SLACK_TOKENS:
            expected = f"{begin}, which was cut, to end at {protocol.max_gen_toks} tokens or {protocol.context} in all"
            found.append(InputError(place, expected, f"{length} after {answer.prompt_tokens}", EVALUATE))
    return found


def served_contexts(run: Path) -> set[int]:
    """Return how many tokens of context our llama-servers gave each request, by their own logs; none without one."""
    texts = [log.read_text(encoding="utf-8", errors="replace") for log in sorted(run.glob(SERVER_LOGS))]
    return {int(count) for text in texts for count in re.findall(r"n_ctx_slot = (\d+)", text)}


def at_once_expected(run: Path, protocol: Protocol, said: object) -> int:
    """Return how many requests lm-eval should have sent at once: one more than the servers take.

    said: what it recorded. Where answers name their servers, there were several, or one that ran already.
    """
    named = any(answer.server for answer in read_answers(run / ANSWERS).values())
    servers = max(1, (said - 1) // protocol.concurrency) if named and isinstance(said, int) else 1
    return servers * protocol.concurrency + 1


def kind_breaks(run: Path, protocol: Protocol) -> Breaks:
    """A release has scores of one task and backend: only of those the requests are made again here."""
    other_backend = isinstance(protocol, OpenAiProtocol)
    if protocol.task == DEFAULT_TASK and not other_backend:
        return []
    found = f"those of {protocol.task}" + " by BACKEND=openai" * other_backend
    advice = f"give the scores of {DEFAULT_TASK}, or leave them out (SCORED=no)"
    return [InputError(run / RUN, f"scores of {DEFAULT_TASK} by llama.cpp, which a release makes again", found, advice)]


def setting_breaks(run: Path, protocol: Protocol, tokenizer: Path) -> Breaks:
    """The protocol is what lm-eval itself recorded of the run, and names the base model's tokenizer, if by digest."""
    pairs: list[tuple[str, object, object]] = []
    said = lm_eval_settings(run)
    wanted = ("temperature", "top_p", "top_k", "seed", "dry_multiplier", "max_gen_toks")
    pairs.append(("gen_kwargs of lm-eval:", {key: getattr(protocol, key) for key in wanted}, said.get("gen_kwargs")))
    once = said.get("at_once")
    pairs.append(("requests at once, and one more:", at_once_expected(run, protocol, once), once))
    pairs.append(("the seed of lm-eval:", protocol.seed, said.get("seed")))
    pairs.append(("lm-evaluation-harness", protocol.lm_eval, said.get("version")))
    for context in served_contexts(run):
        pairs.append((f"a server with {protocol.context} tokens for each request:", True, protocol.context <= context))
        pairs.append(("no more than it rounds up to:", True, context < protocol.context + CONTEXT_STEP_TOKENS))
    if protocol.tokenizer.startswith(BY_DIGEST):
        digest = sha256_file(tokenizer) if tokenizer.is_file() else "no tokenizer.json"
        pairs.append(("the tokenizer", f"{BY_DIGEST}{digest}", protocol.tokenizer))
    return breaks_of(run / RUN, pairs, EVALUATE)


def answer_breaks(run: Path, documents: list[dict], patched: bool, task: EvalTask) -> Breaks:
    """Letters, right or wrong follow from recorded texts and frozen questions; so do those of the patch step."""
    answers, found = read_answers(run / ANSWERS), []
    by_id = {document["Record ID"]: document for document in documents}
    for record_id, answer in answers.items():
        document = by_id[record_id]
        letter, target = task.read(answer.answer, document), task.target(document[task.answer])
        mine = (letter, target, task.right(letter, target))
        if mine != (answer.letter, answer.target, answer.correct):
            found.append(
                InputError(
                    run / ANSWERS,
                    f"letter {letter} against {target} in {record_id}, as its text and the question say",
                    f"{answer.letter} against {answer.target}, {'right' if answer.correct else 'wrong'}",
                    EVALUATE,
                )
            )
    entries = read_patched(run / PATCHED, read_run(run))[1] if patched else {}
    for record_id, entry in entries.items():
        letter = completion_letter(entry["completion"])
        right = letter == by_id[record_id]["answer"].strip("()")
        if (letter, right, answers[record_id].kind) != (entry["letter"], entry["correct"], entry["class"]):
            found.append(InputError(run / PATCHED, f"letter {letter} in {record_id}", shown(entry["letter"]), EVALUATE))
    return found


def run_breaks(lineage: Lineage, path: Path, known: dict[str, tuple[str, dict]]) -> Breaks:
    """A summary of GPQA Diamond is that of the answers beside it; see `answered_breaks`."""
    protocol = recorded_protocol(path.parent / RUN, read_run(path.parent)["protocol"])
    questions = list(lineage.sources["questions"].values())
    return kind_breaks(path.parent, protocol) or answered_breaks(lineage, path, known, questions, [])


def answered_breaks(
    lineage: Lineage, path: Path, known: dict[str, tuple[str, dict]], questions: list[Path], examples: list[Path]
) -> Breaks:
    """A summary is that of the answers beside it, and those are a known file's to a question file of the build."""
    summary, run = read_summary(path), path.parent
    record, documents = read_run(run), read_frozen(run / TASK_FOLDER)
    protocol = recorded_protocol(run / RUN, record["protocol"])
    task = task_of(protocol.task)
    locked = locked_values() | {"task": protocol.task, "filter": task.filter}
    if record["gguf_sha256"] not in known:
        return [InputError(path, "the score of a file whose record is given", record["gguf_sha256"][:DIGITS], EVALUATE)]
    name, quant = known[record["gguf_sha256"]]
    frozen = run / TASK_FOLDER / "frozen.jsonl"
    found = breaks_of(
        run / RUN,
        [
            ("questions with sha256", sha256_file(frozen), record["questions_sha256"]),
            ("a protocol with sha256", protocol.digest, record["protocol_sha256"]),
            *((key, value, getattr(protocol, key)) for key, value in locked.items()),
        ],
        EVALUATE,
    )
    found += question_breaks(run, documents, questions, protocol) + shot_breaks(run, task, examples)
    # One after the other: what follows from a wrong answer would hide it.
    found = found or setting_breaks(run, protocol, lineage.metadata_path.with_name("tokenizer.json"))
    found = found or request_breaks(run, documents, protocol)
    found = found or answer_breaks(run, documents, summary["patch"] is not None, task)
    if found:
        return found
    own = quant["source_sha256"] == lineage.f16_sha256
    scored = {"gguf": name, "gguf_sha256": quant["sha256"], "gguf_bytes": quant["bytes"], "experts": quant["experts"]}
    chosen_by, found = (lineage.metadata_path, []) if own else choice_of_other(lineage, summary, path)
    if found:
        return found
    again = summed_up(run, summary["patch"] is not None, chosen_by, scored)
    return made_again(path, "the summary of its answers", again, summary, EVALUATE)


def whose_breaks(lineage: Lineage, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The scores have a row of this build's own file, under its name; other models have other names."""
    found: Breaks = []
    f16_sha256, full = lineage.f16_sha256, lineage.full
    own: list[dict] = []
    for row in scores["rows"]:
        name, quant = known.get(row["gguf_sha256"], ("", {}))
        of_build = quant.get("source_sha256") == f16_sha256
        own += [row] * of_build
        here = lineage.records.get(row["gguf"])
        if here and here["sha256"] != row["gguf_sha256"]:
            found.append(
                broken(
                    "--scores",
                    f"an evaluation of {row['gguf']} with sha256",
                    here["sha256"],
                    row["gguf_sha256"],
                    EVALUATE,
                )
            )
        elif (quant.get("source_sha256") == full["sha256"]) != (row["name"] == full["name"]):
            expected = f"the name {full['name']} for the full model's file and for no other"
            found.append(InputError("--scores", expected, f"{row['name']} for {row['gguf']}", EVALUATE))
        elif of_build != (row["name"] == lineage.name) or of_build and row["gguf"] != name:
            expected = f"the name {lineage.name} for this build's file and for no other"
            found.append(InputError("--scores", expected, f"{row['name']} for {row['gguf']}", EVALUATE))
    for name in (row[key] for row in scores["rows"] for key in ("name", "gguf")):
        found += [InputError("--scores", PLAIN_NAME, shown(name), EVALUATE)] * (not is_plain(name))
    found += type_breaks(lineage, scores, known)
    if not own:  # first of all: that other rows have names of other models is no news then
        names = ", ".join(row["name"] for row in scores["rows"])[:120]
        what = f"scores of this build's own file (F16 sha256 {f16_sha256[:DIGITS]})"
        advice = f"{EVALUATE}, or leave the scores out (SCORED=no)"
        found.insert(0, InputError("--scores", what, f"those of {names}", advice))
    return found


def type_breaks(lineage: Lineage, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The first row, the card's reference, is the full model's or the own, and both files are of one type.

    Else a full model of 2 bits, or another pruned one, would make this one look good. The card takes the type from the
    file's name, so the name must say what the record says.
    """
    quants = [(row, known[row["gguf_sha256"]][1]) for row in scores["rows"] if row["gguf_sha256"] in known]
    found: Breaks = [
        InputError("--scores", f"a name that ends with -{quant['type']}.gguf, its type", row["gguf"], EVALUATE)
        for row, quant in quants
        if not row["gguf"].endswith(f"-{quant['type']}.gguf")
    ]
    ours = (lineage.f16_sha256, lineage.full["sha256"])
    of_both = [(row, quant) for row, quant in quants if quant["source_sha256"] in ours]
    types = sorted({quant["type"] for _, quant in quants})
    if len(types) > 1:
        found.append(InputError("--scores", "files of one type of all models", ", ".join(types), EVALUATE))
    # The card's headline holds the first row against this model: a full model further down would look unscored there.
    first, names = scores["rows"][0], [row["name"] for row in scores["rows"]]
    reference = lineage.full["name"] if lineage.full["name"] in names else lineage.name
    if of_both and first["name"] != reference:
        expected = f"{reference} in the first row, the reference of the card"
        found.append(InputError("--scores", expected, first["name"], EVALUATE))
    return found


def score_breaks(lineage: Lineage) -> Breaks:
    """Return every way in which scores.json is not the comparison of this build's recorded runs."""
    path = lineage.sources["copies"][SCORES_NAME]
    scores, known = read_record(path, Scores), known_quants(lineage)
    found, runs = whose_breaks(lineage, scores, known), list(lineage.sources["runs"].values())
    if not runs:
        return [*found, InputError("--runs", f"the summaries that {SCORES_NAME} compares", "none", "give --runs")]
    for run in runs:
        found += run_breaks(lineage, run, known)
    if found:
        return found
    models = group_runs(runs)
    sources = [known[model[0]["gguf_sha256"]][1]["source_sha256"] for model in models]
    # Quants that were built after the comparison are not in it. Those that are must have the sizes of their records.
    quants = []
    for row, source in zip(scores["rows"], sources):
        quants.append([r for _, r in known.values() if r["source_sha256"] == source and r["type"] in row["bytes"]])
    found = size_breaks(path, scores, known) + seed_breaks(path, scores)
    return found or made_again(path, "the comparison of these runs", compare(models, quants), scores, EVALUATE)


def seed_breaks(path: Path, scores: dict) -> Breaks:
    """The seeds of a score follow one another, as `make eval` asks by SEED and SAMPLES: picked ones prove nothing."""
    picked = [row["seeds"] for row in scores["rows"] if not in_a_row(row["seeds"])]
    return [InputError(path, "seeds that follow one another", ", ".join(map(str, s)), EVALUATE) for s in picked[:1]]


def size_breaks(path: Path, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The size beside a score is that of the scored file: another of its type, by other settings, has another."""
    pairs: list[tuple[str, object, object]] = []
    for row in scores["rows"]:
        name, record = known[row["gguf_sha256"]]
        given = row["bytes"].get(record["type"], record["bytes"])
        pairs.append((f"bytes of {name}, which was scored:", record["bytes"], given))
    return breaks_of(path, pairs, EVALUATE)


def quality_again(lineage: Lineage, quality: dict) -> tuple[list[Measured], Chats]:
    """Return the losses of the files of quality.json by the stored results, in its order, and the chats."""
    known = known_quants(lineage)
    records = [known[entry["sha256"]][1] for entry in quality["files"]]
    return measured_again(lineage.origin("logits"), quality["inputs"], quality["score"], records)


def chat_breaks(lineage: Lineage, path: Path, quality: dict) -> Breaks:
    """The measured chats are the first unseen ones of a question file, and so many were left out."""
    inputs, text = quality["inputs"], lineage.origin("calibration").read_text(encoding="utf-8", errors="replace")
    kept = read_json(results_folder(lineage.origin("logits"), "results", inputs) / INPUTS_NAME)
    if difference := first_difference(kept, inputs):
        expected, other = difference.split(", found ", 1)
        return [InputError(path, f"inputs: {expected}", other, MEASURE)]
    chose = set(read_metadata(lineage.metadata_path)["method"].get("question_ids") or [])
    for source in lineage.sources["questions"].values():
        questions = load_questions(source, QUESTION_SEED)
        unseen = unseen_questions(questions, text, chose)
        if question_set_digest(unseen[: quality["chats"]]) == inputs["questions_sha256"]:
            # Once the questions are known to be the build's, which tokens they are is a matter of the tokenizer.
            chats = unseen[: quality["chats"]]
            texts = texts_digest(lineage.metadata_path.parent, chats, inputs["max_tokens"])
            pairs: list[tuple[str, object, object]] = [
                ("chats left out:", len(questions) - len(unseen), quality["left_out"]),
                # As make measures: of chats that are cut shorter the card does not speak.
                ("chats of so many tokens at most:", MAX_TOKENS, inputs["max_tokens"]),
                (TEXTS, texts, inputs.get("texts_sha256")),
            ]
            return breaks_of(path, pairs, MEASURE)
    expected = f"the first {quality['chats']} chats of the build's questions that it has not seen"
    return [InputError(path, expected, "others", MEASURE)]


def quality_breaks(lineage: Lineage) -> Breaks:
    """Return every way in which quality.json is not what the stored results of this build's files give."""
    path = lineage.sources["copies"][QUALITY_NAME]
    quality, known = read_record(path, Quality), known_quants(lineage)
    f16_sha256 = lineage.f16_sha256
    of_f16 = [("losses of the F16 file", f16_sha256, quality["inputs"].get("pruned_sha256"))]
    of_f16.append(("losses against the F16 file", lineage.full["sha256"], quality["inputs"].get("full_sha256")))
    found = breaks_of(path, of_f16, MEASURE)
    for entry in quality["files"]:
        _, record = known.get(entry["sha256"], ("", {}))
        if record.get("source_sha256") != f16_sha256:
            found.append(
                InputError(path, f"losses of this build's {entry['label']}", entry["sha256"][:DIGITS], MEASURE)
            )
    if found:
        return found
    measured, chats = quality_again(lineage, quality)
    longest = sum(int(count) + 1 >= quality["inputs"]["max_tokens"] for count in chats.counts["all"])
    again = {
        **{key: quality[key] for key in ("inputs", "left_out", "score")},
        "cut": min(quality["cut"], longest),  # a chat that just fits is not cut
        "chats": len(chats.counts["all"]),
        "tokens": {name: int(counts.sum()) for name, counts in chats.counts.items()},
        "choice_known": bool(read_metadata(lineage.sources["copies"][METADATA_NAME])["method"].get("question_ids")),
        "conclusions": quality_conclusions(measured, chats.counts[quality["score"]]),
        "files": [entry.described() for entry in measured],
    }
    found = made_again(path, "the losses of the stored results", again, quality, MEASURE)
    return found + chat_breaks(lineage, path, quality)
