"""Records whose words are markup: the page shows them, runs nothing of them and asks nothing of any network."""

import re
from pathlib import Path

from browser import chromium, opened
from build_report import main
from files.json_records import read_json, sha256_json
from makers.synthetic_build import change, options, write_build

import pytest

SCRIPT = "document.title='owned'"
MARKUP = f'"\'><script>{SCRIPT}</script><img src=http://x.invalid/x onerror="{SCRIPT}">|`'
# Every text of a record that the page shows and that no other record has to agree with.
SHOWN = [
    ("findings.json", "specialisation", "column"),
    ("findings.json", "specialisation", "criterion"),
    ("findings.json", "specialisation", "cells", 0, "chosen_by"),
    ("findings.json", "specialisation", "cells", 0, "asked"),
    ("findings.json", "weights", 0, "matrix"),
    ("findings.json", "maps", 0, "name"),
    ("full.json", "protocol", "llama_cpp"),
    ("full.json", "protocol", "lm_eval"),
    ("imatrix.gguf.json", "llama_cpp"),
    ("loops.json", "rows", 0, "gguf"),
    ("loops.json", "pairs", 0, "gguf"),
    ("pruned-F16.gguf.json", "llama_cpp"),
    ("quants/pruned-Q6_K.gguf.json", "type"),
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """The page of a build with markup in all these places."""
    folder = tmp_path_factory.mktemp("hostile")
    write_build(folder, 8, 2, 16, 12)
    for name, *keys in SHOWN:
        change(folder / name, *keys, value=MARKUP)
    protocol = read_json(folder / "full.json")["protocol"]
    change(folder / "full.json", "protocol_sha256", value=sha256_json(protocol))  # who writes one can write the other
    main([*options(folder), "--output", str(folder / "report.html")])
    return folder / "report.html"


def test_markup_of_a_record_is_text_of_the_page(hostile, browser):
    text = hostile.read_text()
    assert "<img" not in text and MARKUP not in text and text.count("owned") >= len(SHOWN)
    with opened(browser, hostile) as found:
        assert found.page.title() == "pruned: report of a build"
        assert found.page.locator("img").count() == 0
        assert found.requests == [hostile.resolve().as_uri()] and found.complaints == []


def test_a_script_that_is_not_the_page_s_own_is_not_run(hostile, browser):
    """Were something shown without an escape: the policy is what is left."""
    text = hostile.read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    assert "default-src &#39;none&#39;" in policy and "unsafe-inline" not in policy.split("style-src")[0]
    place = hostile.with_name("pierced.html")
    place.write_text(text.replace("<main", f"{MARKUP}<main", 1))
    with opened(browser, place) as found:
        assert found.page.title() == "pruned: report of a build"
        complaints = [words for words in found.complaints if "Content Security Policy" in words]
        assert complaints == found.complaints and any("http://x.invalid/x" in words for words in complaints)
        assert any("script-src" in words for words in complaints)
