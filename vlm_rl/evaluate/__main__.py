"""python -m vlm_rl.evaluate"""

import sys

from vlm_rl.evaluate import build_parser, main

__all__ = ["build_parser", "main"]

if __name__ == "__main__":
    main(sys.argv[1:])
