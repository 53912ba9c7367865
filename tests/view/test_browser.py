"""The page in a real browser: what it shows, keys, a narrow window, an export, hostile text.

Broken on purpose, each seen red: the table wider than its scrolling box; the key `]` left out; the
arrow keys of tokens left out; `autoescape=False`; an export that links the style sheet; curves of
the first run only; the page not following new steps; clipping colours exchanged.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.hostile import CONTROL, STRINGS
from tests.support.parameters import also_long
from tests.support.viewed_runs import (
    WITHOUT_LIMIT_MS,
    assert_quiet,
    chromium,
    completion,
    opened,
    right,
    served,
    small_run,
    write_step,
)
from vlm_rl.view.__main__ import listen, main, open_folders, serving

WORST = ("script", "escapes", "half", "braces")
PAGES = ("problems", "problem?uid=a", "completions", "completion/8589934592/0", "length")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(WITHOUT_LIMIT_MS)
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    made = opened(browser)
    yield made
    assert_quiet(made)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("runs")
    with served(small_run(root / "first"), small_run(root / "second")) as where:
        yield where


def test_curves_of_two_runs_lie_over_each_other(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.locator(".chart h3")).to_have_text(["reward/mean", "val/accuracy"])
    legend = page.locator(".chart").first.locator(".u-legend")
    expect(legend).to_contain_text("first")
    expect(legend).to_contain_text("second")
    page.get_by_label("second").uncheck()
    expect(page.locator(".chart").first.locator(".u-legend")).not_to_contain_text("second")
    page.get_by_label("Find").fill("accu")
    expect(page.locator("#metrics label:visible")).to_have_text(["accuracy"])
    page.get_by_label("accuracy", exact=True).uncheck()
    expect(page.locator(".chart h3")).to_have_text(["reward/mean"])
    assert page.url.endswith("/?metrics=reward%2Fmean"), "the address shows what is shown"


def test_problems_are_sorted_by_accuracy_and_by_its_change(page: Page, address: str) -> None:
    page.goto(f"{address}/r/first/problems")
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("b")
    expect(first).to_contain_text("25 %")
    page.get_by_role("link", name="Change").click()
    page.get_by_role("link", name="Change").click()
    first = page.locator("tbody tr").first
    expect(first.locator("td").first).to_have_text("a")
    expect(first).to_contain_text("+75 %")


def test_group_shows_each_completion_with_all_that_decided_it(page: Page, address: str) -> None:
    page.goto(f"{address}/r/first/problem?uid=a")
    expect(page.locator("h2", has_text="Step 2: 3 of 4 right")).to_be_visible()
    cards = page.locator("article.card")
    expect(cards).to_have_count(4)
    expect(cards.first).to_contain_text("number: same text")
    expect(cards.last).to_contain_text("number: another value")
    for fact in ("reward", "accuracy", "format", "advantage", "length", "It is \\boxed{8}"):
        expect(cards.last).to_contain_text(fact)
    picture = page.locator(".pictures img")
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 40
    _press(page, "[")
    expect(page.locator("h2", has_text="Step 1: 0 of 4 right")).to_be_visible()
    _press(page, "]")
    expect(page.locator("h2", has_text="Step 2: 3 of 4 right")).to_be_visible()


def test_tokens_are_coloured_by_each_measure(page: Page, address: str) -> None:
    page.goto(f"{address}/r/first/problem?uid=a")
    page.get_by_role("link", name="tokens").first.click()
    tokens = page.locator("#tokens span")
    expect(tokens).to_have_text(["It is ", "\\boxed{", "4", "}"])
    classes = {"entropy": "p1 p0 p5 p1", "ratio": "p0 p5 n5 p0", "clipping": "p0 p4 n4 p0"}
    for name, expected in (classes | {"advantage": "p5 p5 p5 p5"}).items():
        page.get_by_label(name, exact=True).check()
        expect(tokens).to_have_class(expected.split())
    page.locator("#tokens").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#token")).to_contain_text('3 of 4 "4"')
    expect(page.locator("#token")).to_contain_text("ratio 0.7")
    expect(page.locator("#token")).to_contain_text("clipped (low)")


def test_completions_are_found_by_text_verdict_and_length(page: Page, address: str) -> None:
    page.goto(f"{address}/r/first/completions")
    expect(page.locator("tbody tr")).to_have_count(16)
    _press(page, "/")
    page.keyboard.type("BOXED{8}")
    page.keyboard.press("Enter")
    expect(page.locator("tbody tr")).to_have_count(4)
    page.get_by_label("Step").fill("2")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.goto(f"{address}/r/first/completions")
    page.get_by_label("Verdict").select_option("correct")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody tr")).to_have_count(5)
    page.get_by_label("Tokens from").fill("100")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("tbody")).to_contain_text("No completion matches")


def test_keys_alone_reach_every_page(page: Page, address: str) -> None:
    page.goto(address)
    for key, title in enumerate(["Problems", "Completions", "Length fairness", "Evaluations"], 2):
        _press(page, str(key))
        expect(page.locator("h1")).to_contain_text(title)
    _press(page, "?")
    expect(page.locator("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_be_hidden()
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_be_visible()


@pytest.mark.parametrize("name", PAGES)
def test_narrow_window_does_not_scroll_sideways(browser: Browser, address: str, name: str) -> None:
    page = opened(browser, width=360, height=640)
    page.goto(f"{address}/r/first/{name}")
    expect(page.locator("h1")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert_quiet(page)


def test_page_follows_a_run_that_goes_on(page: Page, tmp_path: Path) -> None:
    folder = small_run(tmp_path / "run")
    viewed = open_folders([folder])
    with serving(viewed, listen(0)) as where:
        page.goto(where)
        expect(page.locator("#live")).to_have_text("reading rollouts, 2 files to go")
        viewed["run"].index.refresh()
        expect(page.locator("#live")).to_have_text("step 2")
        with (folder / "metrics.csv").open("a") as file:
            file.write("3,0.5,0.75\n")
        expect(page.locator("#live")).to_have_text("step 3")
        page.goto("about:blank")  # or it would ask a server that has ended


def test_export_needs_neither_server_nor_network(page: Page, tmp_path: Path) -> None:
    folder, file = small_run(tmp_path / "run"), tmp_path / "page.html"
    main([str(folder), "--port", "0", "--export", str(file), "--page", "/r/run/problem?uid=a"])
    page.goto(file.as_uri())
    expect(page.locator("article.card")).to_have_count(4)
    picture = page.locator(".pictures img")
    assert picture.evaluate("image => image.complete && image.naturalWidth") == 40
    main([str(folder), "--port", "0", "--export", str(file)])
    page.goto(file.as_uri())
    expect(page.locator(".chart canvas")).to_have_count(2)
    assert not re.search(r'(src|href)="/', file.read_text())


@pytest.mark.parametrize("name", [name if name in WORST else also_long(name) for name in STRINGS])
def test_hostile_text_is_text(browser: Browser, tmp_path: Path, name: str) -> None:
    """Strings of a model or a data set run no script, load nothing, and turn no direction."""
    text = STRINGS[name]
    folder = tmp_path / "run"
    facts = {"question": text, "answer": text, "source": text, "rule": text}
    facts |= {"terms": {text: 1.0}, "images": [text], "finish_reason": text}
    lines = [right(text, text, **facts), completion(text, text, **facts)]
    write_step(folder, 1, lines)
    (folder / "metrics.csv").write_text('step,"reward/""<b>x"\n1,2\n')
    page = opened(browser)
    page.on("dialog", lambda dialog: page.errors.append(dialog.message))  # type: ignore[attr-defined]
    with served(folder) as where:
        page.goto(where)
        expect(page.locator("#metrics label")).to_have_text(['"<b>x'])
        page.goto(f"{where}/r/run/problems")
        _assert_clean(page)
        page.locator("tbody a").first.click()
        _assert_clean(page)
        expect(page.locator("article.card")).to_have_count(2)
        page.get_by_role("link", name="tokens").first.click()
        _assert_clean(page)
        page.goto(f"{where}/r/run/completions?q=o&source=x")
        _assert_clean(page)
    assert_quiet(page)


def _press(page: Page, key: str) -> None:
    """Press a key once the page listens: its scripts come last."""
    expect(page.locator("#live")).not_to_be_empty()
    page.keyboard.press(key)


def _assert_clean(page: Page) -> None:
    expect(page.locator("h1")).to_be_visible()
    shown = page.locator("main").inner_text()
    assert not [character for character in CONTROL if character in shown]
    assert page.locator("main b").count() <= 1, "only what the page itself makes bold"
    assert page.locator("main script:not([type='application/json'])").count() == 0
