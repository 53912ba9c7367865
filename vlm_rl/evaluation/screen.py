"""An evaluation on the screen: one line a benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from vlm_rl.evaluation.markdown import asked, interval, percent

Figures = Mapping[str, Any]


def print_overview(found: Sequence[Figures]) -> None:
    """Print the `figures` of each benchmark, and what of it was not asked; a column that nothing is
    known of is left out."""
    rows = [_row(one) for one in found]
    # without borders, so that an interval fits into 80 columns; a long name takes two lines
    table = Table(title="accuracy in %, 95 % interval; length in tokens", box=None)
    headings = [name for name in rows[0] if any(row[name] != "-" for row in rows)]
    for heading in headings:
        is_name = heading == "benchmark"
        table.add_column(
            heading if is_name else heading.replace(" ", "\n"),
            justify="left" if is_name else "right",
            overflow="fold",
            no_wrap=not is_name,
        )
    for row in rows:
        table.add_row(*(row[heading] for heading in headings))
    console = Console()
    console.print(table)
    for one in found:
        if " of " in asked(one):
            print(f"{one['benchmark']}: {asked(one)} published problems")
        for reason, count in one["skipped"].items():
            console.print(f"{one['benchmark']}: {count} {reason}", soft_wrap=True, markup=False)


def _row(one: Figures) -> dict[str, str]:
    official, cut, length = one["official"], one["truncated"], one["length_tokens"]
    return {
        "benchmark": one["benchmark"],
        "asked": str(one["num_questions"]),
        "accuracy": interval(one["accuracy"]),
        "official": percent(official and official["accuracy"]["mean"]),
        "no answer": percent(one["extraction"]["frac"]),
        "cut off": percent(cut and cut["frac"]),
        "length": f"{length['all']['mean']:.0f}" if length and length["all"] else "-",
    }
