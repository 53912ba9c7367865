"""Pages as HTML: every string of a run is text, whatever it holds, and an export is one file."""

import base64
import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markdown_it import MarkdownIt
from markupsafe import Markup

from vlm_rl.show.plain import visible, visible_in
from vlm_rl.view.pages import Page, Viewed

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_SCRIPTS = ("uPlot.iife.min.js", "view.js")
_UNKNOWN = "\N{EN DASH}"
_STYLES = ("uPlot.min.css", "view.css")


class Renderer:
    """Fills templates. Strings are escaped, and show control characters and marks of direction."""

    def __init__(self, viewed: Mapping[str, Viewed]) -> None:
        self._viewed = viewed
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=_finalized,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {"number": _number, "percent": _percent, "json": _json}

    def html(self, page: Page, *, export: bool) -> str:
        """Return a page; as an export it needs no server: all that it shows is inside."""
        inlined = _Inlined() if export else None
        return self._templates.get_template(page.template).render(
            page.context,
            page=page,
            runs=list(self._viewed.values()),
            inlined=inlined,
            image=lambda run, name: _source(run.folder.image(name), run, "image", name, export),
            figure=lambda run, name: _source(run.folder.picture(name), run, "figure", name, export),
            as_html=_report,
            url=_url,
        )


class _Inlined:
    """The scripts and styles of an exported page, and the policy that allows these scripts only."""

    def __init__(self) -> None:
        texts = [(STATIC / name).read_text(encoding="utf-8") for name in _SCRIPTS]
        self.scripts = [Markup(text) for text in texts]
        self.style = Markup("\n".join((STATIC / n).read_text(encoding="utf-8") for n in _STYLES))
        sums = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
        allowed = " ".join(f"'sha256-{digest}'" for digest in sums)
        self.policy = (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
        )


def _source(path: Path | None, run: Viewed, kind: str, name: str, export: bool) -> str | None:
    """Return where a page finds an image, None without its file."""
    if path is None:
        return None
    if not export:
        return f"/r/{run.name}/{kind}/{quote(name)}"
    mime = "image/png" if path.suffix == ".png" else "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _url(*parts: str, **query: Any) -> str:
    """Return a path with a query of what is set."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    tail = "&".join(f"{quote(name)}={quote(_utf8(str(v)), safe='')}" for name, v in given.items())
    path = "/".join(quote(_utf8(part)) for part in parts)
    return f"/{path}?{tail}" if tail else f"/{path}"


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _finalized(value: Any) -> Any:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return visible(value)


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def _percent(value: float | None, sign: bool = False) -> str:
    if value is None:
        return _UNKNOWN
    return f"{100 * value:+.0f} %" if sign else f"{100 * value:.0f} %"


def _json(value: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in; NaN and infinity are null."""
    return htmlsafe_json_dumps(_finite(visible_in(value)))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _report(
    run: Viewed, path: str, text: str, figure: Callable[[Viewed, str], str | None]
) -> Markup:
    """Render a report without any HTML of its own; its figures are those of the folder."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(visible(text))
    base = PurePosixPath(path).parent
    for token in (child for one in tokens for child in one.children or []):
        if token.type == "image":
            name = (base / unquote(str(token.attrs["src"]))).as_posix()
            token.attrs["src"] = figure(run, name) or ""
    return Markup(parser.renderer.render(tokens, parser.options, {}))
