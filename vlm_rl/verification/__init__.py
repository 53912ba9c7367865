"""Decide whether an answer is right: text and gold in; a verdict and the rule that decided out.

An answer is read as a typed value by one grammar, to its last character, and then compared by kind.
May import nothing of `vlm_rl` but `processes` and `records`, and no torch: checking processes start
in under a second. Only `pool` and `self_test`, which the trainer uses, import `records` and with it
torch.

Reading order:
- `gold`: what an answer is checked against, and how reading can fail
- `extraction`: the answer cut out of a completion
- `matching`: words, times and values, each compared in its way; a new type is an entry of
  `ANSWER_TYPES`, and a row of `self_test`
- to read: `notation` (one spelling, tokens), `reading` (lists, sets, relations), `names`,
  `quantities`, `units`, `grammar` (expressions); what they return is in `values` and `regions`
- to compare: `equality` (by kind), `algebra` (expressions), `arithmetic` (exact), `digits`
- without a value: `choices`, `words`, `clock`, `bases`, `spoken`
- `explain`: how a text was read
- `checker`, `pool`: processes that can be killed, for what takes more than exact arithmetic;
  `limits` bounds them
- `self_test`: known pairs, asked before a run

The tables beside the modules (`*.toml`) hold spellings: symbols, units, words.
"""
