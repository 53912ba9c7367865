"""The checking process: `python -m vlm_rl.verification.checker TIMEOUT_S MEMORY_MB`.

It reads one question a line, and answers each with one line: the decision and its rule. It ends
when its input closes, when an exception escapes, and when a question has used up its memory or
seconds (`limits`).
"""

import json
import os
import sys

from vlm_rl.verification.gold import Gold
from vlm_rl.verification.limits import limit_this_process, within
from vlm_rl.verification.matching import decide

READY = "ready"


def main(timeout_s: float, memory_mb: int) -> None:
    """Answer questions from standard input until it closes."""
    limit_this_process(memory_mb)
    decide(Gold(r"\sqrt{2} cm", "number_unit"), "1 m", numeric=True)  # imports outside any limit
    _reply(READY)
    for line in sys.stdin:
        with within(timeout_s):
            fields, prediction = json.loads(line)
            _reply(json.dumps(decide(Gold.from_fields(fields), prediction, numeric=True)))


def _reply(line: str) -> None:
    # one write, which a pipe delivers whole; print makes two if output is unbuffered
    os.write(sys.stdout.fileno(), f"{line}\n".encode())


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
