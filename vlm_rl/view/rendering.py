"""Pages as HTML, served or exported: an export is one file with everything in it."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote

from markupsafe import Markup

from vlm_rl.show.html import from_markdown, own_file, script_policy, templates
from vlm_rl.view.pages import Page, Viewed

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_SCRIPTS = ("uPlot.iife.min.js", "view.js")
_STYLES = ("uPlot.min.css", "view.css")
_UNKNOWN = "\N{EN DASH}"


class Renderer:
    """Fills the templates of this package."""

    def __init__(self, viewed: Mapping[str, Viewed]) -> None:
        self._viewed = viewed
        self._templates = templates(_HERE / "templates")
        self._templates.filters |= {"number": _number, "percent": _percent}

    def html(self, page: Page, *, export: bool) -> str:
        """Return a page; as an export it needs no server: all that it shows is inside."""
        inlined = _Inlined() if export else None

        def source(path: Path | None, run: Viewed, kind: str, name: str) -> str | None:
            return _source(path, run, kind, name, export=export)

        def figure(run: Viewed, name: str) -> str | None:
            return source(run.folder.picture(name), run, "figure", name)

        return self._templates.get_template(page.template).render(
            page.context,
            page=page,
            runs=list(self._viewed.values()),
            inlined=inlined,
            image=lambda run, name: source(run.folder.image(name), run, "image", name),
            figure=figure,
            as_html=lambda run, path, text: _report(run, path, text, figure),
            url=_url,
        )


class _Inlined:
    """The scripts and styles of an exported page, and the policy that allows these scripts only."""

    def __init__(self) -> None:
        self.scripts = [own_file(STATIC / name) for name in _SCRIPTS]
        self.styles = [own_file(STATIC / name) for name in _STYLES]
        self.policy = script_policy(self.scripts)


def _source(path: Path | None, run: Viewed, kind: str, name: str, *, export: bool) -> str | None:
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


def _number(value: float | None, digits: int = 3) -> str:
    if value is None:
        return _UNKNOWN
    return f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:.0f}"


def _percent(value: float | None, sign: bool = False) -> str:
    if value is None:
        return _UNKNOWN
    return f"{100 * value:+.0f} %" if sign else f"{100 * value:.0f} %"


def _report(
    run: Viewed, path: str, text: str, figure: Callable[[Viewed, str], str | None]
) -> Markup:
    """Render a report; its figures are those of the folder."""
    base = PurePosixPath(path).parent
    return from_markdown(text, lambda name: figure(run, (base / unquote(name)).as_posix()) or "")
