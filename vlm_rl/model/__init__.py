"""With which weights: a Qwen-VL checkpoint as a policy that gives per-token log-probabilities.

May import: records, errors, ranks. What differs between model families is an entry in `families`.
"""
