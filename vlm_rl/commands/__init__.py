"""The command line: `vlm-rl COMMAND ...`, the same as `python -m vlm_rl COMMAND ...`.

May import everything, and imports a command when it is run: a list of them takes a tenth of a
second. A new command is a module with `main(argv)` and a line in `vlm_rl/commands/table.py`.
"""
