"""Gold answers as data sets write them, made plain: `<answer>` tags, boxes, damaged LaTeX."""

import re

from data_prep.converter import Drop
from vlm_rl.verification.extraction import boxes, tags

_ESCAPES = {"\a": "\\a", "\b": "\\b", "\v": "\\v", "\f": "\\f"}
"""What an unescaped `\\frac`, `\\bar`, `\\vec` or `\\alpha` became; no answer means these."""
_WORDS_IN_LATEX = re.compile(r"\\(?:text|mathrm|mbox|rm|operatorname)")


def tagged_answer(solution: str) -> str:
    """Return the content of the last `<answer>` of a worked solution. Raises Drop without one."""
    answers = list(tags(solution, "answer"))
    if not answers:
        raise Drop("no <answer> in the solution")
    return plain_answer(answers[-1])


def boxed_answer(solution: str) -> str:
    """Return the content of the last box of a worked solution. Raises Drop without one."""
    boxed = list(boxes(solution))
    if not boxed:
        raise Drop("no boxed answer in the solution")
    return plain_answer(boxed[-1])


def plain_answer(answer: str) -> str:
    """Return an answer without tag, box and dollar signs, repaired, in LaTeX's ASCII commands.

    >>> plain_answer("<answer> $2 \\\\sqrt { 221 }$ </answer>")
    '2 \\\\sqrt{221}'
    """
    for damaged, meant in _ESCAPES.items():
        answer = answer.replace(damaged, meant)
    answer = (list(tags(answer, "answer")) or [answer])[-1]
    answer = (list(boxes(answer)) or [answer])[-1].strip()
    if fenced := re.fullmatch(r"\$([^$]*)\$|\$\$([^$]*)\$\$", answer):
        answer = fenced[1] or fenced[2] or ""
    answer = re.sub(r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", answer.replace("√(", r"\sqrt("))
    answer = re.sub(r"π(?=[A-Za-z])", r"\\pi ", answer).replace("π", r"\pi")
    answer = " ".join(answer.replace("°", r"^\circ").split())
    if "\\" in answer and not _WORDS_IN_LATEX.search(answer):
        # spaces inside a brace and before it mean nothing, except in \{ and in text
        answer = re.sub(r" ?(?<!\\)\{ ?", "{", answer)
        answer = re.sub(r" (?<!\\)\}", "}", answer)
    return answer
