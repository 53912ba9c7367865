"""A function of the user's own: found, its parameters read once, called; and the process for that.

How it is called is told by the names of its parameters, of which it declares those that it wants:

    f(problem, completion) -> float              one completion at a time; also `verdict`, `images`,
                                                 `meta`, `length`, `sampling_logprobs`
    f(problems, groups) -> [P, G]                a step at once: tensor, array or lists; also
                                                 `verdicts`, `lengths`, `sampling_logprobs`, [P][G]
    f(completions, **columns) -> [float, ...]    as TRL calls it: all completions in a list, beside
                                                 it a list for each column of the rows

Run by its path, this file is the process: `python -P own_function.py ASKS REPLIES FUNCTION FILE`,
with the numbers of two pipes. It begins without torch, which comes with the first problem, and ends
with the process that asks.
"""

import importlib
import importlib.util
import inspect
import itertools
import math
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from vlm_rl.errors import nearest

FIELDS = {
    **dict.fromkeys(("problem", "question"), "question"),
    **dict.fromkeys(("answer", "solution", "ground_truth"), "answer"),
    **{name: name for name in ("uid", "images", "choices", "source", "task")},
}
"""What TRL's functions may ask for beside the row's own columns, and the field that has it."""
_OF_POLICY = ("logprobs", "entropies")
_OF_TOKENS = ("sampling_logprobs", *_OF_POLICY)
_OF_ONE = ("problem", "completion", "verdict", "images", "meta", "length", *_OF_TOKENS)
_OF_ALL = ("problems", "groups", "verdicts", "lengths", *_OF_TOKENS)
_OF_TRL = ("completions", "completion_ids", "prompts", "verdicts", "lengths", *_OF_TOKENS)
_TOO_EARLY = {"old_logprobs", "ref_logprobs", "entropy"}

ValueOrReason = float | str
"""The number for a completion, or why there is none."""
Asked = tuple[Sequence[Any], Sequence[Sequence[Any]], Sequence[Sequence[Any]]]
"""Problems, groups and verdicts, as a reward term has them."""


class OwnFunction:
    """The function `name`: in `file`, or by import path without one.

    Raises ValueError if there is no such function or its parameters fit no way of calling.
    """

    def __init__(self, name: str, file: Path | None) -> None:
        self.name, self.file = name, file
        self._function = _imported(name) if file is None else _of_file(name, file)
        self.place = _place(self._function)
        signature = _signature(self._function, self.place)
        self._parameters = signature.parameters
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in self._parameters.values())
        self._way = self._way_of(set(self._parameters))

    @property
    def reads_verdicts(self) -> bool:
        return not {"verdict", "verdicts"}.isdisjoint(self._parameters)

    @property
    def reads_policy(self) -> bool:
        return not self._parameters.keys().isdisjoint(_OF_POLICY)

    @property
    def reads_tokens(self) -> bool:
        return not self._parameters.keys().isdisjoint((*_OF_TOKENS, "completion_ids"))

    @property
    def reads_length(self) -> bool:
        return not self._parameters.keys().isdisjoint(("length", "lengths"))

    def needs(self) -> list[str]:
        """Return the columns that rows must have, since the function has no default for them."""
        if self._way != self._as_trl_does:
            return []
        return [
            name
            for name, parameter in self._parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            and name not in (*_OF_TRL, *FIELDS)
        ]

    def sizes(self, groups: Sequence[Sequence[Any]]) -> list[int]:
        """Return how many completions each call of the function is about."""
        num = sum(map(len, groups))
        return [1] * num if self._way == self._one_by_one else [num] * bool(num)

    def answers(self, asked: Asked, call: int) -> list[ValueOrReason]:
        """Make one of the calls. Raises Misfit if what it returns does not fit the completions."""
        try:
            values = self._way(asked, call)
        except Misfit:
            raise
        except (Exception, SystemExit) as error:  # the user's own code can raise anything
            return [_reason(error, self.file)] * self.sizes(asked[1])[call]
        return [_number(value) for value in values]

    def _way_of(self, names: set[str]) -> Callable[[Asked, int], Sequence[Any]]:
        if early := sorted(names & _TOO_EARLY):
            raise ValueError(
                f"{self.place} asks for {', '.join(early)}, which there is not before the reward; "
                "per token there are the policy's logprobs and entropies, and sampling_logprobs "
                "of the engine"
            )
        if "completion" in names and names <= {*_OF_ONE}:
            return self._one_by_one
        if "groups" in names and names <= {*_OF_ALL}:
            return self._at_once
        if "completions" in names:
            return self._as_trl_does
        raise ValueError(
            f"{self.place} has the parameters ({', '.join(self._parameters)}); a reward function "
            f"has some of ({', '.join(_OF_ONE)}), or of ({', '.join(_OF_ALL)}), or (completions, "
            "**columns)"
        )

    def _one_by_one(self, asked: Asked, call: int) -> Sequence[Any]:
        problem, completion, verdict = next(itertools.islice(_flat(asked), call, None))
        offered = {
            "problem": problem,
            "completion": completion,
            "verdict": verdict,
            "images": problem.images,
            "meta": problem.meta,
            "length": len(completion),
            **{name: getattr(completion, name) for name in _OF_TOKENS},
        }
        return [self._function(**self._wanted(offered))]

    def _at_once(self, asked: Asked, call: int) -> Sequence[Any]:
        problems, groups, verdicts = asked
        offered = {
            "problems": problems,
            "groups": groups,
            "verdicts": verdicts,
            "lengths": [[len(completion) for completion in group] for group in groups],
            **{name: [[getattr(c, name) for c in g] for g in groups] for name in _OF_TOKENS},
        }
        rows = _listed(self._function(**self._wanted(offered)))
        sizes = [len(_listed(row)) for row in rows]
        if sizes != [len(group) for group in groups]:
            raise Misfit(f"it returned rows of {sizes} numbers for groups of {[*map(len, groups)]}")
        return [value for row in rows for value in _listed(row)]

    def _as_trl_does(self, asked: Asked, call: int) -> Sequence[Any]:
        """Call with chats, as TRL does for prompts that are chats; completions of a group are
        beside each other."""
        flat = list(_flat(asked))
        offered = {
            "completions": [[{"role": "assistant", "content": c.text}] for _, c, _ in flat],
            "completion_ids": [completion.token_ids.tolist() for _, completion, _ in flat],
            "prompts": [[{"role": "user", "content": problem.question}] for problem, _, _ in flat],
            "verdicts": [verdict for _, _, verdict in flat],
            "lengths": [len(completion) for _, completion, _ in flat],
            **{name: [getattr(c, name) for _, c, _ in flat] for name in _OF_TOKENS},
            **columns([problem for problem, _, _ in flat]),
        }
        missing = {name: [None] * len(flat) for name in self.needs() if name not in offered}
        given = missing | (offered if self._takes_all else self._wanted(offered))
        values = _listed(self._function(**given))
        if len(values) != len(flat):
            raise Misfit(f"it returned {len(values)} values for {len(flat)} completions")
        return values

    def _wanted(self, offered: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in offered.items() if name in self._parameters}


def columns(problems: Sequence[Any]) -> dict[str, list[Any]]:
    """Return what rows have by the names that people give to it, their own columns last."""
    known = {
        name: [getattr(problem, field) for problem in problems] for name, field in FIELDS.items()
    }
    extra = dict.fromkeys(name for problem in problems for name in problem.meta)
    return known | {name: [problem.meta.get(name) for problem in problems] for name in extra}


class Misfit(Exception):
    """What a function returned is not about these completions."""


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


def _found(module: ModuleType, name: str, place: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        there = [own for own, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{place} has no function {name!r}{nearest(name, there)}")
    return function  # type: ignore[no-any-return]


def _place(function: Callable[..., Any]) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__name__", type(function).__name__)
    return f"{name} ({code.co_filename}, line {code.co_firstlineno})" if code else name


def _signature(function: Callable[..., Any], place: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place} does not say its parameters; wrap it in a function") from error


def _flat(asked: Asked) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the completions, one group after the other, with their problems and verdicts."""
    for problem, group, row in zip(*asked, strict=True):
        for completion, verdict in zip(group, row, strict=True):
            yield problem, completion, verdict


def _listed(values: Any) -> Sequence[Any]:
    """Return a tensor, an array or a sequence as a sequence."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(listed, list | tuple):
        raise Misfit(f"it returned {_shown(values)}, not a list of numbers")
    return listed


def _number(value: Any) -> ValueOrReason:
    if value is None:
        return "it returned None"
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = math.nan
    return number if math.isfinite(number) else f"it returned {_shown(value)}"


def _shown(value: Any) -> str:
    return " ".join(f"{value!r:.60}".split())


def _reason(error: BaseException, file: Path | None) -> str:
    """Return the error in one line, with the last line of the user's own file that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if file and frame.filename == str(file.resolve())]
    last = (own or frames)[-1]
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{what:.300} ({last.filename}, line {last.lineno})"


def main(asks: int, replies: int, name: str, file: str) -> None:
    """Answer until the process that asks has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they are for the trainer, which ends this process
    function = OwnFunction(name, Path(file) if file else None)
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(asks, requests), daemon=True).start()
    pipe, process = Connection(replies, readable=False), os.getpid()
    while True:
        first, asked = int(requests.get()), pickle.loads(requests.get())
        pipe.send_bytes(pickle.dumps("ready"))  # imports are in the time of no call
        for call in range(first, len(function.sizes(asked[1]))):
            reply = _reply(function, asked, call)
            if os.getpid() != process:
                os._exit(1)  # the function has forked, and its child came back
            pipe.send_bytes(pickle.dumps(reply))


def _reply(function: OwnFunction, asked: Asked, call: int) -> list[ValueOrReason] | str:
    try:
        return function.answers(asked, call)
    except Misfit as misfit:
        return str(misfit)


def _receive(asks: int, requests: "queue.SimpleQueue[bytes]") -> None:
    """Take requests at any time, so that the end of the pipe ends a function that hangs, too."""
    pipe = Connection(asks, writable=False)
    try:
        while True:
            requests.put(pipe.recv_bytes())
    except EOFError:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
