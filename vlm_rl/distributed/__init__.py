"""On which ranks: how weights, gradients and forwards are spread over the processes of a run.

May import: records, errors, ranks, model, objectives. A new strategy is one file with one subclass
of `RankStrategy`, named in `strategies`.
"""
