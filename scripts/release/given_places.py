"""The model, drop map and assistant that a releaser gives by their places, held against records of what was made.

A card's command names them, and a name alone could be anybody's. One that has gone since is not compared: the release's
manifest is sealed, and was made while it was there.
"""

from collections.abc import Mapping
from pathlib import Path

from checkpoints.checkpoint import has_weights, read_files, source_digest
from checkpoints.model_record import ModelRecord, check_fetched
from files.input_errors import InputError, sha256_file
from files.json_records import read_record, sha256_json
from files.option_types import VERSION_FILE
from files.seals import Seal, file_state, seal_said, seals_over
from quants.draft_record import DraftRecord, is_draft
from quants.quant_record import record_path
from release.manifest import DIGITS
from release.names import is_hub_id, is_plain
from release.used_quants import SourcePaths

MODEL_PLACE, OWN_MAP_PLACE, ASSISTANT_PLACE = "model", "own map", "assistant"  # in the sources of a release
READ = "read as a folder in the state {}"
SOURCE_NAME = "source.txt"  # beside model.json: what make was told to fetch
OWN_ASSISTANT = "data/demo/assistant"  # the project's


def name_of_map(method: Mapping, place: Path | None) -> str | None:
    """Return the name of the drop map that was given, None where it is not known or none that a card can print.

    method: of the drop's metadata. Raises InputError for another map than that of which they have the digest.
    """
    known = str(method.get("own_map", {}).get("sha256"))
    if place is None:
        return None
    if place.exists() and (found := sha256_file(place) if place.is_file() else "a folder") != known:
        advice = "give that one as DROP_MAP, or drop by this one (REPLACE=choice)"
        raise InputError(place, f"the drop map that was given, sha256 {known[:DIGITS]}", found[:DIGITS], advice)
    return name if is_plain(name := place.resolve().name) else None


def draft_digest(sources: SourcePaths) -> str:
    """Return the digest of the assistant that a release's draft model was made of, "" without one."""
    drafts = [path for path in sources["copies"].values() if is_draft(path)]
    return read_record(record_path(drafts[0]), DraftRecord)["source_sha256"] if drafts else ""


def check_assistant_given(sources: SourcePaths) -> None:
    """Raise InputError for another assistant than that of which the draft model was made."""
    place, known = sources["origins"].get(ASSISTANT_PLACE), draft_digest(sources)
    if place and place.exists() and (found := source_digest(place) if place.is_dir() else "a file") != known:
        advice = "give that one as DRAFT, or make the draft model of this one (REPLACE=draft)"
        raise InputError(place, f"the assistant of the draft model, digest {known[:DIGITS]}", found[:DIGITS], advice)


def is_folder_of(hub_id: str, place: Path) -> bool:
    """Tell whether a folder is the one that make fetches an assistant of the Hub into."""
    return is_hub_id(hub_id) and hub_id.replace("/", "-") == place.name


def check_hub_ids(settings: Mapping[str, str], model_record: Path | None, assistant: Path | None) -> None:
    """Raise InputError for a Hub id, as MODEL or DRAFT, of what was not held against the Hub when it was fetched.

    That it was fetched make has from a text file, which anybody can edit.
    """
    model, draft = settings.get("MODEL", ""), settings.get("DRAFT", "")
    if is_hub_id(model) and model_record:
        digest = read_record(model_record, ModelRecord)["source_sha256"]
        again = f"remove {model_record.with_name(SOURCE_NAME)}, so that it is fetched again"
        check_fetched(model_record, model, str(digest), again)
    for place in {assistant, assistant.resolve()} if assistant else ():  # a link may lead there
        if is_folder_of(draft, place):
            check_fetched(place, draft, source_digest(place), "fetch it again (REPLACE=draft)")


def check_model_folder(record: Path, model: Path) -> None:
    """Raise InputError for another model than that of the record; model: the folder that a user gives as MODEL.

    make goes by a link and a text file in the build folder. All bytes are read, but for a folder that was read before
    and that nobody has touched since. Of weights that have gone (LOW_DISK=all) nothing is known but the config.
    """
    known, files = read_record(record, ModelRecord), read_files(model)
    advice = "give that one as MODEL, or make all of it again of this one (REPLACE=model)"
    if not has_weights(model):
        if (found := sha256_file(model / "config.json")) != known["config_sha256"]:
            raise InputError(
                model, f"the model of {record}, config {known['config_sha256'][:DIGITS]}", found[:DIGITS], advice
            )
        return
    state, digest = sha256_json([[name, *file_state(path)] for name, path in files]), str(known["source_sha256"])
    seals = seals_over(record)
    if seals and seals.of_said(record, digest, READ.format(state)) == Seal.VALID:
        return
    if (found := source_digest(model)) != digest:
        raise InputError(model, f"the model of {record}, digest {digest[:DIGITS]}", found[:DIGITS], advice)
    seal_said(record, digest, READ.format(state))


def draft_place(given: str, sources: SourcePaths) -> str | None:
    """Return how a card says where a draft model is from, None where it was not made of what is given.

    A Hub id stands for the folder that make fetches it into. Only the project's own assistant has a folder.
    """
    if not (place := sources["origins"].get(ASSISTANT_PLACE)):
        return None
    name, own = place.resolve().name, VERSION_FILE.parent / OWN_ASSISTANT
    if given == OWN_ASSISTANT and own.is_dir() and source_digest(own) == draft_digest(sources):
        return given
    if is_folder_of(given, place.resolve()) and not Path(given).exists():  # else it was a folder here, not a Hub id
        return given
    return name if Path(given).name == name and is_plain(name) else None
