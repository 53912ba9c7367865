"""Reinforcement learning for vision-language models, fair to long and short answers."""

from vlm_rl import torchvision_on_cpu
from vlm_rl.run import starting

starting.listen()
torchvision_on_cpu.install()
