"""Whether other processes get on, and how ours end with us.

Imports the standard library only, so that every layer may ask. A new member is a file with one
question about processes, such as how long they were kept waiting.
"""
