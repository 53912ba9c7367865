"""Answers checked against golds: text in, verdict and the rule that decided out.

Nothing in this package imports torch except `pool` and `reading`, which the trainer uses: the
checking processes import only the rest and start in under a second. Reading order: `extraction`
cuts the answer out of a completion, `matching` routes it by the type of the gold, or by what
`forms` takes it for, to a matcher of `choices`, `numbers`, `objects`, `intervals` or `times`,
`algebra` asks math-verify inside a killable process after `words` and `hazards` let the text pass,
`pool` keeps those processes, `reading` is all of it for many completions.
"""
