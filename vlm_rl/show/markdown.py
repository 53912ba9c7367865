"""Markdown that is put together from strings: only what a program writes is markup.

`Markdown("# {}").format(name)` escapes `name`, and so do joining and adding. An f-string is a plain
string, and is escaped where it is put in.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Self
from urllib.parse import quote

from markupsafe import Markup

from vlm_rl.show.plain import visible

_MEANT = re.compile(
    r"\\(?=[!-/:-@\[-`{-~]|$)"  # a backslash that would escape what follows
    r"|[`*|$~]"
    r"|(?<!\w)_|_(?!\w)"  # inside a word it means nothing
    r"|<(?=[A-Za-z/!?])"
    r"|&(?=#?\w+;)"
    r"|(?<=\])[(\[]|^\[(?=[^\]]*\]:)"  # of a link, of its target
    r"|^[#>]|^[-+](?=\s)|(?<=^\d)[.)](?=\s)"
)
_BRACKET = re.compile(r"(?<!\\)[\[\]]")


class Markdown(Markup):
    """Text of a page. What is put into it is escaped unless it is of this type itself."""

    @classmethod
    def escape(cls, text: Any, /) -> Self:
        """Return what shows `text` on one line as it is."""
        if isinstance(text, cls):
            return text
        line = visible(str(text)).replace("\n", " ")
        return cls(_MEANT.sub(lambda match: f"\\{match[0]}", line))


def table(headings: Sequence[object], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a table, its first column to the left and the others to the right."""
    rule = Markdown("| --- |") + Markdown(" ---: |") * (len(headings) - 1)
    lines = [_row(headings), rule, *(_row(row) for row in rows)]
    return Markdown("\n").join(lines)


def image(path: str) -> Markdown:
    """Return the image of a file that lies beside the page."""
    name = _BRACKET.sub(r"\\\g<0>", str(Markdown.escape(path)))
    return Markdown("![{}]({})").format(Markdown(name), Markdown(quote(visible(path))))


def _row(values: Sequence[object]) -> Markdown:
    return Markdown("| {} |").format(Markdown(" | ").join(map(Markdown.escape, values)))
