"""On which ranks: how weights, gradients and forwards are spread over them.

May import: records, errors, ranks, model, objectives. A new strategy is one file with one subclass
of `RankStrategy` and one line in `strategies`.
"""
