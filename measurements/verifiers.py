"""Compare our verdicts with those of math-verify, and the time that both take:

    python -m measurements.verifiers cases.jsonl more.jsonl

The files are those of `python -m vlm_rl.verify`, with `expected` on each line: whether the answer
is right. A response is cut by our rule for both. math-verify gets the answer in a box, as its
authors advise, and the gold in dollars. Differences are counted by the answer type of the gold and
by who is right; `--show 5` prints so many of each kind. Both run in this process, on one core.
"""

import argparse
import json
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vlm_rl.verification.matching import decide
from vlm_rl.verify import Case, read_cases

Verdicts = tuple[bool, bool]
"""Whether ours and math-verify accept an answer."""


def main(files: Sequence[Path], show: int) -> None:
    """Print the agreement, the differences by kind, and answers per CPU second."""
    cases = [case for file in files for case in read_cases(file) if case.expected is not None]
    ours, seconds = _timed(_ours, cases)
    theirs, their_seconds = _timed(_math_verify, cases)
    console = Console(width=110)
    kinds: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case, ours_accepts, theirs_accepts in zip(cases, ours, theirs, strict=True):
        kind = _kind(case, ours_accepts, theirs_accepts)
        if kind:
            kinds[case.gold.answer_type, kind].append(case)
    _print_scores(console, cases, (ours, seconds), (theirs, their_seconds))
    _print_kinds(console, kinds, show)


def _ours(case: Case) -> bool:
    return bool(case.given) and all(
        decide(case.gold, answer, numeric=True)[0] == "correct" for answer in case.given
    )


def _math_verify(case: Case) -> bool:
    from math_verify import parse, verify

    gold = parse(f"${case.gold.answer}$")
    boxes = " ".join(rf"\boxed{{{answer}}}" for answer in case.given)
    return bool(verify(gold, parse(boxes)))


def _timed(check: object, cases: Sequence[Case]) -> tuple[list[bool], float]:
    assert callable(check)
    check(cases[0])  # imports
    start = time.process_time()
    return [check(case) for case in cases], time.process_time() - start


def _kind(case: Case, ours: bool, theirs: bool) -> str | None:
    if ours == theirs:
        return None if ours == case.expected else "both wrong"
    better = "ours right" if ours == case.expected else "math-verify right"
    return f"{better}: {'accepted' if case.expected else 'refused'}"


def _print_scores(
    console: Console, cases: Sequence[Case], *scored: tuple[list[bool], float]
) -> None:
    table = Table("", "right", "accepted wrongly", "refused wrongly", "answers / CPU s")
    for name, (verdicts, seconds) in zip(("ours", "math-verify"), scored, strict=True):
        pairs = list(zip(cases, verdicts, strict=True))
        wrongly = sum(accepts and not case.expected for case, accepts in pairs)
        refused = sum(bool(case.expected) and not accepts for case, accepts in pairs)
        right = len(cases) - wrongly - refused
        counts = f"{right} of {len(cases)}", str(wrongly), str(refused)
        table.add_row(name, *counts, f"{len(cases) / seconds:.0f}")
    console.print(table)


def _print_kinds(console: Console, kinds: dict[tuple[str, str], list[Case]], show: int) -> None:
    table = Table("answer type", "difference", "answers")
    for (answer_type, kind), cases in sorted(kinds.items(), key=lambda item: -len(item[1])):
        table.add_row(answer_type, kind, str(len(cases)))
    console.print(table)
    for (answer_type, kind), cases in sorted(kinds.items())[: len(kinds) if show else 0]:
        for case in cases[:show]:
            line = json.dumps([case.gold.answer, *case.given], ensure_ascii=False)
            console.print(f"{answer_type}, {kind}: {line:.200}", markup=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--show", type=int, default=0)
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    arguments = parser.parse_args()
    main(arguments.files, arguments.show)
