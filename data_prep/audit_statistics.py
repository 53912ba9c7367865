"""The statistics of an audit as plain values for JSON: answers, repeats, images, tokens.

Distributions hold their histogram value by value, so that every plot can be drawn from them.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pandas import DataFrame

from data_prep.audit_reading import DataSet, ImageHeader
from vlm_rl.data.image_files import BadImage
from vlm_rl.data.images import Resizer
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.data.rows import Skipped
from vlm_rl.records import IMAGE_MARK
from vlm_rl.rewards.accuracy import gold_of
from vlm_rl.rewards.gold_forms import AS_IT_STANDS, letter_of
from vlm_rl.show.screen import track
from vlm_rl.verification.matching import infer_type
from vlm_rl.verification.notation import normalise
from vlm_rl.verification.reading import plain_number

MIN_GROUP = 20
"""Shares of an answer within fewer problems say little."""

_PROMPT_LIMITS = (2048, 4096)
_MIN_PIXELS = 56 * 56
_MAX_PIXELS = 12845056
"""Limits of Qwen2.5-VL's image processor; from memory, not confirmed."""

_NO_VALUE = "(none)"
_Key = TypeVar("_Key", bound=Hashable)


def statistics_of(data: DataSet, forms: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return everything but tokens, which need pixel limits; `forms` are those of `check_golds`."""
    problems, failures = _table_of(data), forms[AS_IT_STANDS]["failures"]
    marks = Counter(zip(problems["mark"], problems["num_images"] > 0, strict=True))
    return {
        "problems": len(problems),
        "splits": _ranked(problems["split"].replace("", _NO_VALUE)),
        "tasks": _ranked(problems["task"]),
        "columns": list(data.mappings),
        "skipped": _skipped(data.skipped),
        "golds": {
            # a gold that is read and not equal to itself is as useless, and a worse surprise
            "unreadable": [f for f in failures if not f["verdict"].scored],
            "not_equal_to_itself": [f for f in failures if f["verdict"].scored],
            "forms": forms,
        },
        "answers": _answers(problems),
        "guessing": _guessing(problems),
        "repeats": _repeats(problems),
        "marks": {
            "images_per_problem": _ranked(problems["num_images"].astype(str)),
            "as_many_marks_as_images": marks[True, True],
            "images_without_marks": marks[False, True],
            "marks_without_images": marks[True, False],
            "text_only": marks[False, False],
        },
        "images": _images(data),
        "question_characters": distribution([len(text) for text in problems["question"]]),
    }


def token_statistics(
    data: DataSet, model: str | None, min_pixels: int | None, max_pixels: int | None
) -> dict[str, Any]:
    """Return visual tokens by image and by problem, prompt lengths with a checkpoint, and how many
    are above the `_PROMPT_LIMITS`.

    Images that cannot be resized are named and not counted. Without the checkpoint `model` the
    sizes of Qwen2.5-VL are assumed. Raises ValueError for a checkpoint that cannot be read and for
    limits that cross or are below 1.
    """
    encoder = PromptEncoder(model, min_pixels=min_pixels, max_pixels=max_pixels) if model else None
    if encoder is None:
        least = _MIN_PIXELS if min_pixels is None else min_pixels
        most = _MAX_PIXELS if max_pixels is None else max_pixels
        resizer = Resizer(patch_size=14, merge_size=2, min_pixels=least, max_pixels=most)
        sizes = "No checkpoint was given: patch 14 and merge 2 of Qwen2.5-VL are assumed"
        text = "Text is not counted."
    else:
        resizer = encoder.resizer
        sizes = f"Sizes of the checkpoint: patch {resizer.patch_size}, merge {resizer.merge_size}"
        text = "Prompts are counted with its tokenizer and chat template, without an instruction."
    side = resizer.patch_size * resizer.merge_size
    tokens = {image.digest: _num_tokens(image, resizer) for image in data.images}
    good = [p for p in data.problems if all(tokens[i.digest] for i in data.images_of(p))]
    visual = [sum(tokens[i.digest] for i in data.images_of(p)) for p in good if p.images]
    prompts = []
    if encoder is not None:
        shown = track(good, "prompt lengths", transient=True)
        prompts = [encoder.count_tokens(problem) for problem in shown]
    counted = prompts if encoder else visual
    areas = [image.area for image in data.images]
    return {
        "assumption": f"{sizes}, one visual token per {side} x {side} pixels. {text}",
        "patch_size": resizer.patch_size,
        "merge_size": resizer.merge_size,
        "min_pixels": resizer.min_pixels,
        "max_pixels": resizer.max_pixels,
        "visual_by_image": distribution([number for number in tokens.values() if number]),
        "visual_by_problem": distribution(visual),
        "prompt": distribution(prompts),
        "above": {limit: sum(n > limit for n in counted) for limit in _PROMPT_LIMITS},
        "above_counts": "prompt tokens" if encoder else "visual tokens",
        "enlarged_images": sum(area < resizer.min_pixels for area in areas),
        "reduced_images": sum(area > resizer.max_pixels for area in areas),
        "too_narrow": [
            {"uid": problem.uid, "pixels": ", ".join(f"{i.width} x {i.height}" for i in thin)}
            for problem in data.problems
            if (thin := [i for i in data.images_of(problem) if not tokens[i.digest]])
        ],
    }


def distribution(values: Sequence[float]) -> dict[str, Any] | None:
    """Return count, mean, percentiles and `histogram` {value: how often}; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    # nearest rank, so that each is a value that occurs
    percentiles = {f"p{p}": ordered[-(-p * len(ordered) // 100) - 1] for p in (5, 50, 95)}
    return {
        "count": len(ordered),
        "mean": sum(ordered) / len(ordered),
        "min": ordered[0],
        **percentiles,
        "max": ordered[-1],
        "histogram": dict(Counter(ordered)),
    }


def _table_of(data: DataSet) -> DataFrame:
    """Return a table with a row for each problem.

    `value` is the answer in one spelling: the letter of a choice, the value of a number. `spelled`
    is the first spelling of that value: 0.5 and 1/2 are one. `words` are the question without white
    space; `asked` are these with the choices.
    """
    rows = []
    for index, problem in enumerate(data.problems):
        gold, digests = gold_of(problem), [image.digest for image in data.images_of(problem)]
        letter, number = letter_of(gold), plain_number(gold.answer)
        words = "".join(problem.question.split())
        row = {
            "row": index,
            "uid": problem.uid,
            "split": problem.split,
            "task": problem.task or _NO_VALUE,
            "gold": problem.answer,
            "question": problem.question,
            "given": problem.answer_type or _NO_VALUE,
            "inferred": infer_type(problem.answer, bool(problem.choices)),
            "type": gold.answer_type,
            "is_number": number is not None,
            "value": letter or (normalise(gold.answer) if number is None else str(number)),
            "spelled": letter or problem.answer,
            "words": words,
            "asked": "\0".join((words, *gold.choices)),
            "mark": IMAGE_MARK in problem.question,
            "digest": digests,
            "images": " ".join(digests),
            "num_images": len(digests),
            "num_choices": len(gold.choices),
        }
        rows.append(row)
    table = DataFrame(rows)
    table["spelled"] = table.groupby("value")["spelled"].transform("first")
    return table


def _skipped(skipped: Sequence[Skipped]) -> dict[str, Any]:
    by_reason = {
        reason: {"count": count, "rows": [row.message for row in skipped if row.reason == reason]}
        for reason, count in _ranked(row.reason for row in skipped).items()
    }
    return {"count": len(skipped), "by_reason": by_reason}


def _answers(problems: DataFrame) -> dict[str, Any]:
    pairs = problems.value_counts(["given", "inferred"])
    words = problems[(problems["given"] == "text") & problems["is_number"]]
    return {
        "types": _ranked(problems["type"]),
        "given_and_inferred": pairs.reset_index().to_dict("records"),
        "words_that_are_numbers": words[["uid", "gold"]].to_dict("records"),
        "characters": distribution([len(answer) for answer in problems["gold"]]),
        "most_frequent": _ranked(problems["spelled"]),
    }


def _guessing(problems: DataFrame) -> dict[str, Any]:
    """Return what always the most frequent answer would give: of each type, and of each task and
    type in groups of at least `MIN_GROUP`; for choices also what a random letter would."""
    types, groups = _majorities(problems, ["type"]), _majorities(problems, ["task", "type"])
    chances = [1 / number for number in problems["num_choices"] if number]
    return {
        "types": types.set_index("type").to_dict("index"),
        "groups": groups.to_dict("records"),
        "by_type": _majority_share(types),
        "min_group": MIN_GROUP,
        "by_task_and_type": _majority_share(groups[groups["problems"] >= MIN_GROUP]),
        "problems_with_choices": len(chances),
        "random_choice": sum(chances) / len(chances) if chances else None,
    }


def _majorities(problems: DataFrame, by: list[str]) -> DataFrame:
    """Return the most frequent answer of each group of problems, the largest group first."""
    groups = problems.groupby(by)["spelled"].agg(
        problems="size",
        different_answers="nunique",
        majority_answer=lambda answers: Counter(answers).most_common(1)[0][0],
        majority_count=lambda answers: Counter(answers).most_common(1)[0][1],
    )
    groups["majority_share"] = groups["majority_count"] / groups["problems"]
    return groups.sort_values("problems", ascending=False, kind="stable").reset_index()


def _majority_share(groups: DataFrame) -> dict[str, Any]:
    """Return the share over all problems, each answered with the majority of its own group."""
    right, problems = int(groups["majority_count"].sum()), int(groups["problems"].sum())
    return {"problems": problems, "share": right / problems if problems else None}


def _repeats(problems: DataFrame) -> dict[str, Any]:
    whole = ["asked", "images"]
    by_image = problems.explode("digest").drop_duplicates(["row", "digest"])
    return {
        "same_question_and_images": _differing(problems, whole, "row"),
        "contradictory": _differing(problems, whole, "value"),
        "across_splits": _differing(problems, whole, "split"),
        "same_image": _differing(by_image, ["digest"], "words"),
        "same_question_other_images": _differing(problems, ["asked"], "images"),
    }


def _differing(problems: DataFrame, same: list[str], different: str) -> dict[str, Any]:
    """Return the groups with the `same` values that differ in another, the largest first.

    `extra` counts the problems beyond the first of each group.
    """
    repeated = problems[problems.groupby(same)[different].transform("nunique") > 1]
    groups = sorted((g for _, g in repeated.groupby(same, sort=False)), key=len, reverse=True)
    shown = ["uid", "split", "gold", "question"]
    return {
        "groups": len(groups),
        "problems": len(repeated),
        "extra": len(repeated) - len(groups),
        "examples": [group[shown].to_dict("records") for group in groups],
    }


def _images(data: DataSet) -> dict[str, Any]:
    images = data.images
    sizes = Counter((image.width, image.height) for image in images)
    return {
        "used": sum(len(problem.images) for problem in data.problems),
        "different": len(images),
        "formats": _ranked(image.format for image in images),
        "modes": _ranked(image.mode for image in images),
        "width": distribution([image.width for image in images]),
        "height": distribution([image.height for image in images]),
        "pixels": distribution([image.area for image in images]),
        "bytes": distribution([image.num_bytes for image in images]),
        "sizes": [[*size, count] for size, count in sizes.most_common()],
    }


def _num_tokens(image: ImageHeader, resizer: Resizer) -> int:
    """Return the visual tokens of an image, 0 if it is too narrow to be resized."""
    try:
        return resizer.num_tokens(image.source)
    except BadImage:
        return 0


def _ranked(values: Iterable[_Key]) -> dict[_Key, int]:
    """Return how often each occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))
