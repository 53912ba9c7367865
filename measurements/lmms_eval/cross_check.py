"""Our scorer against lmms-eval's rule scorer on the same stored responses.

    make lmms-eval
    python -m measurements.lmms_eval.cross_check --responses FILE.jsonl \\
        --benchmark mathvision:test --data test.jsonl --output runs/cross_check

scores each response (`id`, `response`) by our strict verifier, by the benchmark's official rule if
it has one, and by lmms-eval's rule scorer in its own environment. `cross_check.md` has the counts
and the kinds of differences. `differences.jsonl` has every response on which lmms-eval differs from
one of ours. This needs no GPU, model or hub.
"""

import argparse
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from measurements.lmms_eval.environment import DEFAULT, Environment
from measurements.lmms_eval.kinds import Theirs, kind_of
from vlm_rl.config import one_line_errors
from vlm_rl.evaluation.benchmarks.benchmark import Judged
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.judging import judge
from vlm_rl.evaluation.responses import read_responses
from vlm_rl.evaluation.tasks import benchmark_and_split
from vlm_rl.records import Problem
from vlm_rl.rewards import Accuracy
from vlm_rl.verification.extraction import ANSWER_STYLES

BY_RULE = ("mathvista", "mathvision", "mathverse", "wemath", "logicvista", "dynamath")
"""Benchmarks whose `*_reasoning` task `compute_score` scores on the published answer, or on its
letter."""

_TAIL = 300  # characters of a response in the report
_SHOWN = 5  # examples of each kind in the report


@dataclass(frozen=True)
class Compared:
    """One response under all rules."""

    ours: Judged
    theirs: Theirs

    @property
    def official(self) -> bool | None:
        return None if self.ours.official is None else self.ours.official.correct

    @property
    def kind(self) -> str | None:
        """The kind of difference; None if the strict verdict and lmms-eval's are the same."""
        if self.ours.correct is self.theirs.correct:
            return None
        return kind_of(self.ours, self.theirs, their_gold(self.ours.problem))

    @property
    def differs(self) -> bool:
        return self.kind is not None or self.official not in (None, self.theirs.correct)


def their_gold(problem: Problem) -> str:
    """Return what lmms-eval compares with: the letter of a choice, or the published answer."""
    return problem.answer if problem.choices else str(problem.meta.get("gold", problem.answer))


def compare(judged: Sequence[Judged], environment: Environment) -> list[Compared]:
    """Score with lmms-eval what we have judged. Raises RuntimeError if it fails."""
    with tempfile.TemporaryDirectory() as name:
        asked, scored = Path(name, "asked.jsonl"), Path(name, "scored.jsonl")
        rows = [{"gold": their_gold(j.problem), "response": j.response.text} for j in judged]
        asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        status = environment.run("rule_scorer", [str(asked), str(scored)], folder=Path(name))
        if status:
            raise RuntimeError(f"lmms-eval's rule scorer ended with status {status}")
        with scored.open(encoding="utf-8") as lines:
            theirs = [Theirs(**json.loads(line)) for line in lines]
    return [Compared(ours, each) for ours, each in zip(judged, theirs, strict=True)]


def cross_check(arguments: Sequence[str] | None = None) -> None:
    """Compare as the command line says; the last printed line has the agreement."""
    options = _parser().parse_args(arguments)
    with one_line_errors("measurements.lmms_eval.cross_check"):
        environment = Environment(options.environment)
        judged = _judged(options)
    compared = compare(judged, environment)
    options.output.mkdir(parents=True, exist_ok=True)
    differing = [each for each in compared if each.differs]
    lines = (json.dumps(_line(each), ensure_ascii=False) + "\n" for each in differing)
    (options.output / "differences.jsonl").write_text("".join(lines), encoding="utf-8")
    report = options.output / "cross_check.md"
    report.write_text(_markdown(options, compared), encoding="utf-8")
    same = sum(each.kind is None for each in compared)
    print(
        f"{len(compared)} responses: strict and lmms-eval agree on {_percent(same, compared)}; "
        f"right by strict {_percent(_strict(compared), compared)}, by lmms-eval "
        f"{_percent(sum(each.theirs.correct for each in compared), compared)}; {report}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--benchmark", required=True, metavar="NAME[:SPLIT]")
    parser.add_argument("--data", help="a local copy of the benchmark [the hub]")
    parser.add_argument("--answer_style", choices=ANSWER_STYLES, help="[the benchmark's]")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--environment", type=Path, default=DEFAULT, help="where lmms-eval is")
    return parser


def _judged(options: argparse.Namespace) -> list[Judged]:
    benchmark, split = benchmark_and_split(options.benchmark)
    if benchmark.name not in BY_RULE:
        raise ValueError(
            f"--benchmark {benchmark.name}: lmms-eval has no such rule for it; choose one of "
            f"{', '.join(BY_RULE)}"
        )
    problems = load(benchmark, options.data, split, images=False)
    responses = read_responses(options.responses, problems)
    if not responses:
        raise ValueError(f"{options.responses} has no response")
    answered = [problem for problem in problems if problem.uid in responses]
    if options.answer_style:
        answered = [replace(problem, answer_style=options.answer_style) for problem in answered]
    with closing(Accuracy(workers=2)) as accuracy:
        accuracy.self_test()
        return judge(benchmark, answered, [responses[p.uid] for p in answered], accuracy)


def _strict(compared: Sequence[Compared]) -> int:
    return sum(each.ours.correct for each in compared)


def _line(each: Compared) -> dict[str, Any]:
    ours, official = each.ours, each.ours.official
    return {
        "id": ours.problem.meta.get("id", ours.problem.uid),
        "sample": ours.response.sample,
        "gold": their_gold(ours.problem),
        "choices": ours.problem.choices,
        "kind": each.kind or "only the official rule differs",
        "strict": {"correct": ours.correct, "answer": ours.answer, "rule": ours.rule},
        "official": official and asdict(official),
        "lmms_eval": asdict(each.theirs),
        "response_tail": ours.response.text[-_TAIL:],
    }


def _by_kind(compared: Sequence[Compared]) -> dict[tuple[str, str], list[Compared]]:
    """Group what strict and lmms-eval judge differently by who is right and by kind, the largest
    group first."""
    groups: Mapping[tuple[str, str], list[Compared]] = defaultdict(list)
    for each in compared:
        if each.kind is not None:
            winner = "lmms-eval" if each.theirs.correct else "strict"
            groups[winner, each.kind].append(each)
    return dict(sorted(groups.items(), key=lambda pair: -len(pair[1])))


def _markdown(options: argparse.Namespace, compared: Sequence[Compared]) -> str:
    by_kind = _by_kind(compared).items()
    kinds = [f"| {winner} | {kind} | {len(group)} |" for (winner, kind), group in by_kind]
    shown = [
        f"\n### Right by {winner}: {kind}\n\n{_examples(group)}"
        for (winner, kind), group in by_kind
    ]
    return "\n".join(
        [
            f"# {options.benchmark}: our scorer and lmms-eval's\n",
            f"{len(compared)} responses of `{options.responses.name}`. All on which lmms-eval "
            "differs are in `differences.jsonl`.\n",
            "| ours | right by ours | right by lmms-eval | agree | only ours | only lmms-eval |",
            "| --- | --- | --- | --- | --- | --- |",
            *_agreement(compared),
            "\n## Where strict and lmms-eval differ\n",
            "| right by | kind | responses |",
            "| --- | --- | --- |",
            *kinds,
            *shown,
            "",
        ]
    )


def _agreement(compared: Sequence[Compared]) -> list[str]:
    ruled = [each for each in compared if each.official is not None]
    strict = [(each.ours.correct, each.theirs.correct) for each in compared]
    rows = [("strict", strict)]
    if ruled:
        rows.append(("official", [(bool(each.official), each.theirs.correct) for each in ruled]))
    return [_agreement_row(name, pairs) for name, pairs in rows]


def _agreement_row(name: str, pairs: Sequence[tuple[bool, bool]]) -> str:
    count = Counter(pairs)
    cells = (
        f"{name} ({len(pairs)})",
        _percent(count[True, True] + count[True, False], pairs),
        _percent(count[True, True] + count[False, True], pairs),
        _percent(count[True, True] + count[False, False], pairs),
        str(count[True, False]),
        str(count[False, True]),
    )
    return f"| {' | '.join(cells)} |"


def _examples(group: Sequence[Compared]) -> str:
    return "\n".join(
        f"- `{each.ours.problem.uid}` gold {_code(their_gold(each.ours.problem))}: strict read "
        f"{_code(each.ours.answer or 'nothing')} ({each.ours.rule}), lmms-eval "
        f"{_code(each.theirs.answer or 'nothing')} ({each.theirs.rule}); it ends "
        f"{_code(each.ours.response.text[-80:])}"
        for each in group[:_SHOWN]
    )


def _code(text: str) -> str:
    """Return a model's text on one line, without the backticks that would end the code."""
    return f"`{' '.join(text.split()).replace('`', chr(0x2BC))[:80]}`"


def _percent(count: int, of: Sequence[object]) -> str:
    return f"{count} ({100 * count / len(of):.2f} %)"


if __name__ == "__main__":
    cross_check()
