"""What jsonargparse says about a configuration, as one line with the nearest right name.

Its messages are outlines: the key, inside it the class, inside that its argument, and at the end
the reason, in between what the other types of a union have to say. `explain` reads along.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, get_args, get_type_hints

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
    r"Expected a dot import path string: (.+)|Import path (.+) does not correspond|"
    r"Expected an instantiatable class, but (.+) is abstract"
)
_TYPE = re.compile(r"Expected an? (.+?)(?:\. Got value: (.*))?$")
_RULE = re.compile(r"Not of type \w+: (.+) does not conform to restriction v([<>=!]+)(.+)")


def explain(message: str, parser: ArgumentParser, elsewhere: Mapping[str, str]) -> str:
    """One line for jsonargparse's `message`: the key, the value, the rule and the way out."""
    keys, owner, value, reasons = [], "", "", []
    hint: Any = None
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if found := _KEY.match(line):
            hint = _hint(parser, owner, found[1])
            keys.append(found[1])
            line = line[found.end() :]
        if found := _CLASS.match(line):
            owner = found[1]
        elif line.startswith("Given value: "):
            value = value or line.removeprefix("Given value: ")
        elif not _NOISE.match(line):
            reasons.append(line)
    key, reason = ".".join(keys), reasons[0]
    if found := _UNKNOWN.match(reason):
        name = ".".join(part for part in found.groups() if part)
        return _unknown_argument(key, owner, name) if owner else _unknown(parser, name, elsewhere)
    if found := _MISSING.match(reason):
        return f"{key}: {owner} needs {found[1]}" if owner else f"{found[1]}: required, but not set"
    if found := _NO_CLASS.match(reason):
        named = next(filter(None, found.groups()), owner or value)
        relation = "is abstract, so no" if found[3] else "is no"
        cause = f" ({reason})" if reason.startswith("No module") else ""
        return f"{key}: {named} {relation} {_known_classes(named, hint)}{cause}"
    if found := _RULE.match(reason):
        return f"{key} must be {found[2]} {found[3]}, got {found[1]}"
    if types := [found for found in map(_TYPE.match, reasons) if found]:
        return _wrong_type(key, [found[1] for found in types], types[0][2] or value)
    if reason.startswith("unrecognized"):
        return f"{reason}; options are written --key value"
    return joined(message)


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message: "; did you mean ...?", or nothing."""
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def joined(text: str) -> str:
    return " ".join(text.split())


def choices(hint: Any) -> dict[str, type]:
    """Public classes that can stand where `hint` is the type, by their own name."""
    known = [c for family in _families(hint) for c in (family, *_subclasses(family))]
    public = [c for c in known if not (inspect.isabstract(c) or c.__name__.startswith("_"))]
    return {c.__name__: c for c in public}


def hint_of(parser: ArgumentParser, key: str) -> Any:
    """The type of a key of `parser`; None where there is no such key."""
    return next((getattr(a, "_typehint", None) for a in parser._actions if a.dest == key), None)


def parameters(owner: object) -> list[str]:
    """Names of the arguments of a class, none of what is no class."""
    return list(inspect.signature(owner).parameters) if isinstance(owner, type) else []


def _families(hint: Any) -> list[type]:
    """The classes in a type, as in `Sequence[Regularizer]`."""
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
    found = _class_at(owner)
    return get_type_hints(found.__init__).get(key) if found else None  # type: ignore[misc]


def _class_at(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None


def _public_path(found: type) -> str:
    """The package that exports a class, rather than the file that defines it."""
    package = found.__module__.rpartition(".")[0]
    exported = _class_at(f"{package}.{found.__name__}") is found
    return f"{package if exported else found.__module__}.{found.__name__}"


def _known_classes(named: str, hint: Any) -> str:
    known = choices(hint)
    families = list(dict.fromkeys(c.__name__ for c in _families(hint)))
    family, name = " or ".join(families), named.rpartition(".")[2]
    # the name of an abstract family is no misspelling of a member
    suggest = name in known or name not in families
    if suggest and (close := get_close_matches(name, known, n=1)):
        return f"{family}; did you mean {_public_path(known[close[0]])}?"
    paths = [_public_path(c) for c in known.values()]
    return f"{family}; there are {', '.join(paths[:8])}"


def _unknown(parser: ArgumentParser, name: str, elsewhere: Mapping[str, str]) -> str:
    if name in elsewhere:
        instead = elsewhere[name]
        return f"{name} follows from the run; " + (f"use {instead}" if instead else "leave it out")
    known = [*parser.get_defaults(skip_validation=True).keys(), *elsewhere]
    group, _, leaf = name.rpartition(".")
    by_leaf = {key.rpartition(".")[2]: key for key in reversed(known)}
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == group}
    for names in (siblings, by_leaf):
        abbreviated = [known for known in names if known.startswith(leaf)]
        if close := abbreviated or get_close_matches(leaf, names, n=1):
            key = names[close[0]]
            return f"unknown key {name}; did you mean {elsewhere.get(key) or key}?"
    return f"unknown key {name}; --help lists all"


def _unknown_argument(key: str, owner: str, name: str) -> str:
    known = parameters(_class_at(owner))
    form = ("class_path", "init_args")
    head = name.partition(".")[0]
    if close := nearest(name, known):
        return f"{key}: {owner} has no argument {name}{close}"
    if get_close_matches(head, form):
        return f"{key} takes class_path and, under init_args, its arguments alone; found {head}"
    return f"{key}: {owner} has no argument {name}; it has {', '.join(known)}"


def _wrong_type(key: str, types: Sequence[str], value: str) -> str:
    wanted = re.sub(r"<class '([\w.]+)'>", r"\1", " or ".join(types))
    wanted = re.sub(r"typing\.Literal\[(.+?)\]", r"one of \1", wanted)
    close = nearest(value, re.findall(r"'(.+?)'", wanted))
    return f"{key} must be {wanted}, got {value}{close}"
