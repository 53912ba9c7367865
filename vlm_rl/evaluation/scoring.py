"""What is right in rows of the user's own: the verifier, or a judging term of theirs.

Any term that judges in training can rule here: a function by its import path, an exact match,
boxes, another model. A term sees the text of a response, its length and whether it was cut off, but
no token ids: responses come from servers and files too.
"""

from collections.abc import Sequence

import torch

from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response
from vlm_rl.evaluation.benchmarks.loading import report_bad
from vlm_rl.records import Completion, Problem, Verdict
from vlm_rl.rewards import JudgingFunction, JudgingTerm
from vlm_rl.show.log import Log
from vlm_rl.verification.extraction import after_thinking

_logger = Log(__name__)
_LOST = -1
"""Stands for a token id that nobody kept: it decodes to nothing, so that no rule reads it."""


def usable(
    name: str, problems: Sequence[Problem], term: JudgingTerm, max_bad_rows: int
) -> list[Problem]:
    """Return the problems whose golds `term` can read.

    Raises ValueError for more unreadable ones than `max_bad_rows`, and for a term that the rows do
    not fit at all.
    """
    lines = term.unusable(problems)
    if not lines:
        return list(problems)
    report_bad(name, lines, max_bad_rows)
    return [problem for problem in problems if not term.unusable([problem])]


def check_term(term: JudgingTerm) -> None:
    """Raise ValueError for a term that reads what no response has here."""
    for judge in term.judges():
        if judge.reads_policy or (isinstance(judge, JudgingFunction) and judge.own.reads_tokens):
            raise ValueError(
                f"{name_of(judge)} reads tokens or their probabilities, which only training has; "
                "score texts and lengths"
            )


def score(
    term: JudgingTerm, problems: Sequence[Problem], groups: Sequence[Sequence[Response]]
) -> list[Judged]:
    """Judge `groups` [P][k], in their order, by `term` alone.

    A problem that could not be asked is unsolved. Raises ValueError if the term rules on no
    response, and if it reads a length that nobody knows.
    """
    _check_lengths(term, groups)
    verdicts = _verdicts(term, problems, groups)
    judged = [
        one
        for problem, group, row in zip(problems, groups, verdicts, strict=True)
        for one in _of_question(term, problem, group, row)
    ]
    if judged and not any(one.verdict.scored for one in judged):
        raise ValueError(
            f"{name_of(term)} could score none of {len(judged)} responses{term.last_failure}"
        )
    return judged


def name_of(term: JudgingTerm) -> str:
    """Return what a report calls a term: of a function its name, of a class its own."""
    return term.own.name if isinstance(term, JudgingFunction) else type(term).__name__


def _check_lengths(term: JudgingTerm, groups: Sequence[Sequence[Response]]) -> None:
    reads = any(isinstance(j, JudgingFunction) and j.own.reads_length for j in term.judges())
    responses = [response for group in groups for response in group if response.refused is None]
    unknown = sum(response.length_tokens is None for response in responses)
    if reads and unknown:
        raise ValueError(
            f"{name_of(term)} reads the length of a response, and {unknown} of {len(responses)} "
            "have none; give length_tokens beside them"
        )


def _verdicts(
    term: JudgingTerm, problems: Sequence[Problem], groups: Sequence[Sequence[Response]]
) -> list[list[Verdict]]:
    """Return [P][k]. Terms take groups of one size, so those of each size are judged together."""
    verdicts: list[list[Verdict]] = [[] for _ in problems]
    for size in sorted({len(group) for group in groups if group}):
        places = [place for place, group in enumerate(groups) if len(group) == size]
        asked = [[_completion(response) for response in groups[place]] for place in places]
        said = term.judge([problems[place] for place in places], asked).verdicts
        for place, row in zip(places, said, strict=True):
            verdicts[place] = list(row)
    return verdicts


def _completion(response: Response) -> Completion:
    length = response.length_tokens or 0
    return Completion(
        token_ids=torch.full((length,), _LOST, dtype=torch.int64),
        sampling_logprobs=torch.full((length,), float("nan"), dtype=torch.float32),
        finish_reason="length" if response.truncated else "stop",
        text=response.text,
        thinking_tokens=response.thinking_tokens,
    )


def _of_question(
    term: JudgingTerm, problem: Problem, group: Sequence[Response], verdicts: Sequence[Verdict]
) -> list[Judged]:
    """Return the judged samples of a question; the right ones are one class of answers, the others
    are alike if they are spelled alike."""
    classes: dict[str, int] = {}
    judged = []
    for response, verdict in zip(group, verdicts, strict=True):
        said = after_thinking(response.text).strip()
        if response.refused is not None:
            verdict, rule = Verdict.UNPARSABLE, f"not asked: {response.refused}"
        else:
            rule = name_of(term)
        right = verdict is Verdict.CORRECT
        number = 0 if right else classes.setdefault(" ".join(said.split()), len(classes) + 1)
        has_answer = bool(said) and verdict is not Verdict.UNPARSABLE
        judged.append(
            Judged(
                problem=problem,
                response=response,
                answer=said if has_answer else None,
                verdict=verdict,
                rule=rule,
                answer_class=number if has_answer else None,
                official=None,
            )
        )
    return judged
