"""A reward that is a plain function of the user's own, from a file or a package.

How it is called is told by the names of its parameters:

    f(problem, completion) -> float              one completion at a time
    f(problems, groups) -> [P, G]                a step at once: tensor, array or lists
    f(completions, **columns) -> [float, ...]    as TRL calls it: all completions in a list, beside
                                                 it a list for each column of the rows

A parameter `verdict` (or `verdicts`, [P][G]) is what the accuracy term says of the completion.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse.typing import Path_fr
from torch import Tensor

from vlm_rl.errors import nearest
from vlm_rl.records import Groups, Problem, Verdict
from vlm_rl.rewards.term import RewardTerm

_FIELDS = {
    **dict.fromkeys(("problem", "question"), "question"),
    **dict.fromkeys(("answer", "solution", "ground_truth"), "answer"),
    **{name: name for name in ("uid", "images", "choices", "source", "task")},
}
"""What TRL's functions may ask for beside the row's own columns, and the field that has it."""
Verdicts = Sequence[Sequence[Verdict]]


class Function(RewardTerm):
    """What `function` returns: its name in `file`, or `package.module.name` without a file.

    A relative `file` begins in the folder of the configuration that names it. The parameters say
    how it is called; see vlm_rl/rewards/function.py. Raises ValueError if there is no such function
    or its parameters fit no way of calling.
    """

    def __init__(self, function: str, file: Path_fr | None = None, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.name = function if file is None else f"{file}:{function}"
        self._function = _imported(function) if file is None else _of_file(function, Path(file))
        parameters = inspect.signature(self._function).parameters
        self.reads_verdicts = not {"verdict", "verdicts"}.isdisjoint(parameters)
        self._way = _way(self.name, parameters)

    def __call__(self, problems: Sequence[Problem], groups: Groups) -> Tensor:
        if self.reads_verdicts:
            raise ValueError(f"{self.name} reads verdicts; call `judged`")
        return self.judged(problems, groups, [[Verdict.UNPARSABLE] * len(row) for row in groups])

    def judged(self, problems: Sequence[Problem], groups: Groups, verdicts: Verdicts) -> Tensor:
        return self._way(self._function, problems, groups, verdicts)


def _of_file(name: str, file: Path) -> Callable[..., Any]:
    file = file.resolve()
    module_name = f"vlm_rl_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"Function.file={file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # as for any import: classes in it can be pickled
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a file of the user's own can raise anything
        raise ValueError(f"{file} cannot be imported: {type(error).__name__}: {error}") from error
    return _found(module, name, str(file))


def _imported(path: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise ValueError(
            f"Function.function={path!r} is neither package.module.name nor beside a file; give "
            "the file of the function by `file`"
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # so can a package
        raise ValueError(
            f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return _found(module, name, module_name)


def _found(module: Any, name: str, place: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        there = [own for own, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{place} has no function {name!r}{nearest(name, there)}")
    return function  # type: ignore[no-any-return]


def _way(name: str, parameters: Collection[str]) -> "_Way":
    known = set(parameters)
    if {"problem", "completion"} <= known <= {"problem", "completion", "verdict"}:
        return _one_by_one
    if {"problems", "groups"} <= known <= {"problems", "groups", "verdicts"}:
        return _at_once
    if "completions" in known:
        return _as_trl_does
    raise ValueError(
        f"{name} has the parameters ({', '.join(parameters)}); a reward function has (problem, "
        "completion), (problems, groups) or (completions, **columns), the first two also a "
        "verdict or verdicts"
    )


def _one_by_one(
    function: Callable[..., Any], problems: Sequence[Problem], groups: Groups, verdicts: Verdicts
) -> Tensor:
    reads = "verdict" in inspect.signature(function).parameters
    rows = [
        [
            function(problem=problem, completion=completion, **({"verdict": said} if reads else {}))
            for completion, said in zip(group, row, strict=True)
        ]
        for problem, group, row in zip(problems, groups, verdicts, strict=True)
    ]
    return _tensor(rows)


def _at_once(
    function: Callable[..., Any], problems: Sequence[Problem], groups: Groups, verdicts: Verdicts
) -> Tensor:
    reads = "verdicts" in inspect.signature(function).parameters
    more = {"verdicts": verdicts} if reads else {}
    return _tensor(function(problems=problems, groups=groups, **more))


def _as_trl_does(
    function: Callable[..., Any], problems: Sequence[Problem], groups: Groups, verdicts: Verdicts
) -> Tensor:
    """Call with chats, as TRL does for prompts that are chats; completions of a group are beside
    each other."""
    flat = [
        (problem, completion, said)
        for problem, group, row in zip(problems, groups, verdicts, strict=True)
        for completion, said in zip(group, row, strict=True)
    ]
    parameters = inspect.signature(function).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    offered = {
        "completions": [[{"role": "assistant", "content": c.text}] for _, c, _ in flat],
        "completion_ids": [completion.token_ids.tolist() for _, completion, _ in flat],
        "prompts": [[{"role": "user", "content": problem.question}] for problem, _, _ in flat],
        "verdicts": [said for _, _, said in flat],
        **_columns([problem for problem, _, _ in flat]),
    }
    for name, parameter in parameters.items():
        is_named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if is_named and parameter.default is parameter.empty and name not in offered:
            raise ValueError(f"it needs a column {name!r}; the rows have {', '.join(offered)}")
    given = offered if takes_all else {k: v for k, v in offered.items() if k in parameters}
    values = function(**given)
    if len(values) != len(flat):
        raise ValueError(f"it returned {len(values)} values for {len(flat)} completions")
    size = len(groups[0]) if groups else 0
    return _tensor([values[i : i + size] for i in range(0, len(flat), size)] if size else [])


def _columns(problems: Sequence[Problem]) -> dict[str, list[Any]]:
    """Return what rows have by the names that people give to it, their own columns last."""
    columns = {
        name: [getattr(problem, field) for problem in problems] for name, field in _FIELDS.items()
    }
    extra = dict.fromkeys(name for problem in problems for name in problem.meta)
    return columns | {name: [problem.meta.get(name) for problem in problems] for name in extra}


def _tensor(values: Any) -> Tensor:
    """Return float64 of what a function returned; what is no number stays a fault of its own."""
    if isinstance(values, Tensor):
        return values.detach().double().cpu()
    for row in values:
        for value in row:
            if value is None:
                raise ValueError("it returned None for a completion; return a number")
    return torch.tensor(values, dtype=torch.float64)


_Way = Callable[[Callable[..., Any], Sequence[Problem], Groups, Verdicts], Tensor]
