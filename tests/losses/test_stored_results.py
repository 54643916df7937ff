"""Kept results: those that were edited are measured again, and edited logits are refused."""

import io
import zipfile
from pathlib import Path

from files.input_errors import InputError
from files.seals import MARKER
from losses.stored_logits import StoredLogits, save_array
from losses.stored_results import CHATS_NAME, kept, read_arrays, read_chats

import numpy as np
import pytest


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


def zipped(path: Path, at: int, value: int) -> bytes:
    """Return the bytes of results with one changed, counted from the directory at the end of the archive."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + at] = value
    return bytes(content)


def test_damaged_results_and_logits_are_refused_in_one_line(tmp_path):
    path, logits = tmp_path / "results.npz", tmp_path / "full-000000.npy"
    np.savez(path, tokens=np.ones(3))
    array = tmp_path / "array.npy"
    np.save(array, np.ones(3))
    packing, encrypted, place = zipped(path, 10, 99), zipped(path, 8, 1), zipped(path, 45, 255)
    # Python's own parser reads the header, and fails in ways of its own.
    headers = [array.read_bytes().replace(b"{'descr'", other) for other in (b"((((((((", b"{1[     ", b'{"""    ')]
    in_zip = io.BytesIO()
    with zipfile.ZipFile(in_zip, "w") as archive:
        archive.writestr("tokens.npy", headers[0])
    for content in (b"", b"PK", packing, encrypted, place, array.read_bytes(), in_zip.getvalue()):
        path.write_bytes(content)
        with pytest.raises(InputError, match="results of an earlier run"):
            read_arrays(path)
    stored = StoredLogits.__new__(StoredLogits)
    stored.folder, stored.name, stored.model, stored.vocabulary = tmp_path, "full", None, 4
    stored.texts, stored.checked = [[1, 2]], {0}
    np.savez(path, tokens=np.ones(3))
    for content in (b"", path.read_bytes(), array.read_bytes(), *headers):
        logits.write_bytes(content)
        with pytest.raises(InputError, match="full-000000.npy: expected logits"):
            next(stored.chunks(0))


@pytest.mark.parametrize("reply", [[2, -3], [2, 0], [2.0, 3.0], [], [2, 9]])
def test_chats_of_no_tokens_are_refused(tmp_path, reply):
    np.savez(tmp_path / CHATS_NAME, reply=np.array(reply), all=np.array([4, 5][: len(reply)]))
    with pytest.raises(InputError, match="chats.npz: expected (chats of one token and more|replies within)"):
        read_chats(tmp_path)


@pytest.mark.parametrize("shape", [(3, 5), (1, 100_000), (0, 7)])
def test_logits_are_written_as_numpy_does_and_no_failed_write_is_passed_over(tmp_path, shape):
    """np.save itself leaves a short file where the last bytes find the disk full."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    np.save(tmp_path / "theirs.npy", array)
    save_array(tmp_path / "ours.npy", array)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        save_array(Path("/dev/full"), array)
