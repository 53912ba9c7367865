"""Benchmark results of a checkpoint and of what it was trained from, for its card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_rl.disk.files import Damaged, read_json
from vlm_rl.evaluation.provenance import weights_digest
from vlm_rl.evaluation.report import RESULTS
from vlm_rl.upload.run_record import RunRecord


@dataclass(frozen=True)
class BenchmarkRow:
    """Accuracy on one benchmark by the strict rule, with its 95 % interval, as fractions.

    `is_trained` is false for an evaluation of the checkpoint that training began with.
    """

    benchmark: str
    split: str
    source: str
    num_questions: int
    mean: float
    low: float
    high: float
    official: float | None
    length_tokens: float | None
    is_trained: bool


def read_evaluations(record: RunRecord, folders: Sequence[Path]) -> list[BenchmarkRow]:
    """Read the reports of `vlm_rl.evaluate` in `folders`.

    Raises ValueError if one is of neither the checkpoint nor its base, by the digest of its
    weights.
    """
    own = weights_digest(str(record.weights))
    base = {record.base: weights_digest(record.base)}
    rows = []
    for folder in folders:
        file = folder / RESULTS
        for result in _results(file):
            model, weights = result["model"], result["settings"].get("weights")
            is_trained = weights is not None and weights == own
            if not is_trained and model not in base and weights not in base.values():
                raise ValueError(
                    f"--evaluation {folder} is of {model}, whose weights are neither those of "
                    f"{record.weights} nor those of {record.base}; evaluate one of these"
                )
            if result["accuracy"] is not None:
                rows.append(_row(result, is_trained))
    return sorted(rows, key=lambda row: (row.benchmark, row.split, row.is_trained))


def _results(file: Path) -> list[dict[str, Any]]:
    results = read_json(file, dict).get("benchmarks")
    if not isinstance(results, list):
        raise Damaged(file, "it has no benchmarks")
    return results


def _row(result: Mapping[str, Any], is_trained: bool) -> BenchmarkRow:
    accuracy, official, lengths = (
        result[name] for name in ("accuracy", "official", "length_tokens")
    )
    official = official and official["accuracy"]
    return BenchmarkRow(
        result["benchmark"],
        result["split"],
        result["source"],
        result["num_questions"],
        accuracy["mean"],
        accuracy["low"],
        accuracy["high"],
        official=official["mean"] if official else None,
        length_tokens=lengths["all"]["mean"] if lengths else None,
        is_trained=is_trained,
    )
