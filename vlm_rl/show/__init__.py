"""Text that people read: the only way of a string to a terminal, a page, a figure or a JSON line.

Strings may come from data, models, folders and options, so each is shown as it is: nothing in it is
markup, moves a cursor or breaks a file. May import nothing of `vlm_rl`. A new kind of page is a
file here.
"""
