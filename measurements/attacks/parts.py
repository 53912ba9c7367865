"""False engines, rewards, advantages and filters: each is named in one line, with a checkpoint."""

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path

from measurements.attacks.ground import Attack, Ground
from tests.support.broken_parts import ENGINE_FAULTS, REWARD_FAULTS
from vlm_rl.run import folder as run_folder

_GOOD = 2


def attacks(ground: Ground, count: int, seed: int) -> Iterator[Attack]:
    """Yield runs in which a part is right for a step or two, and then wrong."""
    # half a character is written as it is, and is no fault
    kinds = [("engine", name) for name in ENGINE_FAULTS if name != "surrogate"]
    kinds += [("reward", name) for name in REWARD_FAULTS]
    draw = random.Random(seed)
    draw.shuffle(kinds)
    for number, (part, fault) in enumerate(itertools.islice(itertools.cycle(kinds), count)):
        good = draw.randrange(_GOOD) if number < len(kinds) else _GOOD

        def tried(folder: Path, part: str = part, fault: str = fault, good: int = good) -> str:
            return _tried(ground, folder, part, fault, good)

        yield Attack("false parts", f"{part}: {fault}, after {good} good calls", tried)


def _tried(ground: Ground, folder: Path, part: str, fault: str, good: int) -> str:
    name = {"engine": "BrokenEngine", "reward": "BrokenReward"}[part]
    arguments = {"fault": fault, "good_calls": good}
    broken = {"class_path": f"tests.support.broken_parts.{name}", "init_args": arguments}
    accuracy = {"class_path": "vlm_rl.rewards.Accuracy"}
    changes = {"validation.every_n_steps": 9, "data.val_problems": 1}
    if part == "engine":
        changes["engine"] = json.dumps(broken)
    else:
        changes["reward.terms"] = json.dumps({"accuracy": accuracy, "own": broken})
    outcome = ground.run(folder / "run", **changes)
    broke = outcome.broke(3 if part == "engine" else 4)
    if broke or name in outcome.text:
        return broke
    newest = run_folder.newest_checkpoint(folder / "run")
    return f"the line does not name {name}; newest checkpoint {newest}"
