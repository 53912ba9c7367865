"""Why lmms-eval's rule scorer and ours differ on a response, as far as a simple rule can tell."""

from dataclasses import dataclass

from vlm_rl.evaluation.benchmarks.benchmark import Judged


@dataclass(frozen=True)
class Theirs:
    """The verdict of lmms-eval's rule scorer, as `rule_scorer` writes it."""

    correct: bool
    answer: str
    place: str
    rule: str
    partly: bool

    @property
    def letter(self) -> str:
        return self.answer.strip(" ().")


def kind_of(ours: Judged, theirs: Theirs, gold: str) -> str:
    """Return one line on why the strict verdict and lmms-eval's differ.

    `gold` is what lmms-eval compares with.
    """
    assert ours.correct is not theirs.correct, "they differ"
    return _only_theirs(ours, theirs, gold) if theirs.correct else _only_ours(ours, theirs, gold)


def _only_theirs(ours: Judged, theirs: Theirs, gold: str) -> str:
    if ours.answer is None:
        hedged = ours.rule.startswith("hedge")
        return f"theirs reads {_PLACES[theirs.place]}, ours " + (
            "refuses several different answers" if hedged else "finds no answer slot"
        )
    if theirs.rule == "letter" and theirs.letter != gold:
        return "theirs finds the gold's letter within other text"
    if theirs.rule == "nearly the same text":
        return "theirs has the same text to 90 %, ours not"
    return _PARTLY if theirs.partly else "math-verify calls it equal, ours not"


def _only_ours(ours: Judged, theirs: Theirs, gold: str) -> str:
    if not theirs.answer:
        return "theirs reads no answer"
    if len(gold) == 1 and theirs.letter.upper() == gold:
        return "ours takes a small letter for a capital"
    if ours.problem.choices and len(gold) == 1:
        return "ours takes the value of the gold's option, theirs only its letter"
    if ours.problem.answer != gold:
        return "ours mends a damaged gold"
    return _PARTLY if theirs.partly else "math-verify calls it different, ours not"


_PARTLY = "math-verify, given bare LaTeX, reads a part of it such as the 18 of 18\\pi"
_PLACES = {
    "tag": "<answer>",
    "box": "the last box",
    "end of a line": "the number at the end of a line",
    "nowhere": "nothing",
}
