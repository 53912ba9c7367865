"""Routing: each judge sees its own problems in their order, and the rest is put together again.

Mutations tried, each seen red: groups in the order of the step; wrong for a problem without a
route; 0 for measures of other routes, or where parts are joined; unscored completions in them; no
default.
"""

import math
import random

import pytest
import torch

from vlm_rl.metrics.rollout import rollout_statistics
from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Groups, Problem, Prompt, Rollout, Verdict
from vlm_rl.rewards import Accuracy, Judgement, JudgingTerm, Reward, Route

KINDS = ("math", "grounding", "open")
SIZE = 3


class Draws(JudgingTerm):
    """A value and a verdict by the completion's tokens; keeps what it was shown."""

    def __init__(self, name: str, failing: bool = True, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.name, self.shown, self.closed = name, [], False
        kinds = (Verdict.CORRECT, Verdict.WRONG, Verdict.TIMEOUT, Verdict.ERROR)
        self.kinds = kinds if failing else kinds[:2]

    def judge(self, problems: list[Problem], groups: Groups) -> Judgement:
        self.shown += [problem.uid for problem in problems]
        drawn = [[self._drawn(p, c) for c in g] for p, g in zip(problems, groups, strict=True)]
        verdicts = [[self.kinds[int(4 * x) % len(self.kinds)] for x in row] for row in drawn]
        values = torch.tensor(drawn, dtype=torch.float64)
        return Judgement(values, verdicts, {"cost": 2 * values})

    def _drawn(self, problem: Problem, completion: Completion) -> float:
        return random.Random(f"{self.name} {problem.uid} {completion.text}").random()

    def unusable(self, problems: list[Problem]) -> list[str]:
        return [f"{self.name}: {problem.uid}" for problem in problems if "bad" in problem.uid]

    def close(self) -> None:
        self.closed = True


def drawn(seed: int, kinds: tuple[str, ...] = KINDS) -> tuple[list[Problem], Groups]:
    """Problems of these kinds in any order, perhaps none of some."""
    chance = random.Random(seed)
    names = [chance.choice(kinds) for _ in range(chance.randrange(1, 9))]
    problems = [
        Problem(f"p{i}", "?", "1", task=name, source=f"set-{name}") for i, name in enumerate(names)
    ]
    none = torch.zeros(0)
    groups = [
        [Completion(none.long(), none, "stop", f"{chance.random()}") for _ in range(SIZE)]
        for _ in problems
    ]
    return problems, groups


def route(by: str = "task", failing: bool = True, **others: JudgingTerm) -> Route:
    prefix = "set-" if by == "source" else ""
    return Route({prefix + name: Draws(name, failing) for name in KINDS}, by=by, **others)


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("by", ["task", "source"])
def test_route_equals_each_judge_on_each_problem_alone(by, seed):
    problems, groups = drawn(seed)
    judge = route(by)
    said = judge.judge(problems, groups)
    for row, (problem, group) in enumerate(zip(problems, groups, strict=True)):
        alone = Draws(problem.task).judge([problem], [group])
        assert torch.equal(said.values[row], alone.values[0])
        assert said.verdicts[row] == alone.verdicts[0]
    for name, own in zip(KINDS, judge.routes.values(), strict=True):
        assert own.shown == [problem.uid for problem in problems if problem.task == name]


@pytest.mark.parametrize("seed", range(15))
def test_order_of_problems_does_not_matter(seed):
    problems, groups = drawn(seed)
    order = random.Random(seed).sample(range(len(problems)), len(problems))
    reward = Reward({"right": route()}, max_unscored_frac=1.0)
    scores = reward(problems, groups)
    moved = reward([problems[i] for i in order], [groups[i] for i in order])
    assert torch.equal(moved.total, scores.total[order])
    assert [list(row) for row in moved.verdicts] == [list(scores.verdicts[i]) for i in order]
    assert moved.measures.keys() == scores.measures.keys()
    for name, measure in moved.measures.items():
        assert torch.equal(measure.nan_to_num(-1), scores.measures[name][order].nan_to_num(-1))


@pytest.mark.parametrize("seed", range(15))
def test_metrics_of_routes_match_a_loop_over_scored_completions(seed):
    problems, groups = drawn(seed)
    scores = Reward({"right": route()}, max_unscored_frac=1.0)(problems, groups)
    rollout = Rollout([_prompt(problem) for problem in problems], groups, scores)
    found = rollout_statistics(rollout, torch.zeros_like(scores.total))
    scored = [
        (problem.task, verdict, float(value))
        for problem, row, values in zip(problems, scores.verdicts, scores.total, strict=True)
        for verdict, value in zip(row, values, strict=True)
        if verdict.scored
    ]
    for name in KINDS:
        own = [(verdict, value) for task, verdict, value in scored if task == name]
        wanted = {
            f"{name}_accuracy": (sum(v is Verdict.CORRECT for v, _ in own), len(own)),
            f"{name}_frac": (len(own), len(scored)),
            f"{name}/cost": (sum(2 * value for _, value in own), len(own)),
        }
        if not any(problem.task == name for problem in problems):
            assert not {f"reward/right/{key}" for key in wanted} & found.keys()
            continue
        for key, (total, count) in wanted.items():
            statistic = found[f"reward/right/{key}"]
            assert float(statistic.sum) == pytest.approx(total, abs=1e-12)
            assert int(statistic.count) == count


def _prompt(problem: Problem) -> Prompt:
    ids = torch.zeros(1, dtype=torch.int64)
    return Prompt(problem, ids, ids, torch.zeros(3, 1, dtype=torch.int64), None, None, ())


def test_steps_with_and_without_a_route_are_joined():
    parts = []
    for kinds in (("math",), ("open", "grounding")):
        problems, groups = drawn(3, kinds)
        scores = Reward({"right": route(failing=False)})(problems, groups)
        parts.append(Rollout([_prompt(problem) for problem in problems], groups, scores))
    whole = Rollout.joined(parts)
    measure = whole.scores.measures["right/math_accuracy"]
    size = len(parts[0].prompts)
    assert torch.equal(measure[:size], parts[0].scores.measures["right/math_accuracy"])
    assert measure[size:].isnan().all()
    last = whole.select([len(whole.prompts) - 1]).scores.measures
    assert last["right/math_accuracy"].isnan().all()


def test_problem_without_a_route_is_named_before_training(caplog):
    """Together with what the judges themselves cannot use; a route without problems is named."""
    problems = [
        Problem("bad-0", "?", "1", task="math"),
        Problem("p1", "?", "1", task="chart"),
        Problem("bad-2", "?", "1", task="open"),
        Problem("p3", "?", "1"),
    ]
    way_out = "is none of the routes math, grounding, open; add one, or Route.default"
    assert Reward({"right": route()}).unusable(problems) == [
        f"problem 'p1': its task 'chart' {way_out}",
        f"problem 'p3': its task '' {way_out}",
        "math: bad-0",
        "open: bad-2",
    ]
    [line] = (record.getMessage() for record in caplog.records)
    assert line == "no problem of the data set goes by the routes grounding"
    _, groups = drawn(0)
    verdicts = route(failing=False).judge(problems, [groups[0]] * 4).verdicts
    assert [{v.scored for v in row} for row in verdicts] == [{True}, {False}, {True}, {False}]


def test_default_takes_the_rest_and_all_judges_end_with_the_route():
    problems, groups = drawn(1, (*KINDS, "chart", ""))
    other = Draws("other")
    judge = route(default=other)
    judge.judge(problems, groups)
    assert other.shown == [p.uid for p in problems if p.task not in KINDS]
    with Reward({"right": judge}):
        pass
    assert all(own.closed for own in judge.routes.values())
    assert other.closed


def test_route_names_its_reader_of_answers():
    accuracy = Accuracy()
    reward = Reward({"right": Route({"open": Draws("open")}, default=accuracy)})
    assert reward.accuracy is accuracy
    assert reward.verdicts_from == "right"


REFUSED = {
    "by": ({"routes": {"a": Draws("a")}, "by": "split"}, "Route.by must be task or source"),
    "none": ({"routes": {}}, "Route.routes must name at least one judge"),
    "weight": ({"routes": {"a": Draws("a", weight=0.5)}}, "Route.routes.a.weight is 0.5"),
    "default": (
        {"routes": {"default": Draws("a")}, "default": Draws("b")},
        "has a route 'default' beside Route.default",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_route_refuses(kind):
    arguments, line = REFUSED[kind]
    with pytest.raises(ValueError, match=line):
        Route(**arguments)


def test_broken_judge_of_a_route_is_named_with_its_term():
    class Broken(Draws):
        def judge(self, problems, groups):
            return Judgement(torch.full((len(groups), SIZE), math.nan).double(), [[]] * len(groups))

    problems, groups = drawn(0)
    with pytest.raises(PartError, match=r"reward term right .*Route"):
        Reward({"right": Route({"x": Draws("x")}, default=Broken("b"))})(problems, groups)
