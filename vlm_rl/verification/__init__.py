"""Answers checked against golds: text in, outcome out.

Nothing in this package imports torch except `pool`, which the trainer uses: the checking processes
import only the rest and start in under a second. Reading order: `extraction` cuts the answer out
of a completion, `matching` routes it by the type of the gold, `algebra` asks math-verify inside a
killable process, `pool` keeps those processes.
"""
