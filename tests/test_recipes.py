"""Every shipped configuration is complete and says what it says of itself."""

import pytest

from tests.test_config import CONFIGS, resolved
from vlm_rl.config import instantiate, parse
from vlm_rl.fit import build_parser
from vlm_rl.objectives import GSPO, LUSPO
from vlm_rl.run import folder as run_folder

RECIPES = sorted(CONFIGS.glob("*_7b_geometry3k.yaml"))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_config_is_complete(path):
    text = path.read_text()
    header = text[: text.index("\nrun_dir:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"python -m vlm_rl.fit --config configs/{path.name}" in header
    assert "Hardware" in header
    assert "esult" in header
    parser = build_parser()
    parts = instantiate(parser, parse(parser, ["--config", str(path)]))
    with parts.reward:
        assert parts.reward.accuracy.weight == 0.9


def test_recipes_differ_in_the_objective_alone():
    assert len(RECIPES) == 3
    first, *others = [resolved("--config", str(path)) for path in RECIPES]
    for other in others:
        changed = {line.partition(":")[0] for line in run_folder.differences(first, other)}
        assert {key.partition(".")[0] for key in changed} == {"run_dir", "objective"}


def test_recipes_fit_the_largest_image():
    for path in RECIPES:
        prompt = resolved("--config", str(path))["prompt"]
        assert prompt["max_pixels"] // 28**2 + 512 < prompt["max_prompt_tokens"]


@pytest.mark.parametrize(
    ("method", "kind", "low", "high"), [("gspo", GSPO, 3e-4, 4e-4), ("luspo", LUSPO, 2e-3, 2.5e-3)]
)
def test_recipe_has_the_published_clip_range(method, kind, low, high):
    parser = build_parser()
    path = CONFIGS / f"{method}_qwen2_5_vl_7b_geometry3k.yaml"
    objective = instantiate(parser, parse(parser, ["--config", str(path)])).objective
    assert type(objective) is kind
    assert (objective.surrogate.clip_low, objective.surrogate.clip_high) == (low, high)
    assert not objective.needs_reference
