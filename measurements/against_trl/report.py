"""What the measured points look like: a table, the points where TRL is faster, curves of growth."""

from collections.abc import Mapping, Sequence
from typing import Any

from measurements.against_trl.points import GROWTH
from vlm_rl.show.figures import Figure, plt
from vlm_rl.show.screen import Screen, Table

Entries = Mapping[str, Mapping[str, Any]]
"""What the JSON file holds, by the name of a point."""

HEADINGS = ("point", "ours, s", "TRL, s", "TRL / ours", "as it comes", "memory, MiB", "ratio")
CURVES = {
    "ours": lambda entry: entry["ours"]["seconds"],
    "TRL, best setting": lambda entry: entry["trl"]["seconds"],
    "TRL, as it comes": lambda entry: entry["trl"]["as_it_comes_seconds"],
}
UNITS = {
    "answers": "tokens of an answer",
    "prompts": "tokens of the prompt",
    "group": "answers in the group",
    "images": "images in the prompt",
    "vocabulary": "tokens of the vocabulary",
}


def show(entries: Entries, screen: Screen) -> None:
    """Print all points and where TRL is faster."""
    table = Table()
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left", no_wrap=not number)
    for name, entry in entries.items():
        ours, theirs = entry["ours"], entry["trl"]
        memory = entry["memory_ratio"]
        table.add_row(
            name,
            f"{ours['seconds']:.3g}",
            f"{theirs['seconds']:.3g}",
            f"{entry['ratio']:.2f}",
            f"({entry['ratio_as_it_comes']:.2f})",
            "" if memory is None else f"{ours['peak_mib']:.0f} / {theirs['peak_mib']:.0f}",
            "" if memory is None else f"{memory:.2f}",
        )
    screen.print(table)
    for line in where_trl_leads(entries):
        screen.put(line)


def where_trl_leads(entries: Entries) -> list[str]:
    """Return a line for each point at which TRL is faster or takes less memory."""
    lines = [
        f"TRL is faster at {name}: TRL / ours {entry['ratio']:.2f}"
        for name, entry in entries.items()
        if entry["ratio"] < 1
    ]
    lines += [
        f"TRL takes less memory at {name}: TRL / ours {entry['memory_ratio']:.2f}"
        for name, entry in entries.items()
        if entry["memory_ratio"] is not None and entry["memory_ratio"] < 1
    ]
    return lines or ["TRL is faster at none of these points"]


def growth_figure(entries: Entries, series: Sequence[str]) -> Figure:
    """Draw seconds and ratio over what grows, a row of two for each of `series`."""
    figure, rows = plt.subplots(
        len(series), 2, figsize=(10, 3.6 * len(series)), squeeze=False, layout="constrained"
    )
    for (seconds, ratio), name in zip(rows, series, strict=True):
        points = [point.name for point in GROWTH[name] if point.name in entries]
        sizes = [int(point.rpartition("_")[2]) for point in points]
        for label, value in CURVES.items():
            seconds.plot(sizes, [value(entries[p]) for p in points], marker="o", label=label)
        ratio.plot(sizes, [entries[point]["ratio"] for point in points], marker="o")
        ratio.axhline(1.0, color="grey", linestyle="--")
        seconds.set(yscale="log", ylabel="CPU seconds of an update")
        ratio.set(ylabel="TRL (best setting) / ours", ylim=(0, None))
        for axes in (seconds, ratio):
            axes.set(xscale="log", xlabel=UNITS[name])
        seconds.legend()
    return figure
