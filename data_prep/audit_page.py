"""An audit as one page of HTML with everything in it: no script, no file beside it, no network."""

import base64
import io
import random
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from PIL import Image

from data_prep.audit_plots import plot_answers, plot_tokens
from data_prep.audit_reading import DataSet, ImageHeader
from data_prep.audit_statistics import MIN_GROUP
from data_prep.audit_tokens import PROMPT_LIMITS
from vlm_rl.rewards.accuracy import gold_of

_NUM_DRAWN = 12
_NUM_LONGEST = 4
_MOST_CHARACTERS = 400


def page_of(
    source: str,
    statistics: Mapping[str, Any],
    findings: Sequence[Mapping[str, str]],
    data: DataSet,
    seed: int,
) -> str:
    """Return the whole page; `seed` draws the problems that are shown."""
    entries = data.entries
    drawn = random.Random(seed).sample(range(len(entries)), min(_NUM_DRAWN, len(entries)))
    longest_questions = sorted(entries, key=lambda e: -len(e.problem.question))
    longest_answers = sorted(entries, key=lambda e: -len(e.problem.answer))
    return _template("audit.html.jinja").render(
        statistics,
        source=source,
        findings=findings,
        users={i.digest: e.problem.uid for e in reversed(entries) for i in e.images},
        by_area=sorted(data.images, key=lambda image: image.width * image.height),
        by_ratio=sorted(data.images, key=_elongation),
        shown_problems={
            f"{len(drawn)} problems, drawn with seed {seed}": [entries[i] for i in sorted(drawn)],
            "The longest questions": longest_questions[:_NUM_LONGEST],
            "The longest answers": longest_answers[:_NUM_LONGEST],
        },
        answers_plot=plot_answers(statistics),
        tokens_plot=plot_tokens(statistics),
        elongation=_elongation,
        gold_of=gold_of,
        plot=partial(_embedded, "image/png"),
        thumbnail=thumbnail,
        MIN_GROUP=MIN_GROUP,
        PROMPT_LIMIT=PROMPT_LIMITS[0],
    )


def summary_of(statistics: Mapping[str, Any], findings: Sequence[Mapping[str, str]]) -> str:
    """Return what is printed: golds that fail, lengths and sizes in a line each, all findings."""
    return _template("audit.txt.jinja").render(statistics, findings=findings)


def thumbnail(source: bytes | Path, side: int = 220) -> Markup:
    """Return a small image, at most `side` pixels high and wide, on white; in its place the reason
    if the pixels cannot be decoded."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            small: Image.Image = image
            if image.mode.startswith("I;16"):  # converting would clip all greys to white
                small = image.point(lambda value: value / 256).convert("L")
            small.thumbnail((side, side))
            clear = small.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return Markup('<p class="bad">cannot be decoded: {}</p>').format(error)
    white, target = Image.new("RGBA", clear.size, "white"), io.BytesIO()
    Image.alpha_composite(white, clear).convert("RGB").save(target, "JPEG", quality=80)
    return _embedded("image/jpeg", target.getvalue(), "image of a problem")


def _embedded(kind: str, content: bytes, description: str) -> Markup:
    encoded = base64.b64encode(content).decode()
    return Markup('<img src="data:{};base64,{}" alt="{}">').format(kind, encoded, description)


def _elongation(image: ImageHeader) -> float:
    return max(image.width, image.height) / min(image.width, image.height)


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("data_prep", "."),
        autoescape=".html." in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": _cell, "counts": _counts, "cut": _cut, "rows": _rows}
    return environment.get_template(name)


def _rows(records: Any, *keys: str) -> list[list[object]]:
    """Return the rows of a table, shares in percent. Records that have a name begin with it."""
    named = records.items() if isinstance(records, Mapping) else ((None, one) for one in records)
    return [
        ([] if name is None else [name]) + [_percent(key, one[key]) for key in keys]
        for name, one in named
        if one
    ]


def _percent(key: str, value: Any) -> object:
    if not key.endswith(("_frac", "_share")):
        return _cut(value) if key == "question" else value
    return "-" if value is None else 100 * value


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
