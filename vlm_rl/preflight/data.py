"""Inspections of the data: rows, golds, repeats, leaks, images, lengths of prompts."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_rl.data.image_files import BadImage, Size
from vlm_rl.data.images import Resizer
from vlm_rl.data.prompts import BadProblem
from vlm_rl.evaluation.overlap import Benchmarks
from vlm_rl.preflight.remarks import Remark, ok, stop, warning
from vlm_rl.preflight.start import Problems, Start
from vlm_rl.records import Problem
from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.gold_forms import AS_IT_STANDS, IN_ITS_SLOT, check_golds
from vlm_rl.verification.notation import normalise

TOO_LONG = "prompt too long"
LEAST_VALIDATED = 32
"""With fewer problems an accuracy of one half has a 95 % interval of 17 points to either side."""
MOST_REDUCED = 4
"""An image that loses more than three quarters of its pixels may lose what it is asked about."""
MOST_REPEATED = 0.05
"""Share of problems; fewer repeats hardly change what is learned."""
MOST_DECODED = 512
GOLDS_AT_A_START = 256
"""How many golds `fit` checks against themselves; preflight checks all."""
_SHOWN = 3


def rows(start: Start) -> Iterator[Remark]:
    """Count the rows that cannot be problems, by reason."""
    for name, part in _parts(start):
        reasons = Counter(row.reason for row in part.skipped if row.reason != TOO_LONG)
        for reason, count in reasons.most_common():
            first = next(row.message for row in part.skipped if row.reason == reason)
            line = f"{name}: {count} rows cannot be problems ({reason}), the first: {first}"
            if part.stops:
                yield stop(line, "mend them, or leave them out by --data.on_bad_row skip")
            else:
                yield warning(line, "mend them if they are wanted; the run leaves them out")
        if not reasons:
            yield ok(f"{name}: {len(part.problems)} problems, no bad row")


def gold_types(start: Start) -> Iterator[Remark]:
    """Name golds that no answer can be checked against."""
    part = start.train
    start.parts.reward.self_test()
    lines = start.parts.reward.unusable([*part.problems, *start.val.problems])
    if not lines:
        yield ok("every gold can be read by the term that checks it")
        return
    line = f"{len(lines)} golds cannot be checked against; the first: {lines[0]}"
    kind = stop if part.stops else warning
    yield kind(line, "mend them or name their answer_type, or --data.on_bad_row skip")


def refill(start: Start) -> Iterator[Remark]:
    """Say whether there are problems enough for the further rounds of dynamic sampling."""
    group_filter, num = start.parts.dynamic_sampling, len(start.train.problems)
    if group_filter is None:
        yield ok("no group is dropped")
        return
    group_filter.check_refill(num, start.config.data.prompts_per_step)
    yield ok(f"{num} problems are enough for further rounds")


def golds(start: Start) -> Iterator[Remark]:
    """Name golds that are not right as answers to their own questions, so that none is."""
    accuracy, reward = start.parts.reward.accuracy, start.parts.reward
    if not isinstance(reward.terms[reward.verdicts_from], Accuracy):
        yield ok(f"not checked against themselves: term {reward.verdicts_from} judges")
        return
    problems = start.train.problems
    looked_at = problems if start.thorough else _spread(problems, GOLDS_AT_A_START)
    forms = check_golds(looked_at, accuracy)
    failed = {
        f["uid"]: f
        for form in (IN_ITS_SLOT, AS_IT_STANDS)
        for f in forms[form]["failures"]
        if f["verdict"].scored
    }
    if not failed:
        yield ok(f"{len(looked_at)} golds are right as answers to their own questions")
        return
    first = next(iter(failed.values()))
    yield warning(
        f"{len(failed)} of {len(looked_at)} golds are not right as answers to their own questions, "
        f"the first {first['gold']!r:.60} of {first['uid']} ({first['rule']})",
        "mend these answers or name their answer_type: whatever the policy says, it is wrong",
    )


def duplicates(start: Start) -> Iterator[Remark]:
    """Count questions that come again with the same images."""
    by_key: dict[tuple[str, ...], list[Problem]] = defaultdict(list)
    for problem in start.train.problems:
        by_key[start.train.keys[problem.uid]].append(problem)
    again = sorted((group for group in by_key.values() if len(group) > 1), key=len, reverse=True)
    odd = [g for g in again if len({normalise(problem.answer) for problem in g}) > 1]
    extra, total = sum(len(group) - 1 for group in again), len(start.train.problems)
    if odd:
        yield warning(
            f"{len(odd)} questions come again with the same images and another answer, the first "
            f"{_uids(odd[0])}",
            "remove the wrong ones",
        )
    line = f"{extra} of {total} problems repeat the question and images of another"
    if extra > MOST_REPEATED * total:
        yield warning(f"{line}, as {_uids(again[0])}", "remove them, unless they are to weigh more")
    elif not odd:
        yield ok(line)


def leaks(start: Start) -> Iterator[Remark]:
    """Name validation problems that are trained on."""
    trained, uids = set(start.train.keys.values()), set(start.train.keys)
    shared = [
        problem
        for problem in start.val.problems
        # those of the same uid are named when `fit` reads them
        if (start.val.keys[problem.uid] in trained and problem.uid not in uids)
        or (start.thorough and problem.uid in uids)
    ]
    if shared:
        yield warning(
            f"{len(shared)} of {len(start.val.problems)} validation problems are trained on too "
            f"({_uids(shared)})",
            "take them out of one of the two: the validation would measure what was memorised",
        )
    else:
        yield ok("no validation problem is trained on")


def validation(start: Start) -> Iterator[Remark]:
    """Say whether there are enough problems to see a difference."""
    count = len(start.val.problems)
    if not count:
        yield warning(
            "data.val has no problem, so nothing says whether the policy gets better",
            f"name a held-out file in data.val, of {LEAST_VALIDATED} problems or more",
        )
    elif count < LEAST_VALIDATED:
        points = 196 * (0.25 / count) ** 0.5
        yield warning(
            f"{count} validation problems give an accuracy of one half only to within "
            f"{points:.0f} points",
            f"use {LEAST_VALIDATED} or more; several hundred tell small gains apart",
        )
    else:
        yield ok(f"{count} validation problems")


def benchmarks(start: Start) -> Iterator[Remark]:
    """Name training problems that are part of the benchmarks of the run."""
    settings = start.parts.benchmarks
    if settings is None:
        yield ok("no benchmark is asked in this run")
        return
    known = Benchmarks(_source(name, settings.data) for name in settings.benchmark)
    found = {}
    for problem in start.train.problems:
        images = [i if isinstance(i, bytes) else i.read_bytes() for i in problem.images]
        if reason := known.match(problem.question, images):
            found[problem.uid] = reason
    names = ", ".join(settings.benchmark)
    if not found:
        yield ok(f"no training problem is in {names}")
        return
    uid, reason = next(iter(found.items()))
    yield warning(
        f"{len(found)} training problems are in {names}, the first {uid} ({reason})",
        "leave them out: the converters do by --exclude-benchmarks",
    )


def image_sizes(start: Start) -> Iterator[Remark]:
    """Count images that are far from the sizes that the model sees."""
    resizer, sizes = start.encoder.resizer, list(start.train.used.values())
    if not sizes:
        yield ok("no training problem has an image")
        return
    side = resizer.patch_size * resizer.merge_size
    tiny = [size for size in sizes if min(size) < side]
    huge = [s for s in sizes if s[0] * s[1] > MOST_REDUCED * resizer.max_pixels]
    if tiny:
        yield warning(
            f"{len(tiny)} images are less than one visual token of {side} pixels high or wide, the "
            f"first of {_pixels(tiny[0])}",
            "look at them: icons and empty pictures show nothing",
        )
    if huge:
        yield warning(
            f"{len(huge)} images have more than {MOST_REDUCED} times prompt.max_pixels="
            f"{resizer.max_pixels}, the first {_pixels(huge[0])}: details are lost",
            "raise prompt.max_pixels and prompt.max_prompt_tokens, or cut the images",
        )
    if not tiny and not huge:
        tokens = _tokens(sizes, resizer)
        yield ok(f"{len(sizes)} images, {tokens[0]} to {tokens[-1]} visual tokens each")


def decoding(start: Start) -> Iterator[Remark]:
    """Decode images: a header may be sound where the pixels are not."""
    images = _spread(list(start.train.used), MOST_DECODED)
    broken = []
    for image in images:
        try:
            start.encoder.resizer.resized(image)
        except BadImage as error:
            broken.append(str(error))
    if broken:
        line = f"{len(broken)} of {len(images)} images cannot be decoded, the first: {broken[0]}"
        kind = stop if start.train.stops else warning
        yield kind(line, "write these files again, or leave their rows out")
    else:
        yield ok(f"{len(images)} images decoded")


def prompt_lengths(start: Start) -> Iterator[Remark]:
    """Count prompts above the limit, which are left out."""
    part, limit = start.train, start.encoder.max_prompt_tokens
    too_long = [row for row in part.skipped if row.reason == TOO_LONG]
    if too_long:
        total = len(part.problems) + len(too_long)
        yield warning(
            f"{len(too_long)} of {total} prompts are above prompt.max_prompt_tokens={limit} and "
            f"left out, the first: {too_long[0].message}",
            "raise prompt.max_prompt_tokens, or lower prompt.max_pixels",
        )
        return
    lengths = []
    for problem in _spread(part.problems, LEAST_VALIDATED):
        try:
            lengths.append(start.encoder.count_tokens(problem))
        except BadProblem:
            continue
    if lengths:
        spread = f"{min(lengths)} to {max(lengths)} tokens in {len(lengths)} prompts"
        yield ok(f"{spread}, none above {limit}")


def _parts(start: Start) -> Iterator[tuple[str, Problems]]:
    yield "training", start.train
    yield "validation", start.val


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """Return up to `most` items, evenly spaced."""
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]


def _source(name: str, copies: Mapping[str, str]) -> str:
    copy = copies.get(name.partition(":")[0])
    return name if copy is None else f"{name}={copy}"


def _tokens(sizes: Sequence[Size], resizer: Resizer) -> list[int]:
    return sorted(resizer.num_tokens_at(size) for size in sizes)


def _pixels(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _uids(problems: Sequence[Problem]) -> str:
    more = ", ..." if len(problems) > _SHOWN else ""
    return ", ".join(problem.uid for problem in problems[:_SHOWN]) + more
