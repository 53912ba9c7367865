"""How much memory a run needs, by arithmetic alone: no weights are loaded.

May import: records, errors, model, distributed. A new model family is a case of `layers.shape_of`.
"""
