"""Photographs and figures of two public benchmarks, through their converters and the same `fit`,
changed by config only.

Shown red once: pixels that differ by 1e-6 between engine and trainer.
"""

import json
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from PIL import Image
from torch import Tensor

from data_prep.convert import Options, convert
from data_prep.converter import Converter
from data_prep.dynamath import DynaMath
from data_prep.mathvision import MathVision
from data_prep.tiny_policy import build_untrained
from tests.support.run_helpers import REWARD_TERMS, Listening, command, rollouts
from vlm_rl.fit import fit
from vlm_rl.records import Prompt

COUNT = 8


SETS: dict[str, tuple[Converter, str]] = {
    "dynamath": (DynaMath(), "sample_variant1"),
    "mathvision": (MathVision(), "testmini"),
}


@pytest.fixture(scope="module")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of our format, by benchmark, written by its converter."""
    files = {}
    for name, (converter, split) in SETS.items():
        source = shared / "data" / name
        if not source.is_dir():
            pytest.skip(f"{source} is absent: it holds the benchmark's images")
        output = tmp_path_factory.mktemp(name)
        entry, _ = convert(converter, Options(str(source), split, output, limit=COUNT))
        assert entry["written"] == COUNT
        files[name] = output / f"{split}.jsonl"
    return files


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.long
def test_real_images_train_both_families(
    converted: dict[str, Path], tmp_path: Path, family: Literal["qwen2_5_vl", "qwen3_vl"]
) -> None:
    policy, run_dir = build_untrained(family, tmp_path / "policy"), tmp_path / "run"
    sources = [{"path": str(path)} for path in converted.values()]
    changes = {
        "data.train": json.dumps(sources),
        "data.val": json.dumps([sources[0] | {"limit": 2}]),
        "data.prompts_per_step": 4,
        "prompt.max_pixels": 8192,
        "prompt.max_prompt_tokens": 700,
        "engine": "tests.support.run_helpers.Listening",
        "reward.terms": json.dumps(REWARD_TERMS),
        "updates.micro_batch_tokens": 10**6,
    }
    module = fit(command(policy, tmp_path, run_dir, steps=3, **changes))
    assert module.completed_steps == 3
    assert isinstance(module.engine, Listening)
    steps = [prompts for prompts, how in module.engine.calls if how["group_size"] == 4]
    written = [[row["uid"] for row in rows] for rows in rollouts(run_dir).values()]
    assert written == [[p.uid for p in prompts for _ in range(4)] for prompts in steps]
    for prompts in steps:
        assert {p.uid.partition("-")[0] for p in prompts} == SETS.keys()
        for prompt in prompts:
            _assert_made_of_the_file(prompt)
    _assert_both_sides_read_the_same(module.engine, steps)


def _assert_made_of_the_file(prompt: Prompt) -> None:
    """Check that it is within the limit of pixels and of about the original's form."""
    [source], [image] = prompt.problem.images, prompt.images
    assert isinstance(source, Path)
    assert image.width * image.height <= 8192
    with Image.open(source) as original:
        form = (image.width / image.height) / (original.width / original.height)
    assert 0.7 < form < 1.4


def _assert_both_sides_read_the_same(engine: Listening, steps: list[Any]) -> None:
    # per step: old log-probabilities and updates, each in two halves of the prompts
    assert len(engine.packed) == 4 * len(steps)
    for step, prompts in enumerate(steps):
        shares = (prompts[:2], prompts[2:]) * 2
        for packed, owners in zip(engine.packed[4 * step : 4 * step + 4], shares, strict=True):
            images = packed.images.values()
            pixels, grids = (torch.cat(parts) for parts in zip(*images, strict=True))
            assert torch.equal(pixels, torch.cat([p.pixel_values for p in owners]))
            assert torch.equal(grids, torch.cat([p.grid_thw for p in owners]))
            starts = (0, *accumulate(group.size for group in packed.groups))
            for start, prompt in zip(starts, owners, strict=False):
                place = slice(start, start + len(prompt))
                assert torch.equal(packed.token_ids[0, place], prompt.token_ids)
                assert torch.equal(packed.positions[:, 0, place], prompt.positions)
    # what arrived in the vision tower, in rollouts and in forwards of the trainer
    rolled = [seen for seen in engine.pixels["engine"] if len(seen[1]) == 4]
    trained = engine.pixels["trainer"]
    assert (len(rolled), len(trained)) == (len(steps), 4 * len(steps))
    for step, whole in enumerate(rolled):
        old, new = trained[4 * step : 4 * step + 2], trained[4 * step + 2 : 4 * step + 4]
        for first, second in (old, new):
            assert _equal(whole, tuple(map(torch.cat, zip(first, second, strict=True))))


def _equal(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
