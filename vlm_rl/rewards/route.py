"""One judge for each kind of problem: by task, or by the data set it came from."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.judging import Judgement, JudgingTerm, values_of
from vlm_rl.show.log import Log

DEFAULT = "default"
_logger = Log(__name__)


class Route(JudgingTerm):
    """What the judge of a problem says: of `routes`, the one named as its `by` says, or `default`.

    `by` is `task` or `source`. Values are those of the judges, without their weights, times the
    weight of the route. A problem without a judge is refused before training. Logged beside the
    mean: `<route>_accuracy`, and `<route>_frac`, the share of completions that went there.
    """

    def __init__(
        self,
        routes: dict[str, JudgingTerm],
        by: Literal["task", "source"] = "task",
        default: JudgingTerm | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        if by not in ("task", "source"):
            raise ValueError(f"Route.by must be task or source, got {by!r}")
        if not routes:
            raise ValueError("Route.routes must name at least one judge; it maps names to terms")
        if DEFAULT in routes and default is not None:
            raise ValueError("Route.routes has a route 'default' beside Route.default; rename it")
        self.by = by
        self.routes = routes if default is None else {**routes, DEFAULT: default}
        self._default = default is not None
        for name, judge in self.routes.items():
            if judge.weight != 1:
                raise ValueError(
                    f"Route.routes.{name}.weight is {judge.weight}; the judges of a route have no "
                    "weights of their own: leave it at 1 and set Route.weight"
                )

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        """Let each judge see its own problems, in their order. Without a judge: error."""
        shape = (len(problems), len(groups[0]) if groups else 0)
        values = torch.zeros(shape, dtype=torch.float64)
        verdicts = [[Verdict.ERROR] * shape[1] for _ in problems]
        rules = [["no judge"] * shape[1] for _ in problems]
        measures: dict[str, Tensor] = {}
        for name, rows in self._shares(problems).items():
            judge = self.routes[name]
            said = judge.judge([problems[r] for r in rows], [groups[r] for r in rows])
            values[rows] = said.values
            for row, of_one in zip(rows, said.verdicts, strict=True):
                verdicts[row] = list(of_one)
                rules[row] = [type(judge).__name__] * shape[1]
            for row, of_rules in zip(rows, said.rules, strict=bool(said.rules)):
                rules[row] = list(of_rules)
            went, right = torch.zeros(shape, dtype=torch.float64), values_of(said.verdicts)
            went[rows] = 1.0
            of_route = {"frac": went, "accuracy": _spread(right, rows, shape)}
            of_judge = {key: _spread(m, rows, shape) for key, m in said.measures.items()}
            measures |= {f"{name}_{key}": measure for key, measure in of_route.items()}
            measures |= {f"{name}/{key}": measure for key, measure in of_judge.items()}
            self.last_failure = judge.last_failure or self.last_failure
        return Judgement(values, verdicts, measures, rules)

    def unusable(self, problems: Sequence[Problem]) -> list[str]:
        """Return lines of the judges, and for each problem without one; name judges without."""
        names = ", ".join(self.routes)
        lost = [
            f"problem {problem.uid!r}: its {self.by} {getattr(problem, self.by)!r} is none of the "
            f"routes {names}; add one, or Route.default"
            for problem in problems
            if self._name(problem) is None
        ]
        shares = self._shares(problems)
        if idle := [name for name in self.routes if name not in shares]:
            _logger.warning("no problem of the data set goes by the routes %s", ", ".join(idle))
        return lost + [
            line
            for name, rows in shares.items()
            for line in self.routes[name].unusable([problems[row] for row in rows])
        ]

    def self_test(self) -> None:
        for judge in self.routes.values():
            judge.self_test()

    def judges(self) -> Sequence[JudgingTerm]:
        return [judge for route in self.routes.values() for judge in route.judges()]

    def close(self) -> None:
        for judge in self.routes.values():
            judge.close()

    def _name(self, problem: Problem) -> str | None:
        said = getattr(problem, self.by)
        return said if said in self.routes else DEFAULT if self._default else None

    def _shares(self, problems: Sequence[Problem]) -> dict[str, list[int]]:
        """Return the indices of the problems of each route that has some."""
        shares: dict[str, list[int]] = {}
        for row, problem in enumerate(problems):
            if (name := self._name(problem)) is not None:
                shares.setdefault(name, []).append(row)
        return shares


def _spread(measure: Tensor, rows: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """Return [P, G] with `measure` in its rows, NaN in those of other routes."""
    spread = torch.full(shape, torch.nan, dtype=torch.float64)
    spread[rows] = measure
    return spread
