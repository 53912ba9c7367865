"""What a form of rows is: which columns tell it, and which of them are question and answer."""

import re
from collections.abc import Collection
from dataclasses import dataclass

ANSWERS = ("answer", "solution", "reward_model.ground_truth", "ground_truth")
"""Of answers. `ground_truth` comes last: beside `answer` it is the letter of a choice."""
IMAGES = (
    # in sets with both, `image` is only a path and `decoded_image` the image
    *("images", "decoded_image", "image", "image_path", "image_paths", "image_url", "image_urls"),
    *("image_file", "image_files", "img", "imgs", "img_path", "picture", "pictures", "file_name"),
)
SYSTEMS = ("system", "system_prompt")
OPTIONS = ("choices", "options", "option", "candidates")
_NUMBERED = re.compile(r"(?:image|img|picture)_?(\d+)")


@dataclass(frozen=True)
class Form:
    """A way of writing rows, recognised by its columns; a dot reaches into a struct.

    `problem` and `answer` are columns of which the first that is there counts. A column may be
    both: in a chat the user asks and the assistant answers.
    """

    name: str
    problem: tuple[str, ...]
    answer: tuple[str, ...]

    def recognises(self, columns: Collection[str]) -> bool:
        """Whether a row of these columns has a question and an answer of this form."""
        return first(self.problem, columns) is not None and first(self.answer, columns) is not None


def first(names: Collection[str], columns: Collection[str]) -> str | None:
    """Return the first of `names` whose column is there."""
    return next((name for name in names if root(name) in columns), None)


def image_columns(columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns that hold the images: one by its name, or several that are numbered."""
    one = first(IMAGES, columns)
    if one is not None:
        return (one,)
    numbered = [(int(match[1]), name) for name in columns if (match := _NUMBERED.fullmatch(name))]
    return tuple(name for _, name in sorted(numbered))


def root(column: str) -> str:
    """Return the column of a table in which a dotted name begins."""
    return column.partition(".")[0]
