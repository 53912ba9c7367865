"""Extension of Griffe: `[P][G]` in a docstring is a shape, not a Markdown link."""

import re
from typing import Any

import griffe

_CODE_OR_SHAPE = re.compile(r"`[^`]*`|\]\[")


class Shapes(griffe.Extension):
    """Escapes the second bracket outside of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = _CODE_OR_SHAPE.sub(
                lambda match: match[0].replace("][", "]\\[", match[0][0] != "`"),
                obj.docstring.value,
            )
