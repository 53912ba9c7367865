"""A local web page over the folders of runs: `python -m vlm_rl.view RUN [RUN ...]`.

It reads what a run has written, while it runs too, and nothing outside the folders it was given.
What is written there is not trusted: models and data sets wrote it.
"""
