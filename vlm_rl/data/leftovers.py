"""Images that a row names in places that are not read: columns that are left over, and its text.

A row whose image is not loaded would be trained on blind. So a column that is left over is looked
through: its name, and what its values look like.
"""

import re
from collections.abc import Iterator, Mapping

from vlm_rl.data.forms.form import IMAGES
from vlm_rl.data.image_names import is_null, looks_encoded
from vlm_rl.data.tables import BadRow, parsed

_FILE = re.compile(r"[^\n]*\.(?:png|jpe?g|webp|gif|bmp|tiff?|avif)(?:[?#:!]\S*)?", re.IGNORECASE)
_LONGEST_NAME = 1024
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_IMAGE_WORDS = frozenset(
    [
        "image",
        "img",
        "imgs",
        "picture",
        "pic",
        "photo",
        "figure",
        "fig",
        "screenshot",
        "diagram",
        "illustration",
        "thumbnail",
        "visual",
        "media",
        "attachment",
        "pixel",
    ]
)
_PROPERTY_WORDS = frozenset(
    [
        "has",
        "is",
        "num",
        "no",
        "number",
        "count",
        "total",
        "with",
        "width",
        "height",
        "size",
        "sizes",
        "area",
        "resolution",
        "type",
        "kind",
        "format",
        "mode",
        "category",
        "class",
        "caption",
        "description",
        "quality",
        "license",
        "hash",
        "md",
        "sha",
        "aspect",
        "ratio",
        "language",
        "question",
        "prompt",
        "text",
        "tokens",
        "token",
    ]
)
"""Words of columns that say something about an image and do not name one."""
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
    stack = [(column, value)]
    while stack:
        name, one = stack.pop()
        if isinstance(one, str) and one.lstrip().startswith(("[", "{")):
            inside = parsed(one.encode(errors="surrogatepass"))
            one = one if isinstance(inside, BadRow) else inside
        if isinstance(one, Mapping):
            stack += [(str(key), item) for key, item in one.items()]
        elif isinstance(one, list):
            stack += [(name, item) for item in one]
        elif _names_image(name, one):
            return True
    return False


def _names_image(column: str, value: object) -> bool:
    if is_null(value) or isinstance(value, bool):
        return False
    if isinstance(value, str):
        return _in_text_cell(column, value)
    return isinstance(value, bytes) or _about_images(column)


def _about_images(column: str) -> bool:
    """Whether a column would hold images or their names, by the words of its own name."""
    words = [word.lower() for word in _WORD.findall(column)]
    singular = {word.removesuffix("s") for word in words}
    return not _IMAGE_WORDS.isdisjoint(singular) and _PROPERTY_WORDS.isdisjoint(words)


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
    num_spaces = value.strip().count(" ")  # a sentence may end with the name of a file
    return (_about_images(column) and not num_spaces) or (
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
