"""HTML that is put together from strings: only templates and files of the program are markup."""

import base64
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markdown_it import MarkdownIt
from markupsafe import Markup

from vlm_rl.show.plain import visible, visible_in


def templates(folder: Path) -> Environment:
    """Return the templates of a folder. Every string that is put into them is escaped, and shows
    control characters and marks of direction as their escapes."""
    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["json"] = json_element
    return made


def own_file(path: Path) -> Markup:
    """Return a script or style of the program itself, to stand in a page as it is."""
    return Markup(path.read_text(encoding="utf-8"))


def script_policy(scripts: list[Markup]) -> str:
    """Return the Content-Security-Policy of a page that runs these scripts and fetches nothing."""
    sums = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in sums)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def json_element(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in; NaN and infinity are null."""
    return htmlsafe_json_dumps(_finite(visible_in(value)))


def from_markdown(text: str, image: Callable[[str], str]) -> Markup:
    """Render Markdown without any HTML of its own; `image` maps the path of each image."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(visible(text))
    for token in (child for one in tokens for child in one.children or []):
        if token.type == "image":
            token.attrs["src"] = image(str(token.attrs["src"]))
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value
