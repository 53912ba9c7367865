"""Attacks on a run, by kind. Each is tried on a folder of its own and says what broke, if anything."""
