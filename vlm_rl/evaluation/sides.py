"""The samples of evaluations that are set beside each other, by question."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vlm_rl.evaluation.report import SAMPLES, Sample, read_samples

_KEYS: Mapping[str, Callable[[Sample], str]] = {
    "questions": lambda sample: sample.question_sha256,
    "golds": lambda sample: sample.gold,
}
"""What must be the same on both sides of an id."""

SamplesByUid = Mapping[str, Sequence[Sample]]


def benchmarks_in(folder: Path) -> dict[str, Path]:
    paths = {path.parent.name: path for path in sorted(folder.glob(f"*/{SAMPLES}"))}
    if not paths:
        raise ValueError(
            f"{folder} holds no <benchmark>/{SAMPLES}; name the folder that evaluate wrote"
        )
    return paths


def by_question(path: Path) -> SamplesByUid:
    samples: dict[str, list[Sample]] = {}
    for sample in read_samples(path):
        samples.setdefault(sample.uid, []).append(sample)
    return samples


def check_same(name: str, a: SamplesByUid, b: SamplesByUid, shared: Sequence[str]) -> None:
    """Refuse ids that stand for different questions or golds, as data of another version or split
    may have the same ids."""
    differing = {
        what: [uid for uid in shared if len({key(one) for one in (*a[uid], *b[uid])}) > 1]
        for what, key in _KEYS.items()
    }
    for what, uids in differing.items():
        if uids:
            first = a[uids[0]][0], b[uids[0]][0]
            golds = f" ({first[0].gold!r} and {first[1].gold!r})" if what == "golds" else ""
            raise ValueError(
                f"{name}: {len(uids)} of {len(shared)} ids have different {what} in the two "
                f"folders, the first is {uids[0]!r}{golds}; evaluate both again on the same data"
            )


def shared_cluster(uid: str, a: SamplesByUid, b: SamplesByUid) -> str:
    """Return the cluster of a question; refuse sides that disagree, as they asked other things."""
    clusters = {sample.cluster for side in (a, b) for sample in side[uid]}
    if len(clusters) > 1:
        raise ValueError(
            f"question {uid!r} is a version of {' and of '.join(sorted(clusters))}: the folders "
            "hold different versions of the benchmark; evaluate both again on one of them"
        )
    return clusters.pop()


def scored(samples: Sequence[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.verdict.scored]


def right_share(samples: Sequence[Sample]) -> float:
    return float(np.mean([sample.correct for sample in scored(samples)]))


def known_lengths(samples: Sequence[Sample]) -> list[int]:
    return [sample.length_tokens for sample in samples if sample.length_tokens is not None]
