"""Warm starts for studies of length, each made in minutes on one core.

    python -m data_prep.study_policies --kind twins --output runs/twins_policy
    python -m data_prep.study_policies --kind tally --output runs/tally_policy
    python -m data_prep.study_policies --kind targets --output runs/targets_policy

All go on from the shipped policy.

*twins* adds up parts, in 12 tokens, or counts up unit by unit, in 13 to 172. Either way it says a
wrong number in half of the cases in which it knows the right one, so that both can be improved.

*tally* counts up by ones, by twos, or by whole parts, and ends with the box: 20 to 440 tokens.

*targets* has read the sentence of `configs/length/l1_max.yaml` behind questions, and keeps to it.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from data_prep.scenes import Scene, completion
from data_prep.supervise import Lesson, warm_start
from data_prep.tiny_policy import save
from vlm_rl.show.screen import bars, say

Kind = Literal["twins", "tally", "targets"]
SHIPPED = Path(__file__).parent / "warm_start"


def tally(scene: Scene, stride: int) -> str:
    """Count up every part by `stride`, with what is left of it behind each sum.

    "a3:0+1=1/2,1+1=2/1,2+1=3/0;b1:3+1=4/0 \\boxed{4}"
    """
    total, lines = 0, []
    for letter, value in zip("abcdefgh", scene.values, strict=False):
        sums = []
        for left in range(value, 0, -stride):
            added = min(stride, left)
            sums.append(f"{total}+{added}={total + added}/{left - added}")
            total += added
        lines.append(f"{letter}{value}:{','.join(sums)}")
    return f"{';'.join(lines)} \\boxed{{{total}}}"


ONES, TWOS, PARTS = (partial(tally, stride=stride) for stride in (1, 2, 20))
FULL = partial(completion, style="full")

TWO_MODES = Lesson(
    0,
    140,
    (1, 2),
    peak_lr=1e-3,
    final_lr=1e-4,
    rising_steps=20,
    seed=3,
    difficulty=(1,),
    styles=(FULL, ONES),
)
SPOILT = replace(
    TWO_MODES,
    mixed_steps=50,
    style_weights=(1, 1),
    peak_lr=3e-4,
    final_lr=3e-4,
    rising_steps=10,
    seed=4,
    right_shares=(0.5, 0.5),
)
COUNT = Lesson(
    0,
    160,
    (5, 3, 2),
    peak_lr=1e-3,
    final_lr=2e-4,
    rising_steps=20,
    seed=0,
    difficulty=(3,),
    styles=(ONES, TWOS, PARTS),
)
TOLD = Lesson(
    0,
    150,
    (1, 1, 1),
    peak_lr=3e-4,
    final_lr=1e-4,
    rising_steps=10,
    seed=5,
    sentence="Think for at most {tokens} tokens.",
    most_tokens=48,
)
LESSONS: dict[Kind, tuple[Lesson, ...]] = {
    "twins": (TWO_MODES, SPOILT),
    "tally": (COUNT,),
    "targets": (TOLD,),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Warm-start a policy for a study of length.")
    parser.add_argument("--kind", choices=get_args(Kind), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args()
    # one thread, so that the sums, and so the weights, are the same on every run
    torch.set_num_threads(1)
    policy = AutoModelForImageTextToText.from_pretrained(SHIPPED)
    processor = AutoProcessor.from_pretrained(SHIPPED)
    lessons = LESSONS[arguments.kind]
    with bars() as bar:
        task = bar.add_task(arguments.kind, total=sum(lesson.num_steps for lesson in lessons))
        for loss in warm_start(policy, processor, lessons):
            bar.update(task, advance=1, description=f"{arguments.kind}, loss {loss:.3f}")
    save(policy, processor, arguments.output)
    say(f"the policy of {arguments.kind} is in {arguments.output}")


if __name__ == "__main__":
    main()
