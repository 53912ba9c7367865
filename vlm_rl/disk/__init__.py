"""How files are written, and what is believed of those that are read.

Imports the standard library and yaml only, so that every layer may write. A new member is a file
for one way to leave something on the disk that a kill cannot halve.
"""
