"""`--help` of the entry points: pages made beforehand, shown in a tenth of a second.

A parser takes its keys from the classes that they configure. To print help it would import torch,
transformers and Lightning, which takes ten seconds. So what the parsers print is kept here, a page
`NAME.txt` for each program, `data_NAME.txt` for `data NAME`. Where that is long, it is
`NAME_all.txt`, and `NAME.txt` has the keys of `short.py`. A test compares them. May import nothing
but `show`. After a change of a key, or for another program in `PROGRAMS`, write them again:
`python -m vlm_rl.show.help`.
"""

import os
import sys
from pathlib import Path

from vlm_rl.show.started import program

PROGRAMS = {
    "fit": "vlm_rl.fit",
    "preflight": "vlm_rl.preflight",
    "evaluate": "vlm_rl.evaluate",
    "verify": "vlm_rl.verify",
    "study": "vlm_rl.study",
    "serve": "vlm_rl.serve",
    "ask": "vlm_rl.ask",
    "hardware": "vlm_rl.hardware",
    "audit": "data_prep.audit",
    "data synthetic": "data_prep.synthetic",
    "data geometry3k": "data_prep.geometry3k",
    "data geoqa": "data_prep.geoqa",
    "data clevr": "data_prep.clevr",
    "data mmk12": "data_prep.mmk12",
    "data virl39k": "data_prep.virl39k",
    "data open_r1": "data_prep.open_r1",
    "data dynamath": "data_prep.dynamath",
    "data mathvision": "data_prep.mathvision",
    "data dapo_math": "data_prep.dapo_math",
    "data competition_math": "data_prep.competition_math",
}
"""Those whose own parser is slow, with their modules."""
PAGES = Path(__file__).parent
SHORT, ALL = (["-h"], ["--help"]), ["--help=all"]


def answer() -> None:
    """End the process with its page if it was started as a program with `--help` and no more.

    Beside other options, which may change it, the parser prints its help itself.
    """
    started = program()
    if started is None:
        return
    name, words = started
    if name == "data" and words:
        name, words = f"data {words[0]}", words[1:]
    if words in (*SHORT, ALL) and (page := page_of(name, whole=words == ALL)):
        _show(page)


def page_of(name: str, *, whole: bool) -> str:
    """Return the page of a program, with all keys or those that are set most; "" without one."""
    page = PAGES / f"{name.replace(' ', '_')}.txt"
    all_keys = page.with_stem(f"{page.stem}_all")
    if whole and all_keys.is_file():
        page = all_keys
    return page.read_text(encoding="utf-8") if name in PROGRAMS else ""


def _show(page: str) -> None:
    from vlm_rl.show.screen import say_all  # imports rich, which no other start needs so early

    try:
        say_all(page.removesuffix("\n"))
        sys.stdout.flush()
    except BrokenPipeError:  # by `| head`; what is left must not be flushed at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)
