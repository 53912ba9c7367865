"""Inspections of what the policy answers: right or wrong, cut off, judged as it should be.

Limits are chosen, not measured: with the 128 completions of 16 problems in groups of 8, a share of
one tenth is known to within five points.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from vlm_rl.metrics import drift as drift_metrics
from vlm_rl.metrics.rollout import all_right, all_wrong
from vlm_rl.preflight.remarks import Remark, ok, stop, warning
from vlm_rl.preflight.start import Start
from vlm_rl.records import END_OF_THINKING, Completion, Problem, Rollout, Verdict
from vlm_rl.rewards.accuracy import Accuracy, gold_of
from vlm_rl.rewards.judging import JudgingTerm
from vlm_rl.verification.extraction import ANSWER_STYLES, after_thinking, answers
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.pool import read_answers

MOST_TRUNCATED = 0.1
LEAST_WITH_SIGNAL = 0.25
MOST_MISJUDGED = 0.05
MOST_UNSCORED = 0.02
MOST_THINKING = 0.5
"""Share of completions in which the thinking that the template opened never ends."""
LEAST_JUDGED = 8
"""With fewer completions nothing is said of what is always the same."""
_LONGEST_END = 60


@dataclass(frozen=True)
class Misjudged:
    """A completion that was not judged right and has the right answer at `place`."""

    problem: Problem
    text: str
    verdict: Verdict
    place: str


def accuracy(start: Start) -> Iterator[Remark]:
    """Say how much is right, and what could not be scored."""
    scores = start.rollout.scores
    verdicts = Counter(verdict for row in scores.verdicts for verdict in row)
    total = verdicts.total()
    failed = sum(count for verdict, count in verdicts.items() if not verdict.scored)
    shares = ", ".join(
        f"{count / total:.0%} {verdict}" for verdict, count in verdicts.most_common()
    )
    line = f"of {total} completions {shares}"
    if failed > MOST_UNSCORED * total:
        yield warning(
            f"{line}: {failed} could not be scored, and train nothing",
            "read what the term says in the log; a larger timeout_s, or mend the golds",
        )
    else:
        yield ok(line)


def signal(start: Start) -> Iterator[Remark]:
    """Say whether groups of this size have anything to compare."""
    scores, size = start.rollout.scores, start.rollout.scores.total.shape[1]
    low = torch.where(scores.scored, scores.total, torch.inf).amin(1)
    high = torch.where(scores.scored, scores.total, -torch.inf).amax(1)
    share = float((high > low).double().mean())
    right, wrong = int(all_right(scores).sum()), int(all_wrong(scores).sum())
    line = (
        f"{share:.0%} of {len(low)} groups of {size} have rewards that differ ({right} groups are "
        f"all right, {wrong} all wrong)"
    )
    if share >= LEAST_WITH_SIGNAL:
        yield ok(line)
        return
    kind = warning if share else stop
    yield kind(
        f"{line}: the others teach nothing" if share else f"{line}: nothing would be learned",
        f"{'harder' if right > wrong else 'easier'} problems, a larger group_size, or "
        "dynamic_sampling",
    )


def truncation(start: Start) -> Iterator[Remark]:
    """Say how many completions the budget cuts off."""
    groups, limit = start.sampled.groups, start.parts.sampling.max_completion_tokens
    completions = [completion for group in groups for completion in group]
    lengths = sorted(map(len, completions))
    share = sum(c.truncated for c in completions) / len(completions)
    line = (
        f"{share:.0%} of {len(lengths)} completions are cut off at max_completion_tokens={limit}; "
        f"half are up to {lengths[len(lengths) // 2]} tokens long"
    )
    if share > MOST_TRUNCATED:
        yield warning(
            line,
            f"sampling.max_completion_tokens={2 * limit}, or a shorter way of thinking; what is "
            "cut off is wrong",
        )
    else:
        yield ok(line)


def unended_thinking(start: Start) -> Iterator[Remark]:
    """Say whether thinking that the template opens comes to an end."""
    prompts, groups = start.sampled.prompts, start.sampled.groups
    opened = [c for p, group in zip(prompts, groups, strict=True) if p.opening for c in group]
    unended = [c for c in opened if END_OF_THINKING not in c.text]
    if opened and len(unended) > MOST_THINKING * len(opened):
        yield warning(
            f"the template opens the thinking, and {len(unended)} of {len(opened)} completions "
            "never end it, so that they have no answer",
            "prompt.template_args {enable_thinking: false}, a larger max_completion_tokens, or the "
            "template of a model that thinks",
        )
    else:
        ended = f"the thinking ends in {len(opened) - len(unended)} of {len(opened)} completions"
        yield ok(ended if opened else "the template opens no thinking")


def constant_terms(start: Start) -> Iterator[Remark]:
    """Name terms of the reward that say the same of every completion.

    One that is always 1 is what every completion has earned, as form is soon. What judges is left
    out: it is constant if all is right or all wrong, which `signal` says.
    """
    reward, scores = start.parts.reward, start.rollout.scores
    scored = scores.scored
    if int(scored.sum()) < LEAST_JUDGED:
        yield ok("too few completions to tell what is constant")
        return
    terms = {
        name: values[scored]
        for name, values in scores.parts.items()
        if not isinstance({**reward.terms, **reward.factors}[name], JudgingTerm)
        and scores.weights.get(name, 1.0)
    }
    constant = {name: v[0].item() for name, v in terms.items() if v.min() == v.max()}
    for name, value in constant.items():
        if value != 1:
            yield warning(
                f"reward term {name} is {value:g} for all {len(terms[name])} completions, so it "
                "teaches nothing",
                "look at the completions on the page: mend the term, or leave it out",
            )
    full = [name for name, value in constant.items() if value == 1]
    if len(full) == len(constant):
        yield ok(f"terms beside what judges: {', '.join(terms) or 'none'}{_always(full)}")


def _always(full: Sequence[str]) -> str:
    return f"; {', '.join(full)} is always 1 already" if full else ""


def misjudged(start: Start) -> Iterator[Remark]:
    """Count answers that look right and are judged otherwise."""
    term, rollout = start.parts.reward.accuracy, start.rollout
    if term is None:
        yield ok("no term reads answers by their place")
        return
    found = looking_right(term, rollout)
    total, right = rollout.scores.total.numel(), int(rollout.scores.correct.sum())
    if len(found) <= MOST_MISJUDGED * total:
        yield ok(f"{len(found)} of {total} completions look right and are judged otherwise")
        return
    places = Counter(one.place for one in found)
    place = places.most_common(1)[0][0]
    kind = stop if len(found) > right else warning
    yield kind(
        f"{len(found)} of {total} completions have the right answer where answer_style="
        f"{term.answer_style} does not look, most in {place}; {right} are judged right",
        "set answer_style of the accuracy term to where answers stand, or prompt.style to what "
        "asks for it",
    )


def drift(start: Start) -> Iterator[Remark]:
    """Compare engine and policy at equal weights, by modality."""
    measured, limit = start.sampled.drift, start.config.drift_alarm
    values = drift_metrics.metrics(measured)
    kinds = {"with images": "drift/image/abs_mean", "text alone": "drift/text/abs_mean"}
    shown = ", ".join(
        f"{values[key]:.2g} nats a token {kind}" for kind, key in kinds.items() if key in values
    )
    alarm = drift_metrics.alarm(measured.worst, limit)
    if alarm is None:
        yield ok(f"engine and policy differ by {shown}; the limit is {limit:g}")
    else:
        sentence, _, todo = alarm.partition(". ")
        yield stop(f"{sentence}; the mean is {shown}", todo)


def looking_right(term: Accuracy, rollout: Rollout) -> list[Misjudged]:
    """Return the completions that were not judged right, but would be in another answer slot or by
    what they end with."""
    asked: list[tuple[Gold, list[str]]] = []
    owners: list[tuple[int, Misjudged]] = []
    for number, (problem, completion, verdict) in enumerate(_judged(rollout)):
        if verdict is Verdict.CORRECT or completion.truncated:
            continue
        own = problem.answer_style or term.answer_style
        for place, given in _elsewhere(completion.text, own).items():
            asked.append((gold_of(problem), given))
            owners.append((number, Misjudged(problem, completion.text, verdict, place)))
    found: dict[int, Misjudged] = {}
    for (number, one), reading in zip(owners, read_answers(asked, term.pool), strict=True):
        if reading.verdict is Verdict.CORRECT:
            found.setdefault(number, one)
    return list(found.values())


def _judged(rollout: Rollout) -> Iterator[tuple[Problem, Completion, Verdict]]:
    rows = zip(rollout.prompts, rollout.groups, rollout.scores.verdicts, strict=True)
    for prompt, group, verdicts in rows:
        for completion, verdict in zip(group, verdicts, strict=True):
            yield prompt.problem, completion, verdict


def _elsewhere(text: str, own: str) -> Mapping[str, list[str]]:
    """Return what may be an answer outside the slots of a style, by its place."""
    found = {style: answers(text, style) for style in ANSWER_STYLES if style != own}
    lines = after_thinking(text).strip().splitlines()
    end = (lines or [""])[-1].rpartition(":")[2].strip(" .$*")
    if not answers(text, own) and 0 < len(end) <= _LONGEST_END:
        found["the last line"] = [end]
    return {place: given for place, given in found.items() if given}
