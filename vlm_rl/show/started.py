"""Which program this process was started as. Imports the standard library only."""

import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

_SCRIPT = "vlm-rl"
_MODULE = re.compile(r"vlm_rl\.(\w+)")


class Started(NamedTuple):
    """The name of a program, as `fit`, and the words after it."""

    name: str
    words: Sequence[str]


def program() -> Started | None:
    """Return what was started by `vlm-rl NAME`, `-m vlm_rl NAME` or `-m vlm_rl.NAME`.

    None for anything else, such as a checker of answers, `-m vlm_rl.verification.checker`.
    """
    words = sys.orig_argv
    for index, (word, module) in enumerate(pairwise(words)):
        if word == "-m" and module == "vlm_rl":
            return _command(words[index + 2 :])
        if word == "-m":
            match = _MODULE.fullmatch(module)
            return Started(match[1], words[index + 2 :]) if match else None
    if os.path.basename(sys.argv[0]) == _SCRIPT:
        return _command(sys.argv[1:])
    return None


def _command(words: Sequence[str]) -> Started | None:
    return Started(words[0], words[1:]) if words else None
