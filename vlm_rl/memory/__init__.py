"""How much memory a run needs, by arithmetic alone: no weights are loaded.

May import: records, errors, model. A new model family is a shape in `model_shape`.
"""
