"""Scores of further tasks: of this build's files, and the same when counted again from the recorded answers.

build_release.py refuses what does not come out the same, and check_release.py asks again. A release holds
`scores-NAME.json` of each task, NAME being its folder in the build.
"""

from pathlib import Path

from files.input_errors import InputError
from files.json_records import read_record
from gates.checked import Checked, Outcome
from gates.lineage import Breaks, Lineage
from gates.made_again import known_quants, made_again
from gates.scored import answered_breaks, seed_breaks
from gates.seen_questions import file_breaks, seen_breaks
from release.manifest import DIGITS
from release.question_roles import asked_by_any
from release.seen_ids import seen_ids
from release.task_files import task_copies, task_sources
from scoring.comparison import compare, group_runs
from scoring.eval_protocol import DEFAULT_TASK
from scoring.eval_tasks import task_of
from scoring.run_files import RUN, RunRecord, read_run
from scoring.score_records import Scores

EVALUATE = "run `make eval` with this TASK again"


def whose_tasks(path: Path, lineage: Lineage, scores: dict, known: dict[str, tuple[str, dict]]) -> Breaks:
    """The first row is a file of the full model, all others are of this build, each under the name of its file."""
    found: Breaks = []
    for number, row in enumerate(scores["rows"]):
        name, quant = known.get(row["gguf_sha256"], ("", {}))
        source, of = (lineage.full["sha256"], "the full model") if number == 0 else (lineage.f16_sha256, "this build")
        named = (row["gguf"], f"{row['name']}.gguf", quant.get("source_sha256"))
        if named != (name, name, source):
            expected = f"{row['gguf']} to be a file of {of} whose record is given, under its own name"
            found.append(InputError(path, expected, f"{row['name']}, sha256 {row['gguf_sha256'][:DIGITS]}", EVALUATE))
    return found


def part_breaks(lineage: Lineage, name: str, own: dict[str, list[Path]], task: str) -> Breaks:
    """Each question file of a task was asked, and no question of it was seen under another id.

    By ids alone it would count as held out. Tasks of other columns than GPQA's have questions of other forms.
    """
    for path in own["questions"]:
        if not asked_by_any(own["run"], path):
            return [InputError(path, f"questions that {name} was asked", "others", EVALUATE)]
    for kind in ("questions", "examples"):  # the card's command names one of each
        if len(own[kind]) > 1:
            return [InputError(own[kind][1], f"one file of {kind} of {name}", f"{len(own[kind])}", EVALUATE)]
    runs = [(run.parent / RUN, RunRecord) for run in own["run"]]
    changed = file_breaks(runs, own["questions"]) + file_breaks(runs, own["examples"], "examples_file_sha256")
    if changed:
        return changed
    files = [*lineage.sources["questions"].values(), *own["questions"]] if task_of(task).is_gpqa else []
    return seen_breaks(files, seen_ids(lineage.sources))


def one_task_breaks(lineage: Lineage, name: str, path: Path) -> Breaks:
    """Return every way in which the scores of one task are not the comparison of this build's recorded runs."""
    scores, known, own = read_record(path, Scores), known_quants(lineage), task_sources(lineage.sources, name)
    if not own["run"] or not own["questions"]:
        return [InputError(path, "the runs and questions that it was made from", "none", EVALUATE)]
    task = scores["protocol"].get("task")
    found = whose_tasks(path, lineage, scores, known)
    if name != task and not name.startswith(f"{task}-"):  # the card's heading
        found.append(InputError(path, f"a folder whose name begins with {task}", name, EVALUATE))
    for run in own["run"]:
        asked = read_run(run.parent)["protocol"]
        if asked.get("task") != task or task == DEFAULT_TASK or "backend" in asked:
            found.append(InputError(run, f"answers to {task} by llama.cpp", str(asked.get("task")), EVALUATE))
    for run in own["run"] if not found else []:
        try:
            found += answered_breaks(lineage, run, known, own["questions"], own["examples"])
        except InputError as error:  # of one answer or sample: it does not say in which of the runs
            found.append(InputError(run.parent, "answers that can be counted again", str(error), EVALUATE))
    found = found or part_breaks(lineage, name, own, task) or seed_breaks(path, scores)
    if found:
        return found
    models = group_runs(own["run"])
    again = compare(models, [[] for _ in models])
    return made_again(path, "the comparison of these runs", again, scores, EVALUATE)


def task_breaks(lineage: Lineage) -> Breaks:
    """Return what is wrong with the scores of all further tasks."""
    copies = task_copies(lineage.sources["copies"])
    return [one for name, path in copies.items() for one in one_task_breaks(lineage, name, path)]


def tasks_gate(checked: Checked) -> Outcome:
    """Scores of further tasks come out the same from the recorded answers, and are of this build's files."""
    copies = task_copies(checked.sources["copies"])
    runs = sum(len(task_sources(checked.sources, name)["run"]) for name in copies)
    if not copies:
        return Outcome("no further task was scored", applies=False)
    found = [str(error) for error in task_breaks(checked.lineage)]
    return Outcome(f"answers of {runs} runs of {len(copies)} further tasks read and compared again", found)
