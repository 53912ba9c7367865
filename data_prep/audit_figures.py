"""The figures of an audit as plain values, ready for JSON: answers, repeats, images, rows left out.

Distributions hold their histogram value by value, so that every picture can be drawn from them.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from data_prep.audit_golds import AS_IT_STANDS, Form, letter_of
from data_prep.audit_reading import DataSet, Entry, Picture
from vlm_rl.data.rows import Skipped
from vlm_rl.records import IMAGE_MARK
from vlm_rl.rewards.accuracy import gold_of
from vlm_rl.verification.exact_numbers import plain_number
from vlm_rl.verification.matching import infer_type
from vlm_rl.verification.notation import normalise

MIN_GROUP = 20
"""Shares of an answer within fewer problems say little."""

_NO_VALUE = "(none)"


def figures_of(data: DataSet, forms: Sequence[Form]) -> dict[str, Any]:
    """Everything but tokens, which need pixel limits."""
    entries = data.entries
    return {
        "problems": len(entries),
        "splits": _ranked(entry.split or _NO_VALUE for entry in entries),
        "tasks": _ranked(entry.problem.task or _NO_VALUE for entry in entries),
        "columns": list(data.mappings),
        "skipped": _skipped(data.skipped),
        "golds": _golds(forms),
        "answers": _answers(entries),
        "guessing": _guessing(entries),
        "repeats": _repeats(entries),
        "marks": _marks(entries),
        "images": _images(entries),
        "question_characters": distribution([len(entry.problem.question) for entry in entries]),
    }


def distribution(values: Sequence[float]) -> dict[str, Any] | None:
    """Count, mean, percentiles and `histogram` {value: how often}; None of nothing."""
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


def different_pictures(entries: Iterable[Entry]) -> list[Picture]:
    """Each image once, in the order of the problems."""
    return list({p.digest: p for entry in entries for p in entry.pictures}.values())


def _skipped(skipped: Sequence[Skipped]) -> dict[str, Any]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for row in skipped:
        by_reason[row.reason].append(row.message)
    ranked = sorted(by_reason.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return {
        "count": len(skipped),
        "by_reason": {
            reason: {"count": len(messages), "rows": messages} for reason, messages in ranked
        },
    }


def _golds(forms: Sequence[Form]) -> dict[str, Any]:
    as_it_stands = next(form for form in forms if form.name == AS_IT_STANDS)
    failures = [vars(failure) for failure in as_it_stands.failures]
    return {
        # a gold that is read and not equal to itself is as useless, and a worse surprise
        "unreadable": [f for f in failures if not f["verdict"].scored],
        "not_equal_to_itself": [f for f in failures if f["verdict"].scored],
        "forms": {
            form.name: {
                "asked": form.asked,
                "right": form.asked - len(form.failures),
                "right_frac": form.right_frac,
                "failures": [vars(failure) for failure in form.failures],
            }
            for form in forms
        },
    }


def _answers(entries: Sequence[Entry]) -> dict[str, Any]:
    problems = [entry.problem for entry in entries]
    pairs = Counter(
        (p.answer_type or _NO_VALUE, infer_type(p.answer, bool(p.choices))) for p in problems
    )
    ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        "types": _ranked(gold_of(problem).answer_type for problem in problems),
        "given_and_inferred": [
            {"given": given, "inferred": inferred, "count": count}
            for (given, inferred), count in ranked
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
    """What always the most frequent answer would give: of each type, and of each task and type in
    groups of at least `MIN_GROUP`; for choices also what a letter drawn at random would."""
    by_type: dict[str, list[str]] = defaultdict(list)
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry, answer in zip(entries, _spelled(entries), strict=True):
        kind = gold_of(entry.problem).answer_type
        by_type[kind].append(answer)
        groups[entry.problem.task or _NO_VALUE, kind].append(answer)
    rows = [
        {"task": task, "type": kind} | _majority(answers)
        for (task, kind), answers in groups.items()
    ]
    rows.sort(key=lambda row: (-row["problems"], row["task"], row["type"]))
    types = {kind: _majority(answers) for kind, answers in by_type.items()}
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
    """Over all problems of the groups, each answered with the majority of its own."""
    counts = [(group["majority_count"], group["problems"]) for group in groups]
    problems = sum(size for _, size in counts)
    right = sum(count for count, _ in counts)
    return {"problems": problems, "share": right / problems if problems else None}


def _repeats(entries: Sequence[Entry]) -> dict[str, Any]:
    by_both: dict[tuple[object, ...], list[Entry]] = defaultdict(list)
    by_words: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
    by_image: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        words = ("".join(entry.problem.question.split()), *(entry.problem.choices or ()))
        digests = tuple(picture.digest for picture in entry.pictures)
        by_both[words, digests].append(entry)
        by_words[words].append(entry)
        for digest in set(digests):
            by_image[digest].append(entry)
    same = [group for group in by_both.values() if len(group) > 1]
    shared = [group for group in by_image.values() if len(group) > 1]
    words_only = [g for g in by_words.values() if len({_digests(e) for e in g}) > 1]
    contradictory = [group for group in same if len(set(map(_answer_of, group))) > 1]
    return {
        "same_question_and_images": _groups(same),
        "contradictory": _groups(contradictory),
        "across_splits": _groups([g for g in same if len({e.split for e in g}) > 1]),
        "same_image": _groups([g for g in shared if len(set(map(_question_of, g))) > 1]),
        "same_question_other_images": _groups(words_only),
    }


def _groups(groups: Sequence[Sequence[Entry]]) -> dict[str, Any]:
    """`extra` counts the problems beyond the first of each group; the largest groups come first."""
    ranked = sorted(groups, key=len, reverse=True)
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
            for group in ranked
        ],
    }


def _marks(entries: Sequence[Entry]) -> dict[str, Any]:
    marks = [entry.problem.question.count(IMAGE_MARK) for entry in entries]
    pairs = [(bool(mark), bool(e.pictures)) for mark, e in zip(marks, entries, strict=True)]
    return {
        "images_per_problem": _ranked(str(len(entry.pictures)) for entry in entries),
        "as_many_marks_as_images": pairs.count((True, True)),
        "images_without_marks": pairs.count((False, True)),
        "marks_without_images": pairs.count((True, False)),
        "text_only": pairs.count((False, False)),
    }


def _images(entries: Sequence[Entry]) -> dict[str, Any]:
    pictures = different_pictures(entries)
    sizes = Counter((picture.width, picture.height) for picture in pictures)
    return {
        "used": sum(len(entry.pictures) for entry in entries),
        "different": len(pictures),
        "formats": _ranked(picture.format for picture in pictures),
        "modes": _ranked(picture.mode for picture in pictures),
        "width": distribution([picture.width for picture in pictures]),
        "height": distribution([picture.height for picture in pictures]),
        "pixels": distribution([picture.width * picture.height for picture in pictures]),
        "bytes": distribution([picture.num_bytes for picture in pictures]),
        "sizes": [[*size, count] for size, count in sizes.most_common()],
    }


def _answer_of(entry: Entry) -> str:
    """The answer in one spelling: the letter of a choice, the value of a number."""
    gold = gold_of(entry.problem)
    number = plain_number(gold.answer)
    return letter_of(gold) or (normalise(gold.answer) if number is None else str(number))


def _spelled(entries: Sequence[Entry]) -> list[str]:
    """The answers as the first of its value is written: 0.5 and 1/2 are one."""
    spellings: dict[str, str] = {}
    return [
        spellings.setdefault(_answer_of(e), letter_of(gold_of(e.problem)) or e.problem.answer)
        for e in entries
    ]


def _question_of(entry: Entry) -> str:
    return "".join(entry.problem.question.split())


def _digests(entry: Entry) -> tuple[str, ...]:
    return tuple(picture.digest for picture in entry.pictures)


def _ranked(values: Iterable[str]) -> dict[str, int]:
    """How often each occurs, the most frequent first."""
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))
