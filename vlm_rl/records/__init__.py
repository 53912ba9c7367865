"""The records that flow through a training step: Problem -> Prompt -> Completion -> Rows, Batch.

Each is frozen, built complete, and checks itself. Shape letters, here and everywhere: `P` problems,
`G` completions per problem (the group), `B` rows (P*G, or a slice of them), `T` completion tokens
(padded), `S` prompt tokens, `V` vocabulary.
"""

from vlm_rl.records.problem import (
    END_OF_THINKING,
    IMAGE_MARK,
    THINK,
    AnswerType,
    BoxSpace,
    GoldType,
    ImageSizes,
    OtherAnswerType,
    Problem,
    Verdict,
)
from vlm_rl.records.rollout import (
    Completion,
    FinishReason,
    Groups,
    Prompt,
    Rollout,
    Scores,
    Statistic,
)
from vlm_rl.records.rows import Batch, Rows

__all__ = [
    "END_OF_THINKING",
    "IMAGE_MARK",
    "THINK",
    "AnswerType",
    "Batch",
    "BoxSpace",
    "Completion",
    "FinishReason",
    "GoldType",
    "Groups",
    "ImageSizes",
    "OtherAnswerType",
    "Problem",
    "Prompt",
    "Rollout",
    "Rows",
    "Scores",
    "Statistic",
    "Verdict",
]
