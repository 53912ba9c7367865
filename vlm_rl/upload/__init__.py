"""A checkpoint of a run on a model hub: which files go there, and the card made from the run.

An entry point: it may import everything, and nothing imports it. `run_record.py` reads the run,
`card.py` writes the card, `contents.py` makes the folder that is sent, `__main__.py` sends it.
"""
