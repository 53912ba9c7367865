"""Environment variables of vLLM's processes, which are not ranks of the trainer."""

import os
from pathlib import Path

import torch

import vlm_rl

LAUNCHER_PREFIXES = ("TORCHELASTIC_", "ROLE_", "GROUP_")
LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def settings() -> dict[str, str]:
    """Return the variables that vLLM itself reads, in process and in a server."""
    variables = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if not torch.cuda.is_available():
        # compiling its helpers costs more than they save
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def python_path(folder: Path) -> str:
    """Return PYTHONPATH for vLLM's processes, and write a `sitecustomize` into `folder`.

    They import torchvision before any plugin is loaded. Beside a CPU build of torch that works only
    after `vlm_rl.torchvision_on_cpu`.
    """
    Path(folder, "sitecustomize.py").write_text("import vlm_rl\n")
    package = str(Path(vlm_rl.__file__).parents[1])
    return os.pathsep.join([str(folder), package, *filter(None, [os.environ.get("PYTHONPATH")])])


def without_launcher(environment: dict[str, str]) -> dict[str, str]:
    """Leave out what a launcher told the trainer's ranks: an engine that inherited it would look
    for the other ranks and wait for them."""
    return {
        name: value
        for name, value in environment.items()
        if name not in LAUNCHER_VARIABLES and not name.startswith(LAUNCHER_PREFIXES)
    }


def own_gpus(count: int) -> dict[str, str]:
    """Show an engine `count` GPUs; nothing without a GPU.

    One GPU is that of this rank. More are the slice after those of the lower ranks of this node.
    """
    if not torch.cuda.is_available():
        return {}
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    first = torch.cuda.current_device() * count
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[first : first + count])}
