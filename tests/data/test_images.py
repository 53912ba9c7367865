"""Images: what people photograph, draw and break, and how large it becomes.

Broken on purpose, one at a time, each seen red:
16-bit greys scaled by their brightest pixel only; floats up to 1 taken as 8 bits; transparency
dropped; the checkpoint's patch size not handed on to resizing; images thinner than a token let
through; the aspect ratio not looked at before decoding; images not decoded there; ValueError of
decoders not caught, Pillow's own message for unknown formats; EXIF orientation not applied, applied
to pixels only, 5 and 7 exchanged.
"""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from qwen_vl_utils import process_vision_info

from tests.support.tiny import FAMILIES, picture, png, png_header, problem
from vlm_rl.data.image_files import web_file
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import BadProblem, PromptEncoder
from vlm_rl.records import Problem


@pytest.fixture(scope="module")
def encoder(checkpoints: dict[str, Path]) -> PromptEncoder:
    return PromptEncoder(str(checkpoints["qwen2_5_vl"]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(33, 47), (20, 300), (500, 400), (5, 9), (1, 150)])
@pytest.mark.parametrize("limits", [(1024, 4096), (16384, 32768)])
def test_images_are_resized_as_by_qwen_vl_utils_within_the_limits(
    family: str, size: tuple[int, int], limits: tuple[int, int], checkpoints: dict[str, Path]
) -> None:
    least, most = limits
    encoder = PromptEncoder(str(checkpoints[family]), min_pixels=least, max_pixels=most)
    asked = problem("What is it?", size)
    (image,) = encoder.encode(asked).images
    chat = [{"role": "user", "content": [{"type": "image", "image": picture(*size)}]}]
    chat[0]["content"][0] |= {"min_pixels": least, "max_pixels": most}
    (official,), _ = process_vision_info(chat, image_patch_size=8)
    assert np.array_equal(np.asarray(image), np.asarray(official))
    assert image.width % 16 == image.height % 16 == 0
    assert least <= image.width * image.height <= most
    assert encoder.count_tokens(asked) == len(encoder.encode(asked))


def _damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


PNG, JPEG = png(picture(48, 64)), png(picture(48, 64), "JPEG")
UNKNOWN = "cannot be read: unknown format"
BAD_IMAGES: dict[str, tuple[bytes | str, str]] = {
    "no bytes": (b"", f"image of 0 bytes {UNKNOWN}"),
    "text bytes": (b"hello", f"image of 5 bytes {UNKNOWN}"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', UNKNOWN),
    "header cut off": (PNG[:20], "image of 20 bytes cannot be read: Truncated File Read"),
    "png cut off": (PNG[:4000], "image of 4000 bytes is broken: image file is truncated"),
    "jpeg cut off": (JPEG[:-800], "is broken: image file is truncated"),
    "png damaged": (_damaged(PNG), "is broken: broken data stream"),
    "number damaged": (b"P6 2x 2 255\n", "cannot be read: "),
    "decompression bomb": (png_header(20000, 20000), "could be decompression bomb"),
    "absurdly wide": (png(picture(10, 3000)), "image of 3000 x 10 pixels: absolute aspect ratio"),
    "too narrow": (png(picture(40, 6000)), "is too narrow: less than one visual token"),
    "missing file": ("absent.png", "absent.png cannot be read: [Errno 2] No such file"),
    "empty file": ("empty.png", f"empty.png {UNKNOWN}"),
    "text file": ("text.png", f"text.png {UNKNOWN}"),
    "folder": ("folder", "folder cannot be read: not a regular file"),
    "pipe": ("pipe", "pipe cannot be read: not a regular file"),
    "device": ("/dev/zero", "/dev/zero cannot be read: not a regular file"),
    "no file name": ("a\0b", "cannot be read: embedded null byte"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_image_is_answered_by_one_line_with_uid_and_reason(
    kind: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    content, reason = BAD_IMAGES[kind]
    source = tmp_path / content if isinstance(content, str) else content
    encoder = PromptEncoder(str(checkpoints["qwen3_vl"]), max_pixels=16384)
    with pytest.raises(BadProblem, match=r"^problem geo-12: image ") as raised:
        encoder.encode(Problem("geo-12", "What is it?", "a", (source,)))
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "0x" not in str(raised.value)


def _gradient(top: float) -> np.ndarray:
    return np.linspace(0, top, 48 * 64).reshape(48, 64)


def _drawing(mode: str) -> Image.Image:
    """Black on transparency, as many diagrams are; what is transparent is black underneath."""
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, :32] = 255
    image = Image.fromarray(np.dstack([np.zeros((48, 64, 3), np.uint8), alpha]))
    if mode == "P":
        indexed = Image.fromarray((alpha == 0).astype(np.uint8)).convert("P")
        indexed.putpalette([0] * 6)
        indexed.info["transparency"] = 1
        return indexed
    return image.convert(mode)


COLOURED = picture(48, 64)
GREY_RAMP = _gradient(255)
LEFT_BLACK = np.where(np.arange(64) < 32, 0.0, 255.0) * np.ones((48, 1))
ODD_IMAGES: dict[str, tuple[bytes, np.ndarray]] = {
    "16-bit grey": (png(Image.fromarray(_gradient(65535).astype(np.uint16))), GREY_RAMP),
    "16-bit grey tiff": (
        png(Image.fromarray(_gradient(65535).astype(np.uint16)), "TIFF"),
        GREY_RAMP,
    ),
    "dark 16-bit grey": (png(Image.fromarray(_gradient(255).astype(np.uint16))), GREY_RAMP / 257),
    "32-bit grey": (png(Image.fromarray(_gradient(65535).astype(np.int32)), "TIFF"), GREY_RAMP),
    "float to 1": (png(Image.fromarray(_gradient(1).astype(np.float32)), "TIFF"), GREY_RAMP),
    "float to 255": (png(Image.fromarray(_gradient(255).astype(np.float32)), "TIFF"), GREY_RAMP),
    "8-bit grey": (png(Image.fromarray(_gradient(255).astype(np.uint8))), GREY_RAMP),
    "1-bit": (png(Image.fromarray(LEFT_BLACK > 0)), LEFT_BLACK),
    "RGBA": (png(_drawing("RGBA")), LEFT_BLACK),
    "LA": (png(_drawing("LA")), LEFT_BLACK),
    "palette with transparency": (png(_drawing("P")), LEFT_BLACK),
    "palette": (png(COLOURED.quantize(16)), np.asarray(COLOURED.quantize(16).convert("RGB"))),
    "webp": (png(COLOURED, "WEBP", lossless=True), np.asarray(COLOURED)),
    "CMYK": (
        png(Image.new("CMYK", (64, 48), (0, 255, 255, 0)), "JPEG"),
        np.full((48, 64, 3), (255, 0, 0)),
    ),
}


@pytest.mark.parametrize("kind", ODD_IMAGES)
def test_every_kind_of_image_shows_the_right_pixels(kind: str, encoder: PromptEncoder) -> None:
    content, expected = ODD_IMAGES[kind]
    (image,) = encoder.encode(Problem("p", "What is it?", "a", (content,))).images
    expected = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    difference = np.asarray(image).astype(float) - expected
    assert np.abs(difference).max() <= 1  # rounding


def _turned(file_format: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return png(COLOURED, file_format, exif=exif)


TO_SERVERS = {name: content for name, (content, _) in ODD_IMAGES.items()} | {
    "plain": png(COLOURED),
    "jpeg": png(COLOURED, "JPEG"),
    "turned": _turned("JPEG"),
    "turned png": _turned("PNG"),
    "animated": png(COLOURED, "GIF", save_all=True, append_images=[COLOURED.rotate(90)]),
}


@pytest.mark.parametrize("kind", TO_SERVERS)
def test_file_for_a_server_shows_what_the_policy_sees(
    kind: str, encoder: PromptEncoder, tmp_path: Path
) -> None:
    """To one that turns images upright and to one that does not; transparency is gone."""
    content = TO_SERVERS[kind]
    (seen,) = encoder.encode(Problem("p", "What is it?", "a", (content,))).images
    (tmp_path / "image").write_bytes(content)
    kind_sent, sent = web_file(content)
    assert web_file(tmp_path / "image") == (kind_sent, sent)
    with Image.open(io.BytesIO(sent)) as image:
        assert image.format == kind_sent
        assert not image.has_transparency_data
        for shown in (image.convert("RGB"), ImageOps.exif_transpose(image).convert("RGB")):
            (again,) = encoder.encode(Problem("p", "Or?", "a", (png(shown),))).images
            assert again.tobytes() == seen.tobytes()
    if kind in ("plain", "jpeg", "8-bit grey"):
        assert sent == content, "as it is"


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_images_are_shown_upright(
    file_format: str, orientation: int, encoder: PromptEncoder
) -> None:
    """As Pillow turns a decoded image; 0 and 9 are no orientation. The header says the size."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = png(COLOURED, file_format, exif=exif)
    asked = Problem("p", "What is it?", "a", (content,))
    prompt = encoder.encode(asked)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert prompt.images[0].size == upright.size
    assert upright.size == ((48, 64) if orientation in (5, 6, 7, 8) else (64, 48))
    assert np.array_equal(np.asarray(prompt.images[0]), np.asarray(upright.convert("RGB")))
    store = ImageStore()
    image, _ = store.add(content, Path())
    assert store.size_of(image) == upright.size
    assert encoder.count_tokens(asked) == len(prompt)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_turns_nothing(encoder: PromptEncoder) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    written = exif.tobytes()
    for cut in range(len(b"Exif\0\0"), len(written)):
        content = png(COLOURED, "JPEG", exif=written[:cut])
        prompt = encoder.encode(Problem("p", "What is it?", "a", (content,)))
        assert prompt.images[0].size in ((64, 48), (48, 64))


def test_limits_that_cross_are_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="min_pixels=1024 is above max_pixels=256; give both"):
        PromptEncoder(str(checkpoints["qwen2_5_vl"]), max_pixels=256)
