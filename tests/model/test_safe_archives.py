"""A planted file runs nothing, wherever a checkpoint is read."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.run_helpers import command
from vlm_rl.distributed import strategies
from vlm_rl.fit import fit
from vlm_rl.model import safe_archives
from vlm_rl.model.policy import Policy, check_checkpoint

REPOSITORY = Path(__file__).parents[2]
UNSAFE = re.compile(
    r"weights_only=False|trust_remote_code|allow_pickle=True|yaml\.(?:unsafe_|full_)?load\(|"
    r"pickle\.loads?\(|joblib|\b(?:eval|exec)\((?!\))|shell=True"
)


class Payload:
    """Creates `file` when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    return tmp_path / "it_ran"


def test_payload_is_real(tmp_path: Path, trap: Path) -> None:
    torch.save({"state_dict": Payload(trap)}, tmp_path / "file")
    torch.load(tmp_path / "file", weights_only=False)
    assert trap.exists()


def test_archive_with_a_program_is_refused_by_its_name(tmp_path: Path, trap: Path) -> None:
    torch.save({"state_dict": Payload(trap)}, tmp_path / "file")
    with pytest.raises(ValueError, match=r"file asks for (?:posix|nt)\.mkdir, which no weights"):
        safe_archives.load(tmp_path / "file")
    assert not trap.exists()


def test_file_of_a_deepspeed_folder_is_refused(tmp_path: Path, trap: Path) -> None:
    pytest.importorskip("deepspeed")
    (tmp_path / "trainer.ckpt").mkdir()
    torch.save({"optimizer_state_dict": 1}, tmp_path / "trainer.ckpt/mp_rank_00_model_states.pt")
    strategies.check_safe(tmp_path / "trainer.ckpt")
    torch.save(Payload(trap), tmp_path / "trainer.ckpt/zero_pp_rank_1_mp_rank_00_optim_states.pt")
    with pytest.raises(ValueError, match=r"rank_1_mp_rank_00_optim_states\.pt asks for"):
        strategies.check_safe(tmp_path / "trainer.ckpt")
    assert not trap.exists()


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "adapter_model.bin"])
def test_weights_with_a_program_are_refused(
    policy_folder: Path, tmp_path: Path, trap: Path, weights: str
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(policy_folder, folder)
    (folder / "model.safetensors").unlink()
    if weights.startswith("adapter"):
        config = {"peft_type": "LORA", "base_model_name_or_path": str(policy_folder)}
        config = config | {"target_modules": ["q_proj"]}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"lm_head.weight": Payload(trap)}, folder / weights)
    with pytest.raises(ValueError, match=rf"{folder}.* asks for posix\.mkdir"):
        Policy.from_pretrained(str(folder))
    assert not trap.exists()


def test_run_with_a_planted_checkpoint_does_not_resume(
    policy_folder: Path,
    data_folder: Path,
    tmp_path: Path,
    trap: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def run(steps: int) -> list[str]:
        keys = {"validation.every_n_steps": 9, "data.val_problems": 1, "steps": steps}
        return command(policy_folder, data_folder, tmp_path / "run", **keys)

    fit(run(1))
    planted = tmp_path / "run/checkpoints/step_1/trainer.ckpt"
    torch.save({**torch.load(planted, weights_only=True), "callbacks": Payload(trap)}, planted)
    with pytest.raises(SystemExit) as raised:
        fit(run(2))
    assert raised.value.code == 2
    assert f"{planted} asks for posix.mkdir" in capfd.readouterr().err
    assert not trap.exists()


def test_state_that_could_not_be_resumed_is_refused_when_it_is_saved(
    policy_folder: Path, data_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = {
        "ratio": {"class_path": "vlm_rl.objectives.TokenRatio"},
        "surrogate": {
            "class_path": "tests.support.broken_parts.KeepsAPath",
            "init_args": {"clip_low": 0.2, "clip_high": 0.2},
        },
        "aggregation": {"class_path": "vlm_rl.objectives.TokenMean"},
    }
    objective = {"class_path": "vlm_rl.objectives.Objective", "init_args": parts}
    keys = {"objective": json.dumps(objective), "data.val_problems": 1}
    with pytest.raises(SystemExit) as raised:
        fit(command(policy_folder, data_folder, tmp_path / "run", **keys))
    assert raised.value.code == 74
    assert "as plain values" in (line := capfd.readouterr().err)
    assert "pathlib" in line
    assert not list((tmp_path / "run/checkpoints").glob("step_*"))


def _sources() -> list[Path]:
    return [
        p for d in ("vlm_rl", "data_prep", "measurements") for p in (REPOSITORY / d).rglob("*.py")
    ]


def test_no_source_loads_what_could_run() -> None:
    found = {str(path): UNSAFE.findall(path.read_text()) for path in _sources()}
    # two ends of a pipe between a process and its own child
    pipe = (REPOSITORY / f"vlm_rl/rewards/own_{end}.py" for end in ("function", "process"))
    only = {str(end): ["pickle.loads("] for end in pipe}
    assert {path: hits for path, hits in found.items() if hits} == only


@pytest.mark.parametrize("name", ["/dev/zero", "../weights.safetensors", "missing.safetensors", ""])
def test_index_that_leads_out_of_its_folder_is_refused(
    policy_folder: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(policy_folder, tmp_path / "checkpoint"))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index\.json names '.*', which is no file of"):
        check_checkpoint(str(folder))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}', "\x00"])
def test_index_that_is_none_is_refused(policy_folder: Path, tmp_path: Path, text: str) -> None:
    folder = Path(shutil.copytree(policy_folder, tmp_path / "checkpoint"))
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is no index of weights: "):
        check_checkpoint(str(folder))


def test_adapter_that_is_its_own_base_is_refused(policy_folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, base in ((first, second), (second, first)):
        shutil.copytree(policy_folder, folder)
        config = {"peft_type": "LORA", "base_model_name_or_path": str(base)}
        (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="whose base is, in the end, itself"):
        check_checkpoint(str(first))
