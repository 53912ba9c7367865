"""Is an answer right? Text and gold in; a verdict and the rule that decided out.

May import nothing of `vlm_rl` but `records`, and no torch: checking processes start in under a
second. Only `pool` and `self_test`, which the trainer uses, import `records` and with it torch.
A new answer type is a matcher and a row of the table in `matching`, and two pairs in `self_test`.

Reading order:
- `gold`: what an answer is checked against, and how reading can fail
- `extraction`: the answer cut out of a completion
- `notation`: one spelling of mathematics
- `matching`: each answer to the matcher of its type
- matchers: `choices`, `quantities`, `objects`
- what they read with: `exact_numbers`, `units`, `forms`
- `algebra`: math-verify, asked only in a process that can be killed
- `checker`, `pool`: that process, and the pool that keeps several
- `self_test`: known pairs, asked before a run
"""
