"""`--profile` records the steps that it names, with their stages and what ran in them.

Broken on purpose, each seen red: the first step recorded too; stages not marked; nothing written by
a run that ends before.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_helpers import command
from vlm_rl.fit import fit


@pytest.mark.parametrize(("asked", "recorded"), [(1, (2, 2)), (9, (2, 3))])
@pytest.mark.long
def test_trace_holds_the_steps_asked_for_with_their_stages(
    asked: int, recorded: tuple[int, int], policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    fit(command(policy_folder, data_folder, folder, steps=3, profile=asked))
    first, last = recorded
    (file,) = (folder / "trace").iterdir()
    assert file.name == f"steps_{first}_to_{last}_rank_0.json"
    events: list[dict[str, Any]] = json.loads(file.read_text())["traceEvents"]
    names = [event.get("name") for event in events]
    assert "aten::mm" in names
    assert names.count("vlm_rl: update") == last - first + 1
    assert names.count("vlm_rl: rollout") >= last - first + 1


def test_run_without_it_writes_no_trace(
    policy_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    fit(command(policy_folder, data_folder, tmp_path / "run", steps=2))
    assert not (tmp_path / "run" / "trace").exists()
