"""Hook of MkDocs: the tables of configuration.md, made from the real parsers."""

import html
import inspect
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from jsonargparse import ArgumentParser

from vlm_rl import evaluate, fit, study
from vlm_rl.errors import choices, hint_of
from vlm_rl.objectives import Regularizer, TokenWeight
from vlm_rl.rewards import RewardTerm

MARK = re.compile(r"<!-- made: (\w+) -->")
FAMILIES = (
    "policy.lora",
    "data.train",
    "engine",
    "advantage",
    "objective",
    "kl_in_reward",
    "dynamic_sampling",
    "benchmarks",
)
HIDDEN = "==SUPPRESS=="


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace each mark of a page with what it names."""
    return MARK.sub(lambda mark: "\n".join(MAKERS[mark[1]]()), markdown)


def keys(parser: ArgumentParser) -> list[Any]:
    """Return the parser's options that stand for a value."""
    hidden = ("help", "print_config")
    options = [a for a in parser._actions if a.dest not in hidden and a.option_strings]
    return [a for a in options if not a.dest.endswith(".help") and a.dest not in groups(parser)]


def groups(parser: ArgumentParser) -> dict[str, Any]:
    """Return the class behind each group of keys."""
    found = {}
    for action in parser._actions:
        if type(action).__name__ == "_ActionConfigLoad":
            found[action.dest] = getattr(action, "basetype", None)
    return found


def _tables(parser: ArgumentParser) -> Iterator[str]:
    owners = groups(parser) | {"policy": fit.Policy.from_pretrained}
    by_group: dict[str, list[Any]] = {}
    for action in keys(parser):
        by_group.setdefault(action.dest.partition(".")[0], []).append(action)
    alone = [actions[0] for actions in by_group.values() if len(actions) == 1]
    yield from _table(alone, parser)
    for group, actions in by_group.items():
        if len(actions) > 1:
            yield f"\n### `{group}`\n"
            if group != "trainer":
                yield _text(owners.get(group))
            yield from _table(actions, parser)


def _all(parser: ArgumentParser) -> Iterator[str]:
    return _table(keys(parser), parser)


def _table(actions: Iterable[Any], parser: ArgumentParser) -> Iterator[str]:
    yield "\n| key | type | default | |\n| --- | --- | --- | --- |"
    for action in actions:
        needed = action.required or action.dest in parser._extra_required_keys
        hint = getattr(action, "_typehint", None) or action.type
        # jsonargparse lets a required class be absent until the end of parsing
        kind = _type(hint).replace(" &#124; None", "") if needed else _type(hint)
        default = "required" if needed else _default(action.default)
        yield f"| `{action.dest}` | {kind} | {default} | {_help(action.help)} |"
    yield ""


def _type(hint: Any) -> str:
    if hint is None:
        return "text"
    name = hint.__name__ if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    name = re.sub(r"typing\.Optional\[(.+)\]$", r"\1 | None", name)
    name = re.sub(r"(?:\w+\.)+(\w+)", r"\1", name)  # names without their modules
    name = re.sub(r"Literal\[(.+?)\]", lambda found: found[1].replace(", ", " | "), name)
    return f"<code>{html.escape(name, quote=False).replace('|', '&#124;')}</code>"


def _default(value: Any) -> str:
    if isinstance(value, dict) and "class_path" in value:
        value = value["class_path"]
    return "" if value == HIDDEN else f"`{json.dumps(value, default=str).strip(chr(34))}`"


def _help(text: str | None) -> str:
    if not text or text == HIDDEN or "class_path" in text:
        return ""
    first = " ".join(text.split("\nDefault:")[0].split())
    return re.split(r"(?<=[a-z\)])\. ", first)[0].replace("|", "\\|").replace("``", "`")


def _text(owner: Any) -> str:
    return f"{inspect.getdoc(owner) or ''}\n" if owner is not None else ""


def _classes(known: Iterable[type]) -> Iterator[str]:
    for cls in known:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls, None, as_group=False, fail_untyped=False)
        yield f"\n#### {cls.__name__}\n\n{_text(cls)}"
        arguments = keys(parser)
        yield from _table(arguments, parser) if arguments else ["It has no arguments.\n"]


def _families() -> Iterator[str]:
    parser = fit.build_parser()
    for key in FAMILIES:
        known = choices(hint_of(parser, key))
        yield f"\n### Classes for `{key}`\n"
        yield from _classes(known.values())
    parts = {
        "reward.terms": RewardTerm,
        "objective.init_args.regularizers": Regularizer,
        "objective.init_args.token_weights": TokenWeight,
    }
    for key, family in parts.items():
        yield f"\n### Classes for `{key}`\n"
        yield from _classes(choices(family).values())


MAKERS = {
    "fit": lambda: _tables(fit.build_parser()),
    "families": _families,
    "evaluate": lambda: _all(evaluate.build_parser()),
    "study": lambda: _all(study.build_parser()),
}
