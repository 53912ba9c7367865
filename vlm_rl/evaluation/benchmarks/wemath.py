r"""We-Math (Qiao et al. 2024, https://arxiv.org/abs/2407.01284), for research only.

Columns as in `We-Math/We-Math` and in data/testmini.json of github.com/We-Math/We-Math. Rows form
chains: two or three one-step rows, and one row that needs all their knowledge at once. `ID` names
the chain, `key` the row's place in it (`2steps_1`, `2steps_2`, `2steps_multi`).
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from vlm_rl.data.tables import BadRow
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark, Judged, PublishedResult, Ruling
from vlm_rl.evaluation.benchmarks.cutting import labels_in, last_box, letter_of
from vlm_rl.evaluation.benchmarks.samples import ScoredProblem, over_samples
from vlm_rl.records import Problem
from vlm_rl.verification.extraction import after_thinking


class WeMath(Benchmark):
    name = "wemath"
    hub_id = "We-Math/We-Math"
    splits = ("testmini",)
    columns = ("ID", "question", "option", "answer", "image_path", "key", "knowledge concept")
    sizes: ClassVar[Mapping[str, int]] = {"testmini": 1740}
    instruction = (
        "First give the thought process, then the letter of the right option in one \\boxed{}."
    )
    published = (
        PublishedResult("MM-Eureka-7B", 59.8, "OpenMMReasoner, lmms-eval", "score_loose"),
        PublishedResult("OpenVLThinker-7B", 61.9, "OpenMMReasoner, lmms-eval", "score_loose"),
        PublishedResult("OpenMMReasoner-7B", 79.0, "OpenMMReasoner, lmms-eval", "score_loose"),
    )
    notes = (
        "Our prompt asks for a box, of which the authors' script knows nothing, so the official "
        "rule reads a box first. Without one it follows that script, which takes the first "
        "character after `Answer` or of the whole text: `(B)` and `**B**` are no answer, and "
        "the first letter of `Both` is B. The measures are over the chains all of whose rows were "
        "judged (their share is given); the authors divide by 525, which holds for the whole split "
        "only. The rate of rote memorisation is over the chains whose last row is right, 0 where "
        "there is none."
    )

    def images(self, row: Mapping[str, Any]) -> Sequence[object]:
        return [row["image_path"]]

    def problem(self, row: Mapping[str, Any], images: tuple[bytes | Path, ...]) -> Problem:
        key = re.fullmatch(r"(\d)steps_(\d|multi)", row["key"])
        if key is None:
            raise BadRow(
                "wrong value", f"the key {row['key']!r} is not like 2steps_1, 2steps_multi"
            )
        steps, place = key.groups()
        choices = options_of(row["option"])
        whole = row["question"] if choices else f"{row['question']}\n{row['option']}"
        return Problem(
            uid=f"{row['ID']}/{place}",
            question=whole,
            answer=row["answer"].strip(),
            images=images,
            answer_type="choice",
            choices=choices or None,
            meta={
                "cluster": row["ID"],
                "categories": {"steps": steps if place == "multi" else "1"},
                "place": place,
                "steps": int(steps),
                "num_options": len(choices) or labels_in(row["option"]),
            },
        )

    def official(self, problem: Problem, response: str) -> Ruling:
        """Read the letter in the last box. Without a box follow evaluation/accuracy.py of the
        authors: the first character after the last "Answer", colons, points and angle brackets left
        out; without that word, the first character of the text."""
        box = last_box(response)
        if box is not None:
            letter = letter_of(box.strip(" <>"))
            return Ruling(letter == problem.answer, letter, "letter in the box")
        rest = re.sub("[<>:.]", "", after_thinking(response).split("Answer")[-1].strip()).strip()
        letter = rest[0] if rest and rest[0] in "ABCDEFGH" else None
        return Ruling(letter == problem.answer, letter, "first character")

    def measures(self, judged: Sequence[Judged]) -> Mapping[str, float]:
        return over_samples(judged, four_measures)


def options_of(text: str) -> tuple[str, ...]:
    """Split `A. 3; B. 4` into ("3", "4"); empty if the letters leave a gap or are inside an
    option."""
    options: list[str] = []
    while marks := re.match(rf"[;\s]*{'ABCDEFGH'[len(options)]}\s*\.\s*", text):
        text = text[marks.end() :]
        # `Shape ;B.; B. ...` names a point B in the option before
        following = re.search(rf";\s*{'ABCDEFGH'[len(options) + 1]}\s*\.(?!\s*;)", text)
        end = following.start() if following else len(text)
        options.append(text[:end].strip(" ;"))
        text = text[end:]
        if not text or len(options) == 7:
            break
    hidden = re.search(r";\s*[A-H]\s*\.(?!\s*;)", "".join(options[-1:]))
    return () if hidden or text or len(options) < 2 or not all(options) else tuple(options)


def four_measures(outcomes: Sequence[ScoredProblem]) -> dict[str, float]:
    """Compute the formulas of evaluation/four_dimensional_metrics.py, as fractions, and S1, S2, S3.

    Shares of the chains. Insufficient knowledge: a step wrong and the last row wrong. Inadequate
    generalisation: all steps right and the last row wrong. Complete mastery: the last row right and
    all steps (strict) or one (loose) right. Rote memorisation: the last row right and some step
    (strict) or every step (loose) wrong. The score is mastery and half of generalisation.
    """
    chains: dict[str, dict[str, bool]] = {}
    lengths: dict[str, int] = {}
    by_steps: dict[str, list[bool]] = {}
    for problem, correct in outcomes:
        chains.setdefault(problem.meta["cluster"], {})[problem.meta["place"]] = correct
        lengths[problem.meta["cluster"]] = problem.meta["steps"]
        by_steps.setdefault(problem.meta["categories"]["steps"], []).append(correct)
    whole = [rows for name, rows in chains.items() if len(rows) == lengths[name] + 1]
    accuracy = {f"S{steps}": sum(rows) / len(rows) for steps, rows in sorted(by_steps.items())}
    return accuracy | {"whole_chains": len(whole) / len(chains)} | _rates(whole)


def _rates(chains: Sequence[Mapping[str, bool]]) -> dict[str, float]:
    if not chains:
        return {}
    ends = [
        (chain["multi"], [chain[place] for place in chain if place != "multi"]) for chain in chains
    ]
    knowledge = sum(not end and not all(steps) for end, steps in ends) / len(ends)
    generalisation = sum(not end and all(steps) for end, steps in ends) / len(ends)
    rates = {
        "insufficient_knowledge": knowledge,
        "inadequate_generalization": generalisation,
    }
    right = sum(end for end, _ in ends)
    for name, mastered in (("strict", all), ("loose", any)):
        mastery = sum(end and mastered(steps) for end, steps in ends)
        rates[f"complete_mastery_{name}"] = mastery / len(ends)
        rates[f"rote_memorization_{name}"] = (right - mastery) / right if right else 0.0
        rates[f"score_{name}"] = mastery / len(ends) + 0.5 * generalisation
    return rates
