"""The command that says how good policies are; `options` has its keys, `command` what it does.

May import everything but other entry points.
"""

from vlm_rl.evaluate.command import evaluate
from vlm_rl.evaluate.options import build_parser

main = evaluate

__all__ = ["build_parser", "evaluate", "main"]
