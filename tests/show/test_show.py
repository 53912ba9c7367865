"""Hostile strings through each gate: what comes out is the string, escaped where it must be.

Broken on purpose, one at a time, each seen red: `render_str` not overridden; `_Name` by markup;
`visible` without the C1 controls; without the directions; `_MEANT` without each of its lines;
surrogates left in JSON; `parse_math` left on; tick labels as they are; a log record as it is.
"""

import io
import json
import logging
import re

import pytest
from markdown_it import MarkdownIt

from tests.support.hostile import CONTROL, STRINGS
from vlm_rl.show.figures import plt, save
from vlm_rl.show.json_text import json_text
from vlm_rl.show.log import Log
from vlm_rl.show.markdown import Markdown, image, table
from vlm_rl.show.plain import one_line, visible, visible_in
from vlm_rl.show.screen import Screen, Table, bars, say, say_all, warn

every_string = pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS)


def assert_clean(shown: str, newlines: int) -> None:
    assert not [char for char in CONTROL if char in shown]
    assert shown.count("\n") == newlines
    shown.encode()


@every_string
def test_escapes_are_those_of_json_and_read_back(text: str) -> None:
    assert_clean(visible(text), text.count("\n"))
    assert_clean(one_line(text), 0)
    escaped = one_line(text.replace("\\", "/").replace('"', "'"))
    assert json.loads(f'"{escaped}"') == text.replace("\\", "/").replace('"', "'")
    assert visible_in({text: [text, (1, text)]}) == {
        visible(text): [visible(text), [1, visible(text)]]
    }


@pytest.mark.parametrize(
    "text", ["40°", "√3 · ½", "中文 العربية עברית", "👩‍👩‍👧", "a\tb", "e\u0301"]
)
def test_what_can_be_shown_is_left_alone(text: str) -> None:
    assert visible(text) == one_line(text) == text


@every_string
def test_terminal_gets_the_string_as_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    Screen(width=400).put(text, style="bold red")
    assert capsys.readouterr().out == f"{one_line(text)}\n" * 2
    say_all(text)
    assert capsys.readouterr().out == f"{visible(text)}\n"
    warn(text)
    assert capsys.readouterr().err == f"{one_line(text)}\n"


@every_string
def test_table_and_bar_get_the_string_as_text(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Table(title=text)
    shown.add_column(text)
    shown.add_row(text)
    screen = Screen(width=400)
    screen.print(shown)
    out = capsys.readouterr().out
    assert not [char for char in CONTROL if char in out]
    for line in visible(text).expandtabs().splitlines():
        assert out.count(line.strip()) >= 3
    with bars(screen) as progress:
        progress.add_task(text, total=1)
    out = capsys.readouterr().out
    assert one_line(text) in out
    assert not [char for char in CONTROL if char in out]


def test_markup_that_is_asked_for_is_not_given(capsys: pytest.CaptureFixture[str]) -> None:
    Screen(width=80).print("[bold]a[/bold] :smile:", markup=True, emoji=True)
    assert capsys.readouterr().out == "[bold]a[/bold] :smile:\n"


def test_terminal_of_few_characters_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    say("40° of 中")
    stream.flush()
    assert stream.buffer.getvalue() == b"40\\xb0 of \\u4e2d\n"


@every_string
def test_warning_is_one_line(text: str, caplog: pytest.LogCaptureFixture) -> None:
    Log("vlm_rl.test").warning("%s and %r", text, 1)
    Log("vlm_rl.test").warning(text.replace("%", "%%"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{one_line(text)} and 1",
        one_line(text.replace("%", "%%")),
    ]
    Log("vlm_rl.test").log(logging.DEBUG, "not %s", text)
    assert len(caplog.records) == 2


@every_string
def test_json_reads_back_and_is_utf_8(text: str) -> None:
    written = json_text({text: [text]})
    written.encode()
    assert json.loads(written) == {text: [text]}
    assert json_text("中") == '"中"'


PAGE = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def text_of(source: str) -> list[str]:
    """Return the text of each inline part of a page. Raises AssertionError for anything but text
    in it."""
    parts = []
    for token in PAGE.parse(source):
        assert token.type != "html_block", token.content
        if token.type == "inline":
            kinds = {child.type for child in token.children or ()}
            assert kinds <= {"text", "text_special", "softbreak"}, (kinds, token.content)
            parts.append("".join(child.content for child in token.children or ()))
    return parts


def normal(text: str) -> str:
    """Return what a reader of a page sees: runs of spaces are one."""
    return re.sub(" +", " ", visible(text).replace("\n", " ").replace("\t", " ")).strip()


@every_string
@pytest.mark.parametrize("form", ["{}", "# {}", "* {}", "before {} after", "* x\n* {}", "a\n\n{}"])
def test_page_shows_the_string_and_nothing_else(text: str, form: str) -> None:
    shown = text_of(Markdown(form).format(text))
    last = "before {} after" if "before" in form else "{}"
    assert normal(shown[-1]) == last.format(normal(text))


@every_string
def test_table_of_a_page_keeps_its_cells(text: str) -> None:
    source = table((text, "n"), [(text, 1), ("x", text), (Markdown("y"), -0.5)])
    assert [normal(cell) for cell in text_of(source)] == [
        *(normal(text), "n", normal(text), "1", "x", normal(text), "y", "-0.5")
    ]
    assert source.count("\n") == 4


@every_string
def test_image_of_a_page_is_one_image(text: str) -> None:
    [inline] = [token for token in PAGE.parse(image(text)) if token.type == "inline"]
    [child] = inline.children or ()
    assert child.type == "image"
    assert re.fullmatch(r"[\w.~/%-]*", str(child.attrs["src"]))


def test_only_what_a_program_writes_is_markup() -> None:
    joined = Markdown("\n\n").join([Markdown("# a"), "# b", Markdown("{}").format(Markdown("*c*"))])
    assert joined == "# a\n\n\\# b\n\n*c*"
    assert Markdown("x") + "*y*" == "x\\*y\\*"
    assert Markdown.escape("snake_case [88.1, 92.0] < 0.01 & 3-4 C:\\dir") == (
        "snake_case [88.1, 92.0] < 0.01 & 3-4 C:\\dir"
    )


@every_string
def test_figure_shows_the_string_as_text(text: str) -> None:
    figure, axis = plt.subplots()
    axis.barh([0, 1], [1, 2], label=text)
    axis.set_yticks([0, 1], [text, "b"])
    axis.set_title(text)
    axis.legend()
    target = io.BytesIO()
    save(figure, target, format="svg")
    shown = target.getvalue().decode()
    assert not [char for char in CONTROL if char in shown]
    assert axis.get_yticklabels()[0].get_text() == visible(text)
    assert axis.get_title() == visible(text)
    assert not plt.fignum_exists(figure.number)
