"""Data sets in the project's one on-disk format, the synthetic set, and the tiny policy."""

import vlm_rl  # noqa: F401  (makes torchvision importable, before anything imports transformers)
