"""What a tracker shows beside scalars, which Lightning's `Logger` asks of it."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image

from vlm_rl.show.markdown import table

TableRows = Sequence[Sequence[Any]]


class Tracker(Logger):
    """A logger that also shows samples with their images, and alerts."""

    @abstractmethod
    def show_samples(self, step: int, columns: Sequence[str], rows: TableRows) -> None:
        """Log a table of samples. A cell may be an image or None."""

    @abstractmethod
    def show_alert(self, step: int, title: str, text: str) -> None:
        """Log a warning: `title` is the name of what was found, `text` one line."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log nothing: a tracker has the whole configuration from its start."""


def images(rows: TableRows) -> Iterator[tuple[int, Image.Image]]:
    """Yield each image with the number of its row, for trackers whose tables hold text only."""
    for number, row in enumerate(rows):
        for cell in row:
            if isinstance(cell, Image.Image):
                yield number, cell


def text_table(columns: Sequence[str], rows: TableRows) -> str:
    """Return the table in Markdown, without its images."""
    return str(table(columns, [["" if _is_image(cell) else cell for cell in row] for row in rows]))


def _is_image(cell: Any) -> bool:
    return cell is None or isinstance(cell, Image.Image)
