"""Strange shells: locales, streams, limits, folders and environments in which a run may start."""

import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from measurements.attacks.ground import ENDINGS, Attack, Ground, Outcome, waited

_PYTHON = shlex.quote(sys.executable)
_FIT = f"{_PYTHON} -m vlm_rl.fit"

SHELLS: dict[str, str] = {
    "C locale": f"LC_ALL=C LANG=C {_FIT} ARGS",
    "POSIX locale, no UTF-8 mode": f"LC_ALL=POSIX PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {_FIT} ARGS",
    "latin encoding of streams": f"PYTHONIOENCODING=latin-1 {_FIT} ARGS",
    "no HOME": f"env -u HOME {_FIT} ARGS",
    "HOME that is a file": f"HOME=/dev/null {_FIT} ARGS",
    "HOME that nobody can write": f"HOME=/proc {_FIT} ARGS",
    "no environment": f"env -i PATH=/usr/bin:/bin PYTHONPATH=$PYTHONPATH {_FIT} ARGS",
    "dumb terminal": f"TERM=dumb {_FIT} ARGS",
    "one column": f"COLUMNS=1 {_FIT} ARGS",
    "a million columns": f"COLUMNS=1000000 {_FIT} ARGS",
    "forced colour": f"FORCE_COLOR=1 {_FIT} ARGS",
    "closed stdin": f"{_FIT} ARGS <&-",
    "closed stdout": f"{_FIT} ARGS >&-",
    "closed stderr": f"{_FIT} ARGS 2>&-",
    "all streams closed": f"{_FIT} ARGS <&- >&- 2>&-",
    "stdout that is full": f"{_FIT} ARGS >/dev/full",
    "stdout that nobody reads": f"{_FIT} ARGS | true; exit ${{PIPESTATUS[0]}}",
    "few files": f"ulimit -n 64; {_FIT} ARGS",
    "no core, small stack": f"ulimit -c 0 -s 1024; {_FIT} ARGS",
    "umask 777": f"umask 777; {_FIT} ARGS",
    "small files only": f"ulimit -f 64; {_FIT} ARGS",
    "SIGPIPE and SIGHUP ignored": f"trap '' PIPE HUP; {_FIT} ARGS",
    "hash seed and warnings": f"PYTHONHASHSEED=7 PYTHONWARNINGS=default {_FIT} ARGS",
    "optimised": f"{_PYTHON} -O -m vlm_rl.fit ARGS",
    "TMPDIR missing": f"TMPDIR=/nowhere {_FIT} ARGS",
    "debug of allocations": f"PYTHONMALLOC=debug {_FIT} ARGS",
}
NAMES = ("run [red] dir", "[/]", "run\ndir", "läuft 字 🙂", "-run", "run'\"$(x)`y`", "a" * 200)


def attacks(ground: Ground, count: int, seed: int) -> Iterator[Attack]:
    """Yield starts in strange shells, and into folders with strange names."""
    kinds: list[tuple[str, Callable[[Path], str]]] = []
    for name, line in SHELLS.items():
        kinds.append((name, lambda folder, line=line: _tried(ground, folder, line, folder / "run")))
    for name in NAMES:
        kinds.append(
            (
                f"run_dir {name!r:.30}",
                lambda folder, name=name: ground.run(folder / name, steps=1).broke(*ENDINGS),
            )
        )
    for name, tried in random.Random(seed).sample(kinds, min(count, len(kinds))):
        yield Attack("strange shells", name, tried)


def _tried(ground: Ground, folder: Path, line: str, run_dir: Path) -> str:
    args = [
        argument.replace("configs/", f"{Path.cwd()}/configs/")
        for argument in ground.command(run_dir, steps=1)
    ]
    line = line.replace("ARGS", shlex.join(args))
    log = folder / "log"
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            ["bash", "-c", line], cwd=folder, env=environment, stdout=file, stderr=file
        )
    status = waited(process.pid)
    outcome = Outcome(status, log.read_text(errors="replace"))
    silent = "closed" in line or "2>&-" in line
    return "" if silent and status in ENDINGS else outcome.broke(*ENDINGS)
