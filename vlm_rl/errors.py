"""What jsonargparse says about a configuration, as one line with the nearest right name.

Its messages are outlines: the key, inside it the class, inside that its argument, and at the end
the reason. Lines in between come from the other types of a union. `explain` reads them in order.
"""

import inspect
import re
from collections import abc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

_KEY = re.compile(r"Parser key \"(.+?)\":\s*")
_CLASS = re.compile(r"Problem with given class_path '(.+)':")
_NOISE = re.compile(
    r"$|Does not validate|Subtypes: |Errors:|Given value|Expected a path but|"
    r"Expected a <class 'NoneType'>|Subclass types expect|a (class path|dict) "
)
_UNKNOWN = re.compile(
    r"Option '(.+)' is not accepted|Group '(.+)' does not accept option '(.+)'|"
    r"unrecognized arguments: --([^\s=]+)"
)
_MISSING = re.compile(r"the following arguments are required: (.+)")
_NO_CLASS = re.compile(
    r"module '.+' has no attribute|No module named|Not a valid subclass of|"
    r"Unexpected import path format|Expected a dot import path string: (.+)|"
    r"Import path(?: (.+))? does not correspond|"
    r"Expected an instantiatable class, but(?: (.+))? is abstract"
)
_TYPE = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$")
_RULE = re.compile(r"Not of type \w+: (.+) does not conform to restriction v([<>=!]+)(.+)")


def explain(message: str, parser: ArgumentParser, elsewhere: Mapping[str, str]) -> str:
    """Turn jsonargparse's `message` into one line: the key, the value, the rule and the way out."""
    keys, owner, value, reasons = [], "", "", []
    hint: Any = None
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if match := _KEY.match(line):
            hint = _hint(parser, owner, match[1])
            keys.append(match[1])
            line = line[match.end() :]
        if match := _CLASS.match(line):
            owner = match[1]
        elif line.startswith("Given value: "):
            value = value or line.removeprefix("Given value: ")
        elif not _NOISE.match(line):
            reasons.append(line)
    key, reason = ".".join(keys), reasons[0]
    if match := _UNKNOWN.match(reason):
        name = ".".join(part for part in match.groups() if part)
        return _unknown_argument(key, owner, name) if owner else _unknown(parser, name, elsewhere)
    if match := _MISSING.match(reason):
        return f"{key}: {owner} needs {match[1]}" if owner else f"{match[1]}: required, but not set"
    if match := _NO_CLASS.match(reason):
        named = next(filter(None, match.groups()), owner or value)
        if instead := elsewhere.get(f"{key}={named}".lower()):
            return f"{key}: there is no {named}; here it is {instead}"
        if (families := _families(hint)) and all(map(is_dataclass, families)):
            return f"{key}: {named} is a value without its key; write {_form(hint, named)}"
        cause = f" ({reason})" if reason.startswith("No module") else ""
        return f"{key}: {_wrong_class(named, hint)}{cause}"
    if match := _RULE.match(reason):
        return f"{key} must be {match[2]} {match[3]}, got {match[1]}"
    if instead := elsewhere.get(f"{key}={value}".lower()):
        return f"{key}: there is no {value}; here it is {instead}"
    if types := list(filter(None, map(_TYPE.match, reasons))):
        return _wrong_type(key, [match[1] for match in types], types[0][2] or value, hint)
    if reason.startswith("unrecognized"):
        return f"{reason}; options are written --key value"
    return joined(message)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of a message: "; did you mean ...?", or nothing."""
    close = _closest(word, known)
    return f"; did you mean {close}?" if close else ""


def _closest(word: str, known: Iterable[str]) -> str | None:
    """Return the nearest of `known`; capital letters are like small ones."""
    by_lower = {name.lower(): name for name in reversed([*known])}
    close = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def joined(text: str) -> str:
    """Put all lines of `text` on one."""
    return " ".join(text.split())


def choices(hint: Any) -> dict[str, type]:
    """Return the public classes that fit the type `hint`, by their own name."""
    known = [c for family in _families(hint) for c in (family, *_subclasses(family))]
    public = [c for c in known if not (inspect.isabstract(c) or c.__name__.startswith("_"))]
    return {c.__name__: c for c in public}


def hint_of(parser: ArgumentParser, key: str) -> Any:
    """Return the type of a key of `parser`; None if there is no such key."""
    return next((getattr(a, "_typehint", None) for a in parser._actions if a.dest == key), None)


def parameters(owner: object) -> list[str]:
    """Return the names of the arguments of a class; none if `owner` is not a class."""
    return list(inspect.signature(owner).parameters) if isinstance(owner, type) else []


def _families(hint: Any) -> list[type]:
    """Return the classes in a type, as in `Sequence[Regularizer]`."""
    if isinstance(hint, type):
        return [] if hint.__module__ == "builtins" else [hint]
    return [family for inner in get_args(hint) for family in _families(inner)]


def _subclasses(family: type) -> Iterator[type]:
    known: list[type] = family.__subclasses__()
    for subclass in known:
        yield subclass
        yield from _subclasses(subclass)


def _hint(parser: ArgumentParser, owner: str, key: str) -> Any:
    if not owner:
        return hint_of(parser, key)
    named = _class_at(owner)
    return get_type_hints(named.__init__).get(key) if named else None  # type: ignore[misc]


def _import(path: str) -> Any:
    """Return what `path` names; None if it cannot be imported."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def _class_at(path: str) -> type | None:
    value = _import(path)
    return value if isinstance(value, type) else None


def _public_path(cls: type) -> str:
    """Return the path by the outermost package that exports a class, else by its own file."""
    parts = cls.__module__.split(".")
    modules = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    paths = (f"{module}.{cls.__name__}" for module in modules)
    return next((path for path in paths if _class_at(path) is cls), cls.__qualname__)


def _wrong_class(named: str, hint: Any) -> str:
    """Say what is wrong with a class path, and which ones are right.

    A class that has moved keeps its name, so its new path is the nearest one.
    """
    known = choices(hint)
    families = [c.__name__ for c in _families(hint)]
    name = named.rpartition(".")[2]
    if inspect.isabstract(_class_at(named)):
        wrong = "is abstract"
    elif name.isidentifier() and _import(named) is None:
        wrong = "cannot be imported"
    else:
        family = " or ".join(dict.fromkeys(families))
        wrong = f"is not {'an' if family.startswith(tuple('AEIOU')) else 'a'} {family}"
    # the name of an abstract family is not a misspelling of a member
    suggest = name in known or name not in families
    if suggest and (close := _closest(name, known)):
        return f"{named} {wrong}; did you mean {_public_path(known[close])}?"
    paths = [_public_path(c) for c in known.values()]
    return f"{named} {wrong}; there are {', '.join(paths[:8])}"


def _unknown(parser: ArgumentParser, name: str, elsewhere: Mapping[str, str]) -> str:
    if instead := elsewhere.get(name.rpartition(".")[2]):
        return f"unknown key {name}; here it is {instead}"
    if name in elsewhere:
        instead = elsewhere[name]
        return f"{name} follows from the run; " + (f"use {instead}" if instead else "leave it out")
    keys = parser.get_defaults(skip_validation=True).keys()
    known = [*keys, *(key for key in elsewhere if "." in key)]
    group, _, leaf = name.rpartition(".")
    by_leaf = {key.rpartition(".")[2]: key for key in reversed(known)}
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    for names in (siblings, by_leaf):
        abbreviated = [known for known in names if known.startswith(leaf)]
        if close := next(iter(abbreviated), None) or _closest(leaf, names):
            key = names[close]
            return f"unknown key {name}; did you mean {elsewhere.get(key) or key}?"
    return f"unknown key {name}; --help lists all"


def _unknown_argument(key: str, owner: str, name: str) -> str:
    known = parameters(_class_at(owner))
    head = name.partition(".")[0]
    if close := nearest(name, known):
        return f"{key}: {owner} has no argument {name}{close}"
    if get_close_matches(head, ("class_path", "init_args")):
        return f"{key} must have only class_path and, under init_args, its arguments; got {head}"
    return f"{key}: {owner} has no argument {name}; it has {', '.join(known)}"


def _wrong_type(key: str, types: Sequence[str], value: str, hint: Any) -> str:
    expected = re.sub(r"<class '([\w.]+)'>", r"\1", " or ".join(types))
    expected = re.sub(r"typing\.Literal\[(.+?)\]", r"one of \1", expected)
    expected = expected.replace("collections.abc.Sequence", "list")
    if expected in ("list", "dict") and hint is not None:
        return f"{key} must be a {expected}, got {value}; write {_form(hint, value)}"
    close = nearest(value, re.findall(r"'(.+?)'", expected))
    return f"{key} must be {expected}, got {value}{close}"


def _form(hint: Any, value: str) -> str:
    """Return how `value` is written where the type is `hint`: `[{path: value}]`."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        return _form(next(inner for inner in arguments if inner is not NoneType), value)
    if kind in (list, tuple, abc.Sequence):
        return value if value.startswith("[") else f"[{_form(arguments[0], value)}]"
    if value.startswith("{"):
        return value
    if kind is dict:
        return f"{{NAME: {_form(arguments[1], value)}}}"
    if is_dataclass(hint):
        return f"{{{fields(hint)[0].name}: {value}}}"
    is_class = isinstance(hint, type) and hint.__module__ != "builtins"
    return f"{{class_path: {value}}}" if is_class else value
