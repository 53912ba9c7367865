"""Whole runs under DeepSpeed: rollouts of a sharded policy, and how its checkpoints resume.

Tolerances as in `test_strategies`.

Broken on purpose, one at a time, each seen red: weights gathered with the hooks of ZeRO-3 in place
(the processes end in an error); the checkpoint of an interrupted run replaced as a file; the
reference sharing frozen parts; the checksum of emptied parameters; the base in the checkpoint of
adapters; `micro_step_id` kept; folders not looked at for damage or the version.
"""

import json
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
import yaml

from tests.distributed.test_strategies import largest_difference
from tests.distributed.test_strategy_runs import Commands
from tests.support.run_helpers import REWARD_TERMS, build_module, command, rollouts
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.policy import Policy
from vlm_rl.run.folder import Checkpoint, find_resume
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.run.resume import check_fits

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs DeepSpeed")

TERMS = REWARD_TERMS | {"accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"}}
LIVE = {
    "dynamic_sampling": "vlm_rl.training.MixedVerdicts",
    "reward.terms": json.dumps(TERMS),
    "sampling.temperature": 1.5,
}
REPLAYED = {"engine": "tests.support.replayed.Replayed"}
INTERRUPTED = {"engine": "tests.support.replayed.Interrupted", "steps": 5}
NO_DATA: Any = None
FROZEN = {"engine": "tests.support.replayed.Frozen", "policy.freeze": '["vision_tower"]'}
SPOILT = REPLAYED | {
    "objective": "tests.support.replayed.SpoiltOnce",
    "updates__micro_batch_tokens": 60,
}
LORA = REPLAYED | {"policy__lora": json.dumps({"rank": 4, "alpha": 8, "parts": ["language_model"]})}


@pytest.fixture(scope="module")
def commands(
    policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Commands:
    """One launch: DeepSpeed takes longest to import."""
    commands = Commands(policy_folder, data_folder, tmp_path_factory.mktemp("runs"))
    commands.run(
        commands("whole", "ddp", 2, **LIVE),
        commands("cut", "zero3", 2, **LIVE),
        commands("one", "auto", 1, steps=4, **REPLAYED),
        commands("interrupted", "zero2", 2, **INTERRUPTED),
        commands("interrupted", "zero2", 2, **INTERRUPTED),
        commands("frozen_whole", "ddp", 2, **FROZEN),
        commands("frozen_cut", "zero3", 2, **FROZEN),
        commands("lora_one", "auto", 1, steps=4, **LORA),
        commands("lora", "zero2", 2, **LORA),
        commands("lora", "zero2", 2, steps=4, **LORA),
        commands("spoilt_one", "auto", 1, **SPOILT),
        commands("spoilt", "zero2_offload", 2, **SPOILT),
    )
    return commands


@pytest.mark.long
def test_cut_policy_samples_what_a_whole_one_samples(commands: Commands) -> None:
    """Completions of unequal lengths: nobody gathers a part that another one does not."""
    whole, cut = (rollouts(commands.root / name) for name in ("whole", "cut"))
    for name, rows in whole.items():
        assert [row["token_ids"] for row in rows] == [row["token_ids"] for row in cut[name]]
    lengths = [sum(len(row["token_ids"]) for row in rows) for rows in whole.values()]
    assert lengths[0] != lengths[1]
    assert largest_difference(commands.weights("whole", 2), commands.weights("cut", 2)) < 5e-5


@pytest.mark.long
def test_interrupted_run_goes_on_as_one_that_was_not(commands: Commands) -> None:
    """Its checkpoint of step 2 was written before the validation, and again after it."""
    middle, end = (commands.weights("one", step) for step in (2, 4))
    assert largest_difference(middle, end) > 1e-3
    assert largest_difference(commands.weights("interrupted", 2), middle) < 5e-5
    assert largest_difference(commands.weights("interrupted", 4), end) < 5e-5
    metrics = read_metrics(commands.root / "interrupted" / "metrics.csv")
    assert [row["step"] for row in metrics if "val/accuracy" in row] == [0, 2]
    assert not list((commands.root / "interrupted").rglob("*.partial"))


@pytest.mark.long
def test_reference_of_a_frozen_part_is_not_emptied(commands: Commands) -> None:
    whole, cut = (commands.weights(name, 2) for name in ("frozen_whole", "frozen_cut"))
    assert largest_difference(whole, cut) < 5e-5


@pytest.mark.long
def test_gradients_of_a_skipped_update_are_forgotten(commands: Commands) -> None:
    """Where they wait on the CPU for the next ones of their update."""
    alone, together = (commands.weights(name, 2) for name in ("spoilt_one", "spoilt"))
    assert largest_difference(together, alone) < 5e-5
    metrics = read_metrics(commands.root / "spoilt" / "metrics.csv")
    skipped = [row["optim/skipped_updates"] for row in metrics if "policy/loss" in row]
    assert skipped == [0.5, 0.0], "the first of two updates of the first step alone"


@pytest.mark.long
def test_adapters_go_on_without_their_base(commands: Commands) -> None:
    end = commands.adapters("lora_one", 4, "hf")
    assert largest_difference(commands.adapters("lora_one", 2, "hf"), end) > 1e-3
    assert largest_difference(commands.adapters("lora", 4, "hf"), end) < 5e-5
    (state,) = (commands.root / "lora" / "checkpoints").glob("step_4/**/mp_rank_00_model_states.pt")
    base = commands.root / "one" / "checkpoints" / "step_4" / "hf" / "model.safetensors"
    assert state.stat().st_size < base.stat().st_size / 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["model", "optim"])
def test_flipped_byte_is_named(
    commands: Commands, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    copytree(commands.root / "interrupted", tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "step_4"
    file = min(newest.glob(f"trainer.ckpt/*/*{kind}_states.pt"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    with pytest.raises(ValueError, match=f"{file} is damaged .*delete the folder {newest}"):
        find_resume(tmp_path / "run", config)


@pytest.mark.long
@pytest.mark.parametrize("name", ["interrupted", "cut"])
def test_checkpoint_of_another_version_is_refused(
    commands: Commands, tmp_path: Path, name: str, policy_folder: Path
) -> None:
    copytree(commands.root / name / "checkpoints" / "step_2", tmp_path / "step")
    checkpoint = tmp_path / "step" / "trainer.ckpt"
    file = min(checkpoint.glob("*/*model_states.pt"))
    saved = torch.load(file, weights_only=True)
    del saved["vlm_rl"]["completed_steps"]
    torch.save(saved, file)
    policy = Policy.from_pretrained(str(policy_folder))
    module = build_module(policy, PromptEncoder(str(policy_folder)))
    with pytest.raises(ValueError, match=f"{checkpoint} was .*it lacks completed_steps"):
        check_fits(Checkpoint(2, checkpoint.parent), module, NO_DATA)


@pytest.mark.refuses("ZeRO-3")
@pytest.mark.parametrize("strategy", ["zero3", "zero3_offload"])
@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe"])
def test_recurrence_under_zero3_is_refused_before_a_model_is_loaded(
    family: str,
    strategy: str,
    checkpoints: dict[str, Path],
    data_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its layers are computed piece by piece, and ranks would wait for each other for ever."""
    with pytest.raises(SystemExit):
        fit(command(checkpoints[family], data_folder, tmp_path, trainer__strategy=strategy))
    said = " ".join(capfd.readouterr().err.split())
    assert f"trainer.strategy={strategy} cannot train a model with a recurrence" in said
    assert "set fsdp2, which shards weights too, or zero2" in said
