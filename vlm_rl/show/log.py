"""Warnings of the package: each is one line, whatever is in it."""

import logging
from typing import Any

from vlm_rl.show.plain import one_line


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger of standard Python whose messages are shown as one line of text each."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        """Put the arguments in and log the line."""
        if self.isEnabledFor(level):
            line = str(msg) % args if args else str(msg)
            self.logger.log(level, "%s", one_line(line), **options)
