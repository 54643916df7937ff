"""The front matter of a card, which the Hub reads, made and checked with huggingface_hub (without the network).

Keys: https://huggingface.co/docs/hub/model-cards. A value that this build does not know is left out; the card says so.
"""

import re
from pathlib import Path

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from files.safe_files import InputError

RELATIONS = ("adapter", "finetune", "merge", "quantized")
PIPELINE = "text-generation"
LIBRARIES = {"standard": "gguf", "dynamic": "gguf", "checkpoint": "transformers"}
NEEDED = {"library_name": str, "pipeline_tag": str, "tags": list}
OPTIONAL = {"license": str, "base_model": str, "base_model_relation": str, "quantized_by": str}


def is_hub_id(base: str) -> bool:
    """Tell whether a name can be one of the Hub's, OWNER/NAME."""
    try:
        validate_repo_id(base)
    except HFValidationError:
        return False
    return base.count("/") == 1


def check_repo(repo: str) -> None:
    """Raise InputError unless `repo` can be the name of a repository on the Hub, USER/NAME."""
    if not is_hub_id(repo):
        raise InputError("REPO", "a repository on the Hub, USER/NAME (letters, digits, dots, dashes)", repr(repo)[:100])


def front_matter(kind: str, base: str, license_id: str, quantized_by: str, tags: list[str]) -> str:
    """Return the front matter of a release of some kind, its dashes included.

    A pruned checkpoint has no relation: of the Hub's four none is pruning.
    """
    origin = {"base_model": base} if is_hub_id(base) else {}
    if origin and kind != "checkpoint":
        origin["base_model_relation"] = "quantized"
    by = {"quantized_by": quantized_by} if quantized_by and kind != "checkpoint" else {}
    data = ModelCardData(
        license=license_id or None, library_name=LIBRARIES[kind], pipeline_tag=PIPELINE, tags=tags, **origin, **by
    )
    return f"---\n{data.to_yaml()}\n---\n"


def check_front_matter(path: Path, kind: str) -> dict:
    """Return the front matter of a card; raise InputError when huggingface_hub does not read it or a value is not one."""
    try:
        data = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=False).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(path, "front matter that huggingface_hub reads", str(error).splitlines()[0][:200]) from error
    for key, form in {**NEEDED, **{key: form for key, form in OPTIONAL.items() if key in data}}.items():
        if not isinstance(data.get(key), form) or not data[key]:
            raise InputError(path, f"a {form.__name__} {key} in the front matter", repr(data.get(key)))
    if unknown := sorted(data.keys() - NEEDED.keys() - OPTIONAL.keys()):
        raise InputError(path, f"front matter of {', '.join([*NEEDED, *OPTIONAL])}", unknown[0])
    rules = [
        ("library_name", data["library_name"] == LIBRARIES[kind], LIBRARIES[kind]),
        ("pipeline_tag", data["pipeline_tag"] == PIPELINE, PIPELINE),
        ("base_model", is_hub_id(data.get("base_model", "a/b")), "OWNER/NAME"),
        (
            "base_model_relation",
            data.get("base_model_relation", "quantized") in RELATIONS,
            f"one of {', '.join(RELATIONS)}",
        ),
        (
            "license",
            re.fullmatch(r"[a-z0-9][a-z0-9.-]*", data.get("license", "gemma")),
            "an identifier of the Hub, such as gemma",
        ),
        ("tags", all(isinstance(tag, str) for tag in data["tags"]), "words"),
    ]
    for key, holds, expected in rules:
        if not holds:
            raise InputError(path, f"{key} {expected} in the front matter", repr(data[key]))
    return data
