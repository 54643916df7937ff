"""The licence of a checkpoint, as its own card (README.md) or its config.json names it.

Keys: https://huggingface.co/docs/hub/model-cards. `license` is one of the Hub's identifiers. Of a licence that the Hub
has no identifier for, it is `other`, and license_name and license_link say which.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from checkpoints.card_text import CARD, check_no_references
from files.input_errors import InputError, sha256_file
from files.json_records import read_json

import yaml

CONFIG = "config.json"
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9.-]{0,39}")
OTHER, UNKNOWN = "other", "unknown"
# Both go onto a card that is published under somebody else's name, as code: no markup, and too short for a sentence.
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.,()-]| (?=\S)){0,39}")
LINK = re.compile(r"(?=.{1,200}\Z)https?://[\w.-]+(?:/[\w./~%-]*)?(?:\?[\w./~%=&+:,-]*)?(?:#[\w-]+)?", re.ASCII)
TO_SAY = "look up what the base model's card says, and give it as LICENSE, such as LICENSE=apache-2.0"
DIGEST = "card_sha256"  # in expert_drop_metadata.json
DROP_OR_SAY = "put that one back, drop again (`make drop REPLACE=choice`), or give the licence as LICENSE"
# What PyYAML raises on a text: of its own, and what the words after a tag such as !!timestamp or !!bool cause.
YAML_ERRORS = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True)
class Licence:
    """A licence: the Hub's identifier, the name and the link that the base gives it ("": none), and who names it.

    left_out: the base's keys whose values no card can show.
    """

    identifier: str
    name: str = ""
    link: str = ""
    named_by: str = ""
    left_out: str = ""

    @property
    def words(self) -> str:
        """The licence as a person reads it."""
        shown = self.name or self.identifier
        return f"{shown} ({self.link})" if self.link else shown


def text_of(values: Mapping, key: str, form: re.Pattern[str]) -> str:
    """Return a value that is a text of some form, "" for any other."""
    value = values.get(key)
    return value if isinstance(value, str) and form.fullmatch(value) else ""


def licence_in(values: Mapping, named_by: str) -> Licence | None:
    """Return the licence that front matter or a config names, None where it names none."""
    given = values.get("license")
    identifier = given.strip().lower() if isinstance(given, str) else ""
    name, link = text_of(values, "license_name", NAME), text_of(values, "license_link", LINK)
    if not IDENTIFIER.fullmatch(identifier) or identifier == UNKNOWN or (identifier == OTHER and not name):
        return None
    kept = {"license_name": name, "license_link": link}
    return Licence(
        identifier, name, link, named_by, " and ".join(key for key in kept if values.get(key) and not kept[key])
    )


def front_matter_of(card: Path) -> dict | None:
    """Return the front matter of a model card, {} without any, None where it cannot be read: it is a person's text."""
    if not card.is_file():
        return {}
    check_no_references(card)
    # Here: importing them takes as long as all the rest of a command that reads no card.
    from huggingface_hub import ModelCard
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # a card without front matter is no fault, and an error of ours is one line
    try:
        # An editor's mark of UTF-8 stands before the dashes, and would hide them.
        return ModelCard(card.read_text(encoding="utf-8-sig"), ignore_metadata_errors=True).data.to_dict()
    except YAML_ERRORS:
        return None


def is_silent(values: Mapping) -> bool:
    """Tell whether front matter or a config says nothing of a licence."""
    return values.get("license") in (None, "", UNKNOWN)


def licence_of(directory: Path) -> Licence | None:
    """Return the licence of a checkpoint, None where neither its card nor its config names one.

    Of a card that cannot be read, or that names a licence in no known form, it is not known: the card comes before the
    config, and says something else.
    """
    written, config = front_matter_of(directory / CARD), directory / CONFIG
    if written is None:
        return None
    if not is_silent(written):
        return licence_in(written, CARD)
    return licence_in(read_json(config), CONFIG) if config.is_file() else None


def card_digest(directory: Path) -> str:
    """Return the sha256 of a checkpoint's card, "" where it has none."""
    card = directory / CARD
    return sha256_file(card) if card.is_file() else ""


def recorded_licence(directory: Path, card_sha256: str | None) -> Licence | None:
    """Return the licence of a checkpoint by the card that a record knows, None where there is another or none known.

    card_sha256: of the card that the experts were dropped with ("": there was none); None in records of before.
    """
    return licence_of(directory) if card_sha256 == card_digest(directory) else None


def check_card(directory: Path, card_sha256: str | None) -> None:
    """Raise InputError unless a checkpoint's card is the one of a record, so that nobody edited its licence since."""
    if card_sha256 is None:
        raise InputError(directory / CARD, f"a record of the drop that knows this card ({DIGEST})", "none", DROP_OR_SAY)
    if (found := card_digest(directory)) != card_sha256:
        expected = f"the card that the experts were dropped with, sha256 {card_sha256[:12] or 'of none'}"
        raise InputError(directory / CARD, expected, found[:12] or "none", DROP_OR_SAY)


def released_licence(given: str, base: Licence | None, named: object) -> Licence:
    """Return the licence of a release: the one that was given, else the base's own. named: the base, in messages.

    Raises InputError when it is not known: a release must not tell others what they may do by a guess.
    """
    written, given = given, given.lower()  # the Hub's identifiers are in small letters, licences' names are not
    if written and (given == UNKNOWN or not IDENTIFIER.fullmatch(given)):
        raise InputError("LICENSE", "an identifier of the Hub, such as apache-2.0", repr(written))
    if base and given in ("", base.identifier):
        return base
    if given == OTHER:
        expected = f"license_name in the front matter of the base's {CARD}, as LICENSE={OTHER} needs it"
        raise InputError(named, expected, "none")
    if not given:
        written_there = front_matter_of(Path(str(named)) / CARD)
        found = "none"
        if written_there is None:
            found = f"front matter of {CARD} that cannot be read"
        elif not is_silent(written_there):
            # One line of plain letters: it is a stranger's text on a screen.
            found = f"license: {ascii(written_there['license'])[:60]} in {CARD}, which is no licence by itself"
        raise InputError(named, f"the base model's licence in {CARD} or {CONFIG}", found, TO_SAY)
    return Licence(given, named_by="LICENSE")


def held_licence(given: str, directory: Path, card_sha256: str | None) -> Licence:
    """Return the licence of a release, of the base in a directory: see `released_licence` and `check_card`."""
    if not given:
        check_card(directory, card_sha256)
    return released_licence(given, recorded_licence(directory, card_sha256), directory)
