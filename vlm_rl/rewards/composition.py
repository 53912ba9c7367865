"""The reward: a weighted sum of named terms times factors; one term says what is right."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vlm_rl.parts import PartError, check_values, named, path_of
from vlm_rl.records import Groups, Problem, Scores, Verdict
from vlm_rl.rewards.accuracy import Accuracy
from vlm_rl.rewards.format import Format
from vlm_rl.rewards.judging import Judgement, JudgingTerm, Verdicts
from vlm_rl.rewards.term import RewardTerm

SMALLEST_SAMPLE = 64
"""A call with fewer completions counts as this many: one failure in four says little."""
_NAME = re.compile(r"\w[\w.-]*")
LENGTH = "length"
RESERVED = ("mean", "group_std", LENGTH, "kl", "shaping")
"""Metrics beside `reward/<term>`, so no names of terms; nor is a name that ends in `_frac`."""


class Reward:
    """R = (sum of `terms` and of `length`, each times its weight) times the product of `factors`.

    `length` is a term that shapes the length of answers. It stands apart, so that a configuration
    can set it without stating the others again. `factors` multiply as they are, without a weight.
    Use the reward as a context manager, or `close` it: some terms keep processes.

    The verdicts of one judging term (`Accuracy`, ...) say which completions are right: of the only
    one, or of the term that `verdicts_from` names. A completion that any term could not score
    (timeout, error, a function that failed) has no reward and is in no statistic. If these are more
    than `max_unscored_frac` of a call, the checker or the data set is at fault, and the run stops.
    No format term may weigh more than the judging one: a policy would learn the form and stop
    there.
    """

    def __init__(
        self,
        terms: dict[str, RewardTerm],
        max_unscored_frac: float = 0.2,
        length: RewardTerm | None = None,
        factors: dict[str, RewardTerm] | None = None,
        verdicts_from: str | None = None,
    ) -> None:
        if not 0 <= max_unscored_frac <= 1:
            raise ValueError(
                f"Reward.max_unscored_frac must be in [0, 1], got {max_unscored_frac}; "
                "it is the share of answers that may fail to be checked"
            )
        self.factors = factors or {}
        _refuse_names(terms, "terms")
        _refuse_names(self.factors, "factors")
        _refuse_factors(self.factors, terms)
        self.terms = terms if length is None else {**terms, LENGTH: length}
        self.max_unscored_frac = max_unscored_frac
        judges = {name: term for name, term in terms.items() if isinstance(term, JudgingTerm)}
        self.verdicts_from = _deciding(judges, verdicts_from)
        _refuse_heavy_format(terms, judges[self.verdicts_from])

    @property
    def accuracy(self) -> Accuracy | None:
        """The term that reads answers, None if nothing here does."""
        return next((term for term in self._routed if isinstance(term, Accuracy)), None)

    @property
    def reads_policy(self) -> bool:
        """Whether some term reads what the policy says of the tokens."""
        return any(term.reads_policy for term in (*self._all.values(), *self._routed))

    @property
    def _routed(self) -> list[JudgingTerm]:
        """The terms that judge in the end, those of routes among them."""
        return [term for judge in self._judges.values() for term in judge.judges()]

    @property
    def _judges(self) -> dict[str, JudgingTerm]:
        return {n: term for n, term in self._all.items() if isinstance(term, JudgingTerm)}

    @property
    def _all(self) -> dict[str, RewardTerm]:
        return {**self.terms, **self.factors}

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Scores:
        """Score [P][G] completions.

        Completions without a score get a total of 0, a verdict of timeout or error, and
        `Scores.scored` False. Raises PartError if there are too many of them, and for a term that
        fails or does not return finite float64 values [P, G].
        """
        judgements = {
            name: _judgement(name, judge, problems, groups) for name, judge in self._judges.items()
        }
        right = judgements[self.verdicts_from].verdicts
        others = {
            name: _rated(name, term, problems, groups, right)
            for name, term in self._all.items()
            if name not in judgements
        }
        found = judgements | others
        for name, judgement in found.items():
            self._refuse_failing(name, judgement.verdicts, problems)
        verdicts = _together([right, *(judgement.verdicts for judgement in found.values())])
        values = {name: found[name].values for name in self._all}
        weighted = torch.stack([term.weight * values[name] for name, term in self.terms.items()])
        scored = torch.tensor([[verdict.scored for verdict in row] for row in verdicts])
        total = torch.where(scored, weighted.sum(0), 0.0)
        for name, factor in self.factors.items():
            if factor.shrinks:
                _refuse_negative(name, total, problems)
            total = total * values[name]
        return Scores(
            terms={name: values[name] for name in self.terms},
            total=total,
            verdicts=verdicts,
            weights={name: term.weight for name, term in self.terms.items()},
            factors={name: values[name] for name in self.factors},
            measures=self._measures(found, scored),
            rules=_rules(judgements[self.verdicts_from], verdicts),
        )

    def _measures(self, found: Mapping[str, Judgement], scored: Tensor) -> dict[str, Tensor]:
        """Return what terms tell of scored completions, and what each could not score itself."""
        measures = {
            f"{name}/{measure}": torch.where(scored, values, math.nan)
            for name, judgement in found.items()
            for measure, values in judgement.measures.items()
        }
        for name, judgement in found.items():
            if name != self.verdicts_from and (name in self._judges or self._all[name].may_fail):
                failed = [[not verdict.scored for verdict in row] for row in judgement.verdicts]
                measures[f"{name}_failed_frac"] = torch.tensor(failed, dtype=torch.float64)
        return measures

    def _refuse_failing(self, name: str, verdicts: Verdicts, problems: Sequence[Problem]) -> None:
        failed = [p for p, row in zip(problems, verdicts, strict=True) for v in row if not v.scored]
        total = sum(map(len, verdicts))
        if len(failed) > self.max_unscored_frac * max(total, SMALLEST_SAMPLE):
            raise PartError(
                f"reward term {name} {path_of(self._all[name])}: {len(failed)} of {total} "
                f"completions could not be scored, the first for problem {failed[0].uid!r} with "
                f"the gold {failed[0].answer!r:.100}{self._all[name].last_failure}; mend the term "
                "or remove such problems, or raise Reward.max_unscored_frac"
            )

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        """Return a line for each problem and term that has no value for any answer to it."""
        return [line for term in self._all.values() for line in term.unusable(problems)]

    def self_test(self) -> None:
        """Check known pairs in the processes that will check the policy's answers.

        Raises RuntimeError naming the first that fails.
        """
        for judge in self._judges.values():
            judge.self_test()

    def close(self) -> None:
        """End the processes of the terms."""
        for term in self._all.values():
            term.close()

    def __enter__(self) -> "Reward":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _refuse_names(terms: Mapping[str, RewardTerm], key: str) -> None:
    for name in terms:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"Reward.{key}: {name!r:.60} names a metric, a column and panels; "
                "use letters, digits, '_', '-' and '.'"
            )
        if name in RESERVED or name.endswith("_frac"):
            raise ValueError(
                f"Reward.{key}: {name!r} is the name of a metric of its own; rename the term"
            )


def _refuse_factors(factors: Mapping[str, RewardTerm], terms: Mapping[str, RewardTerm]) -> None:
    for name, factor in factors.items():
        if name in terms:
            raise ValueError(
                f"Reward.factors.{name} has the name of a term, and both would be logged as "
                f"reward/{name}; rename one of them"
            )
        if factor.weight != 1:
            raise ValueError(
                f"Reward.factors.{name}.weight is {factor.weight}; a factor multiplies as it is: "
                "set its weight to 1, or put it among Reward.terms"
            )


def _refuse_negative(name: str, total: Tensor, problems: Sequence[Problem]) -> None:
    bad = (total < 0).nonzero().tolist()
    if bad:
        row, column = bad[0]
        raise PartError(
            f"Reward.factors.{name} would shrink a reward below 0, {total[row, column]:g} for "
            f"completion {column} of problem {problems[row].uid!r}, which pays for what it is to "
            "punish; leave out the factor, or terms with negative values"
        )


def _deciding(judges: Mapping[str, JudgingTerm], named_one: str | None) -> str:
    """Return the name of the term whose verdicts count."""
    names = ", ".join(judges)
    if not judges:
        raise ValueError(
            "Reward.terms must hold a term that says what is right, such as class_path "
            "vlm_rl.rewards.Accuracy (weight 0 for its verdicts alone); none of them does"
        )
    if named_one is None and len(judges) > 1:
        raise ValueError(
            f"Reward.terms has several terms that judge: {names}; say by Reward.verdicts_from "
            "whose verdicts count as right, or route problems to them with vlm_rl.rewards.Route"
        )
    if named_one is not None and named_one not in judges:
        raise ValueError(f"Reward.verdicts_from={named_one!r} must be one that judges: {names}")
    return named_one or next(iter(judges))


def _refuse_heavy_format(terms: Mapping[str, RewardTerm], judge: JudgingTerm) -> None:
    for name, term in terms.items():
        if isinstance(term, Format) and term.weight > judge.weight:
            raise ValueError(
                f"Reward.terms.{name}.weight is {term.weight}, above the accuracy weight "
                f"{judge.weight}; keep format below accuracy, such as 0.1 beside 0.9"
            )


def _judgement(
    name: str, term: JudgingTerm, problems: Sequence[Problem], groups: Groups
) -> Judgement:
    place = f"reward term {name}"
    with named(term, place):
        judgement = term.judge(problems, groups)
    verdicts = judgement.verdicts
    if [len(row) for row in verdicts] != [len(group) for group in groups]:
        raise PartError(f"{place} {path_of(term)} must return a verdict for each completion")
    values = _checked(judgement.values, verdicts, place, term, problems, groups)
    return replace(judgement, values=values)


def _rules(judgement: Judgement, verdicts: Verdicts) -> list[list[str]]:
    """Return what decided `verdicts`, some of which may be failures of other terms."""
    rows = zip(judgement.rules, judgement.verdicts, verdicts, strict=bool(judgement.rules))
    return [
        [
            rule if own is final else "another term failed"
            for rule, own, final in zip(*row, strict=True)
        ]
        for row in rows
    ]


def _rated(
    name: str, term: RewardTerm, problems: Sequence[Problem], groups: Groups, right: Verdicts
) -> Judgement:
    """Return the values of a term that does not judge; its verdicts only say what has failed."""
    place = f"reward term {name}"
    with named(term, place):
        values = term.judged(problems, groups, right)
    verdicts = right
    if term.may_fail and isinstance(values, Tensor) and values.shape == _shape(groups):
        failed = values.isnan().tolist()
        verdicts = [[Verdict.ERROR if f else Verdict.WRONG for f in row] for row in failed]
    else:
        verdicts = [[Verdict.WRONG] * len(row) for row in right]
    return Judgement(_checked(values, verdicts, place, term, problems, groups), verdicts)


def _checked(
    values: object,
    verdicts: Verdicts,
    place: str,
    term: RewardTerm,
    problems: Sequence[Problem],
    groups: Groups,
) -> Tensor:
    """Return `values` with 0 where there is no score. Raises PartError."""
    shape = _shape(groups)
    if isinstance(values, Tensor) and values.shape == shape:
        scored = torch.tensor([[verdict.scored for verdict in row] for row in verdicts])
        values = torch.where(scored, values, 0.0).to(values.dtype)
    return check_values(values, term, place, shape, [problem.uid for problem in problems])


def _shape(groups: Groups) -> tuple[int, int]:
    return len(groups), len(groups[0]) if groups else 0


def _together(said: Sequence[Verdicts]) -> list[list[Verdict]]:
    """Return the first of `said`; where another has failed, that failure."""
    return [
        [next((v for v in of_one if not v.scored), of_one[0]) for of_one in zip(*rows, strict=True)]
        for rows in zip(*said, strict=True)
    ]
