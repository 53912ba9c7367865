"""Attacks on a run, by kind: each is tried in a folder of its own and says what broke, if any."""
