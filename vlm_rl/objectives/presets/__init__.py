"""The methods of the literature, a file each: a composition with its source and its defaults.

May import the rest of `objectives`. A new method is a file with a subclass of `Preset`, exported by
`vlm_rl.objectives`, and an overlay in `configs/objective/`.
"""
