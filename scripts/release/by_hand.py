"""What of a release was done otherwise than make does it: by options of a command that no setting of make gives.

In words, as the manifest keeps them and the card prints them below its command, which would not do the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from chats.chat_sequences import MAX_TOKENS
from chats.questions import QUESTION_SEED, read_ids
from checkpoints.checkpoint import read_config
from choice.drop_map import OWN_MAP, criterion_of
from choice.drop_metadata import METADATA_NAME, read_metadata
from choice.expert_stats import stats_metadata
from choice.ranking import BOOTSTRAP_SEED, RESAMPLES, is_drawn
from choice.stats_record import REASONING_BY, RECONSTRUCTION_SEED, RECONSTRUCTION_TOKENS
from files.display import code, plural
from files.input_errors import sha256_file
from files.json_records import read_record
from ggufs.imatrix import CONTEXT_TOKENS, ImatrixRecord
from losses.quality_record import QUALITY_NAME, Quality, measured_chats
from release.make_settings import CHOSE, COUNTED, fold_of, takes_domain
from release.task_files import task_copies
from release.used_quants import SourcePaths, evaluated_types, types_with, types_without, used_quants
from scoring.eval_protocol import DEFAULT_TASK
from scoring.eval_tasks import task_of
from scoring.score_records import SCORES_NAME, Scores
from speed.active_experts import ACTIVE_NAME, SPEED_QUESTIONS, SPEED_TOKENS, ActiveExperts
from speed.draft_results import ANSWER_TOKENS, DRAFT_NAME, DraftResults
from speed.round_speeds import ROUNDS

TOKENS, ATTENTION = "all", "eager"  # of an analysis by make


def otherwise(pairs: Sequence[tuple[object, object, str]]) -> list[str]:
    """Return the words of each (by make, found, words) whose values differ; None: not known."""
    return [words.format(found) for made, found, words in pairs if None not in (made, found) and made != found]


def named_dtype(checkpoint: Path) -> str | None:
    """Return the dtype that a checkpoint's config names, None where it names none."""
    config = read_config(checkpoint)
    inner = config.get("text_config")
    parts = [part for part in (config, inner) if isinstance(part, dict)]
    return next((part[key] for part in parts for key in ("dtype", "torch_dtype") if part.get(key)), None)


def analysis_by_hand(sources: SourcePaths, method: dict) -> list[str]:
    """Return what make does otherwise in the analysis that a map was chosen by, in words."""
    statistics, analysis = sources["origins"].get("statistics"), method.get("analysis") or {}
    known = stats_metadata(statistics)
    analysis = analysis or {**known, "cut_tokens": known.get("max_tokens")}
    order, dtype = known.get("reconstruction") or {}, named_dtype(sources["copies"][METADATA_NAME].parent)
    return otherwise(
        [
            (TOKENS, analysis.get("counted_tokens"), "the tokens that counted for the choice were of the kind {}"),
            (MAX_TOKENS, analysis.get("cut_tokens"), "the questions that chose were cut after {} tokens"),
            (ATTENTION, analysis.get("attention"), "the analysis ran with the attention {}"),
            (1, known.get("batch_size"), "{} questions ran together in the analysis"),
            (dtype, analysis.get("dtype"), f"the analysis ran in {{}}, while the checkpoint is in {dtype}"),
            (False, owns_thoughts(analysis), "its reasonings were said to be the model's own (`--reasoning-by`)"),
            (QUESTION_SEED, known.get("seed"), "the choices of its questions were in the order of seed {}"),
            (RECONSTRUCTION_TOKENS, order.get("tokens"), "the order by reconstruction was made from {} tokens"),
            (RECONSTRUCTION_SEED, order.get("seed"), "these were drawn by seed {}"),
        ]
    )


def owns_thoughts(analysis: Mapping) -> bool | None:
    """Tell whether the reasonings of an analysis were said to be the model's own; None where nothing was recorded."""
    said = analysis.get("reasoning")
    return None if said is None else said.endswith(REASONING_BY["model"])


def draws_by_hand(method: dict) -> list[str]:
    """Return what make does otherwise where it draws the questions of a choice anew."""
    floors = any(domain.get("floor") for domain in method.get("domains", []))
    by_statistics = not method.get("worst_first") and not method.get("imatrix_sha256")
    draws = by_statistics and is_drawn(criterion_of(method), len(method.get("question_ids", [])), floors)
    drawn = method.get("bootstrap") or ({"resamples": 0} if draws else {})
    return otherwise(
        [
            (RESAMPLES, drawn.get("resamples"), "the bootstrap of the choice drew {} times"),
            (BOOTSTRAP_SEED, drawn.get("seed"), "the bootstrap of the choice drew by seed {}"),
        ]
    )


def choice_by_hand(sources: SourcePaths, left: Mapping[str, int]) -> list[str]:
    """Return what make does otherwise in the choice of experts; left: as `unused_questions` counts."""
    metadata = read_metadata(sources["copies"][METADATA_NAME])
    method, shard_bytes = metadata["method"], metadata.get("shard_bytes")
    shards = [f"the checkpoint was written in shards of at most {shard_bytes} bytes (`--shard-bytes`)"] * bool(
        shard_bytes
    )
    if criterion_of(method) == OWN_MAP:  # make takes it as it is given, and ranks layers of CD files by statistics
        ranks = any(record.get("cd_rule") for _, record in used_quants(sources))
        unranked = f"{plural(left[COUNTED], 'question')} of the file did not rank layers (`--limit`)"
        beside = ["the map was copied beside statistics (`--stats`)"] * bool(method.get("stats_sha256"))
        return shards + beside + ([unranked] * bool(left[COUNTED]) + analysis_by_hand(sources, {}) if ranks else [])
    found = ["the experts that rank best were dropped (`--worst-first`)"] * bool(method.get("worst_first"))
    found += ["an imatrix chose the experts (`--imatrix`)"] * bool(method.get("imatrix_sha256"))
    unused = f"{plural(left[CHOSE], 'question')} of the file did not choose (`--questions-in` or `--limit`)"
    found += [unused] * bool(left[CHOSE])
    known = stats_metadata(sources["origins"].get("statistics")).get("questions", [])
    held = method.get("held_out_question_ids")
    if held and known and not fold_of(method, [question["id"] for question in known]):
        found.append(f"{plural(len(held), 'question')} of the statistics did not choose (`--questions-in`)")
    if not all(takes_domain(domain["name"]) for domain in method.get("domains", [])):
        found.append("domains were weighted whose names make does not take")
    return shards + found + analysis_by_hand(sources, method) + draws_by_hand(method)


def files_by_hand(sources: SourcePaths, elsewhere: Mapping[str, str]) -> list[str]:
    """Return what make does otherwise with the files of a release and their measurements."""
    copies, used = sources["copies"], [record for _, record in used_quants(sources)]
    imatrix = read_record(sources["origins"]["imatrix"], ImatrixRecord) if "imatrix" in sources["origins"] else {}
    made = {record["imatrix_sha256"] for record in used}
    context = imatrix.get("context") if imatrix.get("sha256") in made else None
    found = otherwise([(CONTEXT_TOKENS, context, "the importance matrix was measured in pieces of {} tokens")])
    found += [f"{record} was measured on {code(name)}" for record, name in sorted(elsewhere.items())]
    types = evaluated_types(copies)
    mine = next(iter(types.values()), set())
    found += [
        f"{name} is of {', '.join(sorted(kinds))}" for name, kinds in types.items() if kinds != mine or len(kinds) > 1
    ]
    twice = types_with(used) & types_without(used)
    found += [f"{kind} was made with the importance matrix and without" for kind in sorted(twice)]
    scored = {SCORES_NAME: copies[SCORES_NAME]} if SCORES_NAME in copies else {}
    for name, path in {**scored, **task_copies(copies)}.items():
        scores = read_record(path, Scores)
        if not scores["patched"] and task_of(scores["protocol"].get("task", DEFAULT_TASK)).is_gpqa:
            found.append(f"invalid answers of {name} were not asked for again (`--unpatched`)")
    return found + speeds_by_hand(copies, sources.get("questions", {}).values())


def speeds_by_hand(copies: Mapping[str, Path], files: Iterable[Path] = ()) -> list[str]:
    """Return what make does otherwise where it measures speeds.

    copies: records of the release by name; files: its question files.
    """
    pairs: list[tuple[object, object, str]] = []
    if DRAFT_NAME in copies:
        draft = read_record(copies[DRAFT_NAME], DraftResults)
        pairs.append((ROUNDS, draft["rounds"], f"{DRAFT_NAME} is of rounds: {{}}"))
        pairs.append((ANSWER_TOKENS, draft["max_tokens"], f"{DRAFT_NAME} is of answers of at most {{}} tokens"))
    if ACTIVE_NAME in copies:
        active = read_record(copies[ACTIVE_NAME], ActiveExperts)
        if QUALITY_NAME in copies:  # whose chats the command's QUALITY_CHATS are
            chats = measured_chats(read_record(copies[QUALITY_NAME], Quality), active)
            pairs.append((chats, active["chats"], f"{ACTIVE_NAME} is of {{}} chats"))
        timed = all(row["right"] is None for row in active["rows"])
        asked = read_record(copies[SCORES_NAME], Scores)["question_ids"] if SCORES_NAME in copies else []
        read = (path for path in files if sha256_file(path) == active.get("question_file_sha256"))
        there = next((len(read_ids(path)) for path in read), len(asked) or SPEED_QUESTIONS)
        answered = min(SPEED_QUESTIONS, there) if timed else len(asked)
        pairs.append((answered, active["questions"], f"{ACTIVE_NAME} is of {{}} answers"))
        pairs.append((True, active["reasoning_budget"] >= 0, f"{ACTIVE_NAME} is of thoughts without a limit"))
        longest = active["max_tokens"] if timed else None
        # Of whole answers, which are counted, make asks one round.
        pairs.append((ROUNDS if timed else 1, active["rounds"], f"{ACTIVE_NAME} is of rounds: {{}}"))
        pairs.append((SPEED_TOKENS, longest, f"{ACTIVE_NAME} is of answers of at most {{}} tokens"))
    return otherwise(pairs)


def by_hand(sources: SourcePaths, elsewhere: Mapping[str, str], left: Mapping[str, int]) -> dict[str, list[str]]:
    """Return what make does otherwise: of the `choice` of experts, and of the `files`; each left out where nothing.

    sources: paths by kind and name; elsewhere: the question file of each record that was not made on the asked one.
    """
    if METADATA_NAME not in sources["copies"]:
        return {}
    found = {"choice": choice_by_hand(sources, left), "files": files_by_hand(sources, elsewhere)}
    return {part: words for part, words in found.items() if words}
