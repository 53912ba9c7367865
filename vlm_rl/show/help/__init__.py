"""`--help` of the entry points: pages made beforehand, shown in a tenth of a second.

A parser takes its keys from the classes that they configure. To print help it would import torch,
transformers and Lightning, which takes ten seconds. So what the parsers print is kept here, a page
for each program, and a test compares them. May import nothing but `show`. After a change of a key,
or for another program in `PROGRAMS`, write them again: `python -m vlm_rl.show.help`.
"""

import os
import re
import sys
from pathlib import Path

PROGRAMS = ("fit", "evaluate", "verify", "study", "serve", "ask")
PAGES = Path(__file__).parent


def answer() -> None:
    """End the process with its page if it was started by `-m vlm_rl.PROGRAM --help` and no more.

    Beside other options, which may change it, the parser prints its help itself.
    """
    words = " ".join(sys.orig_argv[-3:])
    asked = re.fullmatch(rf"-m vlm_rl\.({'|'.join(PROGRAMS)}) (-h|--help)", words)
    if asked:
        from vlm_rl.show.screen import say_all  # imports rich, which no other start needs so early

        try:
            say_all((PAGES / f"{asked[1]}.txt").read_text(encoding="utf-8").removesuffix("\n"))
            sys.stdout.flush()
        except BrokenPipeError:  # by `| head`; what is left must not be flushed at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)
