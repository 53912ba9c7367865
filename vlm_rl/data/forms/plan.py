"""The plan of a row: what each of its columns is, decided by the names of all of them.

Rows with the same columns have the same plan, so it is made once. An optional column beside columns
that we do not know is kept in `meta` unless it is mapped, because it may mean something else there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from vlm_rl.data.forms import FORMS
from vlm_rl.data.forms.form import OPTIONS, SYSTEMS, Form, first, image_columns, root

OPTIONAL_COLUMNS = (
    "uid",
    "answer_type",
    "choices",
    "unit",
    "tolerance",
    "answer_style",
    "box_space",
    "source",
    "task",
    "split",
    "meta",
)
COLUMNS = ("problem", "answer", "images", "system", *OPTIONAL_COLUMNS)
_LETTERS = tuple("ABCDEFGHIJ")
_CLOSE = 0.85


@dataclass(frozen=True)
class Naming:
    """What a user says about the columns of a source."""

    columns: Mapping[str, str]
    form: str | None = None
    ignore: Collection[str] = ()


@dataclass(frozen=True)
class RowPlan:
    """`columns` are pairs of our name and theirs, `images` theirs in order, `kept` those that go
    into `meta`. `options` are columns of options that are shown if the answer is one of them.
    `misspelt` is a column that is close to one of ours, and that one. `why` names the form and the
    columns that told it.
    """

    form: Form
    why: str
    columns: tuple[tuple[str, str], ...]
    images: tuple[str, ...]
    options: tuple[str, ...]
    kept: tuple[str, ...]
    misspelt: tuple[str, str] | None
    uses_system: bool

    def pairs(self) -> dict[str, str]:
        """Return our names and theirs, in the order in which they are shown."""
        given = dict(self.columns)
        images = {"images": " + ".join(self.images)} if self.images else {}
        firsts = {name: given.pop(name) for name in ("problem",) if name in given}
        return firsts | images | given


def plan_of(
    columns: Sequence[str], naming: Naming, *, strict: bool, split: bool = False
) -> RowPlan:
    """Return the plan of rows with `columns`. `strict` rows are typed by hand, `split` ones are
    chosen by their `split` column."""
    there = [column for column in columns if column not in naming.ignore]
    mapped = dict(naming.columns)
    if split:
        mapped.setdefault("split", "split")
    form = FORMS[naming.form] if naming.form else _form(there)
    for ours, theirs in (("problem", form.problem), ("answer", form.answer), ("system", SYSTEMS)):
        found = first(theirs, there)
        if found is not None:
            mapped.setdefault(ours, found)
    images = (mapped.pop("images"),) if "images" in mapped else image_columns(there)
    used = {root(name) for name in (*mapped.values(), *images)}
    if strict or {*COLUMNS, *used}.issuperset(there):
        mapped = {name: name for name in OPTIONAL_COLUMNS if name in there} | mapped
        used |= set(mapped.values())
    options = () if "choices" in mapped else _options(there, used)
    kept = tuple(column for column in there if column not in used)
    return RowPlan(
        form=form,
        why=f"form {form.name} (by {_told(mapped)})",
        columns=tuple(mapped.items()),
        images=images,
        options=options,
        kept=kept,
        misspelt=_misspelt(kept, there) if strict else None,
        uses_system="system" not in naming.ignore,
    )


def _told(mapped: Mapping[str, str]) -> str:
    told = (mapped[name] for name in ("problem", "answer") if name in mapped)
    return ", ".join(dict.fromkeys(told))


def _form(columns: Collection[str]) -> Form:
    return next((form for form in FORMS.values() if form.recognises(columns)), FORMS["plain"])


def _options(columns: Collection[str], used: Collection[str]) -> tuple[str, ...]:
    """Return the column of the options, or those that are named by their letters."""
    free = [column for column in columns if column not in used]
    one = first(OPTIONS, free)
    if one is not None:
        return (one,)
    lettered = tuple(letter for letter in _LETTERS if letter in free)
    return lettered if lettered[:2] == ("A", "B") else ()


def _misspelt(kept: Collection[str], columns: Collection[str]) -> tuple[str, str] | None:
    for column in kept:
        (close, *_) = get_close_matches(column, COLUMNS, n=1, cutoff=_CLOSE) or (None,)
        if close is not None and close not in columns:
            return column, close
    return None
