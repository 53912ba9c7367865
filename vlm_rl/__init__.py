"""Reinforcement learning for vision-language models, fair to long and short answers."""

from vlm_rl import torchvision_on_cpu

torchvision_on_cpu.install()
