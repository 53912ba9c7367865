"""Metrics of rollouts: pure functions from records to sums and counts."""

import torch
from torch import Tensor

from vlm_rl.metrics.statistic import Statistics, add_up, mean_of
from vlm_rl.records import Rollout, Scores, Statistic, Verdict


def answer_statistics(rollout: Rollout) -> Statistics:
    """Return accuracy, verdicts and lengths in tokens, which training and validation both report.

    Completions without a score are in no accuracy, but they are in the lengths and verdicts.
    """
    scored, correct = rollout.scores.scored, rollout.scores.correct
    lengths, truncated = rollout.lengths, rollout.truncated
    statistics = {
        "accuracy": mean_of(correct, scored),
        "length_tokens": mean_of(lengths),
        "length_correct_tokens": mean_of(lengths, correct),
        "length_wrong_tokens": mean_of(lengths, scored & ~correct),
        "length_truncated_tokens": mean_of(lengths, truncated),
        # all scored tokens, correct or wrong, for each correct answer
        "length_per_correct_tokens": Statistic(lengths[scored].sum(), correct.sum()),
        "truncated_frac": mean_of(truncated),
    }
    for verdict in Verdict:
        hits = [[v is verdict for v in row] for row in rollout.scores.verdicts]
        statistics[f"{verdict}_frac"] = mean_of(torch.tensor(hits))
    return statistics


def task_statistics(rollout: Rollout) -> Statistics:
    """Return the accuracy of each task, `<task>/accuracy`."""
    statistics: Statistics = {}
    scored, correct = rollout.scores.scored, rollout.scores.correct
    for row, prompt in enumerate(rollout.prompts):
        if prompt.problem.task:
            name = f"{prompt.problem.task}/accuracy"
            statistics = add_up(statistics, {name: mean_of(correct[row], scored[row])})
    return statistics


def rollout_statistics(rollout: Rollout, advantages: Tensor) -> Statistics:
    """Return metrics of a training step: rewards, groups, lengths. `advantages` [P, G]."""
    scores = rollout.scores
    statistics = {"reward/mean": mean_of(scores.total, scores.scored)}
    for name, term in scores.parts.items():
        statistics[f"reward/{name}"] = mean_of(term, scores.scored)
    for name, measure in scores.measures.items():
        kind = "time" if name.endswith("_s") else "reward"  # what depends on machines
        statistics[f"{kind}/{name}"] = mean_of(measure, ~measure.isnan())
    statistics |= _group_statistics(scores)
    spread = [
        total[scored].std(correction=0) if scored.any() else total.new_zeros(())
        for total, scored in zip(scores.total, scores.scored, strict=True)
    ]
    statistics["reward/group_std"] = mean_of(torch.stack(spread))
    for name, value in answer_statistics(rollout).items():
        kind = "completion" if "length" in name or "truncated" in name else "reward"
        statistics[f"{kind}/{name}"] = value
    learning = (advantages != 0).any(dim=1)
    statistics["group/without_signal_frac"] = mean_of(~learning)
    return statistics


def _group_statistics(scores: Scores) -> Statistics:
    """Return the shares of groups that are all right, all wrong or mixed, by verdict."""
    right, wrong = all_right(scores), all_wrong(scores)
    return {
        "group/all_right_frac": mean_of(right),
        "group/all_wrong_frac": mean_of(wrong),
        "group/mixed_frac": mean_of(~(right | wrong)),
    }


def all_right(scores: Scores) -> Tensor:
    """Return [P] bool: some completions have a score, and all of these are correct."""
    return (scores.correct | ~scores.scored).all(dim=1) & scores.scored.any(dim=1)


def all_wrong(scores: Scores) -> Tensor:
    """Return [P] bool: some completions have a score, and none of these is correct."""
    return ~scores.correct.any(dim=1) & scores.scored.any(dim=1)
