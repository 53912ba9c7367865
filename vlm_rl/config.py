"""Reading the configuration, and answering what is wrong with it in one line.

Files are merged in order, later ones win, and the command line wins over all. When another class
replaces one, jsonargparse keeps the arguments that the new class has too: LUSPO's clip range would
silently become GSPO's. So this is refused.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from vlm_rl.errors import choices, explain, hint_of, joined, nearest, parameters
from vlm_rl.parts import undisturbed
from vlm_rl.recipes.finding import shipped, with_files
from vlm_rl.show.screen import warn

Setting = tuple[str, str | None, Iterable[str]]
"""A key, the class that it is given, and the names of the arguments that it is given."""

CHECKPOINTS = ("policy.path", "model")
"""Keys whose value may name the checkpoint that is shipped."""


def parse(
    parser: ArgumentParser, argv: Sequence[str] | None, elsewhere: Mapping[str, str] | None = None
) -> Namespace:
    """Parse the command line and its YAML files; abbreviated and unknown keys are refused.

    A `--config` is a file or the name of a recipe. `elsewhere` maps keys that users know from other
    places to the key to use here ("" for none). Raises ValueError with one line.
    """
    argv = with_files(sys.argv[1:] if argv is None else argv)
    argv = ["--help" if word == "--help=all" else word for word in argv]
    _refuse_single(parser, argv)
    settings = list(_settings(argv))
    try:
        config: Namespace = parser.parse_args(argv)
    except ArgumentError as error:
        raise ValueError(explain(str(error), parser, elsewhere or {})) from error
    _refuse_kept_arguments(parser, settings)
    for key in CHECKPOINTS:
        if isinstance(path := config.get(key), str):
            config[key] = shipped(path)
    return config


def plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return the resolved configuration as plain values, as it is saved with a run."""
    # unset values too: null may switch off what is on by default
    dumped = parser.dump(config, skip_unset=False, skip_validation=True)
    values: dict[str, Any] = yaml.safe_load(dumped)
    return values


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Construct every class that the configuration names. Raises what a constructor raises."""
    try:
        with undisturbed("a class of the configuration"):
            parts: Namespace = parser.instantiate(config)
    except SystemExit as error:
        raise ValueError(f"a class of the configuration has called exit({error.code})") from error
    except ValueError as error:
        cause: BaseException = error
        while cause.__cause__ and str(cause).startswith("Does not validate"):
            cause = cause.__cause__
        raise ValueError(str(cause)) from error
    return parts


@contextmanager
def one_line_errors(program: str, *, speaks: bool = True) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and exit status 2.

    If all ranks meet the same mistake, only the one that `speaks` prints it.
    """
    try:
        yield
    except ValueError as error:
        if speaks:
            warn(f"{program}: {joined(str(error))}")
        raise SystemExit(2) from error


def _refuse_single(parser: ArgumentParser, argv: Sequence[str]) -> None:
    """Refuse a value where a file must have a list: jsonargparse ends in an error of its own."""
    lists = {action.dest for action in parser._actions if action.nargs == "+"}
    for path in _config_files(argv):
        for key, value in read_file(path).items():
            if key in lists and not isinstance(value, list):
                raise ValueError(f"{path}: {key} must be a list, as in {key}: [{value!s:.100}]")


def _config_files(argv: Sequence[str]) -> Iterator[str]:
    for item, following in zip_longest(argv, argv[1:], fillvalue=""):
        option, has_value, value = item.partition("=")
        if option == "--config":
            yield value if has_value else following


def _refuse_kept_arguments(parser: ArgumentParser, settings: Iterable[Setting]) -> None:
    classes: dict[str, str] = {}
    set_for: dict[str, dict[str, str]] = {}
    for key, class_path, arguments in settings:
        classes[key] = (class_path or classes.get(key, "")).rpartition(".")[2]
        set_for.setdefault(key, {}).update(dict.fromkeys(arguments, classes[key]))
    for key, owners in set_for.items():
        now = classes[key]
        accepted = parameters(choices(hint_of(parser, key)).get(now))
        kept = [name for name in accepted if owners.get(name, "") not in ("", now)]
        if kept:
            raise ValueError(
                f"{key}: {now} would keep {', '.join(kept)} as set for {owners[kept[0]]}; state "
                f"{', '.join(f'{key}.init_args.{name}' for name in kept)} where {now} is named"
            )


def _settings(argv: Sequence[str]) -> Iterator[Setting]:
    """Yield all that files and options set, in order."""
    for item, following in zip_longest(argv, argv[1:], fillvalue=""):
        option, has_value, value = item.partition("=")
        value = value if has_value else following
        key, _, inner = option.removeprefix("--").partition(".")
        inner = inner.removeprefix("init_args.").partition(".")[0]
        if option == "--config":
            for name, node in read_file(value).items():
                if isinstance(node, Mapping):
                    yield name, node.get("class_path"), node.get("init_args") or ()
                elif isinstance(node, str):
                    yield name, node, ()
        elif inner in ("", "class_path"):
            yield key, value, ()
        else:
            yield key, None, [inner]


def read_file(path: str) -> dict[str, Any]:
    """Return what a YAML file sets. Raises ValueError with one line."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        _refuse_duplicates(path, yaml.compose(text))
        document = yaml.safe_load(text)
    except OSError as error:
        close = nearest(path, map(str, Path(path).parent.glob("*.yaml")))
        raise ValueError(f"--config {path}: {error.strerror}{close}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path} line {mark.line + 1}, column {mark.column + 1}" if mark else path
        raise ValueError(f"{place} is not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} must hold `key: value` lines, got {document!r:.40}")
    return document


def _refuse_duplicates(path: str, node: yaml.Node | None) -> None:
    """Refuse a key that is given twice: YAML would ignore the first."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(path, item)
    elif isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ValueError(f"{path} line {line}: {key.value!r} is given twice; keep one")
            seen.add(key.value)
            _refuse_duplicates(path, value)
