"""Pages in a headless Chromium: opened, watched for errors and requests to elsewhere, asked what they show.

Tests that take the fixture ``chromium`` are skipped, with a sentence, where Chromium or Playwright is not installed.
"""

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "see CONTRIBUTING.md: apt-get install chromium, pip install -r requirements-site.txt"


def find_chromium() -> str | None:
    """Return the path of the system's Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def launch() -> Iterator[Any]:
    """Yield a headless Chromium, or skip the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason=f"Playwright is not installed; {INSTALL}")
    path = find_chromium()
    if path is None:
        pytest.skip(f"Chromium is not installed; {INSTALL}")
    with playwright.sync_playwright() as driver:
        # as root, which containers often are, Chromium's sandbox does not work
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Watched:
    """A page, the errors of its console, and the addresses elsewhere that it asked for, which it did not get."""

    page: Any
    errors: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)

    def check(self) -> None:
        """See that nothing went wrong so far."""
        assert self.errors == []
        assert self.elsewhere == []


def watched_page(browser: Any, address: str, **options: Any) -> Watched:
    """Return a new page that may talk to ``address`` alone; ``options`` go to Playwright's ``new_page``."""
    watched = Watched(browser.new_page(**options))

    def route(route: Any) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            watched.elsewhere.append(route.request.url)
            route.abort()

    def note(message: Any) -> None:
        if message.type == "error":
            watched.errors.append(f"{message.text} ({watched.page.url})")

    watched.page.route("**/*", route)
    watched.page.on("console", note)
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    return watched


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this computer alone, and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def overflow(page: Any) -> list[str]:
    """Return what sticks out of a page to the right; an empty list is good."""
    return page.evaluate("""() => {
        const page = document.scrollingElement;
        if (page.scrollWidth <= innerWidth) return [];
        return [...document.querySelectorAll("body *")]
            .filter(element => element.getBoundingClientRect().right > innerWidth + 1)
            .map(element => `${element.tagName}.${element.className}`).slice(0, 5);
    }""")


def undescribed(page: Any) -> list[str]:
    """Return the images of a page that have no description."""
    return page.evaluate("""() => [...document.images]
        .filter(image => !image.alt.trim() || image.alt.startsWith("No description"))
        .map(image => image.src.slice(0, 80))""")


def cut_off(page: Any) -> list[str]:
    """Return the beginnings of paragraphs whose right end lies outside of what is seen, unless they are in a table."""
    return page.evaluate("""() => [...document.querySelectorAll("main p, main li, main h2")]
        .filter(element => element.checkVisibility() && !element.closest("table, pre"))
        .filter(element => {
            const right = element.getBoundingClientRect().right;
            for (let outer = element.parentElement; outer; outer = outer.parentElement) {
                const clips = getComputedStyle(outer).overflowX !== "visible";
                if (clips && right > outer.getBoundingClientRect().right + 1) return true;
            }
            return false;
        })
        .map(element => element.innerText.slice(0, 40)).slice(0, 5)""")
