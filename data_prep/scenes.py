"""The three task families of the synthetic set: what is drawn, how, and what the answer is.

Every image is a row of parts, and every answer is the sum of their values:

* `chart`: bars, whose values are their heights;
* `counting`: rows of coloured cells, whose values are the numbers of cells of the asked colour;
* `geometry`: rectangles, whose values are their areas.

Shapes sit on the 16-pixel grid in which a Qwen-VL with 8-pixel patches merges its image. A policy
of a million parameters can learn to read them, but not printed digits or arrows. The number of
parts is the depth: each part needs one more addition, so writing out the running total helps, and
costs tokens.
"""

import hashlib
import random
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from PIL import Image, ImageDraw

Family = Literal["chart", "counting", "geometry"]
Split = Literal["train", "val", "test"]
Style = Literal["full", "abbreviated", "direct"]

FAMILIES: tuple[Family, ...] = get_args(Family)
STYLES: tuple[Style, ...] = get_args(Style)
DIFFICULTIES = range(1, 5)

CELL = 16
"""Pixels of one merged patch; both sides of every image are multiples."""
GRID_COLUMNS = 4
MAX_BAR, MAX_WIDTH, MAX_HEIGHT = 9, 4, 5
COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 80, 200),
}
TINTS = tuple(product((190, 255), repeat=3))
"""Background of part a, b, c, ..., by which a small policy finds the part to read."""
_FAINT = (225, 225, 225)


@dataclass(frozen=True)
class Scene:
    """The content of a problem. `parts` are bar heights (h,), grid rows of indices into `COLORS`,
    or rectangles (width, height); `color` is the asked one, or that of the shapes."""

    family: Family
    difficulty: int
    parts: tuple[tuple[int, ...], ...]
    color: str

    @property
    def digest(self) -> str:
        """Hash of all that decides the answer; the colour only if it is asked for."""
        asked = self.color if self.family == "counting" else ""
        return hashlib.sha256(f"{self.family}{asked}{self.parts}".encode()).hexdigest()[:16]

    @property
    def split(self) -> Split:
        """The split of this scene for every seed: 80, 10 and 10 % of all scenes."""
        tenth = int(self.digest, 16) % 10
        return "train" if tenth < 8 else "val" if tenth == 8 else "test"

    @property
    def values(self) -> tuple[int, ...]:
        """What each part adds to the answer."""
        return tuple(_VALUE[self.family](self, part) for part in self.parts)

    @property
    def answer(self) -> int:
        return sum(self.values)


def draw_scene(rng: random.Random, family: Family, difficulty: int) -> Scene:
    """Draw a scene; `difficulty` 1 to 4 gives 2 4 6 8 bars, 2 to 5 rows, or 1 to 4 rectangles."""
    color = rng.choice(tuple(COLORS))
    parts: tuple[tuple[int, ...], ...]
    if family == "chart":
        parts = tuple((rng.randint(1, MAX_BAR),) for _ in range(2 * difficulty))
    elif family == "counting":
        parts = _draw_rows(rng, difficulty + 1, tuple(COLORS).index(color))
    else:
        parts = tuple(
            (rng.randint(1, MAX_WIDTH), rng.randint(1, MAX_HEIGHT)) for _ in range(difficulty)
        )
    return Scene(family, difficulty, parts, color)


def draw_question(rng: random.Random, scene: Scene) -> str:
    """Return one of the family's wordings, without the image mark."""
    return rng.choice(QUESTIONS[scene.family]).format(color=scene.color)


def steps(scene: Scene, style: Style) -> str:
    """Return the working before the answer: a running total after every part (`full`), after every
    second part (`abbreviated`), or nothing (`direct`)."""
    if style == "direct":
        return ""
    stride = 1 if style == "full" else 2
    lines = []
    for start in range(0, len(scene.parts), stride):
        end = min(start + stride, len(scene.parts))
        line = "".join(_part(scene, index, style) for index in range(start, end))
        if end > 1:
            line += f"={sum(scene.values[:end])}"
        lines.append(line)
    return ";".join(lines)


def completion(scene: Scene, style: Style) -> str:
    """Return the steps and the boxed answer."""
    return f"{steps(scene, style)} \\boxed{{{scene.answer}}}".lstrip()


def render(scene: Scene) -> Image.Image:
    """Draw the scene; both sides of the RGB image are multiples of `CELL`."""
    size = (4 * CELL, 5 * CELL) if scene.family == "counting" else (8 * CELL, 2 * CELL)
    image = Image.new("RGB", size, TINTS[-1])
    _RENDER[scene.family](ImageDraw.Draw(image), scene)
    return image


QUESTIONS: Mapping[Family, tuple[str, ...]] = {
    "chart": (
        "What is the sum of the bars?",
        "Add up all the bars.",
        "How high are all bars together?",
    ),
    "counting": (
        "How many cells are {color}?",
        "Count the {color} cells.",
        "What is the number of {color} cells?",
    ),
    "geometry": (
        "What is the total area of the rectangles?",
        "Add up the areas of the rectangles.",
        "How large are all rectangles together?",
    ),
}


def _draw_rows(rng: random.Random, rows: int, asked: int) -> tuple[tuple[int, ...], ...]:
    """Draw rows of cells. The share of the asked colour is drawn per scene, so that all counts are
    about as frequent; a fixed share would pile them up."""
    share = rng.random()
    others = [color for color in range(len(COLORS)) if color != asked]
    return tuple(
        tuple(asked if rng.random() < share else rng.choice(others) for _ in range(GRID_COLUMNS))
        for _ in range(rows)
    )


def _part(scene: Scene, index: int, style: Style) -> str:
    """Return the part's letter and value; full working computes an area from its sides."""
    name = string.ascii_lowercase[index]
    if style == "full" and scene.family == "geometry":
        width, height = scene.parts[index]
        return f"{name}{width}*{height}:{scene.values[index]}"
    return f"{name}{scene.values[index]}"


def _bar(scene: Scene, part: tuple[int, ...]) -> int:
    return part[0]


def _matches(scene: Scene, part: tuple[int, ...]) -> int:
    return part.count(tuple(COLORS).index(scene.color))


def _area(scene: Scene, part: tuple[int, ...]) -> int:
    return part[0] * part[1]


def _render_bars(draw: ImageDraw.ImageDraw, scene: Scene) -> None:
    unit, floor = 3, 2 * CELL - 1
    for column, (height,) in enumerate(scene.parts):
        left = column * CELL
        draw.rectangle((left, 0, left + CELL - 1, floor), fill=TINTS[column])
        for level in range(1, MAX_BAR + 1):
            draw.line((left, floor - level * unit, left + CELL - 1, floor - level * unit), _FAINT)
        box = (left + 2, floor - height * unit + 1, left + CELL - 3, floor)
        draw.rectangle(box, fill=COLORS[scene.color])


def _render_cells(draw: ImageDraw.ImageDraw, scene: Scene) -> None:
    colors = tuple(COLORS.values())
    for row, cells in enumerate(scene.parts):
        top = row * CELL
        draw.rectangle((0, top, GRID_COLUMNS * CELL - 1, top + CELL - 1), fill=TINTS[row])
        for column, color in enumerate(cells):
            left = column * CELL
            box = (left + 2, top + 2, left + CELL - 3, top + CELL - 3)
            draw.rectangle(box, fill=colors[color])


def _render_rectangles(draw: ImageDraw.ImageDraw, scene: Scene) -> None:
    unit, slot, floor = 6, 2 * CELL, 2 * CELL - 1
    for column, (width, height) in enumerate(scene.parts):
        left = column * slot
        draw.rectangle((left, 0, left + slot - 1, floor), fill=TINTS[column])
        for x in range(left, left + MAX_WIDTH * unit + 1, unit):
            draw.line((x, floor - MAX_HEIGHT * unit, x, floor), _FAINT)
        for y in range(floor, floor - MAX_HEIGHT * unit - 1, -unit):
            draw.line((left, y, left + MAX_WIDTH * unit, y), _FAINT)
        box = (left, floor - height * unit + 1, left + width * unit - 1, floor)
        draw.rectangle(box, fill=COLORS[scene.color])


_VALUE: Mapping[Family, Callable[[Scene, tuple[int, ...]], int]] = {
    "chart": _bar,
    "counting": _matches,
    "geometry": _area,
}
_RENDER: Mapping[Family, Callable[[ImageDraw.ImageDraw, Scene], None]] = {
    "chart": _render_bars,
    "counting": _render_cells,
    "geometry": _render_rectangles,
}
