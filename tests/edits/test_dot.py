"""DOT: where it cuts, what a cut completion is, and in which runs it is refused.

Mutations, each seen red: the std of a population; `correct` of any; the text before the cut; no cut
of exactly 32 tokens; a refusal that names one less.
"""

import math
import random
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.shaped import NOTHING, drawn_step, step_of
from tests.test_config import refusal
from vlm_rl.config import instantiate, parse
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.edits import DOT
from vlm_rl.fit import build_parser, fit
from vlm_rl.records import Completion
from vlm_rl.rollout import shortened
from vlm_rl.run.checks import check_consistency


@pytest.fixture(scope="module")
def tokenizer(policy_folder: Path) -> Any:
    return PromptEncoder(str(policy_folder)).tokenizer


def _lengths(groups: Any) -> list[list[int]]:
    return [[len(c) for c in group] for group in groups]


def test_dot_golden(tokenizer: Any) -> None:
    """30 answers of 400 tokens, one of 500, one of 4000: mean 515.625, deviation 636.071, so that T
    is floor(2423.84)."""
    lengths = [400] * 30 + [500, 4000]
    assert DOT().limit(lengths) == 2423
    rollout = step_of(["r" * 32], [lengths])
    [group] = DOT()(rollout, tokenizer)
    assert _lengths([group]) == [[400] * 30 + [500, 2423]]
    assert [c.finish_reason for c in group] == ["stop"] * 31 + ["length"]
    assert all(new is old for new, old in zip(group[:31], rollout.groups[0][:31], strict=True))


@pytest.mark.parametrize("over", [31, 32])
def test_cuts_of_less_than_32_tokens_are_not_made(tokenizer: Any, over: int) -> None:
    """One answer of L tokens among 100 empty ones has T = floor(0.308 L)."""
    lengths = [0] * 100 + [1]
    while lengths[-1] - DOT().limit(lengths) < over:
        lengths[-1] += 1
    limit = DOT().limit(lengths)
    assert lengths[-1] - limit == over
    [group] = DOT()(step_of(["r" * 101], [lengths]), tokenizer)
    assert len(group[-1]) == (lengths[-1] if over < 32 else limit)


def test_dot_matches_a_float64_loop(tokenizer: Any) -> None:
    rng, num_cut = random.Random(5), 0
    edit = DOT(deviations=0.9, least_tokens=3)
    for _ in range(200):
        rollout = drawn_step(rng, num_groups=4, size=5)
        expected = []
        for group, right in zip(rollout.groups, rollout.scores.correct.tolist(), strict=True):
            sizes = [len(c) for c in group]
            limit = math.floor(statistics.fmean(sizes) + 0.9 * statistics.stdev(sizes))
            cuts = [n - limit >= 3 and all(right) for n in sizes]
            expected.append([limit if cut else n for n, cut in zip(sizes, cuts, strict=True)])
            num_cut += sum(cuts)
        groups = edit(rollout, tokenizer)
        assert _lengths(groups) == expected
        for old, new in zip(rollout.groups, groups, strict=True):
            for before, after in zip(old, new, strict=True):
                assert after is before or len(after) < len(before)
    assert num_cut > 50


def test_order_of_groups_and_answers_does_not_matter(tokenizer: Any) -> None:
    rng, edit = random.Random(6), DOT(deviations=0.9, least_tokens=1)
    for _ in range(50):
        lengths = [[rng.randrange(60) for _ in range(8)] for _ in range(3)]
        straight = _lengths(edit(step_of(["r" * 8] * 3, lengths), tokenizer))
        order = rng.sample(range(8), 8)
        turned = [[row[place] for place in order] for row in lengths[::-1]]
        found = _lengths(edit(step_of(["r" * 8] * 3, turned), tokenizer))
        assert found == [[row[place] for place in order] for row in straight[::-1]]


@pytest.mark.parametrize("mark", ["w", "u"])
def test_groups_that_are_not_all_right_stay(tokenizer: Any, mark: str) -> None:
    rollout = step_of(["r" * 31 + mark], [[400] * 30 + [4000, 500]])
    assert DOT()(rollout, tokenizer)[0] is rollout.groups[0]
    assert DOT()(NOTHING, tokenizer) == []


def test_shortened_completion_is_what_the_budget_would_have_left(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    ids = torch.tensor(encoder.tokenizer.encode("one two three<|im_end|>"))
    prompt = replace(step_of(["r"], [[1]]).prompts[0], opening="<think>")
    numbers = torch.arange(len(ids)).float()
    experts = torch.arange(len(prompt) + len(ids) - 1).reshape(-1, 1, 1).expand(-1, 2, 4)
    whole = Completion(ids, -numbers, "stop", "<think>one two three", experts, -numbers, numbers)
    short = shortened(prompt, whole, 2, encoder.tokenizer)
    assert short.token_ids.tolist() == ids[:2].tolist()
    assert short.finish_reason == "length"
    assert short.text == "<think>" + encoder.tokenizer.decode(ids[:2])
    for name in ("sampling_logprobs", "logprobs", "entropies"):
        assert torch.equal(getattr(short, name), getattr(whole, name)[:2])
    assert short.experts is not None
    assert torch.equal(short.experts, experts[: len(prompt) + 1])
    bare = shortened(prompt, Completion(ids, -numbers, "stop", ""), 0, encoder.tokenizer)
    assert (len(bare), bare.text, bare.experts, bare.logprobs) == (0, "<think>", None, None)


def test_groups_in_which_nothing_can_be_cut_are_refused() -> None:
    DOT().check(11, True)
    for size, reachable in ((8, "2.475"), (10, "2.846")):
        rule = rf"group_size={size} .*than {reachable} standard.*is 3; raise group_size to 11, or"
        with pytest.raises(ValueError, match=rule):
            DOT().check(size, True)
    DOT(deviations=2.0).check(6, True)  # 5 / sqrt(6) = 2.04
    with pytest.raises(ValueError, match="raise group_size to 6, or lower"):
        DOT(deviations=2.0).check(5, True)
    with pytest.raises(ValueError, match=r"train_on_truncated=false leaves those out"):
        DOT().check(32, False)
    for how in ({"deviations": 0.0}, {"deviations": math.inf}, {"least_tokens": 0}):
        with pytest.raises(ValueError, match=rf"DOT.{next(iter(how))} must be"):
            DOT(**how)


def test_overlay_is_a_run_that_can_cut(tmp_path: Path) -> None:
    overlay, parser = "configs/length/dot.yaml", build_parser()
    argv = ["--config", "configs/quickstart.yaml", "--config", overlay, f"--run_dir={tmp_path}"]
    config = parse(parser, argv)
    parts = instantiate(parser, config)
    with parts.reward:
        check_consistency(config, parts)
    assert vars(parts.edit) == {"deviations": 3.0, "least_tokens": 32} == vars(DOT())
    assert f"--config {overlay}" in Path(overlay).read_text()


def test_refusal_comes_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["--config", "configs/quickstart.yaml", "--edit=vlm_rl.edits.DOT", "--group_size=10"]
    argv += [f"--run_dir={tmp_path / 'run'}", "--policy.path=nowhere"]
    line = refusal(capsys, argv, fit)
    assert (
        "edit DOT would cut nothing: of group_size=10 lengths none can be more than 2.846" in line
    )
