"""An audit as one page of HTML with everything in it: no script, no file beside it, no network."""

import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import LogFormatter, MaxNLocator

from data_prep.audit_reading import DataSet
from vlm_rl.data.image_files import BadImage
from vlm_rl.data.images import Resizer
from vlm_rl.rewards.accuracy import gold_of
from vlm_rl.show.figures import Figure
from vlm_rl.show.figures import save as save_figure
from vlm_rl.show.pages import embedded, templates

_NUM_DRAWN = 12
_BINS = 40
_SMALL = Resizer(patch_size=1, merge_size=1, min_pixels=1, max_pixels=220 * 220)
TEMPLATES = templates("data_prep")
"""`audit.html.jinja` is the page of `page_of`; `audit.txt.jinja` is what the audit prints."""


def page_of(statistics: Mapping[str, Any], data_set: DataSet, seed: int) -> str:
    """Return the whole page; `seed` draws the problems that are shown."""
    problems = data_set.problems
    drawn = random.Random(seed).sample(range(len(problems)), min(_NUM_DRAWN, len(problems)))
    return TEMPLATES.get_template("audit.html.jinja").render(
        statistics,
        data_set=data_set,
        users={i.digest: p.uid for p in reversed(problems) for i in data_set.images_of(p)},
        shown_problems={
            f"{len(drawn)} problems, drawn with seed {seed}": [problems[i] for i in sorted(drawn)],
            "The longest questions": sorted(problems, key=lambda p: -len(p.question))[:4],
            "The longest answers": sorted(problems, key=lambda p: -len(p.answer))[:4],
        },
        gold_of=gold_of,
        histogram=histogram,
        plot_of_sizes=plot_of_sizes,
        thumbnail=thumbnail,
    )


def thumbnail(source: bytes | Path) -> Markup:
    """Return a small image, decoded as for the policy; in its place the reason if it cannot be."""
    try:
        return embedded(_SMALL.resized(source).save, "jpeg", "image of a problem")
    except BadImage as error:
        return Markup('<p class="bad">cannot be shown: {}</p>').format(error)


def histogram(counts: Mapping[str, Any], title: str, limits: Sequence[int] = ()) -> Markup:
    """Plot a `distribution`, with a line at each of `limits` that it comes near to."""
    canvas = Figure(figsize=(5.2, 3.5), dpi=110, layout="constrained")
    axis = canvas.add_subplot()
    least, most = counts["min"], counts["max"]
    # one bin per whole number if there are few of them
    edges = [value - 0.5 for value in range(least, most + 2)] if most - least < _BINS else _BINS
    values, weights = zip(*counts["histogram"].items(), strict=True)
    axis.hist(values, bins=edges, weights=weights, alpha=0.75)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for limit in [limit for limit in limits if limit < 1.1 * most]:
        axis.axvline(limit, color="C3", linestyle="--", label=f"limit {limit}")
        axis.legend()
    spread = f"median {counts['p50']}, 95 % up to {counts['p95']}, most {most}"
    axis.set(title=title, xlabel=spread, ylabel="problems")
    return embedded(partial(save_figure, canvas), "png", title)


def plot_of_sizes(sizes: Sequence[Sequence[int]], limits: Sequence[int]) -> Markup:
    """Plot width and height, larger dots for more images, and lines of equal area at `limits`."""
    canvas = Figure(figsize=(5.2, 3.5), dpi=110, layout="constrained")
    axis = canvas.add_subplot(xscale="log", yscale="log")
    widths, heights, counts = zip(*sizes, strict=True)
    dots = [12 + 200 * (count - 1) / max(counts) for count in counts]
    axis.scatter(widths, heights, s=dots, alpha=0.45, linewidth=0)
    axis.margins(0.12)
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())  # the lines change no limit
    for area in limits:
        axis.axline((1, area), (area, 1), color="C3", linestyle="--", linewidth=1)
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_formatter(LogFormatter())
        scale.set_minor_formatter(LogFormatter(minor_thresholds=(2, 1)))
    title = "sizes of different images; dashed: pixel limits"
    axis.set(title=title, xlabel="width in pixels", ylabel="height in pixels")
    return embedded(partial(save_figure, canvas), "png", title)
