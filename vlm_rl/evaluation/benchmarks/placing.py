"""Images that a text names by their number, such as `<image 2>`.

`form` is how a benchmark writes such a name, with `{}` for the number.
"""

import re
from collections.abc import Sequence

from vlm_rl.records import IMAGE_MARK


def names_image(text: str, form: str) -> bool:
    """Whether `text` names an image."""
    return bool(_numbers(text, form))


def in_order(text: str, there: Sequence[int], form: str) -> list[int]:
    """Return the images that there are in the order in which `text` names them, the unnamed ones
    first."""
    named = [number for number in dict.fromkeys(_numbers(text, form)) if number in there]
    return [number for number in there if number not in named] + named


def marked(text: str, there: Sequence[int], form: str) -> str:
    """Turn the first mention of an image into its mark; a later one stays text. Marks of unnamed
    images come first."""
    for number in there:
        text = text.replace(form.format(number), IMAGE_MARK, 1)
    return IMAGE_MARK * (len(there) - text.count(IMAGE_MARK)) + text


def _numbers(text: str, form: str) -> list[int]:
    before, after = form.split("{}")
    return [int(number) for number in re.findall(rf"{re.escape(before)}(\d){after}", text)]
