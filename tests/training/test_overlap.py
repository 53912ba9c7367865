"""The overlapped schedule: what it trains on, that it overlaps, and how it goes on and ends.

The engine is a second transformers model (`copied_engine`), which needs no vLLM; a real server is
in tests/rollout/vllm/test_overlap_with_server.py.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.copied_engine import Copied
from tests.support.overlapping import (
    DropsFirst,
    OverlappedRecorder,
    SaysUpdate,
    WaitsForUpdate,
    Watched,
    engine,
    overlapped,
)
from tests.support.parameters import also_long
from tests.support.run_helpers import (
    REWARD_TERMS,
    build_module,
    problems,
    rollouts,
    run_module,
    same,
    trainer_checkpoint,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.metrics.statistic import add_up, means
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import (
    LUSPO,
    VESPO,
    GeometricRejection,
    OffPolicyMask,
    SequenceMIS,
    SequenceTIS,
    TokenTIS,
)
from vlm_rl.objectives.token_weights import TokenWeight
from vlm_rl.records import Batch, Statistic
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.dynamic_sampling import GroupFilter
from vlm_rl.training.overlap import PENDING, Overlap, _Ahead, _statistics
from vlm_rl.training.settings import OptimizerSettings, UpdateSettings


@pytest.fixture(scope="module")
def encoder(policy_folder: Path) -> PromptEncoder:
    return PromptEncoder(str(policy_folder))


def _module(folder: Path, copied: Copied, **changes: Any) -> tuple[OverlappedRecorder, Any]:
    encoder = PromptEncoder(str(folder))
    prompts = [encoder.encode(problem) for problem in problems(2)]
    corrected = LUSPO(token_weights=[SequenceTIS(2.0)])
    parts = {
        "steps": 4,
        "engine": copied,
        "objective": corrected,
        "overlap": Overlap(),
        "following": lambda step: prompts,
    }
    policy = Policy.from_pretrained(str(folder))
    module = build_module(policy, encoder, kind=OverlappedRecorder, **parts | changes)
    assert isinstance(module, OverlappedRecorder)
    return run_module(module, prompts), prompts


def _copied(folder: Path, kind: type[Copied] = Copied) -> Copied:
    return kind(checkpoint=str(folder), rank=0, breaks_after=[])


def _logprobs(policy: Policy, state: dict[str, torch.Tensor], batch: Batch) -> torch.Tensor:
    policy.load_state_dict(state)
    with policy.evaluating(), torch.no_grad():
        return policy.logprobs(batch, temperature=1.0).logprobs


@pytest.mark.parametrize("num_minibatches", [1, 2])
def test_step_trains_on_completions_of_the_weights_before_it(
    policy_folder: Path, num_minibatches: int
) -> None:
    """The engine's log-probs are of the weights one step ago, the old ones of those of the step."""
    updates = UpdateSettings(num_minibatches=num_minibatches, max_grad_norm=None)
    module, _ = _module(policy_folder, _copied(policy_folder, Watched), updates=updates)
    states, policy = module.began_with, module.policy
    assert len(states) == len(module.batches) == 4
    for step, batch in enumerate(module.batches):
        computed = batch.completion_mask & batch.old_logprobs.isfinite()  # others are left out
        assert computed.any()
        sampled, old = batch.sampling_logprobs[computed], batch.old_logprobs[computed]
        sampled_with = _logprobs(policy, states[max(step - 1, 0)], batch)[computed]
        assert (sampled - sampled_with).abs().max() < 1e-5
        assert (old - _logprobs(policy, states[step], batch)[computed]).abs().max() < 1e-5
        if step:
            assert (sampled - old).abs().max() > 1e-3
    ages = [metrics["rollout/staleness_steps"] for metrics in module.metrics]
    assert ages == [0, 1, 1, 1]
    hidden = [metrics["time/rollout_hidden_frac"] for metrics in module.metrics]
    assert all(0 <= share <= 1 for share in hidden)
    begun = [on_main for on_main, runs in module.engine.places if runs]  # type: ignore[attr-defined]
    assert begun == [False] * 4, "one for each step and none after the last, in a thread"


def test_seconds_in_which_somebody_waits_for_a_rollout_are_not_hidden(
    encoder: PromptEncoder,
) -> None:
    """Of a rollout of 8 s a checkpoint waits for 1 s and its step for 2 s. Of three groups one is
    of a further round, with the weights of now."""
    prompts = [encoder.encode(problem) for problem in problems(2)]
    ahead = _Ahead(prompts, weights_step=6, ran_s=8.0, waited_s=3.0)
    own = _statistics(ahead, 7, num_groups=3, waited_s=1.0)
    rate = Statistic(torch.tensor(800.0), torch.tensor(2.0))  # of the clock: tokens, seconds
    values = means(add_up({"time/sampled_tokens_per_second": rate}, own))
    assert values["rollout/staleness_steps"] == pytest.approx(2 / 3)
    assert values["time/rollout_hidden_frac"] == 5 / 8
    assert values["time/sampled_tokens_per_second"] == 800 / 8


@pytest.mark.parametrize("group_filter", [None, DropsFirst(2)], ids=["", "dynamic sampling"])
def test_rollout_runs_while_the_step_before_it_is_in_its_update(
    policy_folder: Path, encoder: PromptEncoder, group_filter: GroupFilter | None
) -> None:
    """Would wait forever otherwise, also in a further round of dynamic sampling."""
    further = encoder.encode(problems(3)[2])
    module, _ = _module(
        policy_folder,
        _copied(policy_folder, WaitsForUpdate),
        objective=SaysUpdate(token_weights=[TokenTIS()]),
        dynamic_sampling=group_filter,
        refill=lambda position, used: None if further.uid in used else (further, position + 1),
    )
    assert module.completed_steps == module.engine.num_begun == 4  # type: ignore[attr-defined]
    rounds = {metrics.get("sampling/rounds", 1) for metrics in module.metrics}
    assert rounds == {1 if group_filter is None else 2}


def _metrics(run_dir: Path) -> list[dict[str, float]]:
    """Return all rows but for what differs from run to run, and the staleness."""
    rows = read_metrics(run_dir / "metrics.csv")
    left_out = "rollout/staleness_steps"
    kept = [
        {name: value for name, value in row.items() if not name.startswith(("time/", left_out))}
        for row in rows
    ]
    return sorted(kept, key=lambda row: (row["step"], "val/accuracy" in row))


def _ages(run_dir: Path) -> list[float]:
    rows = read_metrics(run_dir / "metrics.csv")
    return [row["rollout/staleness_steps"] for row in rows if "rollout/staleness_steps" in row]


def _assert_equal(run_dir: Path, whole: Path, step: int = 6) -> None:
    ours, theirs = trainer_checkpoint(run_dir, step), trainer_checkpoint(whole, step)
    for name in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(ours[name], theirs[name]), name
    assert rollouts(run_dir) == rollouts(whole)
    assert _metrics(run_dir) == _metrics(whole)


REFILLED = (
    "--dynamic_sampling=vlm_rl.training.MixedVerdicts",
    "--dynamic_sampling.init_args.max_rounds=3",
)
JUDGED = REWARD_TERMS | {"accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"}}


@pytest.fixture(scope="module")
def synchronous(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    run_dir = tmp_path_factory.mktemp("synchronous") / "run"
    fit(overlapped(policy_folder, data_folder, run_dir, staleness=None))
    return run_dir


@pytest.fixture(scope="module")
def whole(policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train six overlapped steps without a break."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    fit(overlapped(policy_folder, data_folder, run_dir))
    return run_dir


@pytest.fixture(scope="module")
def refilled(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Train the same with dynamic sampling."""
    run_dir = tmp_path_factory.mktemp("refilled") / "run"
    fit(overlapped(policy_folder, data_folder, run_dir, *REFILLED, terms=JUDGED))
    return run_dir


def test_staleness_of_zero_equals_the_synchronous_run_bit_for_bit(
    synchronous: Path, whole: Path, policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    fit(overlapped(policy_folder, data_folder, tmp_path / "run", staleness=0))
    _assert_equal(tmp_path / "run", synchronous)
    assert _ages(tmp_path / "run") == [0] * 6
    assert _ages(synchronous) == []
    assert _ages(whole) == [0, 1, 1, 1, 1, 1]


def test_problems_are_those_of_the_synchronous_run(synchronous: Path, whole: Path) -> None:
    def by_step(run_dir: Path, name: str) -> list[list[Any]]:
        return [[row[name] for row in rows] for rows in rollouts(run_dir).values()]

    assert by_step(whole, "uid") == by_step(synchronous, "uid")
    ours, theirs = by_step(whole, "token_ids"), by_step(synchronous, "token_ids")
    assert ours[0] == theirs[0]
    assert ours[1] != theirs[1]


@pytest.mark.long
def test_weights_that_do_not_move_make_the_age_of_completions_irrelevant(
    policy_folder: Path,
) -> None:
    """Each step has the random numbers of the synchronous run."""
    still = OptimizerSettings(lr=0.0, weight_decay=0.0)
    copied = [_copied(policy_folder) for _ in range(2)]
    overlapped, _ = _module(policy_folder, copied[0], optimizer=still)
    synchronous, _ = _module(policy_folder, copied[1], optimizer=still, overlap=Overlap(0))
    for ours, theirs in zip(overlapped.batches, synchronous.batches, strict=True):
        assert torch.equal(ours.completion_ids, theirs.completion_ids)
        assert torch.equal(ours.advantages, theirs.advantages)


@pytest.mark.long
def test_further_rounds_of_dynamic_sampling_have_the_weights_of_now(refilled: Path) -> None:
    rows = [row for row in read_metrics(refilled / "metrics.csv") if "sampling/rounds" in row]
    spent = [row["sampling/prompts_spent"] for row in rows]
    assert max(spent) > 2, "some step had further rounds"
    assert _ages(refilled) == [0.0, *(2 / number for number in spent[1:])]


def _stopped(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the line that a run ends with."""
    with pytest.raises(SystemExit):
        fit(argv)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "vlm_rl.fit:" in line]
    return line


@pytest.mark.parametrize("more", [also_long(()), REFILLED], ids=["one round", "dynamic sampling"])
def test_run_goes_on_bit_for_bit_from_a_signal_and_from_a_checkpoint(
    more: tuple[str, ...],
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The signal comes in step 4, after its rollout has ended and the next has begun. A checkpoint
    of step 2 was due, while the rollout of step 3 was running."""
    undisturbed = request.getfixturevalue("refilled" if more else "whole")
    how = {"marker": str(tmp_path / "told"), "at": 7 if more else 6}
    even = {"class_path": "tests.support.overlapping.SignalsOnce", "init_args": how}
    terms = (JUDGED if more else REWARD_TERMS) | {"even": even}

    def argv(name: str) -> list[str]:
        return overlapped(policy_folder, data_folder, tmp_path / name, *more, terms=terms)

    line = _stopped(argv("run"), capsys)
    step = int(line.partition("stopped after step ")[2].split()[0])
    assert step in (3, 4, 5)
    assert trainer_checkpoint(tmp_path / "run", step)["vlm_rl"][PENDING]["weights_step"] == step - 1
    shutil.copytree(tmp_path / "run", tmp_path / "earlier")
    shutil.rmtree(tmp_path / "earlier" / "checkpoints" / f"step_{step}")
    for name in ("run", "earlier"):
        fit(argv(name))
        _assert_equal(tmp_path / name, undisturbed)
        assert _ages(tmp_path / name) == _ages(undisturbed)


@pytest.mark.long
def test_rollout_of_problems_that_have_changed_since_is_sampled_anew(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The checkpoint's completions answer other questions."""
    shutil.copytree(data_folder, tmp_path / "data")
    even = {"class_path": "tests.support.overlapping.SignalsOnce"}
    how = {"marker": str(tmp_path / "told"), "at": 4}
    terms = REWARD_TERMS | {"even": even | {"init_args": how}}
    argv = overlapped(policy_folder, tmp_path / "data", tmp_path / "run", terms=terms)
    assert "stopped after step 2 with a checkpoint" in _stopped(argv, capsys)
    rows = tmp_path / "data" / "train.jsonl"
    rows.write_text(rows.read_text().replace("<image>", "<image> Look. "))
    fit([*argv, "--data.accept_changes=all"])
    assert _ages(tmp_path / "run") == [0, 1, 0, 1, 1, 1]


def test_rollout_whose_engine_fails_is_sampled_again_with_the_weights_of_now(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    whole: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of step 1, of step 2, and of step 3, for which a checkpoint waits."""
    faulty = engine(policy_folder, "overlapping.Faulty", faults=[0, 2, 4])
    fit(overlapped(policy_folder, data_folder, tmp_path / "run", engine=faulty))
    assert _ages(tmp_path / "run") == [0, 0, 0, 1, 1, 1]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    restarts = [row["rollout/engine_restarts"] for row in rows if "policy/loss" in row]
    assert restarts == [1, 2, 2, 2, 2, 2]
    out = capsys.readouterr().out
    assert "rollout engine: broken on purpose; step 3 is sampled again" in out
    ours, theirs = rollouts(tmp_path / "run"), rollouts(whole)
    uids = [[[row["uid"] for row in rows] for rows in run.values()] for run in (ours, theirs)]
    assert uids[0] == uids[1]


def test_engine_beyond_its_ceiling_ends_the_run_with_a_checkpoint(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    faulty = engine(policy_folder, "overlapping.Faulty", faults=[3], max_restarts=0)
    argv = overlapped(policy_folder, data_folder, tmp_path / "run", engine=faulty)
    line = _stopped(argv, capsys)
    assert "failed 1 times in a row, last: broken on purpose" in line
    assert "stopped after step 3 with a checkpoint" in line
    assert trainer_checkpoint(tmp_path / "run", 3)["vlm_rl"][PENDING] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"engine": "vlm_rl.rollout.TransformersEngine"},
            "overlap.staleness=1 needs an engine with weights of its own .*TransformersEngine has "
            "not; take vlm_rl.rollout.VLLMServer",
        ),
        ({"engine": "vlm_rl.rollout.VLLMEngine"}, "VLLMEngine has not; take"),
        (
            {"objective": "vlm_rl.objectives.LUSPO"},
            "no part of LUSPO corrects for; add vlm_rl.objectives.TokenTIS ",
        ),
        ({"overlap.staleness": 2}, "overlap"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value.values())),
)
def test_what_cannot_overlap_is_refused_in_one_line_before_a_model_is_loaded(
    options: dict[str, object],
    words: str,
    data_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nowhere = tmp_path / "no policy"
    line = _stopped(overlapped(nowhere, data_folder, tmp_path / "run", **options), capsys)
    assert re.search(words, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("weight", "corrects"),
    [
        (TokenTIS(), True),
        (SequenceMIS(), True),
        (GeometricRejection(), False),
        (OffPolicyMask(), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_only_importance_weights_correct(weight: TokenWeight, corrects: bool) -> None:
    """What rejects rows leaves those it keeps as they are."""
    assert LUSPO(token_weights=[weight]).corrects == corrects


def test_ratio_against_the_engines_probabilities_corrects_by_itself() -> None:
    assert VESPO(behaviour="engine").corrects
    assert not VESPO(behaviour="old").corrects
