"""Figures as PNG files: labels are text, not formulas."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter
from matplotlib.transforms import Bbox

from vlm_rl.show.plain import visible

__all__ = ["Axes", "Bbox", "Figure", "Line2D", "LogLocator", "PercentFormatter", "plt", "save"]

matplotlib.rcParams["text.parse_math"] = False  # a dollar in a name would be a formula


def save(figure: Figure, target: Path | BinaryIO, **options: Any) -> None:
    """Write `figure`, with every label as it can be shown, and let go of it."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        formatter = axis.get_major_formatter()
        if isinstance(formatter, FuncFormatter):  # ticks with given labels
            axis.set_major_formatter(FuncFormatter(partial(_label, formatter.func)))
    for text in figure.findobj(Text):
        text.set_text(visible(text.get_text()))
    if isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
    how: dict[str, Any] = {"dpi": 110, "format": "png"} | options
    figure.savefig(target, **how)
    plt.close(figure)


def _label(make: Callable[[float, int | None], str], value: float, place: int | None) -> str:
    return visible(make(value, place))
