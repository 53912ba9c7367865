"""Whole runs with an edit: what is judged again, what a filter then keeps, and a restart.

Mutations, each seen red: what is judged again is what was sampled; the order kept as judged; `edit`
not passed on to the module.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.overlapping import CORRECTED, engine
from tests.support.run_helpers import REWARD_TERMS, command, rollouts, same, trainer_checkpoint
from tests.support.shaped import NOTHING, step_of
from vlm_rl.edits import DOT, RolloutEdit
from vlm_rl.fit import fit
from vlm_rl.records import Groups, Prompt, Rollout
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.dynamic_sampling import MixedVerdicts
from vlm_rl.training.editing import Editing

TERMS = json.dumps(REWARD_TERMS | {"accuracy": {"class_path": "tests.support.uneven.Stopped"}})
EDIT = json.dumps(
    {"class_path": "vlm_rl.edits.DOT", "init_args": {"deviations": 1.0, "least_tokens": 1}}
)
FILTER = "--dynamic_sampling=vlm_rl.training.MixedVerdicts"


def _run(folder: Path, policy: Path, data: Path, *more: str, steps: int = 3) -> Path:
    every = {"checkpoint__every_n_steps": 2, "validation__every_n_steps": 3}
    own = {"steps": steps, "reward__terms": TERMS, "data__val_problems": 2} | every
    fit(command(policy, data, folder, f"--edit={EDIT}", *more, **own))
    return folder


def test_edited_run_goes_on_bit_for_bit(
    tmp_path: Path, policy_folder: Path, data_folder: Path
) -> None:
    """The filter keeps solved groups in which something was cut."""
    given = (policy_folder, data_folder, "--engine=tests.support.uneven.Uneven", FILTER)
    whole = _run(tmp_path / "whole", *given)
    extended = _run(_run(tmp_path / "extended", *given, steps=2), *given)
    ours, theirs = trainer_checkpoint(extended, 3), trainer_checkpoint(whole, 3)
    assert same(ours["state_dict"], theirs["state_dict"])
    assert same(ours["optimizer_states"], theirs["optimizer_states"])
    assert rollouts(extended) == rollouts(whole)
    for metric in _check(whole):
        assert metric["sampling/missing_groups"] == 0
        assert metric["sampling/trained_accuracy"] == 0.75, "one of four is wrong in each group"
    rows = read_metrics(whole / "metrics.csv")
    validated = [row for row in rows if "val/accuracy" in row]
    assert {row["val/length_tokens"] for row in validated} == {12.0}, "alone in its group, uncut"


def test_overlapped_run_edits_what_was_sampled_ahead(
    tmp_path: Path, policy_folder: Path, data_folder: Path
) -> None:
    options = (
        f"--engine={engine(policy_folder, 'uneven.UnevenCopied')}",
        f"--objective={json.dumps(CORRECTED)}",
        "--overlap.staleness=1",
    )
    folder = _run(tmp_path / "run", policy_folder, data_folder, *options)
    assert [metric["rollout/staleness_steps"] for metric in _check(folder)] == [0, 1, 1]


def _check(folder: Path) -> list[dict[str, float]]:
    """Check that an answer is wrong if the budget has ended it or it was cut, and that both rewards
    and metrics say so. Return the metrics of the steps."""
    rows = read_metrics(folder / "metrics.csv")
    metrics = [row for row in rows if "policy/loss" in row]
    shares = [_checked_cuts(rows) for rows in rollouts(folder).values()]
    assert [metric["sampling/edited_frac"] for metric in metrics] == pytest.approx(shares)
    assert sum(shares) > 0
    return metrics


def _checked_cuts(rows: Sequence[dict[str, Any]]) -> float:
    num_cut = 0
    for row in rows:
        is_wrong = row["finish_reason"] == "length"
        assert row["terms"]["accuracy"] == (not is_wrong)
        expected = 0.9 * row["terms"]["accuracy"] + row["terms"]["even"]
        assert row["reward"] == pytest.approx(expected)
        even = [token % 2 == 0 for token in row["token_ids"]]
        assert row["terms"]["even"] == pytest.approx(sum(even) / len(even))
        num_cut += is_wrong and row["length_tokens"] < 12
    return num_cut / len(rows)


def _judge(prompts: Sequence[Prompt], groups: Groups) -> Rollout:
    """Judge by the finish reason."""
    if not prompts:
        return Rollout.empty(4)
    marks = ["".join("w" if c.truncated else "r" for c in group) for group in groups]
    lengths = [[len(c) for c in group] for group in groups]
    judged = step_of(marks, lengths, uids=[prompt.uid for prompt in prompts])
    return replace(judged, prompts=prompts, groups=groups)


class _Words:
    """A tokenizer of one word for each token."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, token_ids))


def test_only_edited_groups_are_judged_again_and_keep_their_places() -> None:
    rollout = step_of(
        ["rrrr", "rrrw", "rrrr", "wwww", "rrrr"],
        [[5, 40, 5, 5], [5, 40, 5, 5], [7, 7, 7, 7], [5, 40, 5, 5], [6, 6, 6, 90]],
    )
    asked: list[list[str]] = []

    def judge(prompts: Sequence[Prompt], groups: Groups) -> Rollout:
        asked.append([prompt.uid for prompt in prompts])
        return _judge(prompts, groups)

    editing = Editing(DOT(1.0), lambda edit, groups: edit(groups, _Words()), judge)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DOT, "limit", lambda *_: 6)
        edited = editing(rollout)
    assert asked == [["p0", "p4"]]
    assert [prompt.uid for prompt in edited.prompts] == [f"p{i}" for i in range(5)]
    assert edited.lengths.tolist()[0] == [5, 6, 5, 5]
    assert edited.lengths.tolist()[4] == [6, 6, 6, 6]
    assert edited.scores.correct[0].tolist() == [True, False, True, True]
    assert edited.scores.total[4].tolist() == [1.0, 1.0, 1.0, 0.0]
    assert edited.groups[0][1].text == "0 1 2 3 4 5"
    for row in (1, 2, 3):
        assert edited.groups[row] is rollout.groups[row]
        assert torch.equal(edited.scores.total[row], rollout.scores.total[row])
    assert MixedVerdicts().keep(rollout).tolist() == [False, True, False, False, False]
    assert MixedVerdicts().keep(edited).tolist() == [True, True, False, False, True]
    editing(rollout)  # a second round, in which nothing is cut by the real limit
    share = editing.statistics["sampling/edited_frac"]
    assert (float(share.sum), float(share.count)) == (2, 40)
    assert asked[1:] == [[]], "judging may need all ranks"


def test_rank_without_groups_takes_part_in_judging() -> None:
    calls: list[int] = []

    def judge(prompts: Sequence[Prompt], groups: Groups) -> Rollout:
        calls.append(len(prompts))
        return NOTHING

    editing = Editing(DOT(), lambda edit, groups: edit(groups, _Words()), judge)
    assert editing(NOTHING).prompts == []
    assert calls == [0]
    assert float(editing.statistics["sampling/edited_frac"].count) == 0
    assert Editing(None, lambda *_: [], judge)(NOTHING) is NOTHING


class Doubles(RolloutEdit):
    """Makes one completion longer than the budget."""

    def __call__(self, rollout: Rollout, tokenizer: Any) -> Groups:
        first = rollout.groups[0][0]
        long = torch.cat([first.token_ids, first.token_ids])
        twice = replace(first, token_ids=long, sampling_logprobs=torch.zeros(len(long)))
        return [[twice, *rollout.groups[0][1:]], *rollout.groups[1:]]


def test_edit_that_breaks_its_contract_is_named(
    tmp_path: Path, policy_folder: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{Doubles.__module__}.Doubles"
    with pytest.raises(SystemExit) as ended:
        fit(command(policy_folder, data_folder, tmp_path / "run", f"--edit={name}", steps=1))
    assert ended.value.code == 4
    line = capsys.readouterr().err
    assert f"edit {name}: completion 0 of problem" in line
    assert "above sampling.max_completion_tokens=12" in line
