"""Images of problems: kept, checked and resized; `vlm_rl.data.image_files` decodes them."""

import hashlib
import io
import math
import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import smart_resize

from vlm_rl.data.downloads import downloaded, not_allowed
from vlm_rl.data.image_files import (
    BadImage,
    Size,
    bad_image,
    has_frames,
    opened,
    regular,
    upright_rgb,
    upright_size,
)
from vlm_rl.data.image_names import is_address, named
from vlm_rl.data.tables import BadRow


class ImageStore:
    """Images as problems hold them: each file is opened once, equal bytes are kept once.

    Images that come as bytes stay in memory up to `most_bytes` together. Those beyond are written
    to a temporary folder, which is removed with the store. Images on the web are fetched with
    `allow_download` and refused without.
    """

    def __init__(self, most_bytes: float = math.inf, *, allow_download: bool = False) -> None:
        self._allow_download = allow_download
        self._addresses: dict[str, bytes | Path] = {}
        self._known: dict[bytes | Path, tuple[str, Size, bool]] = {}
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
                content = regular(path).read_bytes()
            except (OSError, ValueError) as error:
                raise BadRow("no image file", f"image {source!r}: {error}") from error
            self._known[path] = digest(content), *_checked(content, path)
        return path, self._known[path][0]

    def digest_of(self, image: bytes | Path) -> str:
        """Return the digest of the bytes of an image as `add` has returned it."""
        return self._known[image][0]

    def size_of(self, image: bytes | Path) -> Size:
        """Return the size that the header of an image says, as `add` has returned the image."""
        return self._known[image][1]

    def has_frames(self, image: bytes | Path) -> bool:
        """Return whether an image, as `add` has returned it, has more frames than are shown."""
        return self._known[image][2]

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
            checked = _checked(content, content)
            kept = self._kept[name] = self._keep(name, content)
            self._known[kept] = name, *checked
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
        with opened(source) as image:
            return self.num_tokens_at(upright_size(image))

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
        with opened(source) as image:
            size = upright_size(image)
            self._target_size(size)
            decoded = upright_rgb(image, source)
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


def _checked(content: bytes, source: bytes | Path) -> tuple[Size, bool]:
    try:
        with bad_image(source, "cannot be read"), Image.open(io.BytesIO(content)) as image:
            checked = upright_size(image), has_frames(image)
            image.verify()
            return checked
    except BadImage as error:
        raise BadRow("broken image", str(error)) from error
