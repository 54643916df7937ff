"""Headless Chromium for tests of a page: what it asks for, what its console says, what it shows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from install_browser import FLAGS, LOAD_MS, find_browser

from playwright.sync_api import Browser, Page, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    executable = find_browser()  # before the driver starts: it tries the browser out with a driver of its own
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=FLAGS, timeout=LOAD_MS)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page, and what it asked for and complained of since it was opened."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, path: Path, width: int = 1440, scheme: str = "light") -> Iterator[Opened]:
    """Open a file of the disk in a fresh context, and wait until its charts are there."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found = Opened(context.new_page())
    found.page.on("request", lambda request: found.requests.append(request.url))
    found.page.on(
        "console", lambda message: message.type in ("error", "warning") and found.complaints.append(message.text)
    )
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.goto(path.resolve().as_uri())
    found.page.wait_for_selector("html[data-ready]", state="attached", timeout=LOAD_MS)
    try:
        yield found
    finally:
        context.close()
