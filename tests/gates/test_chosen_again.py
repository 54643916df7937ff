"""The choice of experts and the pictures are made again: others fail the gates `choice` and `pictures`."""

from damaged_build import of_map

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


def test_pictures_are_drawn_again(build):
    assert not build.failing("pictures")
    picture = build.release / "scores.png"
    content = picture.read_bytes()
    picture.unlink()
    picture.write_bytes(content + b" ")
    assert "scores.png: expected the picture of this build's records" in build.failing("pictures")[0]
