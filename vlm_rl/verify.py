"""Check the answers in a file against their golds, and say which rule decided:

    python -m vlm_rl.verify answers.jsonl

Each line is an object with `gold` and `prediction`. It may also have `id`, `answer_type` (by
default guessed from the gold), `prediction_kind` (`answer`, the default, or `response`: a whole
text that the answer is cut out of), `thinking_opened` (true if the prompt of such a text had ended
with `<think>`), `answer_style` (`box`, the default, `tag` or `answer_line`), `options`,
`tolerance`, `unit`, and `expected`, true if the answer is right. Other fields are ignored.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jsonargparse.typing import PositiveFloat, PositiveInt

from vlm_rl.config import one_line_errors, parse
from vlm_rl.data.json_rows import json_rows
from vlm_rl.disk.files import write_text
from vlm_rl.records import THINK, AnswerType, Verdict
from vlm_rl.run.endings import one_line_endings
from vlm_rl.show.help.parser import explain_arguments, new_parser
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import say, track
from vlm_rl.verification.explain import read_as
from vlm_rl.verification.extraction import ANSWER_STYLES, answers
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import infer_type
from vlm_rl.verification.pool import CheckerPool, Reading, read_answers

_CHUNK = 64
_MAX_PRINTED = 20
_KINDS = ("answer", "response")
_TEXTS = {"gold": True, "prediction": True, "answer_type": False, "unit": False}
"""Fields that hold text, and whether they are required."""


@dataclass(frozen=True)
class Case:
    """One line of the file. `given` holds the different answers in its prediction's slots."""

    uid: object
    gold: Gold
    given: Sequence[str]
    expected: bool | None


def verify(
    file: Path,
    output: Path | None = None,
    timeout_s: PositiveFloat = 2.0,
    workers: PositiveInt = 1,
    explain: bool = False,
) -> Counter[Verdict]:
    """Check the answers in a file and write their verdicts; return how many there are of each.

    `output`, by default FILE.verdicts.jsonl beside the file, gets `id`, `answer`, `verdict` and
    `rule` of each line; with `explain`, which prints all that, also how gold and answer were read
    (`gold_read`, `read`). What disagrees with `expected` is printed. One answer may take
    `timeout_s` seconds of CPU time in one of `workers` processes. Raises ValueError naming a line
    that cannot be read, before any answer is checked.
    """
    output = output or file.with_name(f"{file.name}.verdicts.jsonl")
    if output.resolve() == file.resolve():
        raise ValueError(f"--output {output} is the input itself; name another file")
    if not output.parent.is_dir():
        raise ValueError(f"--output {output}: {output.parent} is not a folder; name one that is")
    cases = read_cases(file)
    with CheckerPool(workers=workers, timeout_s=timeout_s) as pool:
        readings = _read(cases, pool)
    records = [_record(*pair) for pair in zip(cases, readings, strict=True)]
    if explain:
        for case, reading, record in zip(cases, readings, records, strict=True):
            record |= _trace(case, reading)
            say(json_text(record))
    lines = [json.dumps(record) for record in records]
    write_text(output, "".join(f"{line}\n" for line in lines))
    counts = Counter(reading.verdict for reading in readings)
    say(", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict))
    _print_agreement(cases, readings)
    say(f"verdicts of {len(cases)} answers: {output}")
    return counts


def read_cases(file: Path) -> list[Case]:
    """Read all rows of a file. Raises ValueError with the place of a bad one."""
    cases = []
    for place, number, row in json_rows(file):
        try:
            cases.append(_case(number, row))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if not cases:
        raise ValueError(f"{file} has no lines to check")
    return cases


def _case(number: int, row: object) -> Case:
    """Return the case of a row. A prediction of null is none: no answer was given."""
    if not isinstance(row, dict):
        raise ValueError("must be an object with gold and prediction")
    fields = {name: value for name, value in row.items() if value is not None}
    unanswered = "prediction" in row and row["prediction"] is None
    if unanswered:
        fields["prediction"] = ""
    _check_texts(fields)
    options = fields.get("options", [])
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError("options must be a list of texts")
    kind = _one_of(fields, "prediction_kind", _KINDS)
    style = _one_of(fields, "answer_style", ANSWER_STYLES)
    if not isinstance(fields.get("expected", True), bool):
        raise ValueError(f"expected must be true or false, got {fields['expected']!r:.50}")
    prediction = _opening(fields, kind) + fields["prediction"]
    gold = Gold(
        fields["gold"],
        fields.get("answer_type") or infer_type(fields["gold"], bool(options)),
        tuple(options),
        fields.get("unit"),
        _tolerance(fields.get("tolerance", {})),
    )
    if gold.answer_type not in get_args(AnswerType):
        raise ValueError(
            f"answer_type must be one of {', '.join(get_args(AnswerType))}, "
            f"got {gold.answer_type!r:.50}"
        )
    given = answers(prediction, style) if kind == "response" else [prediction]
    expected = fields.get("expected")
    return Case(fields.get("id", number), gold, [] if unanswered else given, expected)


def _check_texts(fields: dict[str, Any]) -> None:
    for name, required in _TEXTS.items():
        if required and name not in fields:
            raise ValueError(f"{name} is missing")
        if not isinstance(fields.get(name, ""), str):
            raise ValueError(f"{name} must be text, got {fields[name]!r:.50}; put it in quotes")


def _opening(fields: dict[str, Any], kind: str) -> str:
    """Return what the prompt of a response had opened."""
    opened = fields.get("thinking_opened", False)
    if not isinstance(opened, bool):
        raise ValueError(f"thinking_opened must be true or false, got {opened!r:.50}")
    if opened and kind != "response":
        raise ValueError(
            f"thinking_opened is for a response, and prediction_kind is {kind}; leave it out"
        )
    return THINK if opened else ""


def _one_of(fields: dict[str, Any], name: str, allowed: Sequence[str]) -> str:
    value = fields.get(name, allowed[0])
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r:.50}")
    return str(value)


def _tolerance(sizes: object) -> tuple[tuple[str, float], ...]:
    if not isinstance(sizes, dict) or not all(
        type(size) in (int, float) and rule in ("decimals", "abs", "rel") and 0 <= size < 1e9
        for rule, size in sizes.items()
    ):
        raise ValueError('tolerance must be such as {"abs": 0.05}, with decimals, abs or rel')
    return tuple(sorted(sizes.items()))


def _read(cases: Sequence[Case], pool: CheckerPool) -> list[Reading]:
    starts = range(0, len(cases), _CHUNK)
    readings: list[Reading] = []
    for start in track(starts, "checking", hidden=len(cases) <= _CHUNK, transient=True):
        chunk = cases[start : start + _CHUNK]
        readings += read_answers([(case.gold, case.given) for case in chunk], pool)
    return readings


def _trace(case: Case, reading: Reading) -> dict[str, str]:
    read = {"gold_read": read_as(case.gold, case.gold.answer)}
    return read | ({} if reading.answer is None else {"read": read_as(case.gold, reading.answer)})


def _record(case: Case, reading: Reading) -> dict[str, object]:
    record = {"id": case.uid, "answer": reading.answer, "verdict": reading.verdict}
    expected = {} if case.expected is None else {"expected": case.expected}
    return {**record, "rule": reading.rule, **expected}


def _print_agreement(cases: Sequence[Case], readings: Sequence[Reading]) -> None:
    pairs = [pair for pair in zip(cases, readings, strict=True) if pair[0].expected is not None]
    differing = list(_disagreements(pairs))
    if not pairs:
        return
    for line in differing[:_MAX_PRINTED]:
        say(line)
    if len(differing) > _MAX_PRINTED:
        say(f"and {len(differing) - _MAX_PRINTED} more that disagree")
    right = len(pairs) - len(differing)
    say(f"{right} of {len(pairs)} as expected ({100 * right / len(pairs):.1f} %)")


def _disagreements(pairs: Sequence[tuple[Case, Reading]]) -> Iterator[str]:
    for case, reading in pairs:
        if (reading.verdict is Verdict.CORRECT) != case.expected:
            wanted = "right" if case.expected else "not right"
            yield (
                f"id {case.uid}: {reading.answer!r:.80} for the {case.gold.answer_type} gold "
                f"{case.gold.answer!r:.80} is {wanted}, got {reading.verdict} ({reading.rule})"
            )


def main(argv: Sequence[str] | None = None) -> None:
    """Verify a file from the command line."""
    with one_line_endings("vlm_rl.verify"), one_line_errors("vlm_rl.verify"):
        parser = new_parser("verify", __doc__, "FILE [--KEY VALUE ...]")
        parser.add_function_arguments(verify, as_positional=True, skip={"explain"})
        explain_arguments(parser, verify)
        parser.add_argument(
            "--explain", action="store_true", help="print how each gold and answer was read"
        )
        verify(**vars(parse(parser, argv)))


if __name__ == "__main__":
    main()
