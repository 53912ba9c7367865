"""lmms-eval's own environment, which `make lmms-eval` installs, and commands that run in it.

lmms-eval needs other versions of many packages than training does, so it is never imported beside
vlm_rl.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / ".venv-lmms"


class Environment:
    """The virtual environment in `folder`. Raises ValueError if lmms-eval is not in it."""

    def __init__(self, folder: Path = DEFAULT) -> None:
        tasks = sorted(folder.glob("lib/python3.*/site-packages/lmms_eval/tasks"))
        if not tasks:
            raise ValueError(
                f"no lmms-eval in {folder}; `make lmms-eval` installs it in {DEFAULT.name}, or "
                "name another environment that has it by --environment"
            )
        self.python = folder.absolute() / "bin" / "python"  # resolved, it is outside `folder`
        self.tasks = tasks[0].resolve()

    def run(
        self, module: str, arguments: Sequence[str], *, folder: Path, offline: bool = True
    ) -> int:
        """Run `module` of this package in `folder` and return the exit status.

        The folder must be empty: lmms-eval takes a task's name for a path if there is a folder of
        that name.
        """
        variables = os.environ | {"PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        # at its import lmms-eval makes a client for judge models, even if no task has one
        variables.setdefault("OPENAI_API_KEY", "none")
        if offline:
            variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        command = [str(self.python), "-m", f"measurements.lmms_eval.{module}", *arguments]
        return subprocess.run(command, cwd=folder, env=variables, check=False).returncode
