"""Images that a row names in places that are not read: columns that are left over, and its text.

A row whose image is not loaded would be trained on blind. So a column that is left over is looked
through: its name, and what its values look like.
"""

import re
from collections.abc import Iterator, Mapping

from vlm_rl.data.forms.form import IMAGES
from vlm_rl.data.image_names import is_null, looks_encoded

_FILE = re.compile(r"[^\n]*\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif)(?:\?\S*)?", re.IGNORECASE)
_LONGEST_NAME = 1024
_ABOUT_IMAGES = re.compile(
    r"(?!has_|is_|num_|with_|no_)(?:.*_)?(?:image|img|picture|photo|figure|screenshot)s?(?:_?\d+|_?[a-z])?",
    re.IGNORECASE,
)
_NAMES_IMAGES = re.compile(
    r"(?:image|img|picture|photo)s?_?(?:id|ids|name|names|key|keys|path|paths|file|files|url|urls)",
    re.IGNORECASE,
)
_OTHER_MEDIA = ("video", "videos", "audio", "audios")
_IN_TEXT = re.compile(
    r"<img\b[^>]*\bsrc\s*=[^>]*>|<img>[^<]+</img>|!\[[^\]\n]*\]\([^)\s]+\)|data:image/\w+",
    re.IGNORECASE,
)
_OTHER_MARKS = re.compile(
    r"<image[\s_]?\d+>|<\|image(?:_\d+)?\|>|<image_placeholder>|<ImageHere>|<img>|\[IMG\]",
    re.IGNORECASE,
)
_NUMBERED_MARK = re.compile(r"<image[\s_]?(\d+)>|<\|image_(\d+)\|>", re.IGNORECASE)


def image_in(column: str, value: object) -> bool:
    """Whether a column that is left over names an image by its value or by its own name."""
    if is_null(value):
        return False
    if isinstance(value, str):
        return _in_text_cell(column, value)
    if isinstance(value, bytes):
        return True
    if isinstance(value, Mapping):
        return any(image_in(str(key), one) for key, one in value.items())
    if isinstance(value, list):
        return any(image_in(column, one) for one in value)
    return _NAMES_IMAGES.fullmatch(column) is not None and not isinstance(value, bool)


def is_other_media(column: str, value: object) -> bool:
    """Whether a column holds videos or sound, which no prompt can."""
    return column.lower() in _OTHER_MEDIA and not is_null(value)


def same_image_again(column: str) -> bool:
    """Whether a column is known to repeat the image of another: its path beside its bytes."""
    return column in IMAGES or _NAMES_IMAGES.fullmatch(column) is not None


def is_key(column: str) -> bool:
    """Whether a column has keys of images, which are no use beside the images themselves."""
    return column.lower().endswith(("id", "ids", "key", "keys"))


def image_in_text(text: str) -> str | None:
    """Return what in a text names an image or stands for one, but for our own mark."""
    match = _IN_TEXT.search(text) or _OTHER_MARKS.search(text)
    return match[0] if match else None


def with_our_marks(text: str, num_images: int, mark: str) -> str:
    """Replace marks that are numbered 1, 2, ... in this order, one for each image, by ours."""
    numbers = [int(match[1] or match[2]) for match in _NUMBERED_MARK.finditer(text)]
    in_order = numbers and numbers == list(range(1, num_images + 1))
    return _NUMBERED_MARK.sub(mark, text) if in_order else text


def without_bytes(value: object) -> object:
    """Return a copy of a cell in which bytes are None, for `meta`."""
    if isinstance(value, Mapping):
        return {key: without_bytes(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_bytes(one) for one in value]
    return None if isinstance(value, bytes) else value


def _in_text_cell(column: str, value: str) -> bool:
    if _NAMES_IMAGES.fullmatch(column) or looks_encoded(value):
        return True
    if len(value) > _LONGEST_NAME:
        return False
    known = column in IMAGES or _ABOUT_IMAGES.fullmatch(column) is not None
    num_spaces = value.strip().count(" ")  # a sentence may end with the name of a file
    return (known and not num_spaces) or (
        num_spaces < 3 and _FILE.fullmatch(value.strip()) is not None
    )


def marks_are_text(text: str, mark: str) -> Iterator[bool]:
    """Yield of each mark whether it is a word of a sentence: words stand before and behind it."""
    for line in text.splitlines():
        before = ""
        *parts, last = line.split(mark)
        for number, part in enumerate(parts):
            before += part
            behind = "".join((*parts[number + 1 :], last))
            yield bool(before.strip()) and bool(behind.strip())
