"""From the answers that stand in a completion's slots to one verdict and the rule behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from vlm_rl.records import Verdict
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.pool import CheckerPool


@dataclass(frozen=True)
class Reading:
    """What was read in a completion. `answer` is None where there was no answer slot or several
    that differ; `rule` says what decided the verdict."""

    answer: str | None
    verdict: Verdict
    rule: str


def read_answers(asked: Sequence[tuple[Gold, Sequence[str]]], pool: CheckerPool) -> list[Reading]:
    """Check the only answer given; none at all is unparsable, several different ones are wrong."""
    single = [(gold, given[0]) for gold, given in asked if len(given) == 1]
    checks = iter(pool.check(single))
    return [
        Reading(given[0], *next(checks)) if len(given) == 1 else _without_asking(given)
        for _, given in asked
    ]


def _without_asking(given: Sequence[str]) -> Reading:
    if given:
        return Reading(None, Verdict.WRONG, f"hedge: {len(given)} different answers")
    return Reading(None, Verdict.UNPARSABLE, "no answer slot")
