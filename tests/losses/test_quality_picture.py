"""The picture of measure_quality.py: its model's name, letters that can be read on a card, and names off the line."""

from files.pictures import DOTS_PER_INCH, WIDTH_INCHES
from losses.quality_conclusions import Measured
from losses.quality_picture import draw_quality, line_boxes, overlap

import numpy as np
from matplotlib import image


def measured(label: str, kind: str, size: int, kld: float) -> Measured:
    """One file of 4 chats with the same loss, total and by quantisation."""
    sums = {loss: np.full(4, kld) for loss in ("total", "quantisation")}
    losses = {loss: {"kld": [kld, kld / 10]} for loss in sums} | {"pruning": {"kld": [0.001, 0.0001]}}
    return Measured(label, kind, size << 30, 4.0, "0", sums, losses)


def test_boxes_along_a_line_cover_it_and_nothing_far_from_it():
    boxes = line_boxes(np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 50.0]]))
    for x, y in ((0, 0), (50, 0), (100, 0), (100, 25), (100, 50)):
        assert overlap(np.array([x - 3, y - 3, x + 3, y + 3.0]), boxes) > 0
    assert overlap(np.array([20.0, 10, 80, 40]), boxes) == 0
    assert line_boxes(np.zeros((0, 2))).shape == (0, 4)


def test_few_files_make_a_low_picture_with_letters_that_can_be_read(tmp_path):
    files = [measured("Q8_0", "standard", 20, 0.002), measured("Q4_K_M", "standard", 12, 0.01)]
    many = files + [measured(f"CD-{number}", "ContribDynamic", 12 + number, 0.009 / number) for number in range(1, 20)]
    for name, content in (("few", files), ("again", files), ("many", many)):
        draw_quality("a-model", content, tmp_path / f"{name}.png")
    few, several = (image.imread(tmp_path / f"{name}.png") for name in ("few", "many"))
    assert few.shape[1] == several.shape[1] == WIDTH_INCHES * DOTS_PER_INCH
    assert few.shape[0] < several.shape[0] <= 14 * DOTS_PER_INCH
    assert (tmp_path / "few.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    draw_quality("another-model", files, tmp_path / "other.png")
    assert (tmp_path / "few.png").read_bytes() != (tmp_path / "other.png").read_bytes()
