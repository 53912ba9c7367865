"""What is measured in a step: sums and counts that add over micro-batches and ranks.

May import: records, ranks, objectives. A new metric is a function from records to `Statistic`s.
"""
