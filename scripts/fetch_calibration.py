#!/usr/bin/env python3
"""Download calibration data v5, the text of the model card's imatrix, by a pinned revision of its public gist.

Inputs:  a URL with a revision in it (default: bartowski's calibration_datav5.txt); its sha256, where it is known.
Output:  the text and, beside it, FILE.json: URL, size, sha256. The text is its author's and no part of this project.
Example: .venv/bin/python scripts/fetch_calibration.py --output build/downloads/calibration_datav5.txt

The digest is recorded with the first download; later ones, and other machines given --sha256, must get the same bytes.
"""

import argparse
import hashlib
import urllib.request
from http.client import HTTPException
from pathlib import Path

from files.deadline import DOWNLOAD_SECONDS, within
from files.fetched_files import CALIBRATION_V5_URL, FetchedRecord
from files.input_errors import InputError, reason_of
from files.json_records import read_record
from files.option_types import command_parser, named_path
from files.safe_files import replace_when_done, run
from files.written_records import write_record

TIMEOUT_SECONDS = 60  # between two bytes
ADVICE = "give a text of your own with CALIBRATION=FILE"
LEAST_BYTES, MOST_BYTES = 100_000, 100_000_000  # less is an error page, more no text to calibrate with


def read_url(url: str) -> bytes:
    """Return the first MOST_BYTES + 1 bytes behind a URL; raise InputError when the download fails."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            return answer.read(MOST_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:  # URLError and HTTPError are OSErrors
        raise InputError(url, "a text that can be downloaded", reason_of(error), ADVICE) from error


def download_text(url: str) -> bytes:
    """Return the bytes behind a URL; raise InputError when the download fails, or does not end."""
    content = within(DOWNLOAD_SECONDS, url, lambda: read_url(url), ADVICE)
    if len(content) > MOST_BYTES:
        raise InputError(url, f"a text of at most {MOST_BYTES} bytes", "a longer one")
    return content


def check_text(url: str, content: bytes, expected: str | None) -> str:
    """Return the hex sha256 of a text; raise InputError when it is not the expected one, too short or not UTF-8."""
    found = hashlib.sha256(content).hexdigest()
    if expected and found != expected:
        raise InputError(url, f"the text with sha256 {expected}", found)
    if len(content) < LEAST_BYTES:
        raise InputError(url, f"a text of {LEAST_BYTES} bytes or more", f"{len(content)} bytes")
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise InputError(url, "a text in UTF-8", str(error)) from error
    return found


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = command_parser(__doc__)
    add = parser.add_argument_group("source and output").add_argument
    add("--url", default=CALIBRATION_V5_URL, help="URL with a revision in it (default: that of bartowski's gist)")
    add("--sha256", help="its digest (default: that of an earlier download, if there was one)")
    add("--output", type=named_path, required=True, help="text file to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.output.is_dir():  # here, since the record is written first
        raise InputError(args.output, "a file to write", "a directory")
    record = Path(f"{args.output}.json")
    known = read_record(record, FetchedRecord, "move it away")["sha256"] if record.is_file() else None
    content = download_text(args.url)
    sha256 = check_text(args.url, content, args.sha256 or known)
    # The record comes first. A kill between the two then leaves no text without a record, which make would take for
    # finished and which the next download could not be compared with.
    write_record(record, {"url": args.url, "bytes": len(content), "sha256": sha256}, FetchedRecord)
    with replace_when_done(args.output) as partial:
        partial.write_bytes(content)
    print(f"{args.output}: {len(content)} bytes, sha256 {sha256}")


if __name__ == "__main__":
    run(main)
