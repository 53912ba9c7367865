"""One row and the plan of its columns -> one `Problem`, with nothing of it lost in silence.

What a row names is used, or the row is refused, or it is noted: notes are counted and printed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from vlm_rl.data.answers import answers_of, check_whole, checked_text, is_places, named_kind
from vlm_rl.data.chat import PLACE, Chat, assembled, chat_of, is_chat
from vlm_rl.data.forms.form import root
from vlm_rl.data.forms.plan import OPTIONAL_COLUMNS, RowPlan
from vlm_rl.data.image_names import listed, looks_encoded
from vlm_rl.data.images import ImageStore, digest
from vlm_rl.data.leftovers import (
    image_in,
    image_in_text,
    is_key,
    is_other_media,
    marks_are_text,
    same_image_again,
    with_our_marks,
    without_bytes,
)
from vlm_rl.data.options import chosen_elsewhere, names_option, options_of
from vlm_rl.data.tables import BadRow, parsed
from vlm_rl.errors import nearest
from vlm_rl.records import IMAGE_MARK, AnswerType, BoxSpace, OtherAnswerType, Problem
from vlm_rl.verification.extraction import ANSWER_STYLES

_TYPES: dict[str, type[Any]] = {"choices": list, "tolerance": dict, "meta": dict}
_VALUES: dict[str, Sequence[str]] = {
    "answer_type": (*get_args(AnswerType), *get_args(OtherAnswerType)),
    "answer_style": ANSWER_STYLES,
    "box_space": get_args(BoxSpace),
}
_LETTER = "ground_truth"  # beside `answer`, which then is for those who do not see the options


@dataclass
class Notes:
    """What was decided about rows, counted, to be printed before training."""

    counts: Counter[str] = field(default_factory=Counter)
    num_images: Counter[int] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    num_options: int = 0
    num_systems: int = 0


def problem_of(
    row: Mapping[str, Any],
    plan: RowPlan,
    *,
    folder: Path,
    images: ImageStore,
    source: str,
    max_text_chars: int,
    notes: Notes,
    defaults: Mapping[str, str],
) -> Problem:
    """Return the problem of a row; relative paths of its images begin in `folder`, and `defaults`
    are values of our columns that count where the row has none.

    Raises BadRow, and counts in `notes` what a row has that is not used.
    """
    values = {**defaults, **values_of(row, plan)}
    kept = _kept(row, plan) if plan.kept else {}
    _check_texts(row, values, plan, max_text_chars)
    chat = _chat(values.get("problem"), plan)
    question, named = _question(chat, _column_images(row, plan), row, plan)
    if "answer_type" not in values and (kind := named_kind(values.get("answer"))):
        values["answer_type"] = kind
    golds = _golds(values, chat, plan, notes)
    shown = _options(row, plan, golds, notes)
    checked = [images.add(item, folder) for item in named]
    if any(images.has_frames(image) for image, _ in checked):
        notes.counts["an image has several frames, of which the first is shown"] += 1
    question = _checked_marks(question, len(checked), notes)
    _check_left_over(kept, plan, bool(checked), notes)
    optional = {name: _optional(name, values[name]) for name in OPTIONAL_COLUMNS if name in values}
    if shown is not None:
        optional["choices"] = shown
    if kept:
        extras = {name: without_bytes(value) for name, value in kept.items()}
        optional["meta"] = extras | optional.get("meta", {})
    system = _system(values.get("system"), chat, plan)
    if system is not None:
        optional["system"] = system
    return Problem(
        question=question,
        answer=golds[0],
        alternatives=golds[1:],
        images=tuple(image for image, _ in checked),
        **{"uid": _uid(question, checked, golds, optional), "source": source} | optional,
    )


def count(problem: Problem, plan: RowPlan, notes: Notes) -> None:
    """Count what a problem that is used has."""
    notes.forms[plan.why] += 1
    notes.num_images[len(problem.images)] += 1
    notes.num_options += problem.choices is not None
    notes.num_systems += problem.system is not None


def values_of(row: Mapping[str, Any], plan: RowPlan) -> dict[str, Any]:
    """Return our columns of a row but for images; an empty one counts as absent."""
    values = {}
    for ours, theirs in plan.columns:
        value = row.get(theirs) if theirs in row else looked_up(row, theirs)
        if value is not None and not (isinstance(value, str) and not value.strip()):
            values[ours] = value
    return values


def looked_up(row: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column; a dot reaches into a struct, also one that is JSON text."""
    value: Any = row
    for key in column.split("."):
        if isinstance(value, str) and value.lstrip().startswith("{"):
            value = parsed(value.encode(errors="surrogatepass"))
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _kept(row: Mapping[str, Any], plan: RowPlan) -> dict[str, Any]:
    return {name: row[name] for name in plan.kept if row.get(name) is not None}


def _column_images(row: Mapping[str, Any], plan: RowPlan) -> list[object]:
    """Return what the columns of images hold, null entries as None."""
    found: list[object] = []
    for column in plan.images:
        value = row.get(column) if column in row else looked_up(row, column)
        if value is not None:
            found += listed(value)
    return found


def _chat(value: object, plan: RowPlan) -> Chat:
    if value is not None and is_chat(value):
        return chat_of(value)
    return Chat([checked_text(value, "problem", "no question")])


def _question(
    chat: Chat, column: list[object], row: Mapping[str, Any], plan: RowPlan
) -> tuple[str, list[object]]:
    """Return the text with its marks and the images that stand there."""
    if column or len(chat.parts) != 1 or isinstance(chat.parts[0], tuple):
        question, named = assembled(chat.parts, column)
    else:
        question, named = chat.parts[0], column
    if not named and any(part == (PLACE,) for part in chat.parts):
        raise BadRow(
            "marks and images differ",
            "the chat has an image part and the row no image; name it in the part or in `images`",
        )
    if not named and IMAGE_MARK in question and _has_nulls(row, plan):
        raise BadRow(
            "wrong type",
            f"an image is of type NoneType and the question has {question.count(IMAGE_MARK)} "
            f"{IMAGE_MARK} marks; name the image, or write no mark",
        )
    return checked_text(question, "problem", "no question"), named


def _has_nulls(row: Mapping[str, Any], plan: RowPlan) -> bool:
    return any(row.get(column) for column in plan.images)


def _checked_marks(question: str, num_images: int, notes: Notes) -> str:
    """Return the question with our marks. Raises BadRow if it names an image that is not there."""
    marks = question.count(IMAGE_MARK)
    if num_images and not marks:
        question = with_our_marks(question, num_images, IMAGE_MARK)
    if not num_images and marks:
        if not all(marks_are_text(question, IMAGE_MARK)):
            raise BadRow(
                "marks and images differ",
                f"{marks} {IMAGE_MARK} marks for 0 images; name the images in `images`, map their "
                "column by `columns`, or write no mark",
            )
        notes.counts[f"{IMAGE_MARK} is a word of the question, as the row names no image"] += 1
    other = image_in_text(question)
    if other is None:
        return question
    if not num_images:
        raise BadRow(
            "image not loaded",
            f"the question names an image by {other:.60}; name it in `images` and write "
            f"{IMAGE_MARK} in its place",
        )
    notes.counts[f"the question has {other:.20}, which the model sees as text"] += 1
    return question


def _golds(values: Mapping[str, Any], chat: Chat, plan: RowPlan, notes: Notes) -> tuple[str, ...]:
    """Return the golds; an assistant turn that is not the gold is noted."""
    columns = dict(plan.columns)
    by_turn = columns.get("answer") == columns.get("problem")
    if chat.answer is not None and chat.answer.strip() and not by_turn:
        notes.counts[f"the assistant turn is not used, the answer is {columns.get('answer')}"] += 1
    kind = values.get("answer_type")
    if kind is None and is_places(values.get("answer")):
        notes.counts[
            "the answer is a list of numbers, taken as one answer; answer_type, of the row or of "
            "the source, says what it is"
        ] += 1
    return answers_of(chat.answer if by_turn else values.get("answer"), kind)


def _options(
    row: Mapping[str, Any], plan: RowPlan, golds: Sequence[str], notes: Notes
) -> tuple[str, ...] | None:
    """Return the options of columns that we were not told about, if they are shown."""
    found = [row.get(column) for column in plan.options]
    found = [value for value in found if value is not None and value != "" and value != []]
    if not found:
        return None
    name = ", ".join(plan.options)
    if _LETTER in plan.kept and chosen_elsewhere(golds[0], row.get(_LETTER)):
        notes.counts[
            f"the options in {name} are not shown: {_LETTER} has the letter, and the answer is not "
            f"one; columns={{choices: {name}}} shows them"
        ] += 1
        return None
    options = options_of(found if len(plan.options) > 1 else found[0])
    if not all(names_option(gold, options) for gold in golds):
        raise BadRow(
            "options not shown",
            f"the answer {golds[0]!r:.60} is neither a letter nor one of its {len(options)} "
            f"options; mend it, or leave them out by ignore=[{name}]",
        )
    return options


def _system(column: object, chat: Chat, plan: RowPlan) -> str | None:
    if not plan.uses_system:
        return None
    if column is not None and chat.system is not None and column != chat.system:
        raise BadRow(
            "turn not used", "the row has a system turn and another system text in a column"
        )
    said = chat.system if column is None else column
    if said is None or (isinstance(said, str) and not said.strip()):
        return None
    return checked_text(said, "system", "wrong value")


def _check_left_over(
    kept: Mapping[str, Any], plan: RowPlan, has_images: bool, notes: Notes
) -> None:
    """Refuse a row with an image that would not be seen; note columns that repeat one."""
    for column, value in kept.items():
        if isinstance(value, bool | int | float) and has_images:
            continue
        if is_other_media(column, value):
            raise BadRow(
                "image not loaded", f"column {column!r} has video or sound, which is not read"
            )
        if column in plan.options or not image_in(column, value):
            continue
        repeats = isinstance(value, Mapping) or is_chat(value) or same_image_again(column)
        if not has_images or not repeats:
            raise BadRow(
                "image not loaded",
                f"column {column!r} names an image that is not loaded; map it by "
                f"columns={{images: {column}}}, or leave it out by ignore=[{column}]",
            )
        if not is_key(column):
            used = ", ".join(map(root, plan.images)) or "the chat"
            notes.counts[f"{column} names an image too and is not loaded, {used} is"] += 1


def _check_texts(
    row: Mapping[str, Any], values: Mapping[str, Any], plan: RowPlan, limit: int
) -> None:
    """Refuse long texts and halves of characters before anything reads them. Raises BadRow."""
    for name, value in values.items():
        chars = _num_chars(name, value)
        if chars > limit and isinstance(value, str) and is_chat(value):
            loaded = parsed(value.encode())  # the images may be in it
            chars = chars if isinstance(loaded, BadRow) else _num_chars(name, loaded)
        if chars > limit:
            raise _too_long(name, chars, limit)
    for name in plan.kept:
        chars = len(name) + _num_chars(f"column {name!r}", row.get(name))
        if chars > limit and not image_in(name, row[name]):
            raise _too_long(f"column {name!r:.60}", chars, limit)
    for name in plan.images:
        _num_chars(name, row.get(root(name)))


def _too_long(name: str, chars: int, limit: int) -> BadRow:
    return BadRow(
        "text too long",
        f"{name} has {chars} characters, above max_text_chars={limit}; shorten it, or raise that",
    )


def _num_chars(name: str, value: object) -> int:
    """Count the characters of a value and of all that is in it, but for images, and check them."""
    texts, stack = [], [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            stack += item
    check_whole("".join(texts), name)
    return sum(len(text) for text in texts if text is value or not looks_encoded(text))


def _optional(name: str, value: Any) -> Any:
    if name == "meta" and isinstance(value, str):
        value = parsed(value.encode())
        if isinstance(value, BadRow):
            raise value
        _num_chars(name, value)  # JSON in JSON may escape what it holds
    if name == "uid" and isinstance(value, int):
        value = str(value)
    if name == "choices" and isinstance(value, dict):
        value = list(options_of(value))
    expected = _TYPES.get(name, str)
    if not isinstance(value, expected):
        kinds = f"{type(value).__name__}, not {expected.__name__}"
        raise BadRow("wrong type", f"{name} is of type {kinds}")
    if isinstance(value, str):
        checked_text(value, name, "wrong value")
    if name == "choices":
        return tuple(checked_text(choice, "a choice", "wrong value") for choice in value)
    if name == "tolerance":
        # parquet gives every row all keys of the struct
        value = {rule: size for rule, size in value.items() if size is not None}
        if not all(isinstance(size, int | float) for size in value.values()):
            raise BadRow("wrong type", f"tolerance must hold numbers, got {value}")
    known = _VALUES.get(name)
    if known is not None and value not in known:
        raise BadRow("wrong value", f"{name} {value!r} is unknown{nearest(value, known)}")
    return value


def _uid(
    question: str,
    checked: Sequence[tuple[object, str]],
    golds: Sequence[str],
    optional: Mapping[str, Any],
) -> str:
    """Return a name made of all that the model sees, and of the answer."""
    seen = [question]
    for _, image_digest in checked:
        seen.append(image_digest)
    seen += [*golds, *optional.get("choices", ())]
    if "system" in optional:
        seen.append(optional["system"])
    return digest("\0".join(seen).encode())
