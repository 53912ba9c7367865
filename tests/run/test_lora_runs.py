"""Runs with LoRA: what is trained, saved, resumed and refused.

Mutations tried, each seen red:
    the seed not passed on; adapters left on in the reference -> trains_only_adapters
    base weights kept in the trainer's checkpoint -> holds_only_adapters
    the base not put back below the adapters -> killed_run
    the base's checksum not compared -> other_base
    `merge_adapter` ignored -> merged_on_request
    each refusal left out -> refusals; peft checked only when it is loaded -> missing_peft
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlm_rl.model.lora
from tests.model.test_lora import BOTH, logprobs, rows_of
from tests.support.places import REPOSITORY
from tests.support.run_helpers import (
    build_module,
    command,
    problems,
    rollouts,
    run_module,
    same,
    trainer_checkpoint,
)
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.fit import fit
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import is_adapter, named_weights
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.training.module import RLModule

pytest.importorskip("peft", reason="peft is an optional dependency")

RUN = {
    "policy.lora": json.dumps({"rank": 4, "alpha": 8, "parts": ["language_model", "vision_tower"]}),
    "objective": "vlm_rl.objectives.LUSPO",
    "objective.init_args.regularizers": json.dumps(
        [{"class_path": "vlm_rl.objectives.KL", "init_args": {"kl_coef": 0.01}}]
    ),
    "optimizer.warmup_updates": 8,
    "drift_alarm": 1e-5,
}
"""Adapters in both parts and a reference; twelve updates, a restart falls into the warm-up."""


class Run(NamedTuple):
    policy: Path
    argv: list[str]
    folder: Path
    module: RLModule


@pytest.fixture(scope="module")
def run(policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    argv = command(policy_folder, data_folder, folder, **RUN)
    torch.manual_seed(1)
    return Run(policy_folder, argv, folder, fit(argv))


def _again(run: Run, folder: Path, *options: str) -> list[str]:
    return [*run.argv, f"--run_dir={folder}", *options]


def test_run_trains_only_adapters_with_everything_on(run: Run) -> None:
    policy = run.module.policy
    start = Policy.from_pretrained(str(run.policy), lora=LoraSettings(4, 8, BOTH.parts), seed=0)
    base, trained = (dict(named_weights(p.model, merge_adapters=False)) for p in (start, policy))
    assert same(trained, base)
    before, after = start.state_dict(), policy.state_dict()
    adapters = [name for name in before if is_adapter(name)]
    moved = [(before[name] - after[name]).abs().max() for name in adapters]
    assert min(moved) > 0
    assert max(moved) < 0.02  # 12 updates of at most 1e-3, from where the run's seed starts them
    rows = read_metrics(run.folder / "metrics.csv")
    steps = [row for row in rows if "policy/loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert all(row["optim/grad_norm"] > 0 for row in steps)
    assert {"reward/accuracy", "completion/length_tokens"} <= steps[0].keys()
    # the engine samples from base and adapters, the reference is the base
    assert max(row["drift/abs_max"] for row in steps) < 1e-5
    kl = [row["policy/kl"] for row in steps]
    assert kl[0] == 0
    assert kl[-1] > 1e-3


def test_checkpoint_holds_only_adapters_and_loads_with_its_processor(
    run: Run, policy_folder: Path
) -> None:
    checkpoint = run.folder / "checkpoints" / "step_6"
    saved = trainer_checkpoint(run.folder, 6)
    assert all(map(is_adapter, saved["state_dict"]))
    rows = rows_of(str(run.policy))
    model = AutoModelForImageTextToText.from_pretrained(checkpoint / "hf", dtype=torch.float32)
    with torch.no_grad():
        trained = logprobs(run.module.policy, rows)
        for loaded in (Policy(model), Policy.from_pretrained(str(checkpoint / "hf"))):
            torch.testing.assert_close(logprobs(loaded, rows), trained, rtol=0, atol=1e-5)
        assert (
            logprobs(Policy.from_pretrained(str(run.policy)), rows) - trained
        ).abs().max() > 1e-3
    processor = AutoProcessor.from_pretrained(checkpoint / "hf")
    assert processor.chat_template == run.module.encoder.processor.chat_template


def test_merged_on_request_with_the_adapter_beside_it(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    module = fit(_again(run, folder, "--steps=7", "--checkpoint.merge_adapter=true"))
    checkpoint = folder / "checkpoints" / "step_7"
    rows = rows_of(str(run.policy))
    assert not (checkpoint / "hf" / "adapter_config.json").exists()
    assert (checkpoint / "hf" / "tokenizer.json").exists()
    model = AutoModelForImageTextToText.from_pretrained(checkpoint / "hf", dtype=torch.float32)
    with torch.no_grad():
        trained = logprobs(module.policy, rows)
        for policy in (Policy(model), Policy.from_pretrained(str(checkpoint / "adapter"))):
            torch.testing.assert_close(logprobs(policy, rows), trained, rtol=0, atol=1e-5)


def _assert_equal_ends(folder: Path, whole: Path) -> None:
    got, wanted = trainer_checkpoint(folder, 6), trainer_checkpoint(whole, 6)
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(got[name], wanted[name]), name
    files = [path / "checkpoints/step_6/hf/adapter_model.safetensors" for path in (folder, whole)]
    assert files[0].read_bytes() == files[1].read_bytes()
    ids = [
        {name: [row["token_ids"] for row in rows] for name, rows in rollouts(path).items()}
        for path in (folder, whole)
    ]
    assert ids[0] == ids[1]


@pytest.mark.long
def test_killed_run_resumes_bit_for_bit(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    argv = _again(run, folder)
    argv = [a for a in argv if not a.startswith("--run_dir=")] + [f"--run_dir={folder}"]
    killed_runs = [sys.executable, "-m", "tests.support.killed_runs", json.dumps(argv)]
    done = subprocess.run(killed_runs, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [["step_3.partial"], ["best", "step_3"]]
    torch.manual_seed(5)
    fit(argv)
    _assert_equal_ends(folder, run.folder)


def test_other_base_below_the_adapters_is_refused(run: Run, tmp_path: Path) -> None:
    folder, base = tmp_path / "run", tmp_path / "base"
    shutil.copytree(run.folder, folder)
    shutil.copytree(run.policy, base)
    saved = folder / "config.yaml"
    saved.write_text(saved.read_text().replace(str(run.policy), str(base)))
    file = base / "model.safetensors"
    other = load_file(file)
    other[min(other)] += 1e-3
    save_file(other, file, metadata={"format": "pt"})
    argv = _again(run, folder, f"--policy.path={base}", "--steps=7")
    with pytest.raises(ValueError, match=r"policy\.path now has other weights"):
        fit(argv)


REFUSED = {
    "both frozen and adapted": (
        {"policy.freeze": "[vision_tower]"},
        "policy.lora.parts and policy.freeze both name vision_tower",
    ),
    "rank": ({"policy.lora": '{"rank": 0}'}, "policy.lora.rank must be >= 1, got 0"),
    "alpha": ({"policy.lora": '{"alpha": 0}'}, "policy.lora.alpha must be >= 1, got 0"),
    "nowhere": ({"policy.lora": '{"parts": []}'}, "policy.lora.parts must name"),
    "twice": (
        {"policy.lora": '{"parts": ["vision_tower", "vision_tower"]}'},
        "policy.lora.parts must name",
    ),
    "dropout": ({"policy.lora": '{"dropout": 0.1}'}, "has no argument dropout"),
    "head": ({"policy.lora": '{"parts": ["lm_head"]}'}, "lm_head"),
    "vision_lr": (
        {"policy.lora": '{"parts": ["language_model"]}', "optimizer.vision_lr": 1e-4},
        "is for the vision tower, which policy.lora does not train",
    ),
    "nothing to merge": (
        {"policy.lora": "null", "checkpoint.merge_adapter": "true"},
        "checkpoint.merge_adapter=true merges LoRA adapters",
    ),
}


def _refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        fit(argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_of_a_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes, reason = REFUSED[kind]
    overrides = {k.replace(".", "__"): v for k, v in (RUN | changes).items()}
    argv = command(tmp_path / "no policy", tmp_path / "no data", tmp_path / "run", **overrides)
    assert reason in _refusal(argv, capsys)


def test_missing_peft_is_one_line_before_anything_is_read(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Policy.from_pretrained(str(checkpoints["qwen2_5_vl"]), lora=BOTH).save(tmp_path / "adapter")
    monkeypatch.setattr(vlm_rl.model.lora, "find_spec", {}.get)
    capsys.readouterr()  # progress of loading
    argv = command(tmp_path / "no policy", tmp_path / "no data", tmp_path / "run", **RUN)
    assert "policy.lora needs peft, which is not installed: pip install" in _refusal(argv, capsys)
    with pytest.raises(ValueError, match="is an adapter and needs peft, which is not installed"):
        Policy.from_pretrained(str(tmp_path / "adapter"))


def _nudge(layer: Any, *_: Any) -> None:
    layer.weight.data.add_(1e-6)


def test_base_weight_that_changed_ends_the_run_with_an_error(policy_folder: Path) -> None:
    encoder = PromptEncoder(str(policy_folder))
    module = build_module(Policy.from_pretrained(str(policy_folder), lora=BOTH), encoder)
    layer = module.policy.part("language_model").layers[0].mlp.up_proj.base_layer
    layer.register_forward_hook(_nudge)
    with pytest.raises(AssertionError, match="a frozen parameter has changed"):
        run_module(module, [encoder.encode(problem) for problem in problems(1)])
