"""What is measured: points by name, and the series of points along which work grows."""

import re
from dataclasses import dataclass, replace
from typing import Literal

Stage = Literal["update", "old", "rollout", "step"]
Scale = Literal["standard", "tiny"]


@dataclass(frozen=True)
class Point:
    """One piece of work, the same for both trainers.

    A prompt has `num_images` images of `image_tokens` tokens each and `text_tokens` others. A group
    has `group_size` answers of `answer_tokens`, in a rollout and in a step the most that an answer
    may have. A step does `num_updates` updates with the shipped tiny policy and its data; the other
    stages have a random `model` of `against_trl.shapes`, with `vocabulary` tokens if not its own.
    """

    name: str
    stage: Stage
    answer_tokens: int
    image_tokens: int = 324
    text_tokens: int = 84
    num_images: int = 1
    group_size: int = 8
    num_prompts: int = 1
    num_updates: int = 1
    model: str = "middle"
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        if round(self.image_tokens**0.5) ** 2 != self.image_tokens:
            raise ValueError(f"image_tokens must be a square number, got {self.image_tokens}")

    @property
    def has_memory(self) -> bool:
        """Whether the peak of memory is measured as well."""
        return self.stage == "update"

    def tiny(self) -> "Point":
        """Return the same kind of work in seconds: it tests the measurement, and says nothing."""
        return replace(
            self,
            answer_tokens=min(self.answer_tokens, 6),
            image_tokens=min(self.image_tokens, 16),
            text_tokens=48,
            group_size=2,
            num_prompts=min(self.num_prompts, 2),
            model="tiny",
            vocabulary=None,
        )


NAMES = (
    (r"update_(\d+)", lambda n: Point("", "update", n)),
    (r"old_(\d+)", lambda n: Point("", "old", n)),
    (r"rollout_(\d+)", lambda n: Point("", "rollout", n, num_prompts=4)),
    (r"step_(\d+)", lambda n: Point("", "step", 64, num_prompts=16, num_updates=n)),
    (r"update_text_(\d+)", lambda n: Point("", "update", n, image_tokens=0, text_tokens=400)),
    (r"old_text_(\d+)", lambda n: Point("", "old", n, image_tokens=0, text_tokens=400)),
    (r"update_image1024_(\d+)", lambda n: Point("", "update", n, image_tokens=1024)),
    (
        r"update_vocab152k_(\d+)",
        lambda n: Point("", "update", n, model="small", vocabulary=151936),
    ),
)
"""The last number of a name is that of answer tokens; of a step, that of updates."""

DEFAULT = (
    "update_100,update_text_100,update_500,update_1000,update_image1024_200,update_vocab152k_100,"
    "old_100,old_500,rollout_64,rollout_256,rollout_512,step_1,step_2"
)

GROWTH = {
    "answers": [Point(f"answers_{n}", "update", n) for n in (50, 100, 200, 500, 1000, 2000)],
    "prompts": [
        Point(f"prompts_{n}", "update", 100, image_tokens=image, text_tokens=n - image)
        # a picture makes four fifths of a prompt or a little less
        for n, image in ((256, 196), (512, 400), (1024, 784), (2048, 1600), (4096, 3136))
    ],
    "group": [Point(f"group_{n}", "update", 100, group_size=n) for n in (2, 4, 8, 16, 32)],
    "images": [Point(f"images_{n}", "update", 100, num_images=n) for n in (1, 2, 4, 8)],
    "vocabulary": [
        Point(f"vocabulary_{n}", "update", 100, model="small", vocabulary=n)
        for n in (1024, 8192, 32768, 151936)
    ],
}
"""Update points by what grows; the number in a name is what the curve is drawn over."""


def named(name: str) -> Point:
    """Return the point of this name. Raises ValueError for one that there is not."""
    for pattern, build in NAMES:
        if found := re.fullmatch(pattern, name):
            number = int(found[1])
            if number < 1:
                raise ValueError(f"the number in {name!r} must be >= 1")
            return replace(build(number), name=name)
    known = ", ".join(pattern.replace(r"(\d+)", "N") for pattern, _ in NAMES)
    raise ValueError(f"no point is called {name!r}; there are {known}")
