"""Rewards that are plain functions: found by file or import path, called by their parameters.

Mutations tried, each seen red: infinity let through; a number in a text let through; exit() not
caught; the place of an error taken from a library; the number of values not compared; a call
counted twice or not at all; `>` at the threshold; values beyond [0, 1] accepted.
"""

import os
from pathlib import Path

import pytest
import torch

from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import Accuracy, Function, JudgingFunction, Reward
from vlm_rl.rewards.own_function import Misfit, OwnFunction, ValueOrReason
from vlm_rl.rewards.own_process import PATIENCE


def completion(text: str, length: int) -> Completion:
    sampled = torch.full((length,), -0.5)
    return Completion(torch.zeros(length, dtype=torch.int64), sampled, "stop", text)


PROBLEMS = [
    Problem("a", "1 + 1?", "2", meta={"level": 3}),
    Problem("b", "2 + 2?", "4", meta={"hint": "four"}),
]
GROUPS = [
    [completion("\\boxed{2}", 1), completion("\\boxed{3}", 2)],
    [completion("\\boxed{4}", 3), completion("?", 4)],
]
LENGTHS = [[1.0, 2.0], [3.0, 4.0]]
CORRECT = [[1.0, 0.0], [1.0, 0.0]]
VERDICTS = [[Verdict.CORRECT, Verdict.WRONG], [Verdict.CORRECT, Verdict.UNPARSABLE]]

SOURCES = {
    "one by one": ("def f(problem, completion):\n    return len(completion)", LENGTHS),
    "with verdict": (
        "def f(problem, completion, verdict):\n    return float(verdict == 'correct')",
        CORRECT,
    ),
    "at once": (
        "def f(problems, groups):\n    return [[len(c) for c in g] for g in groups]",
        LENGTHS,
    ),
    "at once, tensor": (
        "import torch\n"
        "def f(problems, groups):\n"
        "    return torch.tensor([[len(c) for c in g] for g in groups])",
        LENGTHS,
    ),
    "at once with verdicts": (
        "def f(problems, groups, verdicts):\n"
        "    return [[float(v == 'correct') for v in row] for row in verdicts]",
        CORRECT,
    ),
    "one by one, all it may declare": (
        "def f(problem, completion, verdict, images, meta, length, sampling_logprobs):\n"
        "    assert images == problem.images and meta == problem.meta\n"
        "    assert float(sampling_logprobs.sum()) == -0.5 * length\n"
        "    return float(length)",
        LENGTHS,
    ),
    "one by one, little": ("def f(completion, length):\n    return length", LENGTHS),
    "one by one, truth": ("def f(completion, verdict):\n    return verdict == 'correct'", CORRECT),
    "at once, all it may declare": (
        "def f(problems, groups, verdicts, lengths, sampling_logprobs):\n"
        "    return [[-2 * s.sum() for s in row] for row in sampling_logprobs]",
        LENGTHS,
    ),
    "trl, lengths": (
        "def f(completions, lengths, sampling_logprobs, absent):\n"
        "    assert absent == [None] * 4\n"
        "    return lengths",
        LENGTHS,
    ),
    "trl": (
        "def f(completions, solution, **kwargs):\n"
        "    texts = [completion[0]['content'] for completion in completions]\n"
        "    return [float(s in t) for t, s in zip(texts, solution)]",
        CORRECT,
    ),
    "trl, ids and own columns": (
        "def f(prompts, completions, completion_ids, level, hint, question, images):\n"
        "    assert level == [3, 3, None, None] and hint == [None, None, 'four', 'four']\n"
        "    assert question[2] == '2 + 2?' and images == [()] * 4\n"
        "    assert prompts[0] == [{'role': 'user', 'content': '1 + 1?'}]\n"
        "    return [len(ids) for ids in completion_ids]",
        LENGTHS,
    ),
}


def in_rows(answers: list[ValueOrReason]) -> list[list[ValueOrReason]]:
    return [answers[:2], answers[2:]]


def called(source: str, folder: Path) -> list[list[ValueOrReason]]:
    """Return what the process of a function would, from this one."""
    (folder / "mine.py").write_text(source)
    own = OwnFunction("f", folder / "mine.py")
    asked = PROBLEMS, GROUPS, VERDICTS
    calls = range(len(own.sizes(GROUPS)))
    return in_rows([answer for call in calls for answer in own.answers(asked, call)])


@pytest.mark.parametrize("kind", SOURCES)
def test_function_is_called_as_its_parameters_say(kind: str, tmp_path: Path) -> None:
    source, expected = SOURCES[kind]
    assert called(source, tmp_path) == expected


def test_function_of_a_package_is_called_in_a_process_of_its_own() -> None:
    """With the import path of this one. The second call is made in the same process."""
    term = Function("tests.support.own_rewards.process_and_length")
    processes = {os.getpid()}
    for _ in range(2):
        values = term(PROBLEMS, GROUPS)
        assert (values % 1 * 10).round().tolist() == [[1, 2], [3, 4]]
        processes |= set(values.long().flatten().tolist())
    assert len(processes) == 2
    term.close()


def test_names_of_one_number_come_to_it_through_the_process(tmp_path: Path) -> None:
    """Also verdicts, and the columns of the rows; what the function prints disturbs nothing."""
    (tmp_path / "mine.py").write_text(
        "def f(completions, verdicts, level, **_):\n"
        "    print('noise', flush=True)\n"
        "    return [10 * (v == 'correct') + (n or 0) for v, n in zip(verdicts, level)]"
    )
    with Reward({"accuracy": Accuracy(), "own": Function("f", tmp_path / "mine.py")}) as reward:
        assert reward(PROBLEMS, GROUPS).terms["own"].tolist() == [[13.0, 3.0], [10.0, 0.0]]


FAILURES = {
    "raises": ("if length == 2: return {}[problem.uid]", "KeyError: 'a' ("),
    "exits": ("if length == 2: exit(3)", "SystemExit: 3 ("),
    "none": ("if length == 2: return None", "it returned None"),
    "nan": ("if length == 2: return float('nan')", "it returned nan"),
    "infinite": ("if length == 2: return -1e999", "it returned -inf"),
    "text": ("if length == 2: return '0.5'", "it returned '0.5'"),
    "list": ("if length == 2: return [1, 2]", "it returned [1, 2]"),
    "far down": (
        "if length == 2: return __import__('json').loads('{')",
        "JSONDecodeError: Expecting property name",
    ),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_failure_is_of_its_completion_alone(kind: str, tmp_path: Path) -> None:
    source, reason = FAILURES[kind]
    answers = called(
        f"def f(problem, completion, length):\n    {source}\n    return length", tmp_path
    )
    why = answers[0].pop(1)
    assert answers == [[1.0], [3.0, 4.0]]
    assert isinstance(why, str)
    assert why.startswith(reason)
    if "Error" in reason:
        assert why.endswith(f"({tmp_path / 'mine.py'}, line 2)")


def test_failures_among_values_of_a_whole_step_are_of_their_completions(tmp_path: Path) -> None:
    for source in (
        "def f(completions, **_):\n    return [1, None, 2, float('inf')]",
        "def f(problems, groups):\n    return [[1, None], [2, float('inf')]]",
    ):
        assert called(source, tmp_path) == [[1.0, "it returned None"], [2.0, "it returned inf"]]
    [first, second] = called("def f(problems, groups):\n    return 1 / 0", tmp_path)
    assert first == second
    assert {str(why).partition(":")[0] for why in first} == {"ZeroDivisionError"}


MISFITS = {
    "too few": ("def f(completions, **_):\n    return [1.0]", "it returned 1 values for 4"),
    "a number": ("def f(completions):\n    return 0", "it returned 0, not a list of numbers"),
    "rows": ("def f(problems, groups):\n    return [[1.0]]", "rows of [1] numbers for groups of"),
    "flat": ("def f(problems, groups):\n    return [1.0] * 4", "it returned 1.0, not a list"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_values_that_fit_no_completions_are_a_fault(kind: str, tmp_path: Path) -> None:
    source, line = MISFITS[kind]
    with pytest.raises(Misfit, match=r".") as raised:
        called(source, tmp_path)
    assert line in str(raised.value)


def test_fault_stops_with_the_term_the_function_and_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("\n" + MISFITS["too few"][0])
    term = Function("f", tmp_path / "mine.py")
    with (
        Reward({"accuracy": Accuracy(), "own": term}) as reward,
        pytest.raises(
            PartError, match=r"^reward term own .*Function failed with ValueError: f \("
        ) as at,
    ):
        reward(PROBLEMS, GROUPS)
    assert f"({tmp_path / 'mine.py'}, line 2): it returned 1 values" in str(at.value)


HANGS = """
import time
def f(completion, length):
    while length == 2: pass
    if length == 3: time.sleep(10**6)
    return length
"""


def test_call_that_hangs_is_not_scored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loop and a sleep; the calls after them are made, and the reason is logged once."""
    (tmp_path / "mine.py").write_text(HANGS)
    groups = [[completion("", n) for n in (2, 1, 3, 5)], [completion("", n) for n in (4, 6, 7, 8)]]
    term = Function("f", tmp_path / "mine.py", timeout_s=1.0)
    values = term(PROBLEMS, groups)
    assert values.nan_to_num(-1).tolist() == [[-1, 1, -1, 5], [4, 6, 7, 8]]
    [late] = (record.getMessage() for record in caplog.records)
    assert "no value for completion 0 of problem 'a', one of 2 such: it took more than 1 s" in late
    assert f"{tmp_path / 'mine.py'}, line 3" in term.last_failure
    term.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("body", "reason"),
    [("while True: pass", "it took more than 0.2 s"), ("os._exit(5)", "ended with status 5")],
)
def test_function_that_never_answers_is_given_up(body: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"import os\ndef f(completion):\n    {body}")
    term = Function("f", tmp_path / "mine.py", timeout_s=0.2)
    groups = [[completion("", 1)] * 40] * 2
    reward = Reward({"right": JudgingFunction("g", _verdicts_of(tmp_path)), "own": term})
    with reward, pytest.raises(PartError, match=r"reward term own .*: 80 of 80 .*line 2\)") as at:
        reward(PROBLEMS, groups)
    assert f"the {PATIENCE} calls before hung or ended its process" in str(at.value)
    answers = term._process.answers((PROBLEMS, groups, groups))
    assert [reason in answer.reason for answer in answers[: PATIENCE + 1]] == [True] * 3 + [False]


def _verdicts_of(folder: Path) -> Path:
    (folder / "judge.py").write_text(
        "def g(problem, completion, length):\n"
        "    if length == 4: raise RuntimeError('no opinion')\n"
        "    return {1: True, 2: 0.4, 3: 0.5}.get(length, 1.5)"
    )
    return folder / "judge.py"


def test_function_may_be_the_only_judge(tmp_path: Path) -> None:
    """Correct from the threshold on; what fails, also a value beyond [0, 1], is an error."""
    groups = [[completion("", 1), completion("", 2)], [completion("", 3), completion("", 4)]]
    with Reward({"right": JudgingFunction("g", _verdicts_of(tmp_path), weight=2.0)}) as reward:
        scores = reward(PROBLEMS, groups)
        assert reward.accuracy is None
        assert reward(PROBLEMS, [[completion("", 5)]] * 2).scored.tolist() == [[False]] * 2
    assert scores.verdicts == [["correct", "wrong"], ["correct", "error"]]
    assert scores.terms["right"].tolist() == [[1.0, 0.4], [0.5, 0.0]]
    assert scores.total.tolist() == [[2.0, 0.8], [1.0, 0.0]]


REFUSED = {
    "no such function": ("def g(problem, completion): ...", "f", "has no function 'f'"),
    "near": (
        "def length_bonus(problem, completion): ...",
        "length_bonu",
        "did you mean length_bonus?",
    ),
    "other parameters": (
        "def f(text): ...",
        "f",
        "has the parameters (text); a reward function has",
    ),
    "too early": (
        "def f(completion, old_logprobs): ...",
        "f",
        "asks for old_logprobs, which there is not before the reward; per token there are",
    ),
    "broken": ("def f(", "f", "cannot be imported: SyntaxError"),
    "fails": ("1 / 0", "f", "cannot be imported: ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_function_that_cannot_be_used_is_refused(kind: str, tmp_path: Path) -> None:
    source, name, line = REFUSED[kind]
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ValueError, match=r".") as raised:
        Function(name, tmp_path / "mine.py")
    assert line in str(raised.value)
    with pytest.raises(ValueError, match="give the file of the function by `file`"):
        Function("length_bonus")
    with pytest.raises(ValueError, match="No module named 'no_such_package'"):
        Function("no_such_package.f")


def test_column_that_no_row_has_is_missed_before_training(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def f(completions, topic, level, answer, more=1): ...")
    term = Function("f", tmp_path / "mine.py")
    with pytest.raises(ValueError, match=r"line 1\) needs a column 'topic'; the rows have"):
        term.unusable(PROBLEMS)
    mended = [*PROBLEMS, Problem("c", "?", "1", meta={"topic": "sums"})]
    assert term.unusable(mended) == []
    with pytest.raises(ValueError, match="is to give verdicts, and cannot ask for them"):
        JudgingFunction("tests.support.own_rewards.asks_for_verdicts")
    with pytest.raises(ValueError, match=r"timeout_s must be a positive number of seconds, got 0"):
        Function("f", tmp_path / "mine.py", timeout_s=0)
