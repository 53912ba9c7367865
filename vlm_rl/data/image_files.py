"""An image file -> the one RGB image that engine, trainer and servers are shown.

The rule, in this order: the first frame; greys of more than 8 bits and floats scaled to 8 bits, 0
black and white as `_white` says, rounded; what is transparent laid on white; any other colour space
to RGB as Pillow converts it; turned upright as the EXIF orientation says, as viewers and chat
servers do, so that boxes and the words left and right mean what the one who wrote the row saw.
"""

import io
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from qwen_vl_utils.vision_process import to_rgb

_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise on malformed files, besides warnings."""


class BadImage(ValueError):
    """An image that cannot be used. The message starts with "image"."""


Size = tuple[int, int]
"""Width and height in pixels."""


def opened(source: bytes | Path) -> Image.Image:
    """Open a file of which only the header is read. Raises BadImage."""
    with bad_image(source, "cannot be read"):
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else regular(source))


def upright_rgb(image: Image.Image, source: bytes | Path) -> Image.Image:
    """Return an opened image as everyone is shown it. Raises BadImage, which names `source`."""
    turn = _TURNS.get(_orientation(image))
    with bad_image(source, "is broken"):
        rgb: Image.Image = to_rgb(_eight_bit(image))
        return rgb if turn is None else rgb.transpose(turn)


def upright_size(image: Image.Image) -> Size:
    """Return the size that the header says, after turning."""
    width, height = image.size
    return (height, width) if _orientation(image) >= _FIRST_ON_ITS_SIDE else (width, height)


def web_file(source: bytes | Path) -> tuple[str, bytes]:
    """Return format and content of a file that any decoder shows as the policy sees the image
    before resizing: the image's own file if it is plain, else a PNG. Raises BadImage."""
    with opened(source) as image:
        is_plain = (
            image.format in ("JPEG", "PNG")
            and image.mode in ("RGB", "L")
            and _orientation(image) == 1
            and not image.has_transparency_data
            and not _HOW_TO_SHOW & image.info.keys()
            and not has_frames(image)
        )
        rgb = upright_rgb(image, source)  # also of a plain one, which may be broken
        if is_plain:
            return str(image.format), source if isinstance(source, bytes) else source.read_bytes()
    buffer = io.BytesIO()
    rgb.info.clear()  # Pillow would write the colour profile again
    rgb.save(buffer, "PNG")
    return "PNG", buffer.getvalue()


_HOW_TO_SHOW = {"icc_profile", "gamma", "chromaticity"}
"""What a decoder may change colours by, and Pillow does not."""


def has_frames(image: Image.Image) -> bool:
    """Return whether an image has more frames than the first, which is the one that is shown."""
    with suppress(*_IMAGE_ERRORS):  # frames behind a broken second one are not shown either
        return bool(getattr(image, "is_animated", False))
    return True


def regular(path: Path) -> Path:
    """Return the path of a file. Raises OSError; reading a pipe may wait, a device may not end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    return path


@contextmanager
def bad_image(source: bytes | Path, problem: str) -> Iterator[None]:
    """Raise BadImage for what Pillow raises inside."""
    try:
        yield
    except _IMAGE_ERRORS as error:
        name = f"of {len(source)} bytes" if isinstance(source, bytes) else source
        # Pillow's own message for this one holds the address of a buffer
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"image {name} {problem}: {reason}") from error


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""
_FIRST_ON_ITS_SIDE = 5
_ORIENTATION = 0x0112


def _orientation(image: Image.Image) -> int:
    """Return what the header of an image says, 1 if that is nothing or damaged."""
    # Pillow turns TIFF itself, and would decode a PNG to look for what stands behind its pixels
    if "exif" not in image.info or image.format == "TIFF":
        return 1
    try:
        said = image.getexif().get(_ORIENTATION, 1)
    except (*_IMAGE_ERRORS, struct.error, LookupError, TypeError):
        return 1
    return said if said in _TURNS else 1


def _eight_bit(image: Image.Image) -> Image.Image:
    """Decode to a mode whose conversion to RGB loses nothing that can be seen.

    Converting greys of more than 8 bits would clip them. Transparency of any kind becomes RGBA,
    which qwen-vl-utils lays on white. It drops every other transparency, and so would show the
    black that usually hides there.
    """
    image.load()
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        scaled = np.rint(values * (255.0 / _white(values, image.mode)))
        scaled[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(scaled.astype(np.uint8))
    return image.convert("RGBA") if image.has_transparency_data else image


def _white(values: Any, mode: str) -> float:
    """Return the value that means white: 65535 of 16 bits; else the first of 1 (of floats), 255 and
    65535 that no pixel exceeds; else the brightest pixel. Raises ValueError for pixels without a
    meaning."""
    if not np.isfinite(values).all():
        raise ValueError("it holds pixels that are not numbers; replace them")
    darkest, brightest = values.min(), values.max()
    if darkest < 0:
        raise ValueError(f"it holds pixels below 0, the least {darkest:g}; let 0 be black")
    if mode.startswith("I;16"):
        return 65535.0
    whites = (1.0, 255.0, 65535.0) if mode == "F" else (255.0, 65535.0)
    return next((white for white in whites if brightest <= white), float(brightest))
