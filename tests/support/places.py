"""Folders that tests look into."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
TINY_POLICY = REPOSITORY / "data_prep" / "warm_start"
SHARED = Path(os.environ.get("VLM_RL_SHARED", REPOSITORY.parent / "shared"))
"""Reference numbers and real data, which not everyone has."""
SUPPORT = Path(__file__).parent
