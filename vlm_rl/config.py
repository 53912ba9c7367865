"""Reading the configuration, and answering what is wrong with it in one line."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace


def parse(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """Parse the command line and its YAML files; abbreviated and unknown keys are refused."""
    config: Namespace = parser.parse_args(argv)
    return config


def plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """The resolved configuration as plain values, as it is saved with a run."""
    values: dict[str, Any] = yaml.safe_load(parser.dump(config, skip_validation=True))
    return values


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Construct every class that the configuration names."""
    parts: Namespace = parser.instantiate(config)
    return parts


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turn what a user got wrong into one line on stderr and exit status 2."""
    try:
        yield
    except (ArgumentError, ValueError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
