"""The licence of a checkpoint: from its card, else from its config; nothing is guessed, and no markup comes by it."""

import json
import shutil

import convert_to_gguf
from cards.front_matter import check_front_matter
from checkpoints.licence import (
    Licence,
    card_digest,
    check_card,
    front_matter_of,
    licence_in,
    licence_of,
    recorded_licence,
    released_licence,
)
from files.input_errors import InputError

import pytest

LINK = "https://ai.google.dev/gemma/docs/gemma_4_license"


def card(*lines: str) -> str:
    return "\n".join(["---", *lines, "---", "# A card"])


@pytest.mark.parametrize(
    "readme, config, found",
    [
        (card("license: Apache-2.0", f"license_link: {LINK}"), {"license": "mit"}, ("apache-2.0", "", LINK)),
        (card("license: other", "license_name: nice-terms"), {}, ("other", "nice-terms", "")),
        (card("license: other"), {}, None),
        # What the card names comes before the config even where it cannot be taken.
        (card("license: other", f"license_link: {LINK}"), {"license": "mit"}, None),
        (card("license: [gemma]"), {"license": "mit"}, None),
        (card("license: unknown"), {"license": "mit"}, ("mit", "", "")),
        ("\N{BYTE ORDER MARK}" + card("license: gemma"), {"license": "mit"}, ("gemma", "", "")),
        (card("deep: " + 3000 * "[" + 3000 * "]"), {"license": "mit"}, None),
        (card("license: unknown"), {}, None),
        (card("license: ["), {"license": "mit"}, None),
        (card("license: gemma", f"license_link: {LINK}?hl=en&a=b"), {}, ("gemma", "", f"{LINK}?hl=en&a=b")),
        (card("license: gemma", "license_link: LICENSE"), {}, ("gemma", "", "")),
        (card("license: other", "license_name: '<b>x</b>'"), {}, None),
        (card("license: [mit, gemma]"), {}, None),
        (card("license: the terms of Gemma"), {}, None),
        ("No front matter.", {}, None),
        (None, {"license": None}, None),
    ],
)
def test_the_card_comes_before_the_config(tmp_path, readme, config, found):
    (tmp_path / "config.json").write_text(json.dumps(config))
    if readme:
        (tmp_path / "README.md").write_text(readme)
    licence = licence_of(tmp_path)
    assert found == (licence and (licence.identifier, licence.name, licence.link))


def test_a_name_is_too_short_for_a_sentence_and_what_is_left_out_is_known(tmp_path):
    for name in ("beats every model of its size on all of GPQA", "50% on GPQA", "`x`", "näme", "a  b"):
        (tmp_path / "README.md").write_text(card("license: gemma", f"license_name: {name!r}", f"license_link: {LINK}"))
        licence = licence_of(tmp_path)
        assert licence and (licence.name, licence.link, licence.left_out) == ("", LINK, "license_name")
    (tmp_path / "README.md").write_text(
        card("license: gemma", f"license_link: {LINK}/{200 * 'a'}", "license_name: [x]")
    )
    licence = licence_of(tmp_path)
    assert licence and (licence.name, licence.link, licence.left_out) == ("", "", "license_name and license_link")
    assert not licence_in({"license": 41 * "a"}, "README.md") and licence_in({"license": 40 * "a"}, "README.md")


def test_what_is_given_comes_before_what_the_base_says_and_nothing_is_refused():
    own = Licence("other", "nice-terms", LINK, "README.md")
    assert released_licence("", own, "base") == released_licence("other", own, "base") == own
    assert released_licence("mit", own, "base") == Licence("mit", named_by="LICENSE")
    assert released_licence("MIT", own, "base") == Licence("mit", named_by="LICENSE")
    for given in ("unknown", "Unknown", "my_terms"):
        with pytest.raises(InputError, match=f"LICENSE: .* found '{given}'"):
            released_licence(given, own, "base")
    for given, words in (("", "give it as LICENSE"), ("other", "license_name")):
        with pytest.raises(InputError, match=words):
            released_licence(given, None, "base")


def test_a_card_counts_as_the_base_s_if_the_record_of_the_drop_knows_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"license": "mit"}))
    assert card_digest(tmp_path) == ""
    licence = recorded_licence(tmp_path, "")
    assert licence and licence.identifier == "mit"
    (tmp_path / "README.md").write_text(card("license: cc0-1.0"))
    known = card_digest(tmp_path)
    licence = recorded_licence(tmp_path, known)
    assert licence and licence.identifier == "cc0-1.0"
    check_card(tmp_path, known)
    (tmp_path / "README.md").write_text(card("license: apache-2.0"))
    for recorded, words in ((known, f"dropped with, sha256 {known[:12]}"), ("", "of none"), (None, "card_sha256")):
        assert recorded_licence(tmp_path, recorded) is None
        with pytest.raises(InputError, match=f"{words}.*give the licence as LICENSE"):
            check_card(tmp_path, recorded)


@pytest.mark.parametrize(
    "value", ["!!timestamp x", "!!bool maybe", "!!int ''", "!!float ''", "!!binary é", "0001-00-01"]
)
def test_a_card_whose_tags_do_not_fit_their_words_cannot_be_read(tmp_path, value):
    path = tmp_path / "README.md"
    path.write_text(card(f"license: {value}"), encoding="utf-8")
    assert front_matter_of(path) is None
    with pytest.raises(InputError, match="expected front matter that huggingface_hub reads"):
        check_front_matter(path, "checkpoint")


def test_a_card_that_names_its_parts_again_and_again_is_refused_at_once(demo_model, tmp_path, refusal):
    """629 bytes stood for more values than a memory holds, here and in the converter."""
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
    model = shutil.copytree(demo_model, tmp_path / "model")
    (model / "README.md").write_text(card("\n".join(["license: mit", *lines])))
    with pytest.raises(InputError, match="README.md: expected front matter without references"):
        licence_of(model)
    refusal(convert_to_gguf.main, ["--model", model, "--output", tmp_path / "F16.gguf", "--name", "x"], "references")


def test_a_card_that_cannot_be_read_is_named_and_can_be_overruled(tmp_path):
    (tmp_path / "README.md").write_text(card("license: ["))
    with pytest.raises(InputError, match="found front matter of README.md that cannot be read; .* LICENSE="):
        released_licence("", licence_of(tmp_path), tmp_path)
    assert released_licence("mit", licence_of(tmp_path), tmp_path).identifier == "mit"
    (tmp_path / "README.md").write_text(card("license: [mit, gemma]"))
    with pytest.raises(InputError, match=r"found license: \['mit', 'gemma'\] in README.md, which is no licence by"):
        released_licence("", licence_of(tmp_path), tmp_path)
