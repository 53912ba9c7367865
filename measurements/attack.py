"""Attack a run in every way that once broke it, and count what holds.

    python -m measurements.attack --output runs/attack
    python -m measurements.attack --output runs/attack_short --share 0.1 --kinds rows files

Kinds: `kills` stop a run at points of its writing, drawn from `--seed`, and compare its end with
an undisturbed one; `rows` trains on data with poisoned rows; `files` starts a begun run with a
damaged file; `parts` has engines and rewards that break their contract; `malicious` plants files
that would run something; `shells` starts in strange environments. Prints a table of what was tried
and what held, and a line for each attack that something broke under. The exit status is 1 if there
is one.
"""

import argparse
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import vlm_rl  # noqa: F401  (makes torchvision importable for what follows)

# isort: split
from rich.console import Console
from rich.progress import track
from rich.table import Table

from measurements import kill_while_writing
from measurements.attacks import files, malicious, parts, rows, shells
from measurements.attacks.ground import Attack, Ground

COUNTS = {"kills": 200, "rows": 300, "files": 60, "parts": 40, "malicious": 30, "shells": 25}


def kills(ground: Ground, count: int, seed: int) -> Iterator[Attack]:
    """Yield runs that are killed at a point of their writing, drawn without repetition."""
    whole = ground.folder / "undisturbed"
    points = kill_while_writing.run_recorded(ground.command(whole), whole)
    for point in random.Random(seed).sample(points, min(count, len(points))):

        def tried(folder: Path, point: kill_while_writing.Point = point) -> str:
            run_dir = folder / "run"
            try:
                kill_while_writing.stop_at(ground.command(run_dir), run_dir, point)
                return ", ".join(kill_while_writing.all_differences(run_dir, whole, 3))
            except RuntimeError as error:
                return str(error)

        yield Attack("kills while writing", point.kind, tried)


KINDS = {
    **{"kills": kills, "rows": rows.attacks, "files": files.attacks, "parts": parts.attacks},
    **{"malicious": malicious.attacks, "shells": shells.attacks},
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--share", type=float, default=1.0, help="of the attacks of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True)
    ground = Ground((args.output / "ground").resolve())
    ground.prepare()
    began, tried, broke = time.monotonic(), Counter[str](), list[tuple[Attack, str]]()
    for kind in args.kinds:
        attacks = [*KINDS[kind](ground, max(1, round(COUNTS[kind] * args.share)), args.seed)]
        for number, attack in enumerate(track(attacks, kind, console=Console(stderr=True))):
            folder = (args.output / kind / str(number)).resolve()
            folder.mkdir(parents=True)
            tried[attack.kind] += 1
            if what := attack.tried(folder):
                broke.append((attack, what))
            else:
                shutil.rmtree(folder)
    report(tried, broke, time.monotonic() - began)
    return 1 if broke else 0


def report(tried: Counter[str], broke: list[tuple[Attack, str]], seconds: float) -> None:
    """Print how many attacks of each kind held, and what broke under the others."""
    console = Console(width=140)
    table = Table("attack", "tried", "held")
    for kind, count in tried.items():
        table.add_row(kind, str(count), str(count - sum(a.kind == kind for a, _ in broke)))
    console.print(table)
    for attack, what in broke:
        console.print(f"{attack.kind}: {attack.name}: {what}", markup=False, soft_wrap=True)
    console.print(f"{tried.total()} attacks in {seconds:.0f} s, {len(broke)} broke something")


if __name__ == "__main__":
    sys.exit(main())
