"""Numbers and quantities as answers: spellings of the same value, and values that are not the same.

Values are exact fractions, so whether two of them are equal is never in doubt. Roundings are left
out: whether they are right is a matter of the problem.
"""

# ruff: noqa: RUF001 - the characters that look like ASCII are meant

import random
from dataclasses import dataclass
from fractions import Fraction

from vlm_rl.verification.gold import Gold


@dataclass(frozen=True)
class Core:
    """One spelling of a value, before it is dressed.

    `bare` means that nothing but the value is there: no unit, word, name or sum. `pure` means that
    it says all that the gold says and no more, so that it may be a gold itself.
    """

    move: str
    text: str
    bare: bool = False
    pure: bool = True


@dataclass(frozen=True)
class Base:
    """A gold, spellings of its value and of other values, and what may be done to them.

    `names` may stand before a value, `tails` are units behind a bare one, `injuries` make any
    spelling wrong. `words` are not set in mathematics.
    """

    kind: str
    gold: Gold
    same: tuple[Core, ...]
    other: tuple[Core, ...]
    names: tuple[str, ...] = ()
    tails: tuple[str, ...] = ()
    injuries: tuple[str, ...] = ()
    words: bool = False


HALVES = {"1/2": "½", "1/4": "¼", "3/4": "¾", "1/3": "⅓"}
NUMBER_WORDS = {2: "two", 3: "three", 5: "five", 7: "seven", 12: "twelve", 21: "twenty-one"}
NUMBER_NAMES = ("x=", "n = ", "AB=", r"\text{Area}=", "S=", "|AB|=", r"\overline{AB} = ")
NUMBER_TAILS = (
    r"\text{ cm}",
    r"\ \mathrm{kg}",
    r"\text{ cm}^2",
    " cm^2",
    r"^\circ",
    "°",
    "厘米",
    "元",
    "个",
    r"\text{ units}",
    r"\text{ apples}",
    " apples",
    r"\text{ square units}",
)
VALUE_INJURIES = (
    "not",
    "taken back",
    "alternative",
    "second value",
    "tiny",
    "multiplier",
    "letter",
)


def decimal_text(value: Fraction, places: int = 6) -> str | None:
    """Return the exact decimal expansion, or None if it needs more than `places` places."""
    scaled = value * 10**places
    if scaled.denominator != 1:
        return None
    whole, rest = divmod(abs(scaled.numerator), 10**places)
    digits = f"{rest:0{places}d}".rstrip("0")
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def plain_text(value: Fraction) -> str:
    """Return the decimal expansion if there is one, else a fraction."""
    sign = "-" if value < 0 else ""
    fraction = rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return decimal_text(value) or fraction


def number_cores(value: Fraction) -> list[Core]:
    """Return spellings of `value`, all exact."""
    cores = _integer(value.numerator) if value.denominator == 1 else _fraction(value)
    decimal = decimal_text(value)
    if decimal:
        cores.append(Core("decimal", decimal, bare=True))
        longer = f"{decimal}0" if "." in decimal else f"{decimal}.0"
        cores.append(Core("trailing zero", longer, bare=True))
        if 0 < abs(value) < 1:
            cores.append(Core("leading point", decimal.replace("0.", ".", 1), bare=True))
    return cores


def _integer(n: int) -> list[Core]:
    cores = [
        Core("integer", str(n), bare=True),
        Core("fraction", rf"\frac{{{2 * n}}}{{2}}", bare=True),
        Core("slash", f"{3 * n}/3", bare=True),
        Core("sum", f"{n - 2}+2"),
        Core("chain", f"{n - 3}+3={n}", pure=False),
        Core("parentheses", f"({n})" if n >= 0 else f"-({-n})", bare=True),
    ]
    if n >= 0:
        cores.append(Core("plus sign", f"+{n}", bare=True))
    if 0 < n <= 30:
        cores.append(Core("root", rf"\sqrt{{{n * n}}}", bare=True))
    if n in NUMBER_WORDS:
        cores.append(Core("number word", NUMBER_WORDS[n], pure=False))
    if abs(n) >= 1000:
        groups = f"{n:,}"
        for mark in (",", r"\,", "{,}", "\u2009"):
            cores.append(Core("thousands", groups.replace(",", mark), bare=True))
    if n % 1000 == 0 and n:
        power = len(str(abs(n))) - len(str(abs(n)).rstrip("0"))
        cores.append(Core("scientific", rf"{n // 10**power} \times 10^{{{power}}}", bare=True))
        cores.append(Core("scientific", rf"{n // 10**power}\cdot 10^{power}", bare=True))
    return cores


def _fraction(value: Fraction) -> list[Core]:
    a, b = abs(value.numerator), value.denominator
    sign = "-" if value < 0 else ""
    texts = [
        ("frac", rf"{sign}\frac{{{a}}}{{{b}}}"),
        ("dfrac", rf"{sign}\dfrac{{{a}}}{{{b}}}"),
        ("tfrac", rf"{sign}\tfrac{{{a}}}{{{b}}}"),
        ("slash", f"{sign}{a}/{b}"),
        ("spaced frac", rf"{sign}\frac {{ {a} }} {{ {b} }}"),
        ("expanded", rf"{sign}\frac{{{2 * a}}}{{{2 * b}}}"),
    ]
    if a < 10 and b < 10:
        texts.append(("short frac", rf"{sign}\frac{a}{b}"))
    if sign:
        texts += [
            ("sign inside", rf"\frac{{-{a}}}{{{b}}}"),
            ("sign below", rf"\frac{{{a}}}{{-{b}}}"),
        ]
    if a > b:
        whole, rest = divmod(a, b)
        texts.append(("mixed", rf"{sign}{whole}\frac{{{rest}}}{{{b}}}"))
        texts.append(("mixed", f"{sign}{whole} {rest}/{b}"))
    cores = [Core(move, text, bare=True) for move, text in texts]
    if f"{a}/{b}" in HALVES:
        cores.append(Core("vulgar", sign + HALVES[f"{a}/{b}"], bare=True))
    if b == 3 and a < 3:
        cores.append(Core("repeating", rf"{sign}0.\overline{{{3 * a}}}", bare=True))
    return cores


def other_values(value: Fraction) -> dict[str, Fraction]:
    """Return values near `value` that differ from it, by what was done."""
    a, b = value.numerator, value.denominator
    values = {
        "neighbour": value + 1,
        "neighbour below": value - 1,
        "sign": -value,
        "times 10": 10 * value,
        "a tenth": value / 10,
        "numerator": Fraction(a + 1, b),
        "denominator": Fraction(a, b + 1),
        "last digit": value + Fraction(1, 100),
    }
    if value:
        values["reciprocal"] = 1 / value
    return {move: other for move, other in values.items() if other != value}


def other_numbers(value: Fraction, rng: random.Random) -> list[Core]:
    """Return two spellings of each value near `value`."""
    return [
        Core(move, core.text, bare=core.bare)
        for move, other in other_values(value).items()
        for core in rng.sample(number_cores(other), 2)
    ]


def number(text: str, value: Fraction, rng: random.Random, answer_type: str = "number") -> Base:
    """Return a number without a unit."""
    injuries = VALUE_INJURIES if value else tuple(set(VALUE_INJURIES) - {"multiplier", "letter"})
    if abs(value) == 1:
        injuries = tuple(name for name in injuries if name != "multiplier")
    return Base(
        "integer" if value.denominator == 1 else "fraction",
        Gold(text, answer_type),
        tuple(number_cores(value)),
        tuple(other_numbers(value, rng)),
        NUMBER_NAMES,
        NUMBER_TAILS,
        tuple(sorted(injuries)),
    )


def percent(text: str, value: Fraction, rng: random.Random) -> Base:
    """Return a percentage; `value` is the number before the sign."""
    signs = [r"\%", "%", " %", r"\text{ percent}", "％"]
    same = [
        Core("percent sign", core.text + sign)
        for core in number_cores(value)
        if core.bare
        for sign in rng.sample(signs, 2)
    ]
    same += [Core("fraction of 1", core.text, pure=False) for core in number_cores(value / 100)]
    same += [Core("sign left out", plain_text(value), pure=False)]
    other = [
        Core(move, core.text + rng.choice(signs))
        for move, near in other_values(value).items()
        for core in rng.sample([c for c in number_cores(near) if c.bare], 2)
    ]
    other += [Core("permille", plain_text(value) + "‰")]
    injuries = ("not", "taken back", "alternative", "second value")
    return Base("percent", Gold(text, "percent"), tuple(same), tuple(other), (), (), injuries)


def scientific(mantissa: str, power: int, tail: str = "", answer_type: str = "number") -> Base:
    """Return mantissa * 10^power, whose near misses differ by one part in ten thousand."""
    value = Fraction(mantissa)

    def spell(number: Fraction, exponent: int) -> list[str]:
        text = decimal_text(number, 12) or ""
        return [
            rf"{text}\times 10^{{{exponent}}}",
            rf"{text} \times 10^{{{exponent}}}",
            rf"{text}\cdot 10^{{{exponent}}}",
            f"{text}e{exponent}",
            f"{text}E{exponent:+03d}",
            rf"{decimal_text(number * 10, 12)}\times 10^{{{exponent - 1}}}",
            rf"{decimal_text(number / 10, 12)}\times 10^{{{exponent + 1}}}",
        ]

    same = [Core("scientific", text + tail, bare=not tail) for text in spell(value, power)]
    if tail:
        same += [Core("unit left out", text, True, False) for text in spell(value, power)]
    others = {
        "times 10": (value, power + 1),
        "a tenth": (value, power - 1),
        "sign of the power": (value, -power),
        "sign": (-value, power),
        "neighbour": (value + 1, power),
        "one in 10,000": (value * Fraction(10001, 10000), power),
    }
    other = [
        Core(move, text + tail, bare=not tail)
        for move, (number, exponent) in others.items()
        for text in spell(number, exponent)
    ]
    gold = Gold(rf"{mantissa} \times 10^{{{power}}}{tail}", answer_type)
    injuries = ("not", "taken back", "alternative", "second value", "multiplier", "letter")
    return Base("scientific", gold, tuple(same), tuple(other), ("x=",), (), injuries)


def radical(c: int, n: int, d: int = 1, answer_type: str = "latex") -> Base:
    """Return c * sqrt(n) / d; `n` is not a square."""
    same = [Core("radical", text, bare=True) for text in spell_radical(c, n, d)]
    others = {
        "coefficient": (c + 1 or 1, n, d),
        "radicand": (c, n + 1, d),
        "denominator": (c, n, d + 1),
        "sign": (-c, n, d),
        "times 10": (10 * c, n, d),
    }
    value = Fraction(c * abs(c) * n, d * d)
    other = [
        Core(move, text, bare=True)
        for move, (c2, n2, d2) in others.items()
        if Fraction(c2 * abs(c2) * n2, d2 * d2) != value
        for text in spell_radical(c2, n2, d2)
    ]
    other.append(Core("no root", plain_text(Fraction(c * n, d)), bare=True))
    if c != d:
        other.append(Core("no coefficient", rf"\sqrt{{{n}}}", bare=True))
    gold = Gold(spell_radical(c, n, d)[0], answer_type)
    names, tails = ("x=", "AC = ", "S="), (r"\text{ cm}", r"\ \mathrm{cm}^2", "厘米")
    return Base("radical", gold, tuple(same), tuple(other), names, tails, VALUE_INJURIES)


def spell_radical(c: int, n: int, d: int) -> list[str]:
    """Return spellings of c * sqrt(n) / d, the usual one first."""
    sign, c = ("-", -c) if c < 0 else ("", c)
    top = rf"{c if c > 1 else ''}\sqrt{{{n}}}"
    if d == 1:
        texts = [
            rf"{sign}{top}",
            rf"{sign}\sqrt{{{c * c * n}}}",
            rf"{sign}\frac{{{2 * c}\sqrt{{{n}}}}}{{2}}",
        ]
        texts.append(rf"{sign}\frac{{{c * n}}}{{\sqrt{{{n}}}}}")
        if c > 1:
            texts += [rf"{sign}{c}\cdot\sqrt{{{n}}}", rf"{sign}{c}*sqrt({n})", rf"{sign}{c}√{n}"]
            texts += [rf"{sign}{c} \sqrt {{ {n} }}", rf"{sign}{c}√({n})"]
        return [*texts, rf"{sign}{c}\sqrt {n}"] if n < 10 and c > 1 else texts
    return [
        rf"{sign}\frac{{{top}}}{{{d}}}",
        rf"{sign}\dfrac{{{top}}}{{{d}}}",
        rf"{sign}{top}/{d}",
        rf"{sign}\frac{{{c}}}{{{d}}}\sqrt{{{n}}}",
        rf"{sign}\frac{{{c * n}}}{{{d}\sqrt{{{n}}}}}",
        rf"{sign}\frac{{\sqrt{{{c * c * n}}}}}{{{d}}}",
        rf"{sign}\sqrt{{\frac{{{c * c * n}}}{{{d * d}}}}}",
    ]


def pi_multiple(value: Fraction) -> Base:
    """Return a rational multiple of pi."""
    same = [Core("pi", text, bare=True) for text in spell_pi(value)]
    other = [
        Core(move, text, bare=True)
        for move, near in other_values(value).items()
        for text in spell_pi(near)
    ]
    other += [Core("no pi", plain_text(value)), Core("pi squared", rf"{plain_text(value)}\pi^2")]
    names, tails = ("x=", "V = ", "S="), (r"\text{ cm}^2", r"\ \mathrm{in}^2", "平方厘米")
    gold = Gold(spell_pi(value)[0], "latex")
    return Base("pi", gold, tuple(same), tuple(other), names, tails, VALUE_INJURIES)


def spell_pi(value: Fraction) -> list[str]:
    """Return spellings of value * pi, the usual one first."""
    sign = "-" if value < 0 else ""
    a, b = abs(value.numerator), value.denominator
    if a == 0:
        return ["0"]
    top = "" if a == 1 else str(a)
    decimal = decimal_text(abs(value), 4)
    decimals = [rf"{sign}{decimal}\pi", rf"{sign}{decimal}π"] if decimal and decimal != "1" else []
    if b == 1:
        return [rf"{sign}{top}\pi", rf"{sign}{a} \cdot \pi", rf"{sign}{top}π", *decimals]
    return [
        rf"{sign}\frac{{{top}\pi}}{{{b}}}",
        rf"{sign}\frac{{{a}}}{{{b}}}\pi",
        rf"{sign}{top}\pi/{b}",
        rf"{sign}\frac{{{top}π}}{{{b}}}",
        rf"{sign}\dfrac{{{top}\pi}}{{{b}}}",
        *decimals,
    ]
