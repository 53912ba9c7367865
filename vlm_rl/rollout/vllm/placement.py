"""Where the processes of an engine run: apart from the trainer's, and each on GPUs of its own."""

import os

import torch

LAUNCHERS = ("TORCHELASTIC_", "ROLE_", "GROUP_")
PLACE = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def outside_the_run(environment: dict[str, str]) -> dict[str, str]:
    """Without what a launcher has told the trainer's processes: an engine that inherited it would
    look for the others of the run, and wait for them."""
    return {
        name: value
        for name, value in environment.items()
        if name not in PLACE and not name.startswith(LAUNCHERS)
    }


def own_gpus(count: int) -> dict[str, str]:
    """Shows an engine `count` GPUs: with one that of this process, with more the slice that has as
    many processes of this machine before it. Nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    numbers = [str(number) for number in range(torch.cuda.device_count())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(numbers)).split(",")
    first = torch.cuda.current_device() * count
    return {"CUDA_VISIBLE_DEVICES": ",".join(visible[first : first + count])}
