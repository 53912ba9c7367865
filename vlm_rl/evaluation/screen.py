"""An evaluation on the screen: one line per benchmark."""

from collections.abc import Sequence

from vlm_rl.evaluation.markdown import asked, interval, percent
from vlm_rl.evaluation.results import BenchmarkResult
from vlm_rl.show.screen import Screen, Table


def print_overview(results: Sequence[BenchmarkResult]) -> None:
    """Print each result, and what of its benchmark was not asked; columns without a value are
    left out."""
    rows = [_row(result) for result in results]
    # without borders, so that an interval fits into 80 columns; a long name takes two lines
    table = Table(
        title="accuracy in %, 95 % interval; length and per right answer in tokens", box=None
    )
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
    screen = Screen()
    screen.print(table)
    for result in results:
        if result.is_partial:
            screen.put(f"{result.benchmark}: {asked(result)} published problems")
        if result.reading_accuracy:
            read = percent(result.reading_accuracy.mean)
            screen.put(
                f"{result.benchmark}: {read} by reading, a rule of ours for the authors' judge"
            )
        for reason, count in result.skipped.items():
            screen.put(f"{result.benchmark}: {count} {reason}")


def _row(result: BenchmarkResult) -> dict[str, str]:
    official, length = result.official_accuracy, result.mean_length
    spent = result.tokens_per_correct
    return {
        "benchmark": result.benchmark,
        "asked": str(result.num_questions),
        "accuracy": interval(result.accuracy),
        "official": percent(official.mean if official else None),
        "no answer": percent(result.extraction.frac),
        "cut off": percent(result.truncated_frac),
        "length": "-" if length is None else f"{length:.0f}",
        "per right": "-" if spent is None else f"{spent.value:,.0f}",
    }
