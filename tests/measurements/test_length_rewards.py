"""Rewards of the length alone, and that every study's runs have a valid configuration."""

from pathlib import Path

import pytest
import torch
import yaml

from measurements.length_rewards import Torn
from tests.support.places import CONFIGS, REPOSITORY
from vlm_rl.config import parse
from vlm_rl.fit import build_parser
from vlm_rl.records import Completion, Problem


def completion(length: int) -> Completion:
    return Completion(torch.zeros(length, dtype=torch.int64), torch.zeros(length), "stop", "")


def test_torn_pays_long_answers_none_between_and_a_share_of_the_short() -> None:
    problems = [Problem(f"u{i}", "?", "1") for i in range(2000)]
    groups = [[completion(n) for n in (8, 9, 23, 24)] for _ in problems]
    values = Torn(short=8, long=24, share=0.6)(problems, groups)
    assert values.dtype == torch.float64
    assert values[:, 1:].tolist() == [[0, 0, 1]] * 2000
    assert set(values[:, 0].tolist()) == {0, 1}
    assert float(values[:, 0].mean()) == pytest.approx(0.6, abs=0.04)  # 3.6 deviations
    assert torch.equal(values, Torn(short=8, long=24, share=0.6)(problems, groups))


@pytest.mark.parametrize("wrong", [{"short": 24}, {"short": 0}, {"share": 1.5}])
def test_torn_refuses(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Torn"):
        Torn(**wrong)


@pytest.mark.parametrize(
    "study", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_run_of_a_study_parses(study, tmp_path) -> None:
    values = yaml.safe_load(study.read_text())
    for condition in values["conditions"].values():
        for name, variant in values["variants"].items():
            files = [str(tmp_path / f"{number}.yaml") for number in range(3)]
            for path, part in zip(files, (values["shared"], condition, variant), strict=True):
                Path(path).write_text(yaml.safe_dump(part))
            overlays = [str(REPOSITORY / path) for path in values.get("overlays", {}).get(name, ())]
            merged = [str(CONFIGS / "quickstart.yaml"), *files[:2], *overlays, files[2]]
            parse(build_parser(), [part for path in merged for part in ("--config", path)])
