"""Evaluations inside the folders: their samples, and two of them compared."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vlm_rl.view.queries import PER_PAGE

if TYPE_CHECKING:
    from vlm_rl.view.pages import Viewed


class SamplesPage(NamedTuple):
    """A page of judged responses, and how many there are by the filter and in the file."""

    rows: list[dict[str, Any]]
    matching: int
    total: int


class ShownComparison(NamedTuple):
    """A line for each benchmark, or why there is no comparison."""

    lines: list[dict[str, Any]]
    refusal: str


def evaluation_folders(viewed: Iterable["Viewed"]) -> list[str]:
    """Return the folders that hold samples of benchmarks, as `RUN/relative/path`."""
    found = {
        f"{one.name}/{Path(name).parent.parent.as_posix()}"
        for one in viewed
        for name in one.folder.samples()
    }
    return sorted(found)


def read_samples_page(path: Path, *, verdict: str, text: str, page: int) -> SamplesPage:
    """Return one page of a samples.jsonl; lines that cannot be read are left out."""
    rows, matching, total, small = [], 0, 0, text.lower()
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            total += 1
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if (verdict and row.get("verdict") != verdict) or (
                small not in f"{row.get('response')} {row.get('gold')} {row.get('uid')}".lower()
            ):
                continue
            if page * PER_PAGE <= matching < (page + 1) * PER_PAGE:
                rows.append(row)
            matching += 1
    return SamplesPage(rows, matching, total)


def comparison(
    viewed: Mapping[str, "Viewed"], folders: list[str], first: str, second: str
) -> ShownComparison:
    """Compare two of `folders` over the questions that both have answered."""
    # imported when asked for: it brings scipy, which takes seconds
    from vlm_rl.evaluation.comparison import compare

    if first not in folders or second not in folders:
        return ShownComparison([], "choose two evaluations of the list")
    places = []
    for name in (first, second):
        run, _, inside = name.partition("/")
        places.append(viewed[run].folder.root / inside)
    try:
        result = compare(places[0], places[1], common_only=True)
    except ValueError as error:
        return ShownComparison([], str(error))
    return ShownComparison([*result.plain()["benchmarks"]], "")
