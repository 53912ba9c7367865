"""Strings that mean something to a terminal, to rich, HTML, Markdown, figures or sheets."""

STRINGS = {
    "brackets": "[a] [/a] [bold red] [link=file:///x]y[/link]",
    "closed": "[/red]",
    "script": "<script>alert(1)</script> <img src=x onerror=y> &lt; </td>",
    "table": "a | b \\| c || \\",
    "lines": "one\n# two\n\n| three |",
    "escapes": "\x1b[2J\x1b]0;title\x07 \x9b31m \r over \b\x7f",
    "half": "half \ud83d of one",
    "direction": "\u202etxt.exe\u202c \u200f\u2066",
    "null": "a\x00b",
    "separators": "a\u2028b\u2029c\x85d",
    "links": "![x](http://a/b) [x](javascript:y) [a]: b *em* _em_ **b** `c` ~~d~~ # e",
    "formula": "$\\frac{1}{$ of 100 ^_{ \\alpha",
    "sheet": '=cmd|" /C calc"!A0 +1 -1 @SUM(A1)',
    "target": "[a]: http://b",
    "list": "- a",
    "numbered": "1. a",
    "emoji": ":smile: :warning:",
    "braces": "{0} {x} %s %(y)d {{ z }} {% raise %}",
}

CONTROL = "\x00\x07\x08\r\x1b\x7f\x9b\u202e\u2066\u2028"
"""Characters none of which may reach a terminal or a page."""


def file_name(text: str) -> str:
    """Return as much of a string as a file's name can hold."""
    return text.replace("/", "_").replace("\x00", "_").replace("\ud83d", "_")[:60]
