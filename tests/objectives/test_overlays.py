"""The overlays of `configs/objective` and `configs/length`: each goes onto any run, also onto a run
with another overlay.

Mutations, each seen red: an argument left out of an overlay; `reward.length` left out.
"""

import importlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from tests.support.objective_cases import discover
from tests.support.parameters import also_long
from tests.support.places import CONFIGS
from vlm_rl.config import instantiate, parse, plain
from vlm_rl.data.length_targets import LengthTargets
from vlm_rl.fit import build_parser
from vlm_rl.rewards.composition import LENGTH

QUICKSTART = CONFIGS / "quickstart.yaml"
OVERLAYS = sorted((CONFIGS / "objective").glob("*.yaml"))
LENGTHS = sorted((CONFIGS / "length").glob("*.yaml"))
every_overlay = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
FULLEST = [CONFIGS / "objective" / f"{name}.yaml" for name in ("dapo", "grpo_clip_cov", "rloo")]
"""Together they set every key: a length term, a filter, a KL in the reward, token weights."""
KEYS = {"objective", "advantage", "dynamic_sampling", "kl_in_reward", "reward", "updates"}

OF_LENGTH = {"reward", "shaping", "edit"}
"""Where methods of length stand."""
OF_RUN = {"data", "group_size", "optimizer", "sampling"}
"""What else a method of length may need."""


@pytest.fixture(scope="module")
def parser() -> ArgumentParser:
    return build_parser()


def merged(parser: ArgumentParser, *overlays: Path) -> dict[str, Any]:
    argv = [part for path in (QUICKSTART, *overlays) for part in ("--config", str(path))]
    return _without_empty(plain(parser, parse(parser, argv)))


def _without_empty(node: Any) -> Any:
    """Drop empty `init_args`, which a class without arguments may or may not have."""
    if isinstance(node, dict):
        kept = {name: _without_empty(value) for name, value in node.items()}
        return {name: value for name, value in kept.items() if (name, value) != ("init_args", {})}
    return node


def test_every_preset_has_an_overlay():
    named = {yaml.safe_load(path.read_text())["objective"]["class_path"] for path in OVERLAYS}
    presets = {f"vlm_rl.objectives.{cls.__name__}" for cls in discover()}
    assert named == presets


@every_overlay
@pytest.mark.parametrize("others", [FULLEST, also_long(OVERLAYS)], ids=["the fullest", "all"])
def test_overlay_onto_another_leaves_nothing_of_it(parser, overlay, others):
    alone = merged(parser, overlay)
    for other in others:
        assert merged(parser, other, overlay) == alone, f"{other.stem} is left over"


@every_overlay
def test_overlay_states_every_value(overlay):
    values = yaml.safe_load(overlay.read_text())
    assert values.keys() == KEYS
    assert values["reward"].keys() == {"length"}
    assert values["updates"].keys() == {"train_on_truncated"}
    if values["kl_in_reward"]:
        assert values["kl_in_reward"].keys() == {"kl_coef", "estimator"}
    for node in _classes(values):
        module, _, name = node["class_path"].rpartition(".")
        wanted = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        assert node.get("init_args", {}).keys() == wanted.keys(), node["class_path"]


@every_overlay
def test_overlay_is_a_sound_composition(parser, overlay):
    argv = ["--config", str(QUICKSTART), "--config", str(overlay)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parts = instantiate(parser, parse(parser, argv))
    named = yaml.safe_load(overlay.read_text())["objective"]["class_path"]
    assert type(parts.objective).__name__ == named.rpartition(".")[2]
    assert f"configs/objective/{overlay.name}" in overlay.read_text()


def test_length_overlay_goes_onto_every_objective(parser):
    """It changes nothing else but the places of length methods."""
    path = CONFIGS / "length" / "gr3.yaml"
    values = yaml.safe_load(path.read_text())
    for other in OVERLAYS:
        plain_run, with_it = merged(parser, other), merged(parser, other, path)
        assert with_it["reward"].pop("factors") == values["reward"]["factors"]
        assert with_it["reward"].pop("length") is None
        del plain_run["reward"]["factors"], plain_run["reward"]["length"]
        assert with_it == plain_run


@pytest.mark.parametrize("path", LENGTHS, ids=lambda path: path.stem)
def test_length_overlay_states_every_value_and_leaves_nothing_of_another(parser, path):
    """A method of length alone names one class; one that is more than that is a whole method."""
    assert f"configs/length/{path.name}" in path.read_text()
    values = yaml.safe_load(path.read_text())
    assert values["reward"].keys() == {"length", "factors"}
    assert OF_LENGTH <= values.keys() <= KEYS | OF_LENGTH | OF_RUN
    if "objective" in values:
        assert values.keys() >= KEYS | OF_LENGTH
    for node in _classes(values):
        module, _, name = node["class_path"].rpartition(".")
        wanted = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        assert node.get("init_args", {}).keys() == wanted.keys(), node["class_path"]
    if "length_targets" in values.get("data", {}):
        named = {field.name for field in fields(LengthTargets)}
        assert values["data"]["length_targets"].keys() == named
    other = LENGTHS[LENGTHS.index(path) - 1]
    alone, after = merged(parser, path), merged(parser, other, path)
    for name in ("length", "factors"):
        assert after["reward"][name] == alone["reward"][name], f"{other.stem} is left over"
    for name in ("shaping", "edit"):
        assert after[name] == alone[name], f"{other.stem} is left over"


@pytest.mark.parametrize("path", LENGTHS, ids=lambda path: path.stem)
def test_length_overlay_is_a_sound_composition(parser, path):
    argv = ["--config", str(QUICKSTART), "--config", str(path)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parts = instantiate(parser, parse(parser, argv))
    values = yaml.safe_load(path.read_text())
    named = [node["class_path"] for node in _classes(values["reward"])]
    shaping = [node["class_path"] for node in _classes(values["shaping"])]
    assert [f"vlm_rl.shaping.{type(part).__name__}" for part in [parts.shaping] if part] == shaping
    assert named or shaping or values["edit"]
    with parts.reward as reward:
        of_length = [
            *reward.factors.values(),
            *([reward.terms[LENGTH]] if LENGTH in reward.terms else []),
        ]
        assert [f"vlm_rl.rewards.{type(term).__name__}" for term in of_length] == named
    if "length_targets" in values.get("data", {}):
        assert isinstance(parts.data.length_targets, LengthTargets)


def _classes(node: Any) -> Iterator[dict[str, Any]]:
    """Every class with its arguments, at any depth."""
    if isinstance(node, dict):
        if "class_path" in node:
            yield node
        for value in node.values():
            yield from _classes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _classes(value)
