"""What can be wrong with a run: `python -m vlm_rl.preflight --config RUN.yaml [--key value ...]`.

Arguments are those of vlm_rl.fit. Nothing is trained, and nothing is written into `run_dir`: the
page is beside it. Ends with status 2 if something would stop the run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import NonNegativeInt
from transformers.utils.logging import disable_progress_bar

from vlm_rl import fit
from vlm_rl.preflight.building import start_of
from vlm_rl.preflight.inspections import INSPECTIONS
from vlm_rl.preflight.page import write_page
from vlm_rl.preflight.remarks import Inspected, inspect, lines
from vlm_rl.preflight.start import Start
from vlm_rl.show.screen import say

STOPS = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Look at everything, print one screen, and write the page. Raises SystemExit if there is a
    stop."""
    argv = sys.argv[1:] if argv is None else argv
    fit.choose_threads()
    fit.quieten()
    disable_progress_bar()
    inspected, start = preflight(argv)
    for line in lines(inspected):
        say(line)
    page = _page(start)
    write_page(page, inspected, start)
    say(f"all of it, with prompts, pictures and completions: {page}")
    if inspected.at("stop"):
        raise SystemExit(STOPS)


def preflight(argv: Sequence[str]) -> tuple[Inspected, Start]:
    """Return what all inspections say of the run that `argv` asks for, and the start."""
    start = start_of(build_parser(), argv)
    try:
        return inspect(start, INSPECTIONS), start
    finally:
        start.close()


def build_parser() -> ArgumentParser:
    """Return the parser of fit with what preflight alone is asked."""
    parser = fit.build_parser()
    parser.description = __doc__
    parser.prog = "vlm_rl.preflight"
    parser.usage = "vlm-rl preflight [--KEY VALUE ...]"
    parser.add_argument(
        "--problems", type=NonNegativeInt, default=16, help="of the small rollout; 0: none"
    )
    parser.add_argument(
        "--page", type=str, default="", help="the HTML file; by default RUN_DIR.preflight.html"
    )
    return parser


def _page(start: Start) -> Path:
    if not start.has("config"):
        return Path("preflight.html")
    return Path(start.config.page or f"{start.config.run_dir.rstrip('/')}.preflight.html")


if __name__ == "__main__":
    main()
