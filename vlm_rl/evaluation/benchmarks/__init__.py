"""Benchmarks by name, one file each: what it reads, its prompt, rule and published results."""

from collections.abc import Mapping

from vlm_rl.evaluation.benchmarks.ai2d import AI2D
from vlm_rl.evaluation.benchmarks.aime24 import AIME24
from vlm_rl.evaluation.benchmarks.aime25 import AIME25
from vlm_rl.evaluation.benchmarks.amc23 import AMC23
from vlm_rl.evaluation.benchmarks.benchmark import Benchmark
from vlm_rl.evaluation.benchmarks.chartqa import ChartQA
from vlm_rl.evaluation.benchmarks.charxiv import CharXiv
from vlm_rl.evaluation.benchmarks.dynamath import DynaMath
from vlm_rl.evaluation.benchmarks.emma_mini import EMMAMini
from vlm_rl.evaluation.benchmarks.geometry3k import Geometry3K
from vlm_rl.evaluation.benchmarks.hallusionbench import HallusionBench
from vlm_rl.evaluation.benchmarks.logicvista import LogicVista
from vlm_rl.evaluation.benchmarks.m3cot import M3CoT
from vlm_rl.evaluation.benchmarks.math500 import Math500
from vlm_rl.evaluation.benchmarks.mathverse import MathVerse
from vlm_rl.evaluation.benchmarks.mathvision import MathVision
from vlm_rl.evaluation.benchmarks.mathvista import MathVista
from vlm_rl.evaluation.benchmarks.mm_math import MMMath
from vlm_rl.evaluation.benchmarks.mmmu import MMMU
from vlm_rl.evaluation.benchmarks.mmmu_pro import MMMUPro, MMMUProVision
from vlm_rl.evaluation.benchmarks.mmstar import MMStar
from vlm_rl.evaluation.benchmarks.wemath import WeMath

_CLASSES: tuple[type[Benchmark], ...] = (
    MathVista,
    MathVision,
    MathVerse,
    WeMath,
    LogicVista,
    DynaMath,
    MMMU,
    MMMUPro,
    MMMUProVision,
    MMStar,
    HallusionBench,
    M3CoT,
    CharXiv,
    ChartQA,
    AI2D,
    EMMAMini,
    MMMath,
    Geometry3K,
    AIME24,
    AIME25,
    AMC23,
    Math500,
)
BENCHMARKS: Mapping[str, Benchmark] = {each.name: each() for each in _CLASSES}
