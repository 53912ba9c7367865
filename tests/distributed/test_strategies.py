"""Several processes compute what one process computes on the same step: each update's loss and
gradient norm, every metric, and the weights.

Real processes over gloo replay the same rollouts (`sharded_cases.CASES`): every aggregation, uneven
lengths and numbers of images, a process without an image, one whose rows are all left out of the
loss, or of the forwards, steps without any image, more updates than prompts of a process, prompts
that do not divide.

Tolerances, in float64: 1e-12 of a weight with two processes. With three 5e-6 (AdamW, lr 1e-3):
gradients are scaled by the number of processes, and transformers' norms compute in float32, where
a factor of 3 rounds.

Shown red once, each alone: `Cut` without the image of the filler (fsdp2, token_mean: error), or
without fillers (fsdp2, sequence_sum: error); the loss not times `world_size`; normalizers not
summed over ranks; the advantage of this rank's groups alone; `zero_grad` of an unused tower left
out (text); `RankStrategy.micro_batch` that never averages (ddp); the casts of autocast not
forgotten after an update; every rank loading the weights (`loads_weights` True).
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig

from data_prep.tiny_policy import build_untrained
from tests.support.parameters import also_long
from tests.support.places import REPOSITORY, SUPPORT
from vlm_rl.distributed import strategies
from vlm_rl.distributed.lockstep import Lockstep, smallest_prompt
from vlm_rl.model.policy import Policy
from vlm_rl.ranks import round_robin

EXACT = (
    "token_mean",
    "sequence_mean",
    "sequence_sum",
    "constant",
    "covariance",
    "groups",
    "masked_process",
    "text",
    "text_then_images",
    "frozen_tower",
    "left_out",
    "left_out_twice",
    "nobody_scored",
    "mixture",
)
SOME = ("sequence_mean", "sequence_sum")
FLOAT32 = ("twenty", "lora", "mixed")
DDP = ("token_mean", "covariance", "masked_process", "text_then_images", "left_out_twice", "lora")
"""What `make test` runs under DDP, which shares most of its code with FSDP2."""
DDP_LATER = tuple(name for name in (*EXACT, *FLOAT32) if name not in DDP)
TOGETHER: tuple[dict[tuple[str, int], tuple[str, ...]], ...] = (
    {
        ("auto", 1): (*EXACT, *FLOAT32, "single"),
        ("ddp", 2): DDP,
        ("fsdp2", 2): (*EXACT, *FLOAT32),
    },
    {("zero2", 2): ("lora", "mixed"), ("zero3", 2): ("mixed",)},
    {
        ("ddp", 2): DDP_LATER,
        ("ddp", 3): SOME,
        ("fsdp2", 3): SOME,
        ("zero1", 2): ("twenty",),
        ("zero2", 2): ("twenty",),
        ("zero3", 2): ("twenty",),
        ("zero3_offload", 2): ("mixed",),
    },
)
"""Cases by strategy and number of processes: each is one launch, which imports once. The last one
is for `make test-long`."""

TOLERANCE = {2: 1e-12, 3: 5e-6}

Runs = Callable[[str, int, str], dict[str, Any]]


def launch(spec: dict[str, Any]) -> str:
    """Run `sharded_runs.py`; what it printed, which shows where it fails."""
    script = SUPPORT / "sharded_runs.py"
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(spec)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Return what a case ended with; what is launched together is done once."""
    out = tmp_path_factory.mktemp("sharded")
    folders = {family: str(path) for family, path in checkpoints.items()}

    def result(strategy: str, num_processes: int, case: str) -> dict[str, Any]:
        path = out / f"{strategy}_{num_processes}_{case}.pt"
        if not path.exists():
            key = (strategy, num_processes)
            (group,) = (group for group in TOGETHER if case in group.get(key, ()))
            entries = [{"strategy": s, "processes": n, "cases": c} for (s, n), c in group.items()]
            launch({"checkpoints": folders, "out": str(out), "runs": entries})
        read: dict[str, Any] = torch.load(path, weights_only=True)
        return read

    return result


@pytest.fixture(scope="module")
def start(checkpoints: dict[str, Path]) -> dict[str, Tensor]:
    """Load the weights that every run begins with."""
    return dict(Policy.from_pretrained(str(checkpoints["qwen2_5_vl"])).model.state_dict())


@pytest.mark.parametrize(
    ("strategy", "num_processes", "cases"),
    [
        ("ddp", 2, DDP),
        ("fsdp2", 2, EXACT),
        also_long("ddp", 2, DDP_LATER),
        also_long("ddp", 3, SOME),
        also_long("fsdp2", 3, SOME),
    ],
    ids=["ddp-2", "fsdp2-2", "ddp-2-others", "ddp-3", "fsdp2-3"],
)
@pytest.mark.long
def test_several_processes_equal_one(
    runs: Runs, strategy: str, num_processes: int, cases: tuple[str, ...]
) -> None:
    for name in filter(EXACT.__contains__, cases):
        together, alone = runs(strategy, num_processes, name), runs("auto", 1, name)
        assert_equal(together, alone, name, TOLERANCE[num_processes])


@pytest.mark.parametrize(
    ("strategy", "cases"), [also_long("ddp", DDP), ("fsdp2", (*EXACT, *FLOAT32))]
)
def test_few_pickled_objects_are_exchanged_in_a_step(
    runs: Runs, strategy: str, cases: tuple[str, ...]
) -> None:
    """At most 8 a step and 2 a minibatch; what is a tensor travels as one."""
    for name in cases:
        result = runs(strategy, 2, name)
        limit = 8 + 2 * result["minibatches"]
        assert max(result["exchanges"]) <= limit, name
        assert min(result["exchanges"]) >= 4, name  # rollouts, cuts, drift and metrics


def assert_equal(got: dict[str, Any], wanted: dict[str, Any], name: str, tolerance: float) -> None:
    assert largest_difference(got["weights"], wanted["weights"]) <= tolerance, name
    assert got["skipped"] == wanted["skipped"]
    for step, expected in zip(got["metrics"], wanted["metrics"], strict=True):
        kept = {key: value for key, value in expected.items() if not key.startswith("time/")}
        assert {key for key in step if not key.startswith("time/")} == kept.keys(), name
        for key, value in kept.items():
            close = pytest.approx(value, rel=max(tolerance, 1e-9), abs=1e-9)
            assert step[key] == close, (name, key)


def largest_difference(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    assert got.keys() == wanted.keys()
    return max(float((got[key] - wanted[key]).abs().max()) for key in wanted)


def test_cases_show_what_they_are_for(runs: Runs, checkpoints: dict[str, Path]) -> None:
    """Every case but the last learns, and a tower that sees no image stays as it was."""
    start = Policy.from_pretrained(str(checkpoints["qwen2_5_vl"])).double().model.state_dict()
    for name in EXACT:
        losing, steps = name == "nobody_scored", runs("auto", 1, name)["metrics"]
        assert all((step["optim/grad_norm"] > 0.1) != losing for step in steps)
    text = runs("auto", 1, "text")["weights"]
    for name, value in start.items():
        assert ("visual" in name) == torch.equal(text[name], value), name


def test_padding_prompt_is_one_image_token(checkpoints: dict[str, Path]) -> None:
    for folder in checkpoints.values():
        policy = Policy.from_pretrained(str(folder))
        smallest = smallest_prompt(policy)
        assert (smallest.token_ids == policy.model.config.image_token_id).sum() == 1
        with torch.no_grad():
            stats = policy.logprobs(
                Lockstep(policy, num_minibatches=1, micro_batch_tokens=1).empty_forward(),
                temperature=1.0,
            )
        assert stats.logprobs.shape == (0, 1)


def test_round_robin_undoes_the_sharing_out() -> None:
    step = list(range(7))
    assert round_robin([step[rank::3] for rank in range(3)]) == step
    assert round_robin([[], [1, 2]]) == [1, 2]


@pytest.mark.parametrize("name", ["fsdp", "deepspeed", "ddp_spawn", None])
def test_unknown_strategy_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=r"trainer\.strategy must be one of auto, ddp, fsdp2"):
        strategies.build(name)


@pytest.mark.parametrize("strategy", ["fsdp2", *map(also_long, ("ddp", "zero1", "zero2", "zero3"))])
def test_twenty_steps_end_with_the_weights_of_one_process(runs: Runs, strategy: str) -> None:
    """In float32, several micro-batches an update. The tolerance is a thousandth of what the
    weights move by: AdamW divides gradients that are rounding only by their own size."""
    _skip_without_deepspeed(strategy)
    alone, together = runs("auto", 1, "twenty"), runs(strategy, 2, "twenty")
    assert largest_difference(together["weights"], alone["weights"]) <= 2e-5
    for step, expected in zip(together["metrics"], alone["metrics"], strict=True):
        for name in ("optim/grad_norm", "policy/loss"):
            assert step[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2"])
@pytest.mark.long
def test_adapters_of_several_processes_equal_those_of_one(runs: Runs, strategy: str) -> None:
    """Of language model and vision tower, in float32, held to the base by a KL."""
    _skip_without_deepspeed(strategy)
    together, alone = runs(strategy, 2, "lora"), runs("auto", 1, "lora")
    assert any(".visual." in name and "lora_A" in name for name in alone["weights"])
    assert together["weights"].keys() == alone["weights"].keys()
    assert largest_difference(together["weights"], alone["weights"]) <= 5e-6
    for step, expected in zip(together["metrics"], alone["metrics"], strict=True):
        for name in ("optim/grad_norm", "policy/loss", "policy/kl"):
            assert step[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    "strategy", ["fsdp2", *map(also_long, ("ddp", "zero2", "zero3", "zero3_offload"))]
)
def test_bfloat16_of_several_processes_is_near_that_of_one(
    runs: Runs, start: dict[str, Tensor], strategy: str
) -> None:
    """Two updates a step, weights float32. What bfloat16 rounds depends on what is computed
    together, and FSDP2 gathers weights that autocast would leave in float32 (norms, embeddings),
    so the yardstick is what it does to one process: how far all weights end from those of float32,
    as a part of how far they have moved. Any two of the three may be as far apart as twice that."""
    _skip_without_deepspeed(strategy)
    together, alone = runs(strategy, 2, "mixed"), runs("auto", 1, "mixed")
    mixed, single = alone["weights"], runs("auto", 1, "single")["weights"]
    rounding = distance(mixed, single) / distance(single, start)
    assert 0.01 < rounding < 0.1
    for wanted in (mixed, single):
        assert distance(together["weights"], wanted) / distance(wanted, start) < 2 * rounding
    assert all(weight.dtype == torch.float32 for weight in together["weights"].values())
    for step, expected in zip(together["metrics"], alone["metrics"], strict=True):
        assert step["optim/grad_norm"] == pytest.approx(expected["optim/grad_norm"], rel=0.05)
        assert step["policy/loss"] == pytest.approx(expected["policy/loss"], rel=0.05)


def distance(got: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Between all weights of two policies."""
    return math.sqrt(sum(float((got[k] - wanted[k]).double().square().sum()) for k in wanted))


def test_update_is_seen_by_the_next_one_under_autocast() -> None:
    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(torch.ones(2))
        loss = before.float().sum()
        loss.backward()
        strategy = strategies.of(SingleDeviceStrategy())
        strategy.apply_gradients(optimizer, [*layer.parameters()], limit=None, loss=loss.detach())
        assert layer(torch.ones(2)).tolist() == pytest.approx((before - 3).tolist(), abs=0.05)


@pytest.mark.long
def test_only_the_first_process_ever_holds_the_whole_model(tmp_path: Path) -> None:
    """Of 120 MB, with a reference. If each of the two processes loaded it before it is cut, as
    under DDP, both would hold twice that; the second holds half of policy and reference, the part
    of 5 MB that arrives with its copy, and what any such run needs beside weights (44 MB)."""
    config = Qwen2_5_VLConfig.from_pretrained(build_untrained("qwen2_5_vl", tmp_path))
    config.text_config.intermediate_size = 6400
    config.text_config.num_hidden_layers = 24
    config.text_config.layer_types = ["full_attention"] * 24
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    whole = sum(p.nbytes for p in model.parameters())
    assert whole > 115e6
    launch(
        {
            "checkpoints": {},
            "out": str(tmp_path),
            "runs": [{"strategy": "fsdp2", "processes": 2, "weigh": str(tmp_path)}],
        }
    )
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert (first["loaded"], second["loaded"]) == (whole, 0)
    for one in (first, second):
        assert one["spread"] == one["reference"] == pytest.approx(whole / 2, rel=0.01)
    assert second["peak"] < 1.6 * whole


def _skip_without_deepspeed(strategy: str) -> None:
    if strategy.startswith("zero") and find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
