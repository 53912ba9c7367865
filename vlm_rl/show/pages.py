"""Pages of HTML with everything in them: no script, no file beside them, no network.

Every string is text: templates escape what is put into them, and show what cannot be shown as its
escape in JSON.
"""

import base64
import io
from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from vlm_rl.show.plain import visible


def templates(package: str) -> Environment:
    """Return the templates that lie in a package, `NAME.html.jinja`."""
    return Environment(
        loader=PackageLoader(package, "."),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embedded(save: Callable[..., object], kind: str, description: str) -> Markup:
    """Return an image that `save(target, format=kind)` writes, as part of a page."""
    target = io.BytesIO()
    save(target, format=kind)
    encoded = base64.b64encode(target.getvalue()).decode()
    image = Markup('<img src="data:image/{};base64,{}" alt="{}">')
    return image.format(kind, encoded, description)
