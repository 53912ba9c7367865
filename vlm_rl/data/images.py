"""Images of problems: kept, checked, decoded and resized.

Images are shown upright: the EXIF orientation of a file is applied, as viewers and chat servers
apply it, so that boxes and the words left and right mean what the one who wrote the row saw.
"""

import hashlib
import io
import math
import shutil
import stat
import struct
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import smart_resize, to_rgb

from vlm_rl.data.downloads import downloaded, not_allowed
from vlm_rl.data.image_names import is_address, named
from vlm_rl.data.tables import BadRow

_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise on malformed files, besides warnings."""


class BadImage(ValueError):
    """An image that cannot be used. The message starts with "image"."""


Size = tuple[int, int]
"""Width and height in pixels."""


class ImageStore:
    """Images as problems hold them: each file is opened once, equal bytes are kept once.

    Images that come as bytes stay in memory up to `most_bytes` together. Those beyond are written
    to a temporary folder, which is removed with the store. Images on the web are fetched with
    `allow_download` and refused without.
    """

    def __init__(self, most_bytes: float = math.inf, *, allow_download: bool = False) -> None:
        self._allow_download = allow_download
        self._addresses: dict[str, bytes | Path] = {}
        self._known: dict[bytes | Path, tuple[str, Size]] = {}
        self._kept: dict[str, bytes | Path] = {}
        self._bytes_left = most_bytes
        self._folder: Path | None = None

    def add(self, item: object, folder: Path) -> tuple[bytes | Path, str]:
        """Return the image as a problem holds it, and the digest of its bytes.

        `item` is anything that `image_names` knows; a path is relative to `folder`. The header is
        checked, the pixels are not decoded. Raises BadRow.
        """
        source = named(item)
        if isinstance(source, bytes):
            return self._add_bytes(source)
        if is_address(source):
            return self._add_address(source)
        path = folder / source
        if path not in self._known:
            try:
                content = _regular(path).read_bytes()
            except (OSError, ValueError) as error:
                raise BadRow("no image file", f"image {source!r}: {error}") from error
            self._known[path] = digest(content), _checked_size(content, path)
        return path, self._known[path][0]

    def digest_of(self, image: bytes | Path) -> str:
        """Return the digest of the bytes of an image as `add` has returned it."""
        return self._known[image][0]

    def size_of(self, image: bytes | Path) -> Size:
        """Return the size that the header of an image says, as `add` has returned the image."""
        return self._known[image][1]

    def _add_address(self, address: str) -> tuple[bytes | Path, str]:
        if not self._allow_download:
            raise not_allowed(address)
        if address not in self._addresses:
            self._addresses[address], _ = self._add_bytes(downloaded(address))
        image = self._addresses[address]
        return image, self._known[image][0]

    def _add_bytes(self, content: bytes) -> tuple[bytes | Path, str]:
        name = digest(content)
        if name not in self._kept:
            size = _checked_size(content, content)
            kept = self._kept[name] = self._keep(name, content)
            self._known[kept] = name, size
        return self._kept[name], name

    def _keep(self, name: str, content: bytes) -> bytes | Path:
        if len(content) <= self._bytes_left:
            self._bytes_left -= len(content)
            return content
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="vlm_rl_images_"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / name
        path.write_bytes(content)
        return path


@dataclass(frozen=True)
class Resizer:
    """Makes images as large as visual tokens need them, as qwen-vl-utils does.

    A visual token shows `merge_size` x `merge_size` patches of `patch_size` x `patch_size` pixels.
    `min_pixels` and `max_pixels` bound the area of an image after resizing. Raises ValueError if
    they cross or are below 1.
    """

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int

    def __post_init__(self) -> None:
        given = f"min_pixels={self.min_pixels} and max_pixels={self.max_pixels}"
        if min(self.min_pixels, self.max_pixels) < 1:
            raise ValueError(
                f"{given} must be above 0, in pixels of area; leave them out for the checkpoint's "
                "own"
            )
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}; "
                "give both, in pixels of area"
            )

    def num_tokens(self, source: bytes | Path) -> int:
        """Return the number of visual tokens, from the header alone. Raises BadImage."""
        with _opened(source) as image:
            return self.num_tokens_at(_upright_size(image))

    def num_tokens_at(self, size: Size) -> int:
        """Return the number of visual tokens of an image of `size`. Raises BadImage."""
        factor = self.patch_size * self.merge_size
        height, width = self._target_size(size)
        return (height // factor) * (width // factor)

    def resized(self, source: bytes | Path) -> Image.Image:
        """Return the decoded image in RGB, resized. Raises BadImage."""
        return self.resized_from(source)[0]

    def resized_from(self, source: bytes | Path) -> tuple[Image.Image, Size]:
        """Return the same and the size of the original, upright. Raises BadImage."""
        with _opened(source) as image:
            size = _upright_size(image)
            self._target_size(size)
            decoded = _upright_rgb(image, source)
            limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
            resized = fetch_image({"image": decoded, **limits}, image_patch_size=self.patch_size)
        assert isinstance(resized, Image.Image)
        return resized, size

    def _target_size(self, size: Size) -> tuple[int, int]:
        """Return height and width, in this order."""
        factor = self.patch_size * self.merge_size
        name = f"image of {size[0]} x {size[1]} pixels"
        try:
            height, width = smart_resize(size[1], size[0], factor, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise BadImage(f"{name}: {error}") from error
        if not height or not width:
            raise BadImage(
                f"{name} is too narrow: less than one visual token high or wide at "
                f"max_pixels={self.max_pixels}"
            )
        return int(height), int(width)


def digest(content: bytes) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:16]


def _regular(path: Path) -> Path:
    """Return the path of a file. Raises OSError; reading a pipe may wait, a device may not end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    return path


def web_file(source: bytes | Path) -> tuple[str, bytes]:
    """Return format and content of a file that any decoder shows as the policy sees the image
    before resizing: the image's own file if it is plain, else a PNG. Raises BadImage."""
    with _opened(source) as image:
        is_plain = (
            image.format in ("JPEG", "PNG")
            and image.mode in ("RGB", "L")
            and _orientation(image) == 1
            and not image.has_transparency_data
            and getattr(image, "n_frames", 1) == 1
        )
        rgb = _upright_rgb(image, source)  # also of a plain one, which may be broken
        if is_plain:
            return str(image.format), source if isinstance(source, bytes) else source.read_bytes()
    buffer = io.BytesIO()
    rgb.save(buffer, "PNG")
    return "PNG", buffer.getvalue()


def _upright_rgb(image: Image.Image, source: bytes | Path) -> Image.Image:
    turn = _TURNS.get(_orientation(image))
    with _bad_image(source, "is broken"):
        rgb: Image.Image = to_rgb(_eight_bit(image))
        return rgb if turn is None else rgb.transpose(turn)


def _checked_size(content: bytes, source: bytes | Path) -> Size:
    try:
        with _bad_image(source, "cannot be read"), Image.open(io.BytesIO(content)) as image:
            size = _upright_size(image)
            image.verify()
            return size
    except BadImage as error:
        raise BadRow("broken image", str(error)) from error


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


def _upright_size(image: Image.Image) -> Size:
    width, height = image.size
    return (height, width) if _orientation(image) >= _FIRST_ON_ITS_SIDE else (width, height)


def _opened(source: bytes | Path) -> Image.Image:
    with _bad_image(source, "cannot be read"):
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else _regular(source))


@contextmanager
def _bad_image(source: bytes | Path, problem: str) -> Iterator[None]:
    """Raise BadImage for what Pillow raises inside."""
    try:
        yield
    except _IMAGE_ERRORS as error:
        name = f"of {len(source)} bytes" if isinstance(source, bytes) else source
        # Pillow's own message for this one holds the address of a buffer
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise BadImage(f"image {name} {problem}: {reason}") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Decode to a mode whose conversion to RGB loses nothing that can be seen.

    Greys of 16 bits and floats are scaled to 8 bits, since converting clips them. Transparency of
    any kind becomes RGBA, which qwen-vl-utils lays on white. It drops every other transparency, and
    so would show the black that usually hides there.
    """
    image.load()
    if image.mode.startswith(("I", "F")):
        scale = 255.0 / _white(image)
        image = image.point(lambda value: value * scale).convert("L")
    return image.convert("RGBA") if image.has_transparency_data else image


def _white(image: Image.Image) -> float:
    """Return the value that means white: by the mode if it says so, else by the brightest pixel."""
    brightest: Any = image.getextrema()[1]
    if image.mode.startswith("I;16") or brightest > 255:
        return 65535.0
    return 1.0 if image.mode == "F" and brightest <= 1 else 255.0
