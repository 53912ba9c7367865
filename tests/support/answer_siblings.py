"""Siblings of an answer: equivalents that must be accepted, near misses that must be refused.

A sibling is a spelling of its gold's value, or of another value, dressed in up to three ways that
keep its value: other characters, spaces, braces, a name, a unit, dollars, a label, a full stop. A
near miss may also be a right spelling made wrong by what stands beside it.
"""

# ruff: noqa: RUF001 - the characters that look like ASCII are meant

import random
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.support.answer_bases import bases
from tests.support.answer_numbers import Base, Core
from vlm_rl.verification.gold import Gold


class Pair(NamedTuple):
    """An answer to a gold, whether it is right, and what was done."""

    kind: str
    gold: Gold
    answer: str
    right: bool
    moves: tuple[str, ...]


UNICODE = [
    (r"-(?=[^}]*)", "−"),
    (r"\\pi(?![a-z]) ?", "π"),
    (r"\\sqrt\{(\d)\}", r"√\1"),
    (r"\^(?:2(?!\d)|\{2\})", "²"),
    (r"\^(?:3(?!\d)|\{3\})", "³"),
    (r"\\leq?(?![a-z]) ?", "≤"),
    (r"\\geq?(?![a-z]) ?", "≥"),
    (r"\\cup(?![a-z])", "∪"),
    (r"\\infty(?![a-z])", "∞"),
    (r"\^\\circ(?![a-zA-Z])|\^\{\\circ\}", "°"),
    (r"\\times(?![a-z]) ?", "×"),
    (r"\\cdot(?![a-z]) ?", "·"),
    (r"\\pm(?![a-z]) ?", "±"),
    (r"\\in(?![a-z]) ?", "∈"),
    (r"\\alpha(?![a-z]) ?", "α"),
    (r"\\theta(?![a-z]) ?", "θ"),
    (r"\\angle(?![a-z]) ?", "∠"),
]
LABELS = ("答案是", "答案：", "答案为", "Answer: ", "The answer is ", "答案:", r"\text{Answer: }")
FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
FULL_WIDTH_MARKS = str.maketrans("(),", "（），")
COMMANDS = re.compile(
    r"\\(?:text|mathrm|textbf)\{[^{}]*\}|\\[A-Za-z]+|\{array\}\{c+\}|\{[a-z]*matrix\}|\{cases\}"
)
PLAIN_WORDS = re.compile(
    r"[A-Za-z]{4,}|\b(?:or|and|to|is|the|red|two)\b|\*\*|sqrt|\d[eE][-+\d]|\d \d"
)
FORMATTED = re.compile(r"\\(?:text|mathrm|begin)\b|[A-Za-z]{2,}|[\u3400-\u9fff]")


def has_plain_words(text: str) -> bool:
    """Return whether words or code stand outside text commands, so that it is no mathematics."""
    return bool(PLAIN_WORDS.search(COMMANDS.sub("", text)))


def characters(text: str, rng: random.Random) -> str:
    """Write one or all of the signs with their Unicode characters."""
    present = [row for row in UNICODE if re.search(row[0], text)]
    for pattern, sign in present if rng.random() < 0.5 else present[:1]:
        if sign != "−" or not re.search(r"[A-Za-z]-[a-z]", text):
            text = re.sub(pattern, sign, text)
    return text


def full_width(text: str, rng: random.Random) -> str:
    """Write the digits, or the brackets and commas, as full-width characters."""
    if "\\" in text or "^" in text or re.search(r"\d,\d{3}|[A-Za-z]{2}", text):
        return text
    return text.translate(rng.choice([FULL_WIDTH, FULL_WIDTH_MARKS]))


def sized(text: str, rng: random.Random) -> str:
    """Put \\left and \\right before brackets."""
    plain = re.sub(r"\\(?!text|mathrm|begin)[a-z]+", "", text)
    if FORMATTED.search(plain) or re.search(r"[|]|sqrt\[|\\left", text):
        return text
    if len(re.findall(r"[(\[]", text)) != len(re.findall(r"[)\]]", text)):
        return text
    return re.sub(r"(\\\}|[)\]])", r"\\right\1", re.sub(r"(\\\{|[(\[])", r"\\left\1", text))


def spaced(text: str, rng: random.Random) -> str:
    """Put spaces around relations and signs."""
    if re.search(r"[A-Za-z]{2}-|\\text|\\begin|\d[eE][+-]", text):
        return text
    space = rng.choice([" ", r"\,", r"\;", "~", r"\ ", "\u2009"])
    return re.sub(r"(?<=[\w})\]])([+\-=<>])(?=[\w\\(])", lambda sign: space + sign[1] + space, text)


def enclosed(text: str, rng: random.Random) -> str:
    """Set it in bold, in braces, or in a text command if it is a plain number."""
    if re.search(r"[\u3400-\u9fff]|\\begin|\\text\{ ?(or|and)", text):
        return text
    if re.search(r"[,，;]", text) and text[0] not in "([":
        return text
    forms = [r"\boldsymbol{%s}", r"\mathbf{%s}", "{%s}", r"\displaystyle %s", r"{{%s}}"]
    if re.fullmatch(r"\d+(\.\d+)?", text):
        forms += [r"\text{%s}", r"\mathrm{%s}"]
    return rng.choice(forms).replace("%s", text)


def in_mathematics(text: str, rng: random.Random) -> str:
    """Put dollars or \\( \\) around it."""
    if re.search(r"[$选【]", text):
        return text
    return rng.choice(["$%s$", r"\(%s\)", "$$%s$$", r"\[%s\]", "$ %s $"]).replace("%s", text)


def labelled(text: str, rng: random.Random) -> str:
    """Put a label before it."""
    if "is correct" in text:
        return text
    return (
        rng.choice(LABELS[:-1] if "$" in text or "\\[" in text or "\\(" in text else LABELS) + text
    )


def stopped(text: str, rng: random.Random) -> str:
    """End it with a full stop."""
    return text if text.endswith((".", "。")) else text + rng.choice([".", "。"])


def name_before(base: Base, core: Core, text: str, rng: random.Random) -> str:
    """Put a name before it."""
    if not base.names or "=" in text or re.match("[A-Za-z+]", core.text):
        return text
    return rng.choice(base.names) + text


def unit_behind(base: Base, core: Core, text: str, rng: random.Random) -> str:
    """Put a unit behind a bare value."""
    return text + rng.choice(base.tails) if base.tails and core.bare else text


MATHEMATICS = (characters, full_width, sized, spaced, enclosed)


def dress(base: Base, core: Core, rng: random.Random, most: int = 3) -> tuple[str, list[str]]:
    """Return the spelling dressed in up to `most` ways, and what was done, inside out."""
    formal = not has_plain_words(core.text)
    stages = [
        *(MATHEMATICS if formal and not base.words else ()),
        in_mathematics,
        labelled,
        stopped,
    ]
    wanted = rng.sample(range(len(stages) + 2), rng.randint(0, most))
    text, moves = core.text, [core.move]
    for index, stage in enumerate(stages):
        if stage is in_mathematics and formal:
            for extra, change in enumerate((unit_behind, name_before)):
                if len(stages) + extra in wanted:
                    text = _note(change(base, core, text, rng), text, change.__name__, moves)
        if index in wanted and (stage is not in_mathematics or not has_plain_words(text)):
            text = _note(stage(text, rng), text, stage.__name__, moves)
    return text, moves


def _note(after: str, before: str, move: str, moves: list[str]) -> str:
    if after != before:
        moves.append(move)
    return after


def injured(base: Base, core: Core, injury: str, rng: random.Random) -> str | None:
    """Return a right spelling made wrong, or None if this injury does not suit it."""
    text = core.text
    if injury == "not":
        return rng.choice([rf"\text{{not }} {text}", f"不是{text}", f"not {text}"])
    if injury == "taken back":
        return text + rng.choice([r"\text{ is wrong}", r" \text{ (incorrect)}", " is wrong"])
    if injury in ("alternative", "second value"):
        if "=" in text and "=" not in base.gold.answer:
            return None
        second = rng.choice(base.other).text
        marks = [r" \text{ or } ", "或", " or "]
        marks = marks if injury == "alternative" else [", ", r"\text{ and }", "; "]
        return text + rng.choice(marks) + second
    if not core.bare and core.move not in ("as written", "order of terms and factors"):
        return None
    if injury == "tiny":
        return rf"{text} + 2^{{-90}}"
    if injury == "multiplier":
        words = [r"\text{ %s}", r" \text{ %s}", " %s"]
        word = rng.choice(["million", "dozen", "thirds", "squared", "thousand", "hundred"])
        return text + rng.choice([rng.choice(words) % word, "万", "千", "亿"])
    return text + rng.choice("tandxc")


def sibling(base: Base, rng: random.Random, right: bool) -> Pair:
    """Return one dressed equivalent or near miss."""
    if right or not base.injuries or rng.random() < 0.65:
        core = rng.choice(base.same if right else base.other)
        text, moves = dress(base, core, rng)
        return Pair(base.kind, base.gold, text, right, tuple(moves))
    text = None
    while text is None:
        core, injury = rng.choice(base.same), rng.choice(base.injuries)
        text = injured(base, core, injury, rng)
    wrap = rng.random() < 0.3 and not base.words and not has_plain_words(text)
    wrapped = in_mathematics(text, rng) if wrap else text
    return Pair(base.kind, base.gold, wrapped, False, (core.move, injury))


def siblings(count: int, seed: int) -> Iterator[Pair]:
    """Yield `count` different pairs, every gold in turn, half of them equivalents."""
    rng, seen = random.Random(seed), set()
    golds = bases(seed)
    turn = 0
    while len(seen) < count:
        base = golds[turn % len(golds)]
        pair = sibling(base, rng, right=turn // len(golds) % 2 == 0)
        turn += 1
        if (pair.gold, pair.answer) not in seen:
            seen.add((pair.gold, pair.answer))
            yield pair
