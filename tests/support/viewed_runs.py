"""A run's folder for the tests of the page, and a browser to look at it with."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from vlm_rl.show.json_text import json_text
from vlm_rl.view.__main__ import listen, open_folders, serving

CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WITHOUT_LIMIT_MS = 24 * 3600 * 1000
"""What Playwright takes for no limit: a busy machine is slow, and a test that hangs is ended."""

PICTURE = "0123456789abcdef" * 2 + ".jpg"


def completion(uid: str, text: str, **changes: Any) -> dict[str, Any]:
    """Return a line of a rollout file."""
    line = {
        "uid": uid,
        "source": "charts",
        "question": f"What is {uid}?",
        "answer": "4",
        "images": [PICTURE],
        "completion": text,
        "verdict": "wrong",
        "rule": "number: another value",
        "reward": 0.1,
        "terms": {"accuracy": 0.0, "format": 1.0},
        "length_tokens": len(text),
        "finish_reason": "stop",
        "trained": True,
        "advantage": -0.5,
        "token_ids": [1, 2],
    }
    return line | changes


def right(uid: str, text: str, **changes: Any) -> dict[str, Any]:
    """Return a line of a right completion."""
    facts = {"verdict": "correct", "rule": "number: same text", "reward": 1.0, "advantage": 0.5}
    terms = {"accuracy": 1.0, "format": 1.0}
    return completion(uid, text, **facts | {"terms": terms} | changes)


def write_step(folder: Path, step: int, lines: Sequence[dict[str, Any]], rank: str = "") -> Path:
    """Write a rollout file."""
    target = folder / "rollouts" / f"step_{step:06d}{rank}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(json_text(line) + "\n" for line in lines), encoding="utf-8")
    return target


def small_run(folder: Path) -> Path:
    """Write a run of two steps: the problem `a` gets right, `b` stays as it was."""
    write_step(folder, 1, [*_group("a", 0), *_group("b", 1)])
    write_step(folder, 2, [*_group("a", 3), *_group("b", 1)])
    rows = ["step,reward/mean,val/accuracy", "1,0.25,", "2,0.5,0.75"]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30), "teal").save(folder / "images" / PICTURE)
    (folder / "tokens").mkdir()
    tokens = {
        "line": 0,
        "uid": "a",
        "text": ["It is ", "\\boxed{", "4", "}"],
        "clipped": ["", "high", "low", ""],
        "logprob": [-0.5, -0.1, -1.5, -0.2],
        "entropy": [0.5, 0.0, 2.0, 0.25],
        "ratio": [1.0, 1.3, 0.7, 1.0],
        "advantage": [0.5] * 4,
    }
    (folder / "tokens" / "step_000002.jsonl").write_text(json.dumps(tokens) + "\n")
    return folder


def _group(uid: str, correct: int) -> list[dict[str, Any]]:
    texts = [f"It is \\boxed{{{4 if n < correct else n + 5}}}" for n in range(4)]
    return [(right if n < correct else completion)(uid, text) for n, text in enumerate(texts)]


@contextmanager
def served(*folders: Path) -> Iterator[str]:
    """Serve the folders, indexed; yield the address."""
    viewed = open_folders(folders)
    for one in viewed.values():
        one.index.refresh()
    with serving(viewed, listen(0)) as address:
        yield address


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser that `make test` has seen to. Skip without one."""
    found = next((path for name in CHROMES if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        own = found or playwright.chromium.executable_path
        if not Path(own).exists():
            pytest.skip("no Chromium is installed; `make .venv/browser` installs one")
        # as root, which a container often is, it cannot sandbox itself
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=own, args=options)
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Browser, width: int = 1280, height: int = 900) -> Page:
    """Return a new page whose errors fail the test that closes it by `assert_quiet`."""
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(0)  # a busy machine is slow; what hangs is ended from outside
    page.set_default_navigation_timeout(0)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("request", lambda one: None if _local(one.url) else errors.append(one.url))
    page.errors = errors  # type: ignore[attr-defined]
    return page


def assert_quiet(page: Page) -> None:
    """Fail if the page has logged an error or asked another server for something."""
    assert page.errors == []  # type: ignore[attr-defined]
    page.close()


def _local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "file:"))
