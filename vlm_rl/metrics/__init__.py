"""What is measured in a step: sums and counts that add over micro-batches and ranks.

A new metric is a function from records to `Statistic`s. May import: records, ranks, objectives, and
the model for its shape.
"""
