"""One image for everyone: random pixels in every mode, turned every way, against the stated rule.

Engine and trainer have the encoder's image; what a server is sent is decoded here. Broken on
purpose, one at a time, each seen red: greys rounded down; white of 16 bits by the brightest pixel;
white of large numbers left at 65535; pixels that are not numbers, and negative ones, let through;
transparency of greys of 16 bits dropped; a file with a colour profile or several frames sent as it
is; turned before transparency is laid on white, of the wrong way; frames not counted.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.support.tiny import png
from vlm_rl.data.image_files import BadImage, opened, upright_rgb, web_file
from vlm_rl.data.images import ImageStore, Resizer
from vlm_rl.data.rows import read_problems

Pixels = NDArray[np.generic]
HEIGHT, WIDTH = 32, 48
WHITE = 255.0


def numbers(seed: int, top: float, *channels: int) -> NDArray[np.float64]:
    """Return random whole numbers up to `top`, which is among them, as 0 is."""
    values = np.random.default_rng(seed).integers(0, int(top) + 1, (HEIGHT, WIDTH, *channels))
    values[0, 0], values[-1, -1] = 0, int(top)
    return values.astype(np.float64)


def grey(values: Pixels) -> Pixels:
    return np.dstack([values] * 3)


def on_white(colours: Pixels, alpha: Pixels) -> Pixels:
    share = alpha[..., None] / 255
    return colours * share + WHITE * (1 - share)


def bits(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 1)
    return Image.fromarray(values > 0), grey(values * 255)


def eight(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 255)
    return Image.fromarray(values.astype(np.uint8)), grey(values)


def colours(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 255, 3)
    return Image.fromarray(values.astype(np.uint8)), values


def sixteen(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, (257, 3000, 65535)[seed % 3])
    return Image.fromarray(values.astype(np.uint16)), grey(values / 257)


def sixteen_of_eight(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 255)
    return Image.fromarray((257 * values).astype(np.uint16)), grey(values)


def whole(seed: int) -> tuple[Image.Image, Pixels]:
    top = (255, 65535, 2**31 - 1)[seed % 3]
    values = numbers(seed, top)
    return Image.fromarray(values.astype(np.int32)), grey(values / top * 255)


def floats(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 2**16) / 2**16
    top = (1.0, 255.0, 65535.0)[seed % 3]
    shown = values.astype(np.float32) * np.float32(top)
    return Image.fromarray(shown), grey(shown.astype(np.float64) / top * 255)


def rgba(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 255, 4)
    return Image.fromarray(values.astype(np.uint8)), on_white(values[..., :3], values[..., 3])


def la(seed: int) -> tuple[Image.Image, Pixels]:
    values = numbers(seed, 255, 2)
    image = Image.fromarray(values.astype(np.uint8), "LA")
    return image, on_white(grey(values[..., 0]), values[..., 1])


def palette(seed: int) -> tuple[Image.Image, Pixels]:
    table = np.random.default_rng(seed).integers(0, 256, (16, 3))
    index = numbers(seed, 15).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette(table.astype(np.uint8).tobytes())
    return image, table[index]


def transparent_palette(seed: int) -> tuple[Image.Image, Pixels]:
    image, shown = palette(seed)
    alpha = np.random.default_rng(seed + 1).integers(0, 256, 16)
    image.info["transparency"] = bytes(alpha.tolist())
    return image, on_white(shown, alpha[np.asarray(image)])


def cmyk(seed: int) -> tuple[Image.Image, Pixels]:
    inks = numbers(seed, 255, 4)
    black = 255 - inks[..., 3:]
    return Image.fromarray(inks.astype(np.uint8), "CMYK"), black - inks[..., :3] * black / 255


def file_of(image: Image.Image, file_format: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"transparency": image.info["transparency"]} if "transparency" in image.info else {}
    return png(image, file_format, exif=exif, **options)


MODES: dict[str, tuple[Callable[[int], tuple[Image.Image, Pixels]], str, str]] = {
    "1": (bits, "PNG", "1"),
    "L": (eight, "PNG", "L"),
    "RGB": (colours, "PNG", "RGB"),
    "I;16": (sixteen, "PNG", "I;16"),
    "I;16 tiff": (sixteen, "TIFF", "I;16"),
    "I;16 of 8 bits": (sixteen_of_eight, "PNG", "I;16"),
    "I": (whole, "TIFF", "I"),
    "F": (floats, "TIFF", "F"),
    "RGBA": (rgba, "PNG", "RGBA"),
    "LA": (la, "PNG", "LA"),
    "P": (palette, "PNG", "P"),
    "P transparent": (transparent_palette, "PNG", "P"),
    "CMYK": (cmyk, "TIFF", "CMYK"),
}
TURNED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}
"""What the EXIF specification says of where the first row and column are."""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", TURNED)
def test_every_mode_turned_every_way_is_the_image_of_the_rule_for_everyone(
    mode: str, orientation: int
) -> None:
    """Exact but for half a step of rounding, one of Pillow's own where colours are mixed."""
    draw, file_format, opens_as = MODES[mode]
    within = 0.5 if opens_as in ("1", "L", "RGB", "I;16", "I", "F") else 1.0
    resizer = Resizer(8, 2, 1, 2**24)  # the size is one that it keeps
    for seed in range(3):
        image, upright = draw(seed)
        content = file_of(image, file_format, orientation)
        with Image.open(io.BytesIO(content)) as written:
            assert written.mode == opens_as
        shown = resizer.resized(content)
        expected = TURNED[orientation](upright)
        assert shown.mode == "RGB"
        assert np.abs(np.asarray(shown).astype(float) - expected).max() <= within + 1e-9
        kind, sent = web_file(content)
        with Image.open(io.BytesIO(sent)) as decoded:
            assert decoded.format == kind
            for server in (decoded.convert("RGB"), ImageOps.exif_transpose(decoded).convert("RGB")):
                assert server.tobytes() == shown.tobytes()
        assert resizer.resized(sent).tobytes() == shown.tobytes(), "shown again, the same"


@pytest.mark.parametrize(("draw", "value"), [(sixteen, 7), (eight, 7), (colours, (1, 2, 3))])
def test_transparent_colour_is_white(
    draw: Callable[[int], tuple[Image.Image, Pixels]], value: int | tuple[int, int, int]
) -> None:
    image, upright = draw(2)
    at = np.zeros((HEIGHT, WIDTH), bool)
    at[5:9, 3:7] = True
    pixels = np.asarray(image).copy()
    pixels[at] = value
    content = png(Image.fromarray(pixels), transparency=value)
    shown = np.asarray(upright_rgb(opened(content), content))
    assert (shown[at] == 255).all()
    kept = ~at & (pixels != value if pixels.ndim == 2 else (pixels != value).any(-1))
    assert np.abs(shown[kept] - upright[kept]).max() <= 0.5
    assert web_file(content)[1] != content


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "not numbers"), (np.inf, "not numbers"), (-1.0, "below 0, the least -1; let 0 be")],
)
def test_pixels_without_a_meaning_are_refused_in_one_line(value: float, reason: str) -> None:
    pixels = numbers(0, 1).astype(np.float32)
    pixels[3, 4] = value
    content = png(Image.fromarray(pixels), "TIFF")
    with pytest.raises(BadImage, match=r"^image of \d+ bytes is broken: it holds pixels") as raised:
        Resizer(8, 2, 1, 2**24).resized(content)
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_is_shown_and_counted(file_format: str, tmp_path: Path) -> None:
    first, second = colours(0)[0], colours(1)[0]
    options = {"lossless": True} if file_format == "WEBP" else {}
    alone = png(first, file_format, **options)
    animated = png(first, file_format, save_all=True, append_images=[second], **options)
    shown = upright_rgb(opened(animated), animated)
    assert shown.tobytes() == upright_rgb(opened(alone), alone).tobytes()
    assert Image.open(io.BytesIO(web_file(animated)[1])).convert("RGB").tobytes() == shown.tobytes()
    assert not getattr(Image.open(io.BytesIO(web_file(animated)[1])), "is_animated", False)
    for name, content in (("alone", alone), ("animated", animated)):
        (tmp_path / name).write_bytes(content)
    rows = [
        {"problem": f"{i}?", "answer": "1", "images": [name]}
        for i, name in enumerate(("alone", "animated", "animated"))
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = read_problems(str(source), ImageStore(), owners={}).lines
    said = [line for line in lines if "frame" in line]
    assert said == ["2 rows: an image has several frames, of which the first is shown"]


def test_file_that_servers_may_colour_otherwise_is_sent_as_a_plain_one() -> None:
    image, _ = colours(0)
    plain = png(image)
    profiled = png(image, icc_profile=b"a profile")
    assert web_file(plain) == ("PNG", plain)
    kind, sent = web_file(profiled)
    assert kind == "PNG"
    with Image.open(io.BytesIO(sent)) as decoded:
        assert "icc_profile" not in decoded.info
        assert decoded.tobytes() == image.tobytes()
