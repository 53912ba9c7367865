"""What a step saves by leaving out rows without an advantage, in CPU seconds.

    OMP_NUM_THREADS=1 python -m measurements.left_out --minibatches 1

Eight problems with an image, groups of 8 with answers of about 30 tokens, LUSPO; in half of the
groups all answers are equal. The same step is done with their rows and without, in turns; measured
is all but the rollout: old log-probabilities and updates.
"""

import argparse
import functools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import vlm_rl  # noqa: F401  (makes torchvision importable)
from data_prep.tiny_policy import build_policy, build_processor, save
from tests.support.run_helpers import Scripted, build_module, problems, run_module
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.objectives import Objective
from vlm_rl.rollout import Sampling
from vlm_rl.training.module import UpdateSettings

GROUPS, GROUP_SIZE = 8, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minibatches", type=int, default=1)
    parser.add_argument("--width", type=int, default=256, help="of the language model")
    parser.add_argument("--layers", type=int, default=4, help="of the language model")
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    processor = build_processor("qwen2_5_vl")
    sizes = {"hidden": options.width, "layers": options.layers, "vision": 64}
    with tempfile.TemporaryDirectory() as folder:
        model = build_policy("qwen2_5_vl", processor.tokenizer, seed=0, **sizes)
        save(model, processor, Path(folder))
        both = [
            (step(folder, options.minibatches, True), step(folder, options.minibatches, False))
            for _ in range(options.pairs)
        ]
    all_rows, without = (statistics.median(column) for column in zip(*both, strict=True))
    ratio = statistics.median(first / second for first, second in both)
    print(f"all rows {all_rows:.2f} s, without {without:.2f} s: {ratio:.2f} times")


def step(folder: str, minibatches: int, all_rows: bool) -> float:
    """Return the CPU seconds of one step, but for its rollout."""
    encoder = PromptEncoder(folder)
    prompts = [encoder.encode(problem) for problem in problems(GROUPS)]
    texts = {prompt.uid: answers(index % 2 == 0) for index, prompt in enumerate(prompts)}
    module = build_module(
        Policy.from_pretrained(folder),
        encoder,
        engine=Scripted(texts),
        group_size=GROUP_SIZE,
        sampling=Sampling(1.0, 64),
        updates=UpdateSettings(num_minibatches=minibatches),
    )
    seconds: list[float] = []
    module.batching.build = timed(module.batching.build, seconds)  # type: ignore[method-assign]
    module.update = timed(module.update, seconds)  # type: ignore[method-assign]
    with patch.object(Objective, "needs_all_rows", all_rows):
        run_module(module, prompts)
    return sum(seconds)


def answers(differ: bool) -> list[str]:
    return ["3 and 4 are " + "7, " * (7 + (index if differ else 0)) for index in range(GROUP_SIZE)]


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @functools.wraps(work)
    def measured(*args: Any) -> Any:
        start = time.process_time()
        result = work(*args)
        seconds.append(time.process_time() - start)
        return result

    return measured


if __name__ == "__main__":
    main()
