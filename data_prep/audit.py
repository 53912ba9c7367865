"""Look at a data set before training on it: do the golds verify, what repeats, how large is it?

    python -m data_prep.audit data/geometry3k --model Qwen/Qwen2.5-VL-3B-Instruct

DATA is a `.jsonl` or `.parquet` file, a folder as the converters write it, or a hub id. Writes one
self-contained page to look at, and all figures as JSON beside it. Pictures are judged by their
headers; pixels are decoded only for the thumbnails of the page.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from data_prep.audit_figures import figures_of
from data_prep.audit_findings import Finding, findings_of
from data_prep.audit_golds import check_golds
from data_prep.audit_page import page_of
from data_prep.audit_reading import read_data_set
from data_prep.audit_tokens import sizing_of, token_figures
from vlm_rl.config import one_line_errors, parse
from vlm_rl.rewards.accuracy import Accuracy

_MOST_PRINTED = 20


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
    """Write the page of `data` to `output` and its figures beside it, print the findings, and
    return the figures.

    `model` is the checkpoint whose tokenizer and image sizes count; without it those of Qwen2.5-VL
    are assumed. `min_pixels` and `max_pixels` bound the area of each image. `split` picks one;
    `columns` maps our column names to those of the data. `seed` draws the problems to show. Raises
    ValueError where nothing can be read.
    """
    page, figures_file = _targets(data, output)
    sizing = sizing_of(model, min_pixels, max_pixels)
    data_set = read_data_set(data, split, columns)
    accuracy = Accuracy()
    try:
        forms = check_golds([entry.problem for entry in data_set.entries], accuracy)
    finally:
        accuracy.close()
    found = figures_of(data_set, forms) | {"tokens": token_figures(data_set.entries, sizing)}
    findings = findings_of(found)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(page_of(data, found, findings, data_set.entries, seed), encoding="utf-8")
    plain = {"data": data, "findings": [vars(finding) for finding in findings], **found}
    text = json.dumps(plain, indent=1, ensure_ascii=False)
    figures_file.write_text(text + "\n", encoding="utf-8")
    _print(found, findings)
    print(
        f"{found['problems']} problems audited: look at {page}; all figures are in {figures_file}"
    )
    return found


def _targets(data: str, output: Path | None) -> tuple[Path, Path]:
    """Where the page and the figures go."""
    path = Path(data).expanduser()
    if output is not None:
        if output.suffix != ".html":
            raise ValueError(f"--output must name an .html file, got {output}")
        page = output
    elif path.is_dir() and any(path.glob("*.jsonl")):
        page = path / "audit.html"
    elif path.exists():
        # not into a folder of another format, which would read the figures as its own data
        page = path.with_name(f"{path.stem}.audit.html")
    else:
        page = Path(f"{data.replace('/', '-').replace(':', '-')}.audit.html")
    return page, page.with_suffix(".json")


def _print(found: Mapping[str, Any], findings: Sequence[Finding]) -> None:
    console = Console()
    table = Table(title="golds against themselves")
    table.add_column("form")
    for heading in ("golds", "right", "%"):
        table.add_column(heading, justify="right")
    for name, form in found["golds"]["forms"].items():
        if form["asked"]:
            share = f"{100 * form['right_frac']:.1f}"
            table.add_row(name, str(form["asked"]), str(form["right"]), share)
    console.print(table)
    failures = found["golds"]["unreadable"] + found["golds"]["not_equal_to_itself"]
    for one in failures[:_MOST_PRINTED]:
        print(
            f"gold of {one['uid']}: {one['gold']!r:.80} ({one['answer_type']}) is "
            f"{one['verdict']}: {one['rule']}"
        )
    if len(failures) > _MOST_PRINTED:
        print(f"and {len(failures) - _MOST_PRINTED} more golds, all on the page")
    for line in _lines(found):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    for finding in findings:
        word = "to mend" if finding.level == "mend" else "to know"
        console.print(f"{word}: {finding.text}", soft_wrap=True, markup=False, highlight=False)


def _lines(found: Mapping[str, Any]) -> list[str]:
    """Types, lengths and sizes, one line each."""
    tokens, answers, images = found["tokens"], found["answers"], found["images"]
    lines = {
        "answer types": _counts(answers["types"]),
        "most frequent answers": _counts(answers["most_frequent"]),
        "answer characters": _spread(answers["characters"]),
        "question characters": _spread(found["question_characters"]),
        "images": f"{images['different']} different, {_counts(images['formats'])}",
        "image area, px": _spread(images["pixels"]),
        "visual tokens": _spread(tokens["visual_by_problem"]),
        "prompt tokens": _spread(tokens["prompt"]),
    }
    return [*(f"{name}: {line}" for name, line in lines.items() if line), tokens["assumption"]]


def _counts(counts: Mapping[str, int], most: int = 8) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:most])
    left = len(counts) - most
    return f"{shown}, and {left} more" if left > 0 else shown


def _spread(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"median {found['p50']}, 95 % up to {found['p95']}, {found['min']} to {found['max']}"


def main(argv: Sequence[str] | None = None) -> None:
    """Audit a data set from the command line."""
    with one_line_errors("data_prep.audit"):
        parser = ArgumentParser(
            prog="data_prep.audit", description=__doc__, exit_on_error=False, allow_abbrev=False
        )
        parser.add_function_arguments(audit, as_positional=True)
        audit(**vars(parse(parser, argv)))


if __name__ == "__main__":
    main()
