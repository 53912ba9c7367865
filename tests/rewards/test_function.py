"""Rewards that are plain functions: found by file or import path, called by their parameters."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.parts import PartError
from vlm_rl.records import Completion, Problem
from vlm_rl.rewards import Accuracy, Function, Reward
from vlm_rl.run.metrics_csv import read_metrics


def completion(text: str, length: int) -> Completion:
    return Completion(torch.zeros(length, dtype=torch.int64), torch.zeros(length), "stop", text)


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


def scored(term: Function) -> torch.Tensor:
    with Reward({"accuracy": Accuracy(), "own": term}) as reward:
        return reward(PROBLEMS, GROUPS).terms["own"]


@pytest.mark.parametrize("kind", SOURCES)
def test_function_is_called_as_its_parameters_say(kind: str, tmp_path: Path) -> None:
    source, expected = SOURCES[kind]
    (tmp_path / "mine.py").write_text(source)
    assert scored(Function("f", str(tmp_path / "mine.py"))).tolist() == expected


def test_function_of_a_package_is_found_by_its_import_path() -> None:
    term = Function("tests.rewards.test_function.mean_length")
    assert scored(term).tolist() == LENGTHS
    assert term(PROBLEMS, GROUPS).tolist() == LENGTHS, "also without a reward around it"


def mean_length(problem: Problem, completion: Completion) -> float:
    return float(len(completion))


FAULTS = {
    "raises": ("def f(problem, completion):\n    return {}[problem.uid]", "KeyError: 'a'"),
    "none": ("def f(completions, **_):\n    return [None] * len(completions)", "returned None for"),
    "too few": (
        "def f(completions, **_):\n    return [1.0]",
        "returned 1 values for 4 completions",
    ),
    "no number": ("def f(problem, completion):\n    return float('nan')", "must return finite"),
    "lost column": ("def f(completions, topic):\n    return 0", "it needs a column 'topic'"),
    "wrong shape": ("def f(problems, groups):\n    return [[1.0]]", "of shape"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_fault_of_a_function_is_one_line_with_its_term(kind: str, tmp_path: Path) -> None:
    source, line = FAULTS[kind]
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(PartError, match=r"reward term own .*") as raised:
        scored(Function("f", str(tmp_path / "mine.py")))
    assert line in str(raised.value)


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
    "broken": ("def f(", "f", "cannot be imported: SyntaxError"),
    "fails": ("1 / 0", "f", "cannot be imported: ZeroDivisionError"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_function_that_cannot_be_used_is_refused(kind: str, tmp_path: Path) -> None:
    source, name, line = REFUSED[kind]
    (tmp_path / "mine.py").write_text(source)
    with pytest.raises(ValueError, match=r".") as raised:
        Function(name, str(tmp_path / "mine.py"))
    assert line in str(raised.value)
    with pytest.raises(ValueError, match="give the file of the function by `file`"):
        Function("length_bonus")
    with pytest.raises(ValueError, match="No module named 'no_such_package'"):
        Function("no_such_package.f")


def test_run_finds_the_file_beside_its_configuration(
    policy_folder: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory is another one. A resume finds it again."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "my_rewards.py").write_text(
        "def bonus(problem, completion):\n    return len(completion) / 10"
    )
    (project / "mine.yaml").write_text(
        "reward:\n  terms:\n"
        "    accuracy: {class_path: vlm_rl.rewards.Accuracy}\n"
        "    bonus: {class_path: vlm_rl.rewards.Function, init_args: "
        "{function: bonus, file: my_rewards.py, weight: 0.5}}\n"
    )
    argv: list[Any] = command(policy_folder, data_folder, tmp_path / "run", steps=2)
    argv = [word for word in argv if not word.startswith("--reward.terms")]
    argv[2:2] = ["--config", str(project / "mine.yaml")]
    monkeypatch.chdir(tmp_path)
    fit(argv)
    fit([*argv, "--steps=3"])
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.csv") if "reward/bonus" in r]
    assert len(rows) == 3
    for row in rows:
        assert math.isclose(row["reward/bonus"], row["completion/length_tokens"] / 10)
