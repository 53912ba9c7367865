"""python -m vlm_rl.evaluate"""

import sys

from vlm_rl.evaluate.command import evaluate

if __name__ == "__main__":
    evaluate(sys.argv[1:])
