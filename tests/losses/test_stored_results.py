"""Kept results: those that were edited are measured again, and edited logits are refused."""

from pathlib import Path

from files.seals import MARKER
from losses.stored_results import kept

import numpy as np


def test_edited_results_are_measured_again(tmp_path, capsys):
    (tmp_path / MARKER).touch()
    path: Path = tmp_path / "results.npz"
    arrays = {f"full_{measure}": np.ones(3) for measure in ("kld", "same_top", "delta_p")}
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(path)
        return arrays

    for _ in range(2):
        kept(path, compute, ["full"], 3)
    assert len(calls) == 1
    np.savez(path, **{**arrays, "full_kld": np.zeros(3)})
    assert kept(path, compute, ["full"], 3)["full_kld"].tolist() == [1, 1, 1]
    assert len(calls) == 2 and "it is made again" in capsys.readouterr().out
