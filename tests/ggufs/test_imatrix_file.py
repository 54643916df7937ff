"""An imatrix whose names or counts are damaged is refused in one line."""

from files.input_errors import InputError
from ggufs.imatrix import read_imatrix
from makers.synthetic_build import write_imatrix

import numpy as np
import pytest


@pytest.mark.parametrize(
    "old, new, words",
    [
        (b"blk.0.ffn_down", b"blk.z.ffn_down", "experts named blk.LAYER.ffn_down_exps.weight"),
        (np.float32(1e6).tobytes(), np.float32(1e38).tobytes(), "token counts up to"),
    ],
)
def test_damaged_names_and_counts_are_refused(tmp_path, old, new, words):
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, 2, 8)
    content = path.read_bytes()
    if old not in content:  # a count, the last of the file: the names and values of others stay
        content, new = content[:-4] + old, new
    path.write_bytes(content.replace(old, new))
    with pytest.raises(InputError, match=words):
        read_imatrix(path)
