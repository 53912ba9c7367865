"""The synthetic set: charts, grids to count in and geometry, rendered from a seed.

    python -m data_prep.synthetic --output data/synthetic --train 4096 --val 512 --seed 0

writes `train.jsonl`, `val.jsonl` and `images/*.png`. A scene's split is a function of the scene
itself, so with no seed does a training set hold a validation or test scene.
"""

import argparse
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.scenes import (
    DIFFICULTIES,
    FAMILIES,
    STYLES,
    Family,
    Scene,
    Split,
    draw_question,
    draw_scene,
    render,
    steps,
)
from vlm_rl.disk.files import written_whole
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import say, track

DEFAULT_DIFFICULTY = (2, 3, 4)
"""Difficulty 1 has too few scenes (24 rectangles, 81 charts) to be validated on."""
MAX_ANSWER_SHARE = 0.1
MAX_REDRAWS = 20


@dataclass(frozen=True, eq=False)
class SyntheticProblem:
    """A scene with its question, image and stable uid."""

    uid: str
    scene: Scene
    question: str
    image: Image.Image

    def row(self, image_path: str) -> dict[str, Any]:
        """Return the problem in the on-disk format, its image at `image_path`."""
        return {
            "uid": self.uid,
            "problem": f"<image>{self.question}",
            "answer": str(self.scene.answer),
            "images": [image_path],
            "answer_type": "number",
            "source": "synthetic",
            "task": self.scene.family,
            "split": self.scene.split,
            "meta": {
                "difficulty": self.scene.difficulty,
                "scene": self.scene.digest,
                "steps": {style: steps(self.scene, style) for style in STYLES},
            },
        }


def generate(
    split: Split, count: int, *, seed: int, difficulty: Sequence[int] = DEFAULT_DIFFICULTY
) -> Iterator[SyntheticProblem]:
    """Draw `count` problems of a split; the same arguments give the same problems.

    Families and difficulties alternate, so that any prefix is balanced. Within each of them no
    answer takes more than about `MAX_ANSWER_SHARE` of the problems, if enough others exist. A
    scene may come twice in a long draw. Raises ValueError for a difficulty outside 1 to 4.
    """
    unknown = sorted(set(difficulty) - set(DIFFICULTIES))
    if unknown or not difficulty:
        raise ValueError(f"difficulty is {list(difficulty)}; give one or more of 1, 2, 3, 4")
    return _generate(split, count, seed, tuple(difficulty))


def write(folder: Path, split: Split, count: int, *, seed: int, difficulty: Sequence[int]) -> Path:
    """Write one split into `folder` and return the path of its JSONL file."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    target = folder / f"{split}.jsonl"
    problems = generate(split, count, seed=seed, difficulty=difficulty)
    # the file appears when its images are there, so that whoever waits for it has all
    with written_whole(target) as partial, partial.open("w", encoding="utf-8") as lines:
        for index, problem in enumerate(track(problems, f"{split} problems", total=count)):
            path = images / f"{split}_{index:06d}.png"
            problem.image.save(path)
            row = problem.row(str(path.relative_to(folder)))
            lines.write(json_text(row) + "\n")
    return target


def _generate(
    split: Split, count: int, seed: int, difficulty: tuple[int, ...]
) -> Iterator[SyntheticProblem]:
    rng = random.Random(f"{split}/{seed}")
    kinds = [(family, level) for level in difficulty for family in FAMILIES]
    answers: Counter[tuple[str, int, int]] = Counter()
    for index in range(count):
        family, level = kinds[index % len(kinds)]
        ceiling = 1 + MAX_ANSWER_SHARE * (index // len(kinds) + 1)
        scene = _draw_in_split(rng, family, level, split)
        for _ in range(MAX_REDRAWS):
            if answers[family, level, scene.answer] + 1 <= ceiling:
                break
            scene = _draw_in_split(rng, family, level, split)
        answers[family, level, scene.answer] += 1
        question = draw_question(rng, scene)
        yield SyntheticProblem(f"synthetic-{split}-{seed}-{index}", scene, question, render(scene))


def _draw_in_split(rng: random.Random, family: Family, level: int, split: Split) -> Scene:
    while True:  # every split has scenes of every family and difficulty, as a test shows
        scene = draw_scene(rng, family, level)
        if scene.split == split:
            return scene


def _parse_difficulty(text: str) -> tuple[int, ...]:
    first, _, last = text.partition("-")
    try:
        levels = tuple(range(int(first), int(last or first) + 1))
    except ValueError:
        levels = ()
    if not levels or not set(levels) <= set(DIFFICULTIES):
        raise argparse.ArgumentTypeError(f"{text!r} is not a level or range within 1-4, like 2-4")
    return levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--train", type=int, default=4096, help="training problems")
    parser.add_argument("--val", type=int, default=512, help="validation problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--difficulty",
        type=_parse_difficulty,
        default=DEFAULT_DIFFICULTY,
        metavar="LEVELS",
        help="one level or a range within 1-4 (default 2-4)",
    )
    arguments = parser.parse_args()
    counts: dict[Split, int] = {"train": arguments.train, "val": arguments.val}
    for split, count in counts.items():
        write(arguments.output, split, count, seed=arguments.seed, difficulty=arguments.difficulty)
    say(f"{arguments.train} train and {arguments.val} val problems are in {arguments.output}")


if __name__ == "__main__":
    main()
