"""Look at a data set before training on it: do the golds verify, what repeats, how large is it?

    python -m data_prep.audit data/geometry3k --model Qwen/Qwen2.5-VL-3B-Instruct

DATA is a `.jsonl` or `.parquet` file, a folder as the converters write it, or a hub id. Writes one
self-contained page to look at, and all numbers as JSON beside it. Images are judged by their
headers; pixels are decoded only for the thumbnails of the page.
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from data_prep.audit_findings import findings_of
from data_prep.audit_page import TEMPLATES, page_of
from data_prep.audit_reading import read_data_set
from data_prep.audit_statistics import statistics_of, token_statistics
from vlm_rl.config import one_line_errors, parse
from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.gold_forms import check_golds
from vlm_rl.show.help.parser import explain_arguments, new_parser
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import say, say_all


def audit(
    data: str,
    model: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    output: Path | None = None,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Write the page of `data` to `output` and its numbers beside it, print the findings, and
    return the numbers.

    `model` is the checkpoint whose tokenizer and image sizes count; without it those of Qwen2.5-VL
    are assumed. `min_pixels` and `max_pixels` bound the area of each image. `split` picks one;
    `columns` maps our column names to those of the data. `seed` draws the problems to show. Raises
    ValueError if nothing can be read.
    """
    page = output or _page_beside(data)
    if page.suffix != ".html":
        raise ValueError(f"--output must name an .html file, got {page}")
    data_set = read_data_set(data, split, columns)
    tokens = token_statistics(data_set, model, min_pixels, max_pixels)
    with closing(Accuracy()) as accuracy:
        forms = check_golds(data_set.problems, accuracy)
    statistics = statistics_of(data_set, forms) | {"tokens": tokens}
    statistics = {"data": data, "findings": findings_of(statistics), **statistics}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(page_of(statistics, data_set, seed), encoding="utf-8")
    numbers = page.with_suffix(".json")
    text = json_text(statistics, indent=1)
    numbers.write_text(text + "\n", encoding="utf-8")
    say_all(TEMPLATES.get_template("audit.txt.jinja").render(statistics).removesuffix("\n"))
    say(f"{statistics['problems']} problems audited: look at {page}; all numbers are in {numbers}")
    return statistics


def _page_beside(data: str) -> Path:
    """Return the file of the page if none is named."""
    path = Path(data).expanduser()
    if path.is_dir() and any(path.glob("*.jsonl")):
        return path / "audit.html"
    if path.exists():
        # not into a folder of another format, which would read the numbers as its own data
        return path.with_name(f"{path.stem}.audit.html")
    return Path(f"{data.replace('/', '-').replace(':', '-')}.audit.html")


def main(argv: Sequence[str] | None = None) -> None:
    """Audit a data set from the command line."""
    with one_line_errors("data_prep.audit"):
        parser = new_parser("audit", __doc__, "DATA [--KEY VALUE ...]")
        parser.prog = "data_prep.audit"
        parser.add_function_arguments(audit, as_positional=True)
        explain_arguments(parser, audit)
        audit(**vars(parse(parser, argv)))


if __name__ == "__main__":
    main()
