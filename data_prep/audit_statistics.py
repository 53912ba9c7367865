"""The statistics of an audit as plain values for JSON: answers, repeats, images, rows left out.

Distributions hold their histogram value by value, so that every plot can be drawn from them.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from data_prep.audit_golds import AS_IT_STANDS, letter_of
from data_prep.audit_reading import DataSet, Entry
from vlm_rl.data.rows import Skipped
from vlm_rl.records import IMAGE_MARK
from vlm_rl.rewards.accuracy import gold_of
from vlm_rl.verification.exact_numbers import plain_number
from vlm_rl.verification.matching import infer_type
from vlm_rl.verification.notation import normalise

MIN_GROUP = 20
"""Shares of an answer within fewer problems say little."""

_NO_VALUE = "(none)"
_Key = TypeVar("_Key", bound=Hashable)


def statistics_of(data: DataSet, forms: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return everything but tokens, which need pixel limits; `forms` are those of `check_golds`."""
    entries, failures = data.entries, forms[AS_IT_STANDS]["failures"]
    return {
        "problems": len(entries),
        "splits": _ranked(entry.split or _NO_VALUE for entry in entries),
        "tasks": _ranked(entry.problem.task or _NO_VALUE for entry in entries),
        "columns": list(data.mappings),
        "skipped": _skipped(data.skipped),
        "golds": {
            # a gold that is read and not equal to itself is as useless, and a worse surprise
            "unreadable": [f for f in failures if not f["verdict"].scored],
            "not_equal_to_itself": [f for f in failures if f["verdict"].scored],
            "forms": forms,
        },
        "answers": _answers(entries),
        "guessing": _guessing(entries),
        "repeats": _repeats(entries),
        "marks": _marks(entries),
        "images": _images(data),
        "question_characters": distribution([len(entry.problem.question) for entry in entries]),
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


def _skipped(skipped: Sequence[Skipped]) -> dict[str, Any]:
    by_reason = {
        reason: {
            "count": count,
            "rows": [row.message for row in skipped if row.reason == reason],
        }
        for reason, count in _ranked(row.reason for row in skipped).items()
    }
    return {"count": len(skipped), "by_reason": by_reason}


def _answers(entries: Sequence[Entry]) -> dict[str, Any]:
    problems = [entry.problem for entry in entries]
    pairs = _ranked(
        (p.answer_type or _NO_VALUE, infer_type(p.answer, bool(p.choices))) for p in problems
    )
    return {
        "types": _ranked(gold_of(problem).answer_type for problem in problems),
        "given_and_inferred": [
            {"given": given, "inferred": inferred, "count": count}
            for (given, inferred), count in pairs.items()
        ],
        "words_that_are_numbers": [
            {"uid": p.uid, "gold": p.answer}
            for p in problems
            if p.answer_type == "text" and plain_number(p.answer) is not None
        ],
        "characters": distribution([len(problem.answer) for problem in problems]),
        "most_frequent": _ranked(_spelled(entries)),
    }


def _guessing(entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what always the most frequent answer would give: of each type, and of each task and
    type in groups of at least `MIN_GROUP`; for choices also what a random letter would."""
    by_type: dict[str, list[str]] = defaultdict(list)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry, answer in zip(entries, _spelled(entries), strict=True):
        answer_type = gold_of(entry.problem).answer_type
        by_type[answer_type].append(answer)
        groups[entry.problem.task or _NO_VALUE, answer_type].append(answer)
    rows = [{"task": task, "type": t} | _majority(answers) for (task, t), answers in groups.items()]
    rows.sort(key=lambda row: (-row["problems"], row["task"], row["type"]))
    types = {answer_type: _majority(answers) for answer_type, answers in by_type.items()}
    chances = [1 / len(entry.problem.choices) for entry in entries if entry.problem.choices]
    return {
        "types": types,
        "groups": rows,
        "by_type": _majority_share(types.values()),
        "by_task_and_type": _majority_share([r for r in rows if r["problems"] >= MIN_GROUP]),
        "problems_with_choices": len(chances),
        "random_choice": sum(chances) / len(chances) if chances else None,
    }


def _majority(answers: Sequence[str]) -> dict[str, Any]:
    answer, count = Counter(answers).most_common(1)[0]
    return {
        "problems": len(answers),
        "different_answers": len(set(answers)),
        "majority_answer": answer,
        "majority_count": count,
        "majority_share": count / len(answers),
    }


def _majority_share(groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the share over all problems, each answered with the majority of its own group."""
    counts = [(group["majority_count"], group["problems"]) for group in groups]
    problems = sum(size for _, size in counts)
    right = sum(count for count, _ in counts)
    return {"problems": problems, "share": right / problems if problems else None}


def _repeats(entries: Sequence[Entry]) -> dict[str, Any]:
    def grouped(key: Callable[[Entry], Iterable[Hashable]]) -> list[list[Entry]]:
        """Return the groups of entries that share a key, those of more than one."""
        groups: dict[Hashable, list[Entry]] = defaultdict(list)
        for entry in entries:
            for value in key(entry):
                groups[value].append(entry)
        return [group for group in groups.values() if len(group) > 1]

    def differ(group: Sequence[Entry], value: Callable[[Entry], Hashable]) -> bool:
        return len(set(map(value, group))) > 1

    same = grouped(lambda e: [(_words(e), _digests(e))])
    repeats = {
        "same_question_and_images": same,
        "contradictory": [g for g in same if differ(g, _answer_of)],
        "across_splits": [g for g in same if differ(g, lambda e: e.split)],
        "same_image": [
            g for g in grouped(lambda e: set(_digests(e))) if differ(g, lambda e: _words(e)[0])
        ],
        "same_question_other_images": [
            g for g in grouped(lambda e: [_words(e)]) if differ(g, _digests)
        ],
    }
    return {name: _groups(groups) for name, groups in repeats.items()}


def _groups(groups: Sequence[Sequence[Entry]]) -> dict[str, Any]:
    """Return counts, where `extra` leaves out the first problem of each group, and the groups, the
    largest first."""
    return {
        "groups": len(groups),
        "problems": sum(map(len, groups)),
        "extra": sum(len(group) - 1 for group in groups),
        "examples": [
            [
                {"uid": e.problem.uid, "split": e.split, "gold": e.problem.answer}
                | {"question": e.problem.question}
                for e in group
            ]
            for group in sorted(groups, key=len, reverse=True)
        ],
    }


def _marks(entries: Sequence[Entry]) -> dict[str, Any]:
    pairs = [(IMAGE_MARK in entry.problem.question, bool(entry.images)) for entry in entries]
    return {
        "images_per_problem": _ranked(str(len(entry.images)) for entry in entries),
        "as_many_marks_as_images": pairs.count((True, True)),
        "images_without_marks": pairs.count((False, True)),
        "marks_without_images": pairs.count((True, False)),
        "text_only": pairs.count((False, False)),
    }


def _images(data: DataSet) -> dict[str, Any]:
    images = data.images
    sizes = Counter((image.width, image.height) for image in images)
    return {
        "used": sum(len(entry.images) for entry in data.entries),
        "different": len(images),
        "formats": _ranked(image.format for image in images),
        "modes": _ranked(image.mode for image in images),
        "width": distribution([image.width for image in images]),
        "height": distribution([image.height for image in images]),
        "pixels": distribution([image.width * image.height for image in images]),
        "bytes": distribution([image.num_bytes for image in images]),
        "sizes": [[*size, count] for size, count in sizes.most_common()],
    }


def _answer_of(entry: Entry) -> str:
    """Return the answer in one spelling: the letter of a choice, the value of a number."""
    gold = gold_of(entry.problem)
    number = plain_number(gold.answer)
    return letter_of(gold) or (normalise(gold.answer) if number is None else str(number))


def _spelled(entries: Sequence[Entry]) -> list[str]:
    """Return the answers as the first of each value is written: 0.5 and 1/2 are one."""
    spellings: dict[str, str] = {}
    return [
        spellings.setdefault(_answer_of(e), letter_of(gold_of(e.problem)) or e.problem.answer)
        for e in entries
    ]


def _words(entry: Entry) -> tuple[str, ...]:
    """Return the question without white space, and the choices."""
    return "".join(entry.problem.question.split()), *(entry.problem.choices or ())


def _digests(entry: Entry) -> tuple[str, ...]:
    return tuple(image.digest for image in entry.images)


def _ranked(values: Iterable[_Key]) -> dict[_Key, int]:
    """Return how often each occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))
