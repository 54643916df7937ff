"""The choice of experts and the pictures are made again: others fail the gates `choice` and `pictures`."""

from choice.drop_map import read_map
from files.input_errors import InputError
from gates.remade_gates import choose_again
from makers.damaged_build import of_map

import pytest


def test_the_experts_are_chosen_again(build):
    assert not build.failing("choice")

    def toss(content: dict) -> None:
        content["bootstrap"]["coin_toss"] += 1
        content["layers"]["0"]["coin_toss"].append(127)

    of_map(build, toss)
    assert not build.failing("lineage") and "bootstrap.coin_toss" in build.failing("choice")[0]


@pytest.mark.parametrize("key", ["version", "stats_sha256"])
def test_a_map_that_names_a_criterion_is_chosen_again_or_refused(build, key):
    of_map(build, lambda content: (content.pop("version"), content.pop(key, None)))
    assert "map.json: expected the statistics that coverage chose by, found none" in build.failing("choice")[0]


def test_a_domain_has_one_file_of_its_name(build, tmp_path):
    """Of two the first has the name on the card, and any could be the one whose labels were counted."""
    checked = build.checked
    given = checked.sources["questions"]
    own = next(iter(given.values()))
    given["again"] = tmp_path / own.name
    content = read_map(checked.lineage.origin("map"))
    content["domains"] = [{"name": own.name, "weight": 1.0, "floor": 0}]
    with pytest.raises(InputError, match=f"one question file named {own.name}, as a domain .* found two"):
        choose_again(checked, content, tmp_path / "map.json")


def test_pictures_are_drawn_again(build):
    assert not build.failing("pictures")
    picture = build.release / "scores.png"
    content = picture.read_bytes()
    picture.unlink()
    picture.write_bytes(content + b" ")
    assert "scores.png: expected the picture of this build's records" in build.failing("pictures")[0]
