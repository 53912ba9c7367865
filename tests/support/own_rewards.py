"""Reward functions that are found by their import path."""

import os

from vlm_rl.records import Completion, Problem, Verdict


def process_and_length(problem: Problem, completion: Completion) -> float:
    """Return the id of the process, and behind the point the number of tokens."""
    return os.getpid() + len(completion) / 10


def asks_for_verdicts(completion: Completion, verdict: Verdict) -> float:
    return float(verdict is Verdict.CORRECT)
