"""What a run keeps beside its completions: rules, images, and what an update did to tokens.

Broken on purpose, each seen red: `clipped` with low and high exchanged; the tokens of the first
update in place of the last; `token_groups` and `max_image_mib` ignored; the line number without the
groups before; the rules of a route left out.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.support.objective_cases import text_prompt
from tests.support.run_helpers import command, problems, rollouts
from vlm_rl.fit import fit
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives import GRPO, TokenEffects
from vlm_rl.records import Batch, Completion, Rows
from vlm_rl.rewards import Accuracy, Choice, ExactMatch, Reward, Route
from vlm_rl.run.samples import ImageFolder
from vlm_rl.run.token_lines import pieces
from vlm_rl.training.module import RLModule

LIMITS = {"steps": 2, "validation.every_n_steps": 9, "data.val_problems": 1}


def _legible(text: str) -> str:
    """Leave out what stands for bytes that are no character."""
    return text.replace("\N{REPLACEMENT CHARACTER}", "")


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "tokens" / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def run(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, RLModule]:
    folder = tmp_path_factory.mktemp("kept") / "run"
    bounds = {"data.prompts_per_step": 4, "rollouts.token_groups": 2}
    return folder, fit(command(policy_folder, data_folder, folder, **LIMITS | bounds))


def test_tokens_are_of_so_many_groups(run: tuple[Path, RLModule]) -> None:
    folder, module = run
    for name, rows in rollouts(folder).items():
        written = lines(folder, name)
        # the last of two updates has the last two of four groups
        assert [line["line"] for line in written] == [*range(8, 16)]
        for line in written:
            row = rows[line["line"]]
            assert line["uid"] == row["uid"]
            count = row["length_tokens"]
            columns = ("text", "clipped", "logprob", "entropy", "ratio", "advantage")
            assert [len(line[name]) for name in columns] == [count] * 6
            tokenizer = module.encoder.tokenizer
            assert _legible("".join(line["text"])) == _legible(tokenizer.decode(row["token_ids"]))
            assert line["advantage"] == pytest.approx([row["advantage"]] * count, rel=1e-3)
            assert all(value > 0 for value in line["entropy"])
        ratios = {ratio for line in written for ratio in line["ratio"]}
        assert ratios != {1.0}, "the policy has moved since the update before"


def test_no_tokens_without_groups(policy_folder: Path, data_folder: Path, tmp_path: Path) -> None:
    none = LIMITS | {"steps": 1, "rollouts.token_groups": 0, "rollouts.max_image_mib": 0}
    fit(command(policy_folder, data_folder, tmp_path / "run", **none))
    assert not (tmp_path / "run/tokens").exists()
    assert not (tmp_path / "run/images").exists()


def test_images_are_those_of_the_prompts(run: tuple[Path, RLModule]) -> None:
    folder, _ = run
    named = {name for rows in rollouts(folder).values() for row in rows for name in row["images"]}
    assert named == {path.name for path in (folder / "images").iterdir()}
    for name in named:
        with Image.open(folder / "images" / name) as image:
            assert image.mode == "RGB"
            assert min(image.size) > 20


def test_images_are_bounded(run: tuple[Path, RLModule], tmp_path: Path) -> None:
    """What was there before counts; an image that is there already is not written again."""
    first, second, third = (run[1].encoder.encode(problem) for problem in problems(3))
    ImageFolder(tmp_path, 2**20).add(first)
    [own] = tmp_path.iterdir()
    size = own.stat().st_size
    limited = ImageFolder(tmp_path, size + 1)
    limited.add(first)
    limited.add(second)
    assert len([*tmp_path.iterdir()]) == 2
    limited.add(third)
    ImageFolder(tmp_path, size).add(third)
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("key", ["token_groups", "max_image_mib"])
def test_negative_bound_is_refused(
    key: str, policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        fit(command(policy_folder, data_folder, tmp_path / "run", **{f"rollouts.{key}": -1}))
    assert f"rollouts.{key} must be >= 0, got -1; 0 writes none" in capfd.readouterr().err


def test_effects_of_grpo_golden() -> None:
    """Ratios 0.5, 1, 1.5 and a band of 0.2: A > 0 is cut off above, A < 0 below."""
    ids = torch.arange(3)
    group = [Completion(ids, torch.zeros(3), "stop", "") for _ in range(2)]
    rows = Rows.build([text_prompt("a")], [group], torch.ones(1, 2, dtype=torch.bool))
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    batch = Batch.of(rows, old_logprobs=torch.zeros(2, 3), ref_logprobs=None, advantages=advantages)
    ratios = torch.tensor([0.5, 1.0, 1.5])
    logprobs = ratios.log().expand(2, 3).clone().requires_grad_()
    objective = GRPO(clip_low=0.2, clip_high=0.2)
    plan = objective.prepare(batch, lambda value: value)
    effects = objective(TokenStats(logprobs, torch.full((2, 3), 0.7)), batch, plan).tokens
    assert isinstance(effects, TokenEffects)
    torch.testing.assert_close(effects.ratio, ratios.expand(2, 3))
    assert effects.clipped.tolist() == [[0, 0, 2], [1, 0, 0]]
    assert (effects.entropy == 0.7).all()
    assert not any(values.requires_grad for values in effects)


def test_pieces_join_to_the_text_also_inside_a_character(run: tuple[Path, RLModule]) -> None:
    tokenizer = run[1].encoder.tokenizer
    text = "a \N{SNOWMAN}\N{GRINNING FACE} né 中"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert "".join(pieces(ids, tokenizer)) == text
    assert len(pieces(ids, tokenizer)) == len(ids)


def test_every_kind_of_judge_says_its_rule() -> None:
    first, second, third = problems(3)
    routed = {first.task: Accuracy(), "none": Choice()}
    texts = [r"\boxed{5}", r"\boxed{x} \boxed{y}", "no"]
    groups = [[Completion(torch.arange(1), torch.zeros(1), "stop", t) for t in texts]] * 3
    with Reward({"accuracy": Accuracy()}) as reward:
        rules = reward([first, second, third], groups).rules
    assert [len(row) for row in rules] == [3, 3, 3]
    assert rules[0][2] == "no answer slot"
    with Reward({"match": ExactMatch()}) as reward:
        rules = reward([first], groups[:1]).rules
    assert rules == [["ExactMatch", "answers differ", "no answer"]]
    route = Route(routed, default=ExactMatch())
    with Reward({"route": route}) as reward:
        rules = reward([first, second, third], groups).rules
    for problem, row in zip((first, second, third), rules, strict=True):
        assert row[2] == ("no answer slot" if problem.task == first.task else "no answer")
