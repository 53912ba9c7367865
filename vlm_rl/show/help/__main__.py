"""Write the pages: `python -m vlm_rl.show.help [FOLDER]`, by default over those that are shown."""

import io
import os
import runpy
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from vlm_rl.show.help import PAGES, PROGRAMS

COLUMNS = "100"


def main(folder: Path) -> None:
    """Write what each program prints itself, one file each."""
    os.environ["COLUMNS"] = COLUMNS
    for program in PROGRAMS:
        printed = io.StringIO()
        sys.argv = [f"vlm_rl.{program}", "--help"]
        with redirect_stdout(printed), suppress(SystemExit):
            runpy.run_module(f"vlm_rl.{program}", run_name="__main__")
        page = printed.getvalue().replace(" \b", "")  # jsonargparse takes a blank back
        (folder / f"{program}.txt").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PAGES)
