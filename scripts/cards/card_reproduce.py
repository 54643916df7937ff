"""How to make a release again: project, version and run, the complete command, and the digests of what went in."""

import shlex

from cards.card_sections import HELD_BY_CALIBRATION, Release, section
from cards.card_tables import digest_table
from choice.drop_map import OWN_MAP, criterion_of, question_ids_of
from files.display import code, in_words
from release.make_settings import ASKED, PROTOCOL_SETTINGS, USES, calibration_setting
from release.names import is_hub_id
from release.used_quants import type_of_name
from scoring.score_records import in_a_row

NOT_IN_THE_COMMAND = ("RUN", "MODEL")  # the first has its own sentence, the other is worked out here


def full_name(release: Release) -> str | None:
    """Return the full model's name in tables and files, which need not be the base's; None where no record has it."""
    rows = [scores["rows"][0] for scores in ([release.scores] if release.scores else []) + [*release.tasks.values()]]
    names = [row["name"] for row in [*rows, *(release.draft or {}).get("models", [])]]
    ggufs = [row["gguf"] for row in (release.loops or {}).get("rows", [])]
    names += [gguf.removesuffix(f"-{type_of_name(gguf)}.gguf") for gguf in ggufs]
    return next((name for name in names if name != release.name), None)


def variables_of(release: Release) -> dict[str, object]:
    """Return the variables of the command: the run's settings, and above them what the records hold."""
    method, settings = release.metadata["method"], release.settings
    # DIRECTORY and MAP.json stand for what only the owner of a build has; the digests tell whether it is right.
    variables: dict[str, object] = {
        # Another name on the Hub than that of the base claims what no record bears out.
        "MODEL": release.base if is_hub_id(release.base) else "DIRECTORY",
        "NAME": full_name(release) or release.base.rsplit("/", 1)[-1],
        "PRUNED_NAME": release.name,
        "KEEP": release.metadata["keep_count"],
    }
    if criterion_of(method) == OWN_MAP:
        variables["DROP_MAP"] = settings.get("DROP_MAP", "MAP.json")
    else:
        variables |= {"CRITERION": criterion_of(method), "PROTECT_TOP": method.get("protect_top", "...")}
    if release.scores:  # the run's own, which need not be those of the run that the command falls back to
        protocol = release.scores["protocol"]
        variables |= {name: protocol[key] for name, key in PROTOCOL_SETTINGS.items() if key in protocol}
    if release.licence["license"] != (release.inputs.get("licence") or {}).get("identifier"):
        variables["LICENSE"] = release.licence["license"]
    if text := calibration_setting(release.inputs):
        variables["CALIBRATION"] = text
    if release.draft:  # no record has the place of the draft model's checkpoint
        variables["DRAFT"] = settings.get("DRAFT") or "DIRECTORY"
    if release.records:
        # What was measured beside these files, too: the conclusions are of all, and another repository has the rest.
        measured = [file["label"] for file in (release.quality or {}).get("files", [])]
        types = [*(record["type"] for record in release.records.values()), *measured]
        variables["QUANTS"] = " ".join(dict.fromkeys(types))
    others = {name: value for name, value in settings.items() if name not in NOT_IN_THE_COMMAND}
    return {**variables, **{name: value for name, value in others.items() if name not in variables}}


def make_command(release: Release) -> str:
    """Return the command that makes this release again."""
    words = [f"{name}={shlex.quote(str(value))}" for name, value in variables_of(release).items()]
    measured = {"quality": release.quality, "loops": release.loops}
    measured |= {"active-experts": release.active, "findings": release.findings}
    goals = " ".join([*(goal for goal, found in measured.items() if found), "release"])
    return " \\\n    ".join([f"make {goals}", *words])


def own_protocol(release: Release, protocol: dict, kind: str) -> list[str]:
    """Return the settings that a further task has otherwise than the command; kind: of both models' file, ""."""
    variables = variables_of(release)
    mine = {name: protocol[key] for name, key in PROTOCOL_SETTINGS.items() if key in protocol and name != "SEED"}
    mine |= {"EVAL_QUANT": kind} if kind else {}
    own = {name: str(value) for name, value in mine.items() if str(variables.get(name)) != str(value)}
    return [f"{name}={shlex.quote(value)}" for name, value in own.items()]


def task_text(release: Release) -> str:
    """Return how the further tasks are scored, which comes before the release; "" where there are none."""
    lines = []
    for name, scores in release.tasks.items():
        seeds, first = scores["rows"][0]["seeds"], scores["rows"][0]
        files = [*release.inputs.get("tasks", {}).get(name, {})]
        files[1:] = [files[0] if file == f"{files[0]} (2)" else file for file in files[1:]]  # as the file is called
        words = [f"TASK={scores['protocol']['task']}"]
        words += [f"{key}={shlex.quote(file)}" for key, file in zip(("TASK_DATA", "TASK_EXAMPLES"), files)]
        types = [type_of_name(row["gguf"]) for row in scores["rows"]]
        beside = [kind for kind in types[1:] if kind != types[0]]
        words.append(f"TASK_QUANTS={shlex.quote(' '.join(beside))}")
        words += own_protocol(release, scores["protocol"], max({*types[1:]} - {*beside}, key=len, default=""))
        samples = str(len(seeds)) if in_a_row(seeds) else "1"
        words += [f"SEED={seeds[0]}"] + [f"SAMPLES={samples}"] * (samples != release.settings.get("SAMPLES", "1"))
        command = " ".join(["make eval", *words])
        others = "" if in_a_row(seeds) else f"; again with SEED={', '.join(map(str, seeds[1:]))}"
        lines.append(f"{code(command)} ({first['questions'] // len(seeds)} questions{others})")
    if not lines:
        return ""
    listed = "\n".join(f"- {line}" for line in lines)
    return f"The further tasks come first, each with the settings above beside its own:\n\n{listed}"


def question_file(release: Release, name: str) -> str:
    """Return a question file with what it was for, as the records say."""
    roles = release.inputs.get("roles", {})
    # Where nothing was scored EVAL_QUESTIONS is the file of a measurement, which has a part of its own.
    parts = [USES[role] for role, names in roles.items() if name in names and (role != ASKED or release.scores)]
    unknown = "of which no record of this repository says that it was used"
    return f"Question file {code(name)}, {in_words(parts) or unknown}"


def input_digests(release: Release) -> dict[str, str | None]:
    """Return the sha256 of what the release was made from, None where it is not recorded."""
    metadata, method = release.metadata, release.metadata["method"]
    # Of a fold the digest is that of all questions which were analysed, those that it holds out among them.
    did = "were analysed" if method.get("held_out_question_ids") else "chose the experts"
    found = {
        "Base checkpoint, name and sha256 of every file that was read": metadata["source"].get("source_sha256"),
        "Base checkpoint, samples of its weights": metadata["source"].get("weights_sha256"),
        "Base checkpoint, config": metadata["source"].get("config_sha256"),
        **{question_file(release, name): digest for name, digest in release.inputs.get("questions", {}).items()},
        **{
            f"{task}, {code(name)}": digest
            for task, files in release.inputs.get("tasks", {}).items()
            for name, digest in files.items()
        },
        f"Questions that {did}, as they were asked": method.get("questions_sha256"),
        "Statistics": method.get("stats_sha256"),
        "Drop map, as it was given": method.get("own_map", {}).get("sha256"),
        "Drop map": metadata["drop_map_sha256"],
        **{f"Pruned checkpoint, {name}": digest for name, digest in metadata["shards"].items()},
    }
    of_quants = {
        "F16 GGUF": "source_sha256",
        "Importance matrix": "imatrix_sha256",
        "Calibration text": "calibration_sha256",
    }
    for what, key in of_quants.items():
        digests = [record[key] for record in release.records.values() if record[key]]
        if digests:  # the same for all quants of a release
            name = release.calibration.get("calibration") if key == "calibration_sha256" else None
            found[f"{what} {code(name)}" if name else what] = digests[-1]
    # A name alone would be taken for that of another repository's file.
    scored = {row["gguf"]: row["gguf_sha256"] for row in (release.scores or {}).get("rows", [])}
    return found | {f"Scored file {code(name)}": digest for name, digest in scored.items()}


def project_text(release: Release) -> str:
    """Return which project, version and run made the release."""
    version = f", version {release.project_version}" if release.project_version else ""
    run = release.settings.get("RUN")
    of_run = (
        f" The run was {code(f'RUN={run}')} ({code(f'runs/{run}.mk')}); of its settings the command names those that "
        "records bear out."
        if run
        else ""
    )
    return f"Made by the project *Prune a mixture-of-experts model and release it*{version}.{of_run}"


def calibration_text(release: Release) -> str:
    """Return which text the importance matrix was measured on, and whether it holds the scored questions."""
    known, records = release.calibration, release.records.values()
    digest = known.get("calibration_sha256") or next(
        (r["calibration_sha256"] for r in records if r["imatrix_sha256"]), None
    )
    if not digest:
        return ""
    name = code(known["calibration"]) if known else "a text whose name is not recorded"
    first = f"The importance matrix was measured on {name}, sha256 `{digest}`."
    # What the text is, only its words tell: its name and the settings can be anybody's.
    chose, held = question_ids_of(release.metadata["method"]), release.held_and_scored
    if of_choice := len({*chose} & {*(known.get("held") or [])}):
        # The words of all of them are known but of a map that was given.
        given = criterion_of(release.metadata["method"]) == OWN_MAP
        first += f" It holds {'at least ' * given}{of_choice} of the {len(chose)} questions that chose the experts."
    if held is None:
        return f"{first} It is not known whether it holds the scored questions." if release.scores else first
    scored = len((release.scores or {})["question_ids"])
    if held:
        sentence = f"{HELD_BY_CALIBRATION[0].upper()}{HELD_BY_CALIBRATION[1:]}: {held} of {scored}."
    else:
        sentence = f"It holds none of the {scored} scored questions."
    return f"{first} {sentence}"


def builds_of(release: Release) -> dict[str, set[str]]:
    """Return which builds of llama.cpp did what, by the digests in the records; what has none there is left out."""
    models = {"evaluation": release.scores, **{f"task {name}": scores for name, scores in release.tasks.items()}}
    found = {"quants": {record.get("tools_sha256") for record in release.records.values()}}
    for what, scores in models.items():
        found[what] = {digest for row in (scores or {}).get("rows", []) for digest in row.get("tools_sha256", [])}
    one = {"loops": (release.loops or {}).get("inputs"), "draft model": release.draft, "active experts": release.active}
    found |= {what: {(record or {}).get("tools_sha256")} for what, record in one.items()}
    return {what: known for what, digests in found.items() if (known := {digest for digest in digests if digest})}


def builds_text(release: Release) -> str:
    """Return which builds of llama.cpp quantised and answered, and whether they are the same."""
    found = builds_of(release)
    if not found:
        return ""
    begin = "Builds of llama.cpp, by the digest of their programs and libraries:"
    digests = {what: ", ".join(sorted(known)) for what, known in found.items()}
    others = [what for what, known in found.items() if known != found.get("quants", known)]
    same = "One build did all of these." if len(set(digests.values())) == 1 and len(found) > 1 else ""
    said = f"Another build than the one that quantised did this: {', '.join(others)}." if others else same
    return f"{begin}\n\n{digest_table({**digests})}\n\n{said}".strip()


def by_hand_text(release: Release) -> str:
    """Return what the command does not do as it was done; "" where it does all."""
    words = "; ".join(word for words in (release.inputs.get("by_hand") or {}).values() for word in words)
    return f"Not by this command, as make has no setting for it: {words}." if words else ""


def reproduce_section(release: Release) -> str:
    """Return the command and the digests of what went in."""
    same = "Whether the same comes out, the digests of drop map and pruned checkpoint tell, bit for bit."
    ask = "" if release.settings else "Set QUESTIONS and EVAL_QUESTIONS if they are not the defaults."
    return section(
        "Reproduce",
        project_text(release),
        f"```sh\n{make_command(release)}\n```",
        by_hand_text(release),
        task_text(release),
        f"The inputs have the digests below. {ask}".strip(),
        digest_table(input_digests(release)),
        builds_text(release),
        f"{same} Quants can differ in their last bits between compilers and processors.",
    )
