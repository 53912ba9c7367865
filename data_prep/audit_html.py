"""The few pieces of HTML that an audit's page is made of; text is escaped unless it is `Html`."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str) -> Html:
    """`<tag ...>children</tag>`; the attribute `kind` becomes the class."""
    given = {"class" if name == "kind" else name: value for name, value in attributes.items()}
    written = "".join(f' {name}="{html.escape(value)}"' for name, value in given.items())
    return Html(f"<{tag}{written}>{joined(children)}</{tag}>")


def joined(parts: Iterable[str]) -> Html:
    """All parts, one after the other, plain text among them escaped."""
    return Html("".join(part if isinstance(part, Html) else html.escape(part) for part in parts))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> Html:
    """Columns that begin with a number are set to the right."""
    first = rows[0] if rows else [""] * len(headings)
    numeric = [isinstance(value, int | float) for value in first]
    head = (_cell("th", text, right) for text, right in zip(headings, numeric, strict=True))
    body = (
        element("tr", *(_cell("td", v, right) for v, right in zip(row, numeric, strict=True)))
        for row in rows
    )
    return element("div", element("table", element("tr", *head), *body), kind="wide")


def details(summary: str, *children: str) -> Html:
    """Closed until it is clicked."""
    return element("details", element("summary", summary), *children)


def figure(png: bytes, description: str) -> Html:
    """A picture that stands in the page itself."""
    return _image("image/png", png, description)


def thumbnail(source: bytes | Path, side: int = 220) -> Html:
    """A small picture of an image file, at most `side` pixels high and wide, on white; in its place
    the reason, where the pixels can not be decoded."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            small: Image.Image = image
            if image.mode.startswith("I;16"):  # converting would clip all greys to white
                small = image.point(lambda value: value / 256).convert("L")
            small.thumbnail((side, side))
            clear = small.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return element("p", f"can not be decoded: {error}", kind="bad")
    white = Image.new("RGBA", clear.size, "white")
    target = io.BytesIO()
    Image.alpha_composite(white, clear).convert("RGB").save(target, "JPEG", quality=80)
    return _image("image/jpeg", target.getvalue(), "image of a problem")


def _cell(tag: str, value: object, right: bool) -> Html:
    if isinstance(value, int):
        value = f"{value:,}"
    elif isinstance(value, float):
        value = f"{value:,.1f}"
    return element(tag, str(value), **({"kind": "number"} if right else {}))


def _image(kind: str, content: bytes, description: str) -> Html:
    encoded = base64.b64encode(content).decode()
    return Html(f'<img src="data:{kind};base64,{encoded}" alt="{html.escape(description)}">')
