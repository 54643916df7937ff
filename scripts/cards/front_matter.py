"""The front matter of a card, which the Hub reads, made and checked with huggingface_hub (without the network).

Keys: https://huggingface.co/docs/hub/model-cards. A value that this build does not know is left out; the card says so.
"""

import re
from pathlib import Path
from typing import Any

from checkpoints.licence import YAML_ERRORS
from files.input_errors import InputError, check_bounded, reason_of
from release.manifest import CHECKPOINT, DYNAMIC, STANDARD
from release.names import PLACEHOLDER_OWNER, is_hub_id

from huggingface_hub import ModelCard, ModelCardData

RELATIONS = ("adapter", "finetune", "merge", "quantized")
PIPELINE, SEEING_PIPELINE = "text-generation", "image-text-to-text"
REPOSITORY_NAME = "a repository's name on the Hub (letters, digits, dots, dashes)"
LIBRARIES = {STANDARD: "gguf", DYNAMIC: "gguf", CHECKPOINT: "transformers"}
REQUIRED_KEYS = {"library_name": str, "pipeline_tag": str, "tags": list}
LICENCE_KEYS = ("license", "license_name", "license_link")
OPTIONAL_KEYS = dict.fromkeys((*LICENCE_KEYS, "base_model", "base_model_relation", "quantized_by"), str)


def is_repository(name: str) -> bool:
    """Tell whether a repository on the Hub can have that name, which comes after OWNER/."""
    return is_hub_id(f"user/{name}")


def check_repo(repo: str) -> None:
    """Raise InputError unless `repo` can be the name of a repository on the Hub, OWNER/NAME."""
    if not is_hub_id(repo):
        raise InputError("REPO", "a repository on the Hub, USER/NAME (letters, digits, dots, dashes)", repr(repo)[:100])


def check_same_repository(repo: str, manifest: dict) -> None:
    """Raise InputError unless OWNER/NAME names the repository of a release: its card has commands with that name."""
    expected = f"{manifest['owner'] or PLACEHOLDER_OWNER}/{manifest['repository']}"
    if manifest["owner"] and repo.split("/")[0] != manifest["owner"]:
        advice = f"run `make release OWNER={repo.split('/')[0]}`"
        raise InputError("REPO", f"{expected}, as the card of this release has it", repo, advice)
    if repo.split("/")[-1] != manifest["repository"]:
        raise InputError("REPO", f"{expected}, as the card of this release has it", repo)


def pipeline_of(sees: bool) -> str:
    """Return the Hub's name of what a model does; sees: whether its repository holds what it sees pictures with."""
    return SEEING_PIPELINE if sees else PIPELINE


def front_matter(
    kind: str, base: str, licence: dict[str, str], quantized_by: str, tags: list[str], *, sees: bool = False
) -> str:
    """Return the front matter of a release of some kind, its dashes included.

    licence: values of LICENCE_KEYS; sees: see `pipeline_of`.
    """
    values: dict[str, Any] = {**licence, "library_name": LIBRARIES[kind], "tags": tags}
    if is_hub_id(base):
        values["base_model"] = base
        if kind != CHECKPOINT:  # a pruned checkpoint has no relation: none of the Hub's four is pruning
            values["base_model_relation"] = "quantized"
    if quantized_by and kind != CHECKPOINT:
        values["quantized_by"] = quantized_by
    return f"---\n{ModelCardData(pipeline_tag=pipeline_of(sees), **values).to_yaml()}\n---\n"


def check_values(path: Path, data: dict[str, Any], kind: str) -> None:
    """Raise InputError when a value of the front matter is not one that the Hub knows."""
    relation, licence = data.get("base_model_relation", "quantized"), data.get("license", "gemma")
    rules = [
        ("library_name", data["library_name"] == LIBRARIES[kind], LIBRARIES[kind]),
        ("pipeline_tag", data["pipeline_tag"] in (PIPELINE, SEEING_PIPELINE), f"{PIPELINE} or {SEEING_PIPELINE}"),
        ("base_model", is_hub_id(data.get("base_model", "a/b")), "OWNER/NAME"),
        ("base_model_relation", relation in RELATIONS, f"one of {', '.join(RELATIONS)}"),
        ("license", re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence), "an identifier of the Hub, such as gemma"),
        ("tags", all(isinstance(tag, str) for tag in data["tags"]), "words"),
    ]
    for key, holds, expected in rules:
        if not holds:
            raise InputError(path, f"{key} {expected} in the front matter", repr(data[key]))


def check_front_matter(path: Path, kind: str) -> dict[str, Any]:
    """Return the front matter of a card; raise InputError when huggingface_hub cannot read it or a value is wrong."""
    try:
        check_bounded(path)
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=False).data.to_dict()
    except YAML_ERRORS as error:
        raise InputError(path, "front matter that huggingface_hub reads", reason_of(error)) from error
    given = {key: form for key, form in OPTIONAL_KEYS.items() if key in data}
    for key, form in {**REQUIRED_KEYS, **given}.items():
        if not isinstance(data.get(key), form) or not data[key]:
            raise InputError(path, f"a {form.__name__} {key} in the front matter", repr(data.get(key)))
    if unknown := sorted(data.keys() - REQUIRED_KEYS.keys() - OPTIONAL_KEYS.keys()):
        raise InputError(path, f"front matter of {', '.join([*REQUIRED_KEYS, *OPTIONAL_KEYS])}", unknown[0])
    check_values(path, data, kind)
    return data
