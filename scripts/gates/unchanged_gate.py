"""That a release was not edited while it was checked: the last gate, against what was there before the first one."""

from collections.abc import Callable
from pathlib import Path

from files.input_errors import InputError
from files.seals import file_state
from gates.checked import Checked, Outcome
from release.manifest import MANIFEST, entry_difference, listed_paths, read_manifest

AGAIN = "check it again, and change nothing meanwhile"


def states_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the `file_state` of every file of a folder but its manifest."""
    return {name: file_state(folder / name) for name in listed_paths(folder) if name != MANIFEST}


def changed_files(folder: Path, manifest: dict, before: dict[str, tuple[int, ...]]) -> list[InputError]:
    """Return an error for each file that changed; before: `states_of` the folder as the check began."""
    if read_manifest(folder) != manifest:
        return [InputError(folder / MANIFEST, "the manifest that the check began with", "another", AGAIN)]
    now, found = states_of(folder), []
    # What was wrong from the beginning is what the gate `files` says.
    for name in sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)):
        entry = manifest["files"].get(name)
        # Weights are tens of gigabytes: only those are read again whose inode, size or times have changed. A hard link
        # that is made of a file changes a time, too.
        if name not in now or not entry:
            found.append(InputError(folder / name, "a file that stays as it is while it is checked", "a change", AGAIN))
        elif difference := entry_difference(folder / name, entry):
            found.append(difference)
    return found


def unchanged_gate(folder: Path, manifest: dict) -> Callable[[Checked], Outcome]:
    """Return the gate, to be made before the first one runs and to be asked last."""
    before = states_of(folder)

    def gate(checked: Checked) -> Outcome:
        """Every file is what it was as the check began: by inode, size and times, else by its bytes."""
        found = changed_files(checked.folder, checked.manifest, before)
        return Outcome(f"{len(before)} files are still as they were checked", [str(error) for error in found])

    return gate
