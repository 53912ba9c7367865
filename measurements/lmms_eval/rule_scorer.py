"""lmms-eval's rule scorer on stored responses, run in lmms-eval's own environment.

    python -m measurements.lmms_eval.rule_scorer ASKED.jsonl SCORED.jsonl

Reads lines with `gold` and `response`. Writes a line for each with `correct`, the `answer` that was
read, `place` (where), `rule` (what made it right) and `partly` (math-verify read only a part of the
answer or the gold). lmms-eval's own functions decide, in the order in which its evaluator calls
them for a `*_reasoning` task: thinking is cut off, then `compute_score`. For all but `correct` and
`answer` the same functions are called again, one at a time.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_rl import torchvision_on_cpu

TAGS = [["<think>", "</think>"], ["<analysis>", "</analysis>"]]
"""The default of lmms-eval's option --reasoning_tags."""


def main() -> None:
    asked, scored = map(Path, sys.argv[1:])
    with asked.open(encoding="utf-8") as lines, scored.open("w", encoding="utf-8") as out:
        for line in lines:
            out.write(json.dumps(_score(json.loads(line)), ensure_ascii=False) + "\n")


def _score(row: Mapping[str, str]) -> dict[str, object]:
    from lmms_eval.api.reasoning import strip_reasoning_tags  # type: ignore[import-not-found]
    from lmms_eval.tasks._task_utils import reasoning_utils  # type: ignore[import-not-found]

    text = strip_reasoning_tags(row["response"], TAGS).strip()
    score = reasoning_utils.compute_score("", text, row["gold"])
    answer, gold = score["predict_str"], score["ground_truth"]
    if "<answer>" in text and "</answer>" in text:
        place = "tag"
    elif reasoning_utils.extract_boxed_answer(text):
        place = "box"
    else:
        place = "end of a line" if answer else "nowhere"
    rule = "math-verify" if score["acc_score"] else "none"
    if reasoning_utils.relax_exact_match(answer, gold):
        rule = "letter" if reasoning_utils.parse_mcq(gold) else "nearly the same text"
    return {
        "correct": bool(score["acc_score"]),
        "answer": answer,
        "place": place,
        "rule": rule,
        "partly": any(_is_part(reasoning_utils.parse(text), text) for text in (answer, gold)),
    }


def _is_part(parsed: Sequence[object], text: str) -> bool:
    """Return whether `parse`, whose last element is the text that it has read, read only a part."""
    return bool(parsed) and parsed[-1] != text.strip("$ ")


if __name__ == "__main__":
    torchvision_on_cpu.install()
    main()
