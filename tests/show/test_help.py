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
from vlm_rl.show.help import PAGES, PROGRAMS, page_of
from vlm_rl.show.help.short import SHORT

HEAVY = {"torch", "transformers", "lightning", "vllm", "sympy", "datasets", "jsonargparse"}
OURS = [name for name, module in PROGRAMS.items() if module.startswith("vlm_rl.")]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=REPOSITORY,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("program", OURS)
def test_help_imports_nothing_heavy(program: str) -> None:
    shown = run(f"vlm_rl.{program}", "--help", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "vlm_rl.show.help" in imported
    assert not HEAVY & imported
    assert shown.returncode == 0
    assert shown.stdout == page_of(program, whole=False)
    assert run(f"vlm_rl.{program}", "-h").stdout == shown.stdout
    assert run(f"vlm_rl.{program}", "--help=all").stdout == page_of(program, whole=True)


def test_pages_are_what_the_parsers_say(tmp_path: Path) -> None:
    written = run("vlm_rl.show.help", str(tmp_path))
    assert written.returncode == 0, written.stderr
    names = {path.name for path in PAGES.glob("*.txt")}
    assert len(names) == len(PROGRAMS) + len(SHORT)
    assert names == {path.name for path in tmp_path.iterdir()}
    for name in names:
        shown, said = ((folder / name).read_text() for folder in (PAGES, tmp_path))
        assert shown == said, "a key has changed: run python -m vlm_rl.show.help"
        assert shown.startswith("usage: vlm")
        assert not [line for line in shown.splitlines() if line != line.rstrip()]


@pytest.mark.parametrize("word", ["--help", "--help=all"])
def test_help_beside_other_options_is_the_parsers(word: str) -> None:
    shown = run("vlm_rl.verify", "--timeout_s=9", word, COLUMNS="60")
    assert "usage: vlm-rl verify" in shown.stdout
    assert shown.stdout != page_of("verify", whole=True)  # it is narrower


def test_titles_are_whole_and_docstrings_keep_their_lines() -> None:
    page = page_of("fit", whole=True)
    assert "\noptimizer:\n  AdamW. `vision_lr` is the vision tower's own learning rate" in page
    assert ";:\n" not in page
    assert "\n    python -m vlm_rl.verify answers.jsonl\n" in page_of("verify", whole=True)
