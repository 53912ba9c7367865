"""Whether other processes get on.

Imports the standard library only, so that every layer may ask. A new member is a file with one
question about processes that are not ours to stop, such as how long they were kept waiting.
"""
