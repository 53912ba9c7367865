"""Benchmarks by name, one file each: what it reads, its prompt, rule and published results."""

from collections.abc import Mapping

from vlm_rl.evaluation.benchmarks.aime24 import AIME24
from vlm_rl.evaluation.benchmarks.aime25 import AIME25
from vlm_rl.evaluation.benchmarks.amc23 import AMC23
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.evaluation.benchmarks.dynamath import DynaMath
from vlm_rl.evaluation.benchmarks.geometry3k import Geometry3K
from vlm_rl.evaluation.benchmarks.logicvista import LogicVista
from vlm_rl.evaluation.benchmarks.math500 import Math500
from vlm_rl.evaluation.benchmarks.mathverse import MathVerse
from vlm_rl.evaluation.benchmarks.mathvision import MathVision
from vlm_rl.evaluation.benchmarks.mathvista import MathVista
from vlm_rl.evaluation.benchmarks.mmmu import MMMU
from vlm_rl.evaluation.benchmarks.wemath import WeMath

_CLASSES: tuple[type[Benchmark], ...] = (
    MathVista,
    MathVision,
    MathVerse,
    WeMath,
    LogicVista,
    DynaMath,
    MMMU,
    Geometry3K,
    AIME24,
    AIME25,
    AMC23,
    Math500,
)
BENCHMARKS: Mapping[str, Benchmark] = {each.name: each() for each in _CLASSES}
