"""The gates that make again what was measured: chain of digests, scores, losses, choice, findings, pictures.

What comes out must be what the release holds. The last three run this project's own commands.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from cards.card_sections import IMATRIX_PICTURE
from choice.drop_map import OWN_MAP, criterion_of, details_of, read_map
from files.input_errors import InputError, sha256_file, shown
from files.json_records import read_json, read_record
from findings.findings_record import BY_MAKE, FINDINGS_NAME, Findings
from gates.checked import Checked, Outcome
from gates.compared import build_breaks
from gates.lineage import lineage_in_words
from gates.losses import quality_again, quality_breaks
from gates.made_again import first_difference
from gates.scored import score_breaks
from losses.quality_picture import draw_quality
from losses.quality_record import QUALITY_NAME, Quality
from release.input_facts import named_digests
from release.make_settings import CHOSE, question_setting
from release.manifest import BUILD_AGAIN
from release.question_roles import roles_of
from scoring.score_picture import draw_scores
from scoring.score_records import SCORES_NAME, Scores
from speed.active_experts import ACTIVE_NAME, ACTIVE_PICTURE, ActiveExperts
from speed.active_picture import draw_active

COMMANDS = Path(__file__).resolve().parents[1]
EXPERTS, SCORES, QUALITY = "experts-", "scores.png", "quality.png"  # pictures by name


def lineage_gate(checked: Checked) -> Outcome:
    """Map, metadata, checkpoint, F16, imatrix and quants name each other by digest, without a gap."""
    found = [str(error) for error in build_breaks(checked.lineage)]
    return Outcome(lineage_in_words(checked.lineage), found)


def scores_gate(checked: Checked) -> Outcome:
    """The scores are of this build's own file, and come out the same from the recorded answers."""
    if SCORES_NAME not in checked.sources["copies"]:
        return Outcome("the release says that it has no scores", applies=False)
    found = [str(error) for error in score_breaks(checked.lineage)]
    runs = len(checked.sources["runs"])
    return Outcome(f"answers of {runs} runs counted and compared again; one is of this build's own file", found)


def quality_gate(checked: Checked) -> Outcome:
    """The losses are of this build's files, and come out the same from the stored results."""
    if QUALITY_NAME not in checked.sources["copies"]:
        return Outcome("no losses were measured", applies=False)
    found = [str(error) for error in quality_breaks(checked.lineage)]
    return Outcome("losses per token of this build's files summed up and concluded from again", found)


def run_again(command: str, *arguments: object) -> None:
    """Run a command of this project; raise InputError with its last line when it fails."""
    words = [sys.executable, str(COMMANDS / command), *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        found = (done.stderr.strip().splitlines() or ["no word on why"])[-1][:200]
        raise InputError(command, "the command to run again", found)


def file_of_choice(checked: Checked) -> Path | None:
    """Return the question file that the card's command names as QUESTIONS, None where it names none.

    No digest of a question holds its domain, which another file's column may give otherwise. Raises InputError where
    two files hold the questions that chose.
    """
    paths = list(checked.sources["questions"].values())
    files = dict(zip(named_digests(paths), paths))
    of_choice = question_setting(CHOSE, roles_of(checked.sources, files))
    if len(of_choice) > 1:
        what = "one file of the questions that chose the experts, for the sake of their domains"
        raise InputError("--questions", what, ", ".join(of_choice))
    return files[of_choice[0]] if of_choice else None


def choose_again(checked: Checked, content: dict, output: Path) -> None:
    """Choose the experts once more by what a map says of its choice, from the statistics of the build."""
    method, source = details_of(content), checked.lineage.origin("statistics")
    by_imatrix = "imatrix_sha256" in method
    options: list[object] = ["--imatrix" if by_imatrix else "--stats", source, "--keep", method["keep_count"]]
    options += ["--criterion", method["criterion"], *(["--worst-first"] if method["worst_first"] else [])]
    if not by_imatrix:
        options += ["--protect-top", method["protect_top"]]
    drawn = method.get("bootstrap") or {"resamples": 0, "seed": 0}
    options += ["--bootstrap", drawn["resamples"], "--seed", drawn["seed"]]
    if method.get("held_out_question_ids"):
        chosen = output.with_name("chosen.txt")
        chosen.write_text("".join(f"{record_id}\n" for record_id in method["question_ids"]), encoding="utf-8")
        options += ["--questions-in", chosen]
    if domains := content.get("domains"):
        files: dict[str, Path] = {}
        for path in checked.sources["questions"].values():
            if files.setdefault(path.name, path) != path and path.name in {domain["name"] for domain in domains}:
                raise InputError(path, f"one question file named {path.name}, as a domain of the choice is", "two")
        asked = file_of_choice(checked)
        named = [f"{files.get(d['name'], d['name'])}:{d['weight']}:{d['floor']}" for d in domains]
        options += ["--domains", *named, "--domain-questions", asked]
    run_again("generate_drop_map.py", *options, "--output", output)


def choice_gate(checked: Checked) -> Outcome:
    """The statistics give this drop map: the same experts, scores and figures of certainty."""
    place = checked.lineage.origin("map")
    content = read_map(place)
    if criterion_of(content) == OWN_MAP:
        return Outcome("the drop map was given, not chosen here", applies=False)
    if "version" not in content or not {"stats_sha256", "imatrix_sha256"} & content.keys():
        line = f"{place}: expected the statistics that {criterion_of(content)} chose by, found none; choose again"
        return Outcome("the drop map", [f"{line} (REPLACE=choice)"])
    outcome = Outcome(f"the experts chosen again by {criterion_of(content)} from the statistics")
    with tempfile.TemporaryDirectory() as folder:
        choose_again(checked, content, Path(folder) / "drop_map.json")
        again = read_json(Path(folder) / "drop_map.json")
        if "source_sha256" not in content:  # of an older version; the statistics that chose have it
            again.pop("source_sha256", None)
        difference = first_difference(again, content)
    if difference:
        outcome.deviations.append(f"{place}: expected {difference}; choose again (REPLACE=choice)")
    return outcome


def findings_gate(checked: Checked) -> Outcome:
    """The findings come out the same from the statistics and from what was measured of the model."""
    if FINDINGS_NAME not in checked.sources["copies"]:
        return Outcome("no findings were measured", applies=False)
    path, lineage = checked.sources["copies"][FINDINGS_NAME], checked.lineage
    record = read_record(path, Findings)
    measured = lineage.origin("findings measured")
    if not measured.is_file():  # else the command would run the model again
        raise InputError(measured, "what was measured for the findings", "nothing", "run `make findings` again")
    # The domains are a column that no digest of a question holds: by the file itself they are those of the choice.
    files = {sha256_file(source): source.name for source in lineage.sources["questions"].values()}
    chose = file_of_choice(checked)
    files = {sha256_file(chose): chose.name} if chose else files
    if sha256_file(asked := lineage.origin("findings questions")) not in files:
        raise InputError(
            asked, f"{' or '.join(files.values())}, with its domains", "another file", "run `make findings`"
        )
    # As make measures: of several seeds, or of few shuffles, the one verdict that fits could be published.
    for name, made in BY_MAKE.items():
        if (found := record["inputs"].get(name)) != made:
            raise InputError(path, f"{name} {made}", shown(found), "run `make findings REPLACE=findings`")
    options: list[object] = ["--stats", lineage.origin("statistics"), "--drop-map", lineage.origin("map"), "--stored"]
    for name in ("model", "questions", "measured"):
        options += [f"--{name}", lineage.origin(f"findings {name}")]
    if record["specialisation"]:
        options += ["--domain-column", record["specialisation"]["column"]]
    maps = [place for name, place in checked.sources["origins"].items() if name.startswith("findings map-")]
    outcome = Outcome("topics, likeness, bf16 and other maps counted again from what was measured")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "findings.md"
        run_again("measure_findings.py", *options, *(["--maps", *maps] if maps else []), "--output", output)
        difference = first_difference(read_json(output.with_suffix(".json")), record)
    if difference:
        outcome.deviations.append(f"{path}: expected {difference}; run `make findings` again")
    return outcome


def draw_pictures_again(checked: Checked, names: list[str], folder: Path) -> None:
    """Draw pictures of a release into a folder, from the records and statistics of the build."""
    lineage, copies = checked.lineage, checked.sources["copies"]
    if any(name.startswith(EXPERTS) for name in names):
        sources = ["--stats", lineage.origin("statistics"), "--drop-map", lineage.origin("map")]
        run_again("plot_expert_stats.py", "--name", lineage.name, *sources, "--output-prefix", folder / EXPERTS[:-1])
    if IMATRIX_PICTURE in names:
        imatrix = lineage.origin("imatrix").with_suffix("")
        run_again("report_imatrix.py", "--imatrix", imatrix, "--output-prefix", folder / Path(IMATRIX_PICTURE).stem)
    if SCORES in names:
        draw_scores(read_record(copies[SCORES_NAME], Scores), folder / SCORES)
    if QUALITY in names:
        measured, _ = quality_again(lineage, read_record(copies[QUALITY_NAME], Quality))
        draw_quality(lineage.name, measured, folder / QUALITY)
    if ACTIVE_PICTURE in names:
        draw_active(read_record(copies[ACTIVE_NAME], ActiveExperts), folder / ACTIVE_PICTURE)


def pictures_gate(checked: Checked) -> Outcome:
    """Every picture is what its records give: a picture shows numbers, too."""
    names = sorted(name for name in checked.sources["copies"] if name.endswith(".png"))
    outcome = Outcome(f"{len(names)} pictures drawn again, byte for byte", applies=bool(names))
    with tempfile.TemporaryDirectory() as folder:
        draw_pictures_again(checked, names, Path(folder))
        for name in names:
            again, path = Path(folder) / name, checked.folder / name
            if not again.is_file():
                outcome.deviations.append(f"{path}: expected a picture that this project draws, found another")
            elif sha256_file(again) != sha256_file(path):
                outcome.deviations.append(
                    f"{path}: expected the picture of this build's records, found another; {BUILD_AGAIN}"
                )
    return outcome


# By records alone, and quick; then those that run commands.
RECORD_GATES: dict[str, Callable[[Checked], Outcome]] = {
    "lineage": lineage_gate,
    "scores": scores_gate,
    "quality": quality_gate,
}
COMMAND_GATES: dict[str, Callable[[Checked], Outcome]] = {
    "choice": choice_gate,
    "findings": findings_gate,
    "pictures": pictures_gate,
}
