"""The parts of `python -m measurements.vs_trl`: what is measured, both sides, and their report.

`points` names the work, `shapes` builds models and prompts, `ours` and `trl_side` do the same work
in both trainers, `agreement` refuses to time two that differ, `step` runs whole loops in turns,
`worker` measures one point in a process of its own, `report` prints and draws. Only `trl_side` and
`step` import TRL. A new point is a line in `points`.
"""
