"""Engines and verdicts for edits: solved groups with one long answer."""

from collections.abc import Sequence
from dataclasses import replace

from tests.support.copied_engine import Copied
from tests.support.run_helpers import UntestedAccuracy
from vlm_rl.records import Completion, Groups, Problem, Prompt, Verdict
from vlm_rl.rewards.judging import Judgement, values_of
from vlm_rl.rollout import Sampling, TransformersEngine


def _uneven(groups: list[list[Completion]]) -> list[list[Completion]]:
    """Keep the first of each group whole, 2 to 4 tokens of the others; all but the first stop, and
    the first if the id of its first token is not divisible by 3."""
    return [
        [
            _ended(c, len(c) if not i else 2 + int(c.token_ids[0]) % 3, not i)
            for i, c in enumerate(group)
        ]
        for group in groups
    ]


def _ended(completion: Completion, length: int, is_first: bool) -> Completion:
    return replace(
        completion,
        token_ids=completion.token_ids[:length],
        sampling_logprobs=completion.sampling_logprobs[:length],
        finish_reason="length" if is_first and completion.token_ids[0] % 3 == 0 else "stop",
    )


class Uneven(TransformersEngine):
    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        how = {"group_size": group_size, "sampling": sampling, "seed": seed}
        return _uneven(super().generate(prompts, **how))  # type: ignore[arg-type]


class UnevenCopied(Copied):
    def _sample(
        self, prompts: Sequence[Prompt], group_size: int, sampling: Sampling, seed: int
    ) -> list[list[Completion]]:
        return _uneven(super()._sample(prompts, group_size, sampling, seed))


class Stopped(UntestedAccuracy):
    """Correct if the budget did not end it."""

    def judge(self, problems: Sequence[Problem], groups: Groups) -> Judgement:
        verdicts = [
            [Verdict.WRONG if c.truncated else Verdict.CORRECT for c in group] for group in groups
        ]
        return Judgement(values_of(verdicts), verdicts)
