"""lmms-eval's command line, run by `measurements.lmms_eval.run` in lmms-eval's own environment."""

from vlm_rl import torchvision_on_cpu


def main() -> None:
    torchvision_on_cpu.install()  # before anything imports torchvision
    from lmms_eval.cli.dispatch import (  # type: ignore[import-not-found]
        main as command_line,
    )

    command_line()


if __name__ == "__main__":
    main()
