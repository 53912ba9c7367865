"""Reinforcement learning for vision-language models, fair to long and short answers."""

from vlm_rl import torchvision_on_cpu
from vlm_rl.run import starting
from vlm_rl.show import help

starting.listen()
help.answer()
torchvision_on_cpu.install()
