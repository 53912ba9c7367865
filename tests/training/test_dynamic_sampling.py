"""Dynamic sampling: which groups are dropped, how they are replaced, and what the step then is.

Broken on purpose: `MixedVerdicts` reading rewards, or the group size for the scored; one prompt too
many asked for, a refilled one not `used`, one round too many; statistics of the dropped groups left
out, `~kept` as `[kept]`; one seed for all rounds; `refill_position` not restored; the schedule not
moved past missing updates, the number of minibatches as configured; dropped groups not written;
`check_refill` not called, `refill` not passed on.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from tests.support.run_helpers import (
    EvenTokens,
    FirstTokenEven,
    Listening,
    Recorder,
    Scripted,
    build_module,
    command,
    problems,
    rollouts,
    run_module,
    same,
    trainer_checkpoint,
    weights,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt, Rollout, Scores, Verdict
from vlm_rl.rewards import Reward
from vlm_rl.rewards.kl import KLInReward
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.run.progress import training_line
from vlm_rl.training.dynamic_sampling import MixedVerdicts, Sampled, sample_groups
from vlm_rl.training.module import OptimizerSettings, RLModule, UpdateSettings

LETTERS = {
    "C": Verdict.CORRECT,
    "W": Verdict.WRONG,
    "U": Verdict.UNPARSABLE,
    "T": Verdict.TIMEOUT,
    "E": Verdict.ERROR,
}


def _prompt(uid: str) -> Prompt:
    ids = torch.arange(3)
    return Prompt(Problem(uid, "?", "1"), ids, ids, torch.zeros(3, 3).long(), None, None, ())


def _judged(prompts: Sequence[Prompt], verdicts: dict[str, str], totals: Any = None) -> Rollout:
    """Make groups with the given verdicts, one letter each, and rewards (their correctness)."""
    rows = [[LETTERS[letter] for letter in verdicts[prompt.uid]] for prompt in prompts]
    correct = torch.tensor([[float(v is Verdict.CORRECT) for v in row] for row in rows]).double()
    total = correct if totals is None else torch.tensor(totals).double()
    one = Completion(torch.arange(2), torch.zeros(2), "stop", "")
    return Rollout(prompts, [[one] * len(row) for row in rows], Scores({}, total, rows, {}))


def test_mixed_verdicts_read_verdicts_and_not_rewards() -> None:
    cases = {
        "CCC": ([1.0, 0.5, 0.2], False),  # a length reward differs
        "CWC": ([0.4, 0.4, 0.4], True),  # and here makes up for a wrong answer
        "WUW": ([0.0, -1.0, 0.1], False),
        "CTW": ([1.0, 0.0, 0.0], True),
        "CTC": ([1.0, 0.0, 0.5], False),
        "WTU": ([0.0, 0.0, 0.1], False),
        "CTE": ([1.0, 0.0, 0.0], False),  # one scored completion compares with nothing
        "TEE": ([0.0, 0.0, 0.0], False),
    }
    prompts = [_prompt(verdicts) for verdicts in cases]
    totals = [total for total, _ in cases.values()]
    kept = MixedVerdicts().keep(_judged(prompts, {v: v for v in cases}, totals))
    assert kept.tolist() == [keep for _, keep in cases.values()]


def test_less_than_one_round_is_refused() -> None:
    with pytest.raises(ValueError, match=r"max_rounds must be >= 1, got 0; with 1 no dropped"):
        MixedVerdicts(max_rounds=0)
    assert MixedVerdicts().max_rounds == 10  # published


class _Sampling(NamedTuple):
    sampled: Sampled
    asked: list[list[str]]
    """The uids of each round."""

    @property
    def metrics(self) -> dict[str, float]:
        return {name: float(s.sum / s.count) for name, s in self.sampled.statistics.items()}


def _sample(first: str, further: str, verdicts: dict[str, str], max_rounds: int = 10) -> _Sampling:
    """`first` and `further` hold the uids, one letter each, of the step and of the refill."""
    asked: list[list[str]] = []

    def sample(prompts: Sequence[Prompt], number: int) -> Rollout:
        assert number == len(asked)
        asked.append([prompt.uid for prompt in prompts])
        return _judged(prompts, verdicts)

    def refill(position: int, used: Collection[str]) -> tuple[Prompt, int] | None:
        for index in range(position, len(further)):
            if further[index] not in used:
                return _prompt(further[index]), index + 1
        return None

    sampled = sample_groups(
        [_prompt(uid) for uid in first],
        sample,
        group_filter=MixedVerdicts(max_rounds),
        refill=refill,
        refill_position=0,
    )
    return _Sampling(sampled, asked)


def _uids(rollout: Rollout) -> list[str]:
    return [prompt.uid for prompt in rollout.prompts]


def test_each_round_asks_for_exactly_the_missing_groups() -> None:
    verdicts = {"a": "CW", "b": "CC", "c": "WW", "d": "WC", "e": "WU", "f": "CW", "g": "CW"}
    # b is in the step, so the refill passes over it; g is never needed
    step = _sample("abc", "dbefg", verdicts)
    assert step.asked == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert _uids(step.sampled.kept) == ["a", "d", "f"]
    assert _uids(step.sampled.dropped) == ["b", "c", "e"]
    assert step.sampled.refill_position == 4
    for rollout in (step.sampled.kept, step.sampled.dropped):
        for uid, row, total in zip(
            _uids(rollout), rollout.scores.verdicts, rollout.scores.total, strict=True
        ):
            assert list(row) == [LETTERS[letter] for letter in verdicts[uid]]
            assert total.tolist() == [float(letter == "C") for letter in verdicts[uid]]
    sampling = {n: v for n, v in step.metrics.items() if n.startswith("sampling/")}
    assert sampling == pytest.approx(
        {
            "sampling/rounds": 3,
            "sampling/prompts_spent": 6,
            "sampling/missing_groups": 0,
            "sampling/empty_step": 0,
            "sampling/dropped_all_right_frac": 1 / 6,  # b of a to f
            "sampling/dropped_all_wrong_frac": 2 / 6,  # c and e
            "sampling/trained_accuracy": 0.5,
            "sampling/trained_length_tokens": 2,
        }
    )


def test_full_step_asks_for_nothing_more() -> None:
    step = _sample("ab", "cd", {"a": "CW", "b": "WC"})
    assert step.asked == [["a", "b"]]
    assert step.sampled.refill_position == 0
    assert not step.sampled.dropped.prompts


@pytest.mark.parametrize("max_rounds", [1, 2, 4])
def test_rounds_end_at_the_ceiling_and_take_no_problem_for_after_it(max_rounds: int) -> None:
    hopeless = dict.fromkeys("abcdefghijklmnop", "WW")
    step = _sample("ab", "cdefghijklmnop", hopeless | {"a": "CW"}, max_rounds)
    assert len(step.asked) == max_rounds
    assert _uids(step.sampled.kept) == ["a"]
    assert step.sampled.refill_position == max_rounds - 1
    metrics = step.metrics
    assert metrics["sampling/prompts_spent"] == 2 + max_rounds - 1
    assert metrics["sampling/missing_groups"] == 1
    assert metrics["sampling/empty_step"] == 0


def test_step_that_has_had_every_problem_goes_on_with_what_it_has() -> None:
    step = _sample("ab", "abcabc", {"a": "CC", "b": "WW", "c": "WW"})
    assert step.asked == [["a", "b"], ["c"]]
    assert not step.sampled.kept.prompts
    assert step.metrics["sampling/empty_step"] == 1
    assert step.metrics["sampling/missing_groups"] == 2
    assert step.metrics["reward/accuracy"] == pytest.approx(2 / 6)


@pytest.fixture(scope="module")
def encoder(policy_folder: Path) -> PromptEncoder:
    return PromptEncoder(str(policy_folder))


@pytest.fixture(scope="module")
def prompts(encoder: PromptEncoder) -> list[Prompt]:
    return [encoder.encode(problem) for problem in problems(3, answer="5")]


MIXED = [r"\boxed{5}", "aaaa", "b", r"so \boxed{7}"]
WRONG = ["aa", "b", "cc=7", "12"]
RIGHT = [r"\boxed{5}", r"\boxed{5}!", r"a \boxed{5}", r"it is \boxed{5}"]


def _run(
    policy_folder: Path,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    texts: Sequence[list[str]],
    **changes: Any,
) -> Recorder:
    policy = Policy.from_pretrained(str(policy_folder)).double()
    engine = Scripted({p.uid: group for p, group in zip(prompts, texts, strict=True)})
    chosen = changes.pop("chosen", prompts)
    return run_module(build_module(policy, encoder, engine=engine, **changes), chosen)


def test_step_without_a_dropped_group_is_the_step_of_the_others(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    # all groups have rewards that differ, by the share of even tokens: only verdicts drop
    texts = [MIXED, WRONG, RIGHT]
    dropping = {"dynamic_sampling": MixedVerdicts(max_rounds=1)}
    run = _run(policy_folder, encoder, prompts, texts, **dropping)
    alone = _run(policy_folder, encoder, prompts, texts, chosen=prompts[:1])
    everything = _run(policy_folder, encoder, prompts, texts)
    assert [p.uid for p in run.batches[0].prompts] == [prompts[0].uid]
    assert same(run.gradients, alone.gradients)
    assert not same(run.gradients, everything.gradients)
    assert run.metrics[0]["policy/loss"] == alone.metrics[0]["policy/loss"]
    got = run.metrics[0]
    for name in (
        "reward/accuracy",
        "reward/mean",
        "reward/even",
        "completion/length_tokens",
        "group/all_right_frac",
        "reward/group_std",
    ):
        assert got[name] == pytest.approx(everything.metrics[0][name], rel=1e-12), name
    assert got["sampling/trained_accuracy"] == alone.metrics[0]["reward/accuracy"] == 0.25
    assert got["group/without_signal_frac"] == pytest.approx(2 / 3)
    assert "sampling/rounds" not in everything.metrics[0]


def test_fewer_groups_than_minibatches_make_one_update_each(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    changes = {
        "dynamic_sampling": MixedVerdicts(max_rounds=1),
        "updates": UpdateSettings(num_minibatches=3),
        "optimizer": OptimizerSettings(lr=1e-3, schedule="linear"),
        "steps": 2,
    }
    run = _run(policy_folder, encoder, prompts, [MIXED, WRONG, MIXED], **changes)
    assert len(run.gradients) == 4
    # the schedule moves as planned: 3 of 6 updates a step, so the second step starts half way
    assert [m["optim/lr"] for m in run.metrics] == pytest.approx([1e-3 * 11 / 12, 1e-3 * 5 / 12])
    assert run.lr_schedulers().last_epoch == 6


def test_step_without_a_group_updates_nothing_and_training_goes_on(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    changes = {"dynamic_sampling": MixedVerdicts(), "steps": 2}
    run = _run(policy_folder, encoder, prompts, [WRONG, RIGHT, WRONG], **changes)
    before = Policy.from_pretrained(str(policy_folder)).double()
    assert same(weights(run.policy), weights(before))
    assert run.completed_steps == 2
    assert run.gradients == run.batches == run.skipped_updates == []
    metrics = run.metrics[1]
    assert metrics["sampling/empty_step"] == 1
    assert metrics["sampling/missing_groups"] == 3
    assert metrics["reward/accuracy"] == pytest.approx(1 / 3)
    assert "no group to train on, no update" in training_line(2, 2, metrics)
    assert run.lr_schedulers().last_epoch == 2


def test_rounds_and_steps_draw_numbers_of_their_own(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    def refill(position: int, used: Collection[str]) -> tuple[Prompt, int]:
        return prompts[position % len(prompts)], position + 1

    engine = Listening()
    reward = Reward({"accuracy": FirstTokenEven(), "even": EvenTokens()})
    module = build_module(
        Policy.from_pretrained(str(policy_folder)),
        encoder,
        engine=engine,
        reward=reward,
        dynamic_sampling=MixedVerdicts(max_rounds=3),
        refill=refill,
        group_size=2,
        steps=4,
    )
    run_module(module, prompts)
    seeds = [how["seed"] for _, how in engine.calls]
    assert len(seeds) == sum(metrics["sampling/rounds"] for metrics in module.metrics) > 6
    assert len(set(seeds)) == len(seeds)
    spent = [len(asked) for asked, _ in engine.calls]
    assert sum(spent) == sum(metrics["sampling/prompts_spent"] for metrics in module.metrics)
    assert module.refill_position == sum(spent) - 4 * len(prompts)


def test_kl_in_the_reward_is_of_the_trained_groups(
    policy_folder: Path, encoder: PromptEncoder, prompts: list[Prompt]
) -> None:
    changes = {"dynamic_sampling": MixedVerdicts(max_rounds=1), "steps": 2}
    kl = {"kl_in_reward": KLInReward(0.1)}
    texts = [MIXED, WRONG, MIXED]
    metrics = _run(policy_folder, encoder, prompts, texts, **changes, **kl).metrics[1]
    alone = [MIXED, MIXED]
    chosen = [prompts[0], prompts[2]]
    wanted = _run(policy_folder, encoder, chosen, alone, steps=2, **kl).metrics[1]
    assert metrics["reward/kl"] == wanted["reward/kl"] != 0
    assert metrics["reward/accuracy"] == pytest.approx(2 / 12)


DYNAMIC = {
    "dynamic_sampling": "vlm_rl.training.MixedVerdicts",
    "dynamic_sampling.init_args.max_rounds": 4,
    "group_size": 2,
    "data.prompts_per_step": 4,
    "engine": "tests.support.run_helpers.Listening",
    "reward.terms": json.dumps(
        {
            "accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"},
            "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
        }
    ),
}


class Run(NamedTuple):
    folder: Path
    module: RLModule


@pytest.fixture(scope="module")
def whole(policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return Run(folder, fit(command(policy_folder, data_folder, folder, **DYNAMIC)))


def _groups(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    by_uid: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_uid.setdefault(row["uid"], []).append(row)
    return by_uid


def test_rollout_files_hold_every_sampled_group_and_say_which_was_trained_on(whole: Run) -> None:
    metrics = [r for r in read_metrics(whole.folder / "metrics.csv") if "sampling/rounds" in r]
    assert len(metrics) == 6
    assert any(row["sampling/rounds"] > 1 for row in metrics)
    for row, samples in zip(metrics, rollouts(whole.folder).values(), strict=True):
        groups = _groups(samples)
        assert len(groups) == row["sampling/prompts_spent"], "no problem is in a step twice"
        trained = {uid for uid, group in groups.items() if group[0]["trained"]}
        assert len(trained) == 4 - row["sampling/missing_groups"]
        for uid, group in groups.items():
            verdicts = {sample["verdict"] for sample in group}
            assert len(group) == 2
            assert (verdicts == {"correct", "wrong"}) == (uid in trained)
            assert all((s["advantage"] is None) == (uid not in trained) for s in group)
        correct = sum(sample["verdict"] == "correct" for sample in samples)
        assert row["reward/accuracy"] == pytest.approx(correct / len(samples))


def test_validation_samples_every_problem_once(whole: Run) -> None:
    engine = whole.module.engine
    assert isinstance(engine, Listening)
    # the quickstart asks in batches of 128, once sampled and once greedy, at steps 0, 3 and 6
    validations = [asked for asked, how in engine.calls if len(asked) == 16]
    assert len(validations) == 6


@pytest.mark.long
def test_extended_run_with_refills_equals_the_undisturbed_one_bit_for_bit(
    whole: Run, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "extended"
    fit(command(policy_folder, data_folder, folder, **DYNAMIC, steps=3))
    half = trainer_checkpoint(folder, 3)["vlm_rl"]["refill_position"]
    module = fit(command(policy_folder, data_folder, folder, **DYNAMIC))
    assert 0 < half < module.refill_position == whole.module.refill_position
    assert same(dict(module.state_dict()), dict(whole.module.state_dict()))
    assert rollouts(folder) == rollouts(whole.folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dynamic_sampling.init_args.max_rounds": 0}, "max_rounds must be >= 1, got 0"),
        ({"data.prompts_per_step": 24}, "takes all 24 training problems at once"),
    ],
)
def test_dynamic_sampling_that_can_not_work_is_one_clear_line(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    changes: dict[str, object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        fit(command(policy_folder, data_folder, tmp_path / "run", **DYNAMIC | changes))
    assert message in capsys.readouterr().err
