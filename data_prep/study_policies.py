"""Warm starts for studies of length, each made in minutes on one core.

    python -m data_prep.study_policies --kind twins --output runs/twins_policy
    python -m data_prep.study_policies --kind tally --output runs/tally_policy

*twins* goes on from the shipped policy. Its direct and its full answers are about equally often
chosen, and in both it says a wrong number in a share of the cases in which it knows the right one,
so that both can be improved. They are meant to be equally often right and are not yet: 22 % and
42 % in the first rollout of the study.

*tally* learns to count: its completions have a line for each unit of a part, for every second, or
for the whole part, and end with the box, 20 to 600 tokens.
"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from data_prep.scenes import Scene
from data_prep.supervise import Lesson, warm_start
from data_prep.tiny_policy import build_policy, build_processor, save
from vlm_rl.show.screen import bars, say

Kind = Literal["twins", "tally"]
SHIPPED = Path(__file__).parent / "warm_start"


def tally(scene: Scene, stride: int) -> str:
    """Count up every part, `stride` units a line: "a2:0+2=2;a3:2+1=3;b1:3+1=4 \\boxed{4}"."""
    total, lines = 0, []
    for letter, value in zip("abcdefgh", scene.values, strict=False):
        for start in range(0, value, stride):
            end = min(start + stride, value)
            lines.append(f"{letter}{end}:{total}+{end - start}={total + end - start}")
            total += end - start
    return f"{';'.join(lines)} \\boxed{{{total}}}".lstrip()


ONES, TWOS, PARTS = (partial(tally, stride=stride) for stride in (1, 2, 20))

MORE_DIRECT = Lesson(
    0, 200, (1, 0, 4), peak_lr=1e-3, final_lr=5e-5, rising_steps=10, seed=3, difficulty=(2,)
)
SPOILT = Lesson(
    0,
    60,
    (1, 0, 1),
    peak_lr=3e-4,
    final_lr=3e-4,
    rising_steps=10,
    seed=4,
    difficulty=(2,),
    right_shares=(0.52, 1.0, 0.8),
)
COUNT_ONES = Lesson(
    100,
    0,
    (1, 0, 0),
    peak_lr=3e-3,
    final_lr=3e-3,
    rising_steps=30,
    seed=0,
    difficulty=(3,),
    styles=(ONES, TWOS, PARTS),
)
COUNT_MIXED = replace(
    COUNT_ONES,
    full_steps=0,
    mixed_steps=80,
    style_weights=(5, 3, 2),
    final_lr=3e-4,
    rising_steps=10,
    seed=1,
)
LESSONS: dict[Kind, tuple[Lesson, ...]] = {
    "twins": (MORE_DIRECT, SPOILT),
    "tally": (COUNT_ONES, COUNT_MIXED),
}


def untaught(kind: Kind) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return the policy that the lessons of `kind` begin with."""
    if kind == "twins":
        policy = AutoModelForImageTextToText.from_pretrained(SHIPPED)
        return policy, AutoProcessor.from_pretrained(SHIPPED)
    processor = build_processor("qwen2_5_vl")
    policy = build_policy("qwen2_5_vl", processor.tokenizer, hidden=64, layers=3, vision=64, seed=0)
    return policy, processor


def main() -> None:
    parser = argparse.ArgumentParser(description="Warm-start a policy for a study of length.")
    parser.add_argument("--kind", choices=get_args(Kind), required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    arguments = parser.parse_args()
    # one thread, so that the sums, and so the weights, are the same on every run
    torch.set_num_threads(1)
    policy, processor = untaught(arguments.kind)
    lessons = LESSONS[arguments.kind]
    with bars() as bar:
        task = bar.add_task(arguments.kind, total=sum(lesson.num_steps for lesson in lessons))
        for loss in warm_start(policy, processor, lessons):
            bar.update(task, advance=1, description=f"{arguments.kind}, loss {loss:.3f}")
    save(policy, processor, arguments.output)
    say(f"the policy of {arguments.kind} is in {arguments.output}")


if __name__ == "__main__":
    main()
