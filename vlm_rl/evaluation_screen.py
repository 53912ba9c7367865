"""An evaluation on the screen: one line a benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vlm_rl.evaluation_markdown import interval, percent


def print_overview(found: Sequence[Mapping[str, Any]]) -> None:
    """Print the `figures` of each benchmark, and what of it was not asked."""
    table = Table(title="accuracy in %, 95 % interval; lengths in tokens")
    table.add_column("benchmark")
    for heading in ("questions", "accuracy", "official", "no answer", "cut off", "length"):
        table.add_column(heading, justify="right")
    for one in found:
        official, truncated, length = one["official"], one["truncated"], one["length_tokens"]
        table.add_row(
            one["benchmark"],
            str(one["num_questions"]),
            interval(one["accuracy"]),
            percent(official and official["accuracy"]["mean"]),
            percent(one["extraction"]["frac"]),
            percent(truncated and truncated["frac"]),
            f"{length['all']['mean']:.0f}" if length and length["all"] else "-",
        )
    console = Console()
    console.print(table)
    for one in found:
        for reason, count in one["skipped"].items():
            console.print(f"{one['benchmark']}: {count} {reason}", soft_wrap=True, markup=False)
