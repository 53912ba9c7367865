"""One thread, no hub and no W&B account for every test; `shared` is a folder of reference data.

No test has a limit on the clock: `patience` ends one that hangs or spins.
"""

import os
import signal
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", WANDB_MODE="offline")
os.environ["PYTHONFAULTHANDLER"] = "1"  # a process that is aborted says where it was

import pytest
import torch

import vlm_rl  # noqa: F401  (makes torchvision importable for the tests' own imports)
from tests.support.patience import (  # noqa: F401  (hooks of pytest)
    pytest_addoption,
    pytest_configure,
    pytest_runtest_call,
    pytest_runtest_setup,
    pytest_runtest_teardown,
)
from tests.support.places import SHARED

torch.set_num_threads(1)

for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):  # a shell's `&` and nohup have them ignored, which the runs that tests start would inherit
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

LONGEST = ("tests/rollout/vllm", "tests/distributed", "tests/run", "tests/verification")
"""Folders whose files take longest. They begin first, or one worker would end alone with them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort `LONGEST` to the front; `--no-loadscope-reorder` keeps that order among workers."""

    def place(item: pytest.Item) -> int:
        folders = [folder for folder in LONGEST if item.nodeid.startswith(folder)]
        return LONGEST.index(folders[0]) if folders else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference numbers and real data, which not everyone has."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is absent; set VLM_RL_SHARED to the folder of reference numbers")
    return SHARED


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an untrained Qwen2.5-VL of a quarter of a million parameters."""
    from data_prep.tiny_policy import build_untrained

    return build_untrained("qwen2_5_vl", tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a synthetic set: train.jsonl with 24 problems, val.jsonl with 16."""
    from data_prep.synthetic import DEFAULT_DIFFICULTY, write

    folder = tmp_path_factory.mktemp("synthetic")
    write(folder, "train", 24, seed=0, difficulty=DEFAULT_DIFFICULTY)
    write(folder, "val", 16, seed=0, difficulty=DEFAULT_DIFFICULTY)
    return folder


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build a tiny untrained checkpoint of each family; only read them."""
    from tests.support.tiny import FAMILIES, build_checkpoint

    root = tmp_path_factory.mktemp("checkpoints")
    return {family: build_checkpoint(family, root / family) for family in FAMILIES}


@pytest.fixture
def wide_delta_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let recurrences compute in the model's float64."""
    from tests.support.wide_delta import widen_delta_rules

    widen_delta_rules(monkeypatch)
