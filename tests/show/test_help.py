"""Help without the heavy imports, and equal to what the parsers say.

Broken on purpose, one at a time, each seen red: a word of a page changed; a page removed; the
answer given after the import of `torchvision_on_cpu`, with torch imported there; help answered also
beside other options.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import REPOSITORY
from vlm_rl.show.help import PAGES, PROGRAMS

HEAVY = {"torch", "transformers", "lightning", "vllm", "sympy", "datasets", "jsonargparse"}


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=REPOSITORY,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_imports_nothing_heavy(program: str) -> None:
    shown = run(f"vlm_rl.{program}", "--help", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "vlm_rl.show.help" in imported
    assert not HEAVY & imported
    assert shown.returncode == 0
    assert shown.stdout == (PAGES / f"{program}.txt").read_text()
    assert run(f"vlm_rl.{program}", "-h").stdout == shown.stdout


def test_pages_are_what_the_parsers_say(tmp_path: Path) -> None:
    written = run("vlm_rl.show.help", str(tmp_path))
    assert written.returncode == 0, written.stderr
    for program in PROGRAMS:
        shown, said = ((folder / f"{program}.txt").read_text() for folder in (PAGES, tmp_path))
        assert shown == said, "a key has changed: run python -m vlm_rl.show.help"
        assert f"usage: vlm_rl.{program} " in shown


def test_help_beside_other_options_is_the_parsers() -> None:
    shown = run("vlm_rl.verify", "--timeout_s=9", "--help", COLUMNS="60")
    assert "usage: vlm_rl.verify" in shown.stdout
    assert shown.stdout != (PAGES / "verify.txt").read_text()  # it is narrower
