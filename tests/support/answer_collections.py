"""Intervals, sets, tuples, lists, ratios and matrices as answers, spelled in many ways."""

# ruff: noqa: RUF001 - the characters that look like ASCII are meant

import itertools
import random
import re
from fractions import Fraction

from tests.support.answer_formulas import COMMON_INJURIES
from tests.support.answer_numbers import Base, Core, number_cores, other_values, plain_text
from vlm_rl.verification.gold import Gold

Part = tuple[Fraction | str | None, bool, Fraction | str | None, bool]
"""An interval: lower end, whether closed, upper end, whether closed. None is infinite."""

LESS = {"<": ("<",), "<=": (r"\le ", r"\leq ", r"\leqslant ", "≤")}
MORE = {"<": (">",), "<=": (r"\ge ", r"\geq ", r"\geqslant ", "≥")}


def _end(value: Fraction | str) -> str:
    return value if isinstance(value, str) else plain_text(value)


def spell_interval(part: Part, rng: random.Random) -> str:
    low, closed_low, high, closed_high = part
    left = r"(-\infty" if low is None else f"{'[' if closed_low else '('}{_end(low)}"
    infinite = rng.choice([r"\infty", r"+\infty"])
    right = f"{infinite})" if high is None else f"{_end(high)}{']' if closed_high else ')'}"
    return f"{left},{rng.choice(['', ' '])}{right}"


def spell_inequality(part: Part, variable: str, rng: random.Random) -> str:
    low, closed_low, high, closed_high = part
    below, above = "<=" if closed_low else "<", "<=" if closed_high else "<"
    forms = []
    if low is not None and high is not None:
        forms.append(
            f"{_end(low)}{rng.choice(LESS[below])}{variable}{rng.choice(LESS[above])}{_end(high)}"
        )
        forms.append(
            f"{_end(high)}{rng.choice(MORE[above])}{variable}{rng.choice(MORE[below])}{_end(low)}"
        )
    elif low is not None:
        forms.append(f"{variable}{rng.choice(MORE[below])}{_end(low)}")
        forms.append(f"{_end(low)}{rng.choice(LESS[below])}{variable}")
    else:
        forms.append(f"{variable}{rng.choice(LESS[above])}{_end(high)}")
        forms.append(f"{_end(high)}{rng.choice(MORE[above])}{variable}")
    return rng.choice(forms)


def spell_union(parts: list[Part], variable: str, rng: random.Random) -> list[Core]:
    """Return an interval, an inequality and a set builder, and names before them."""
    parts = rng.sample(parts, len(parts))
    interval = rng.choice([r"\cup", r" \cup "]).join(spell_interval(part, rng) for part in parts)
    either = rng.choice([r" \text{ or } ", r"\text{ or }", "或"])
    inequality = either.join(spell_inequality(part, variable, rng) for part in parts)
    mark = rng.choice([r"\mid ", " : ", "|", r" \mid "])
    builder = either if either != "或" else r"\text{ or }"
    inside = builder.join(spell_inequality(part, variable, rng) for part in parts)
    cores = [
        Core("interval", interval),
        Core("inequality", inequality),
        Core("set builder", rf"\{{{variable}{mark}{inside}\}}"),
        Core("member of", rf"{variable}\in {interval}"),
    ]
    low, closed_low, high, closed_high = parts[0]
    if len(parts) == 1 and low is not None and high is not None:
        halves = [(low, closed_low, None, False), (None, False, high, closed_high)]
        both = rng.choice([r" \text{ and } ", r"\text{ and }"])
        text = both.join(spell_inequality(half, variable, rng) for half in halves)
        cores.append(Core("two inequalities", text))
    return cores


def other_unions(parts: list[Part]) -> list[tuple[str, list[Part]]]:
    """Return unions with an end opened, closed or moved, or with a part more or less."""
    others = []
    for index, (low, closed_low, high, closed_high) in enumerate(parts):
        rest = parts[:index] + parts[index + 1 :]
        if low is not None:
            moved = f"{low}-7" if isinstance(low, str) else low - Fraction(1, 2)
            others.append(("end turned", [*rest, (low, not closed_low, high, closed_high)]))
            others.append(("end moved", [*rest, (moved, closed_low, high, closed_high)]))
        if high is not None:
            moved = f"{high}+7" if isinstance(high, str) else high + Fraction(1, 2)
            others.append(("end turned", [*rest, (low, closed_low, high, not closed_high)]))
            others.append(("end moved", [*rest, (low, closed_low, moved, closed_high)]))
        if rest:
            others.append(("part dropped", rest))
        elif low is None or high is None:
            others.append(("direction", [(high, closed_high, low, closed_low)]))
        else:
            others.append(("end dropped", [(None, False, high, closed_high)]))
            others.append(("end dropped", [(low, closed_low, None, False)]))
    if all(part[2] is not None for part in parts):
        others.append(("part added", [*parts, (Fraction(100), False, Fraction(101), False)]))
    return others


def interval(ends: str, rng: random.Random, form: str = "interval", variable: str = "x") -> Base:
    """Return an interval or a union written as `[1,2) U (3,inf)`; `form` is that of the gold."""
    parts: list[Part] = []
    for part in ends.split(" U "):
        low, high = part[1:-1].split(",")
        parts.append((_bound(low), part[0] == "[", _bound(high), part[-1] == "]"))
    same = [core for _ in range(12) for core in spell_union(parts, variable, rng)]
    other = []
    for move, union in other_unions(parts):
        for core in spell_union(union, variable, rng):
            other.append(Core(f"{move}, as {core.move}", core.text))
    for low, _, high, _ in parts:
        other += [Core("an end alone", _end(end)) for end in (low, high) if end is not None]
    if len(parts) > 1:
        text = r" \text{ and } ".join(spell_inequality(part, variable, rng) for part in parts)
        other.append(Core("and for or", text))
    canon = r"\cup".join(spell_interval(part, random.Random(0)) for part in parts)
    golden = canon
    if form == "inequality":
        golden = r" \text{ or } ".join(_textbook(part, variable) for part in parts)
    gold = Gold(golden, "interval" if form == "interval" else "latex")
    injuries = ("not", "taken back")
    return Base(f"interval: {form}", gold, tuple(same), tuple(other), (), (), injuries)


def _textbook(part: Part, variable: str) -> str:
    low, closed_low, high, closed_high = part
    if high is None:
        return variable + (r" \geq " if closed_low else ">") + _end(low or Fraction(0))
    less = {True: r" \leq ", False: "<"}
    left = "" if low is None else _end(low) + less[closed_low]
    return left + variable + less[closed_high] + _end(high)


def _bound(text: str) -> Fraction | str | None:
    if text.strip("+-") == "inf":
        return None
    return Fraction(text) if re.fullmatch(r"-?\d+(/\d+)?", text) else text


def spell_members(members: list[Fraction | str], rng: random.Random) -> list[Core]:
    """Return the members of a set in any order: in braces, as a list, and named."""
    texts = [
        m
        if isinstance(m, str)
        else rng.choice([plain_text(m), plain_text(m), number_cores(m)[0].text])
        for m in rng.sample(members, len(members))
    ]
    comma = rng.choice([",", ", ", r",\ "])
    cores = [
        Core("braces", rf"\{{{comma.join(texts)}\}}"),
        Core("list", comma.join(texts)),
        Core(
            "named by index", comma.join(f"x_{i + 1}={t}" for i, t in enumerate(texts)), pure=False
        ),
        Core(
            "named",
            rng.choice([", ", r" \text{ or } ", "或"]).join(f"x={t}" for t in texts),
            pure=False,
        ),
        Core("Chinese comma", "、".join(texts)),
    ]
    if len(texts) == 2:
        word = rng.choice(
            [r" \text{ or } ", r" \text{ and } ", "或", r"\text{ or }", " or ", " and "]
        )
        cores.append(Core("conjunction", word.join(texts)))
    return cores


def collection(
    gold: str,
    members: list[Fraction | str],
    rng: random.Random,
    answer_type: str = "set",
    also: str = "",
    wrong: str = "",
) -> Base:
    """Return a set; `also` and `wrong` have further forms, separated by `;`."""
    same = [core for _ in range(8) for core in spell_members(members, rng)]
    same += [Core("plus and minus", text) for text in also.split(";") if text]
    sets = [("member dropped", members[:i] + members[i + 1 :]) for i in range(len(members))]
    sets.append(("member added", [*members, Fraction(77)]))
    for index, member in enumerate(members):
        rest = members[:index] + members[index + 1 :]
        if isinstance(member, Fraction):
            sets.append(("member changed", [*rest, member + Fraction(1, 2)]))
            if -member not in members:
                sets.append(("sign", [*rest, -member]))
    other = [
        Core(move, core.text)
        for move, changed in sets
        if changed
        for core in spell_members(changed, rng)
    ]
    other += [Core("as written", text) for text in wrong.split(";") if text]
    kind = "plus and minus" if also else "set"
    injuries = ("not", "taken back")
    return Base(kind, Gold(gold, answer_type), tuple(same), tuple(other), (), (), injuries)


def point(members: list[Fraction | str], rng: random.Random, answer_type: str = "tuple") -> Base:
    """Return a tuple."""

    def spell(values: list[Fraction | str]) -> str:
        texts = [
            v if isinstance(v, str) else rng.choice([c for c in number_cores(v) if c.bare]).text
            for v in values
        ]
        comma = rng.choice([",", ", ", r",\,"])
        return f"({comma.join(texts)})"

    plain = [_end(member) for member in members]
    same = [Core("tuple", f"({','.join(plain)})")]
    same += [Core("spelled members", text) for text in sorted({spell(members) for _ in range(20)})]
    others: list[tuple[str, list[Fraction | str]]] = []
    if len(set(plain)) > 1:
        others.append(("members swapped", members[1:] + members[:1]))
    for index, member in enumerate(members):
        if isinstance(member, Fraction):
            for move, near in other_values(member).items():
                others.append((move, [*members[:index], near, *members[index + 1 :]]))
        others.append(("member dropped", members[:index] + members[index + 1 :]))
    others.append(("member added", [*members, Fraction(1)]))
    other = [Core(move, f"({','.join(map(_end, values))})") for move, values in others]
    names = ("A", "P=", "A'", "P = ", r"\text{Point }", "M", "点A")
    gold = Gold(f"({','.join(plain)})", answer_type)
    return Base("tuple", gold, tuple(same), tuple(other), names, (), COMMON_INJURIES)


def listing(members: list[int]) -> Base:
    """Return a list, whose order counts."""
    forms = ("[%s]", "%s")
    spell = [form % mark.join(map(str, members)) for form in forms for mark in (",", ", ", r",\ ")]
    changed = [
        ("order", members[::-1]),
        ("member dropped", members[:-1]),
        ("member dropped", members[1:]),
        ("member added", [*members, 9]),
        ("member changed", [members[0] + 1, *members[1:]]),
    ]
    other = [Core(move, form % ", ".join(map(str, m))) for move, m in changed for form in forms]
    gold = Gold(f"[{', '.join(map(str, members))}]", "list")
    same = tuple(Core("list", text) for text in spell)
    return Base("list", gold, same, tuple(other), injuries=("not", "taken back"))


def ratio(members: list[int]) -> Base:
    """Return a ratio of two or more whole numbers."""

    def spell(values: list[int]) -> list[Core]:
        cores = [
            Core("ratio", mark.join(map(str, values)))
            for mark in (":", " : ", "：", "∶", r"\colon ")
        ]
        for k in (2, 5):
            cores.append(Core("scaled", ":".join(str(k * v) for v in values)))
        if len(values) == 2:
            a, b = values
            forms = (rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}", f"{a} to {b}", rf"{a}\text{{ to }}{b}")
            cores += [Core("quotient", text, pure=False) for text in forms]
        return cores

    changed = {"reversed": members[::-1], "member added": [*members, 1]}
    for index, member in enumerate(members):
        changed[f"member {index}"] = [*members[:index], member + 1, *members[index + 1 :]]
    if len(members) == 3:
        changed["exchanged"] = [members[1], members[0], members[2]]
    other = [
        Core(move, core.text)
        for move, values in changed.items()
        if values != members
        for core in spell(values)
    ]
    names = ("AB:BC=",) if len(members) == 2 else ("a:b:c=",)
    gold = Gold(":".join(map(str, members)), "ratio")
    return Base("ratio", gold, tuple(spell(members)), tuple(other), names, (), COMMON_INJURIES)


def matrix(rows: list[list[int]]) -> Base:
    """Return a matrix."""

    def spell(values: list[list[int]]) -> list[str]:
        body = r"\\".join("&".join(map(str, row)) for row in values)
        spaced = r" \\ ".join(" & ".join(map(str, row)) for row in values)
        columns = "c" * len(values[0])
        return [
            rf"\begin{{pmatrix}}{body}\end{{pmatrix}}",
            rf"\begin{{bmatrix}} {spaced} \end{{bmatrix}}",
            rf"\begin{{bmatrix}}{body}\\\end{{bmatrix}}",
            rf"\left[\begin{{array}}{{{columns}}}{body}\end{{array}}\right]",
            rf"\left(\begin{{array}}{{{columns}}}{spaced}\end{{array}}\right)",
        ]

    changed = {"transposed": [list(row) for row in zip(*rows, strict=True)], "rows": rows[::-1]}
    for i, j in itertools.product(range(len(rows)), range(len(rows[0]))):
        copy = [list(row) for row in rows]
        copy[i][j] += 1
        changed[f"entry {i}{j}"] = copy
    other = [Core(m, text) for m, v in changed.items() if v != rows for text in spell(v)]
    same = tuple(Core("matrix", text) for text in spell(rows))
    gold = Gold(spell(rows)[0], "matrix")
    return Base("matrix", gold, same, tuple(other), injuries=("not", "taken back"))
