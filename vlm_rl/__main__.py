"""`python -m vlm_rl COMMAND ...`, the same as `vlm-rl COMMAND ...`."""

from vlm_rl.commands.command_line import main

if __name__ == "__main__":
    main()
