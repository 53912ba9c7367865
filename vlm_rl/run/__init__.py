"""What a run leaves, survives and ends with: its folder, checkpoints, resume, signals, reports.

May import everything but the entry points. A new output is a Lightning callback in a file here,
added to the list in `vlm_rl.fit`.
"""
