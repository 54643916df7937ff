"""Modes of libraries in the environment: no command, and no tool of it, computes by them."""

import os
import subprocess
import sys

from conftest import REPO
from files.command_start import is_mode, unreadable_setting
from files.input_errors import InputError
from stages.hub_checks import downloading

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

SHOWN = """
import os
import teacher_force_analysis
import torch
print(torch.get_float32_matmul_precision(), os.environ["MKL_CBWR"], "ONEDNN_DEFAULT_FPMATH_MODE" in os.environ)
"""


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE ONEDNN_MAX_CPU_ISA", True),
        ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE NVIDIA_TF32_OVERRIDE CUBLAS_EMULATE_SINGLE_PRECISION MKL_CBWR", True),
        ("GGML_CUDA_FORCE_CUBLAS_COMPUTE_16F GGML_VK_DISABLE_F16 LLAMA_ARG_TOP_K MPLBACKEND", True),
        ("LLAMA_ARG_THREADS LLAMA_ARG_DEVICE LLAMA_CPP LLAMA_CPP_LIB_PATH GGML_VK_VISIBLE_DEVICES", False),
        ("OMP_NUM_THREADS MKL_NUM_THREADS CUDA_VISIBLE_DEVICES TORCH_HOME TORCH_NCCL_BLOCKING_WAIT", False),
        ("ONEDNN_PRIMITIVE_CACHE_CAPACITY ONEDNN_VERBOSE CUBLAS_WORKSPACE_CONFIG PATH HF_TOKEN", False),
    ],
)
def test_what_changes_a_result_is_told_from_where_it_is_computed(names, found):
    assert [is_mode(name) for name in names.split()] == [found] * len(names.split())


def test_a_command_reads_no_mode_from_the_environment():
    """They are gone before torch is imported, which reads some of them then."""
    given = {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "MKL_CBWR": "COMPATIBLE"}
    place = {"PYTHONPATH": str(REPO / "scripts")}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], capture_output=True, text=True, env={**os.environ, **given, **place}
    )
    assert done.stdout.split() == ["highest", "AVX2,STRICT", "False"], done.stderr


@pytest.mark.parametrize(
    "name, value",
    [
        ("HF_HUB_DOWNLOAD_TIMEOUT", "abc"),
        ("HF_HUB_ETAG_TIMEOUT", "1.5"),
        *(
            ("HF_ENDPOINT", f"http://{rest}")
            for rest in ("me:pw@[::1", "hub:80x", "hub:99999", "hub/;key=pw", "hub/?t=pw")
        ),
        ("https_proxy", "http://me:pw/x@hub:1"),
        ("ALL_PROXY", "http://me:pw%40hub"),
        *(
            ("HTTPS_PROXY", f"http://{rest}")
            for rest in ("A\\me:pw@hub:1", "me:pw@hub:99999", "me:pw@[::::::1]:1", "pw@a..b:1")
        ),
        ("https_proxy", "socks4://pw@hub:1"),
        *(("HF_ENDPOINT", address) for address in ("me:pw@hub:1", "http:/me:pw@hub/", "//me:pw@hub/")),
    ],
)
def test_what_would_end_the_import_of_the_hubs_client_is_one_line(name, value):
    """Without its value, which may hold a password."""
    assert not unreadable_setting({name: ""}) and not unreadable_setting({"HF_ENDPOINT": "https://hub.example:8443/x"})
    proxies = (
        "http://hub:1",
        "http://a%5Cme:p%2Fw@hub.example:65535/",
        "socks5h://[::1]:9",
        "hub",
        "socks://hub:1/",
        "HTTP://a:b@hub",
    )
    assert not any(unreadable_setting({"ALL_PROXY": proxy}) for proxy in proxies)
    assert unreadable_setting({name: value}).startswith(f"{name}: expected ")
    words = [sys.executable, REPO / "scripts/fetch_gpqa.py", "--output", "x"]
    done = subprocess.run(words, env=os.environ | {name: value}, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and value not in done.stderr


def test_certificates_that_are_not_there_are_told_by_their_variable():
    """ssl names no file. The Hub's client has a missing file of its own, of another meaning."""
    with pytest.raises(InputError, match="SSL_CERT_FILE: expected a file of certificates"), downloading("a/b", "it"):
        raise FileNotFoundError(2, "No such file or directory")
    with pytest.raises(InputError, match="a/b: expected it, found offline"), downloading("a/b", "it"):
        raise LocalEntryNotFoundError("offline")


def test_an_address_with_a_password_is_refused_and_not_shown():
    said = unreadable_setting({"HF_ENDPOINT": "http://me:s3cret@hub.example"})
    assert said.startswith("HF_ENDPOINT: expected an address such as") and "s3cret" not in said


def test_a_model_s_import_leaves_nothing_in_the_temporary_directory(tmp_path):
    """torch's folder there has the user's name, stays, and may be a neighbour's file."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import files.command_start, torch._dynamo"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)
    subprocess.run([sys.executable, "-c", code, REPO / "scripts"], env=environment, check=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [b"text.usetex: True\nfont.family: nosuchfont\n", b"\xff\xfe"])
@pytest.mark.parametrize("place", ["MATPLOTLIBRC", "config"])
def test_pictures_are_drawn_by_our_settings_and_not_the_user_s(settings, place, tmp_path):
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib/matplotlibrc").write_bytes(settings)
    given = (
        {"XDG_CONFIG_HOME": str(tmp_path)} if place == "config" else {place: str(tmp_path / "matplotlib/matplotlibrc")}
    )
    code = "from files.pictures import plt; print(plt.rcParams['text.usetex'], plt.rcParams['font.family'])"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, cwd=REPO / "scripts", env=os.environ | given, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False ['sans-serif']\n", ""), done.stderr


def test_a_setting_of_bars_does_not_end_the_import_of_tqdm():
    code = "import files.command_start, tqdm"
    line = [sys.executable, "-c", code]
    environment = os.environ | {"TQDM_MININTERVAL": "x"}
    assert subprocess.run(line, cwd=REPO / "scripts", env=environment, capture_output=True).returncode == 0
