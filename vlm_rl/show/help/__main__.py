"""Write the pages: `python -m vlm_rl.show.help [FOLDER]`, by default over those that are shown."""

import io
import os
import runpy
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path

from vlm_rl.show.help import PAGES, PROGRAMS
from vlm_rl.show.help.short import SHORT, short_page

COLUMNS = "100"


def main(folder: Path) -> None:
    """Write what each program prints itself, one file each, and the short pages."""
    os.environ["COLUMNS"] = COLUMNS
    for name, module in PROGRAMS.items():
        printed = io.StringIO()
        sys.argv = [f"vlm-rl {name}", "--help"]
        with redirect_stdout(printed), suppress(SystemExit):
            runpy.run_module(module, run_name="__main__")
        page = printed.getvalue().replace(" \b", "")  # jsonargparse takes a blank back
        stem = name.replace(" ", "_")
        if name in SHORT:
            parser = runpy.run_module(module)["build_parser"]()
            (folder / f"{stem}.txt").write_text(short_page(name, parser), encoding="utf-8")
            stem += "_all"
        (folder / f"{stem}.txt").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PAGES)
