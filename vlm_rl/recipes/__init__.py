"""The configurations that are shipped, `configs` here, and how they are found by name.

May import the standard library only. A new recipe is a file in `configs/` of the repository, to
which `configs` here is a link; a wheel has the files themselves.
"""
