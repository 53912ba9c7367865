"""The golds of the metamorphic test, of every answer type."""

# ruff: noqa: RUF001 - the characters that look like ASCII are meant

import random
from fractions import Fraction

from tests.support.answer_collections import collection, interval, listing, matrix, point, ratio
from tests.support.answer_formulas import expression, line, table
from tests.support.answer_numbers import (
    NUMBER_TAILS,
    VALUE_INJURIES,
    Base,
    number,
    percent,
    pi_multiple,
    radical,
    scientific,
)
from tests.support.answer_quantities import quantities
from tests.support.answer_words import words


def bases(seed: int) -> list[Base]:
    """Return all golds with their spellings; the seed decides which spellings."""
    rng = random.Random(seed)
    return [*numbers(rng), *quantities(rng), *formulas(rng), *several_values(rng), *words()]


def numbers(rng: random.Random) -> list[Base]:
    found = [number(text, Fraction(text.replace(",", "")), rng) for text in INTEGERS.split()]
    found += [number(text, Fraction(value), rng) for text, value in FRACTIONS]
    found += [number(text, Fraction(value), rng, "latex") for text, value in FRACTIONS[::3]]
    found += [number(text, Fraction(text), rng, "latex") for text in ("7", "-4", "2.5", "36")]
    found += [number(text, Fraction(text), rng, "number_unit") for text in ("60", "4.5", "-8")]
    for text in ("25", "50", "12.5", "60", "7.5", "80", "120"):
        found.append(percent(text + rng.choice([r"\%", "%"]), Fraction(text), rng))
    found.append(percent(r"33\frac{1}{3}\%", Fraction(100, 3), rng))
    found += [scientific(*row.split()[:1], int(row.split()[1])) for row in SCIENTIFIC]
    found.append(scientific("1.6", -19, r"\text{ C}", "number_unit"))
    found.append(scientific("3", 8, r"\text{ m/s}", "number_unit"))
    for c, n, d in [(2, 3, 1), (1, 5, 1), (-3, 2, 1), (4, 5, 1), (10, 2, 1), (3, 7, 1), (5, 6, 1)]:
        found.append(radical(c, n, d, rng.choice(["latex", "number"])))
    for c, n, d in [(1, 2, 2), (5, 3, 2), (2, 3, 3), (-1, 3, 2), (9, 3, 4), (3, 10, 5), (7, 2, 4)]:
        found.append(radical(c, n, d))
    for value in ("2", "1", "36", "1/4", "2/3", "-1/2", "5/6", "3/2", "24", "-3"):
        found.append(pi_multiple(Fraction(value)))
    loose = {"names": ("x=",), "tails": (), "injuries": VALUE_INJURIES}
    found += [table("transcendental", "latex", *row, **loose) for row in TRANSCENDENTAL]
    units = {"names": ("x=", "S="), "tails": NUMBER_TAILS[:4], "injuries": loose["injuries"]}
    return found + [table("surd", "latex", *row, **units) for row in SURDS]


def formulas(rng: random.Random) -> list[Base]:
    found = [expression(terms, rng, *more) for terms, *more in EXPRESSIONS]
    found += [table("expression", "expression", *row) for row in OTHER_EXPRESSIONS]
    lines = [(2, 1), (-1, 4), (3, -5), (1, 7), (-2, -3), (5, 2)]
    found += [line(slope, intercept) for slope, intercept in lines]
    return found + [table("equation", "latex", *row) for row in EQUATIONS]


def several_values(rng: random.Random) -> list[Base]:
    found = [interval(text, rng) for text in INTERVALS]
    for index, text in enumerate(INTERVALS):
        found.append(interval(text, rng, "inequality", "xmatk"[index % 5]))
    f = Fraction
    for gold, members in SETS:
        values = [
            f(m) if m.strip("-").replace("/", "").isdigit() else m for m in members.split(";")
        ]
        found.append(collection(gold, values, rng, "latex" if "or" in gold else "set"))
    for n in (5, 2, 7):
        also = rf"\pm {n};x = \pm {n};±{n};\pm{n}"
        wrong = rf"\pm {n + 1};{n};-{n};\pm {10 * n}"
        found.append(collection(rf"\pm {n}", [f(n), f(-n)], rng, "set", also, wrong))
    for gold, plus, minus, also, wrong in PLUS_MINUS:
        found.append(collection(gold, [plus, minus], rng, "latex", f"{gold};{also}", wrong))
    for members in [(3, -4), (1, 2), (-2, 5), (0, 7), (-1, -6), (4, 1, 2), (2, 3, -1)]:
        found.append(point([f(member) for member in members], rng))
    found.append(point([f(1, 2), f(2)], rng))
    found.append(point([f(1, 2), r"\frac{\sqrt{3}}{2}"], rng, "latex"))
    found.append(point([f(-3, 4), f(5, 2)], rng, "latex"))
    found += [listing(m) for m in ([2014, 2016], [0, 2, 0, 2, 1, 7], [3, 1, 2], [5, 8, 13, 21])]
    for members in [[3, 2], [1, 2], [9, 4], [5, 7], [3, 4, 5], [1, 2, 3], [2, 5, 7]]:
        found.append(ratio(members))
    ratios = {"names": ("AB:BC=",)}
    found.append(
        table(
            "ratio",
            "ratio",
            r"1:\sqrt{3}",
            r"1 : \sqrt{3};1：√3",
            r"\sqrt{3}:1;1:3;1:\sqrt{2}",
            **ratios,
        )
    )
    found += [
        matrix(rows) for rows in ([[1, 2], [3, 4]], [[0, -1], [5, 2]], [[1, 0, 2], [3, 1, 4]])
    ]
    return [*found, matrix([[2], [-3]])]


INTEGERS = """5 7 12 21 36 100 64 0 1 2 144 250 -3 -7 -12 -40 -1 1,000 12345 120000 -2500 1,234,567
0.5 1.2 0.25 3.75 -2.5 0.125 10.4 0.05 -0.6 78.5"""
FRACTIONS = [
    (r"\frac{1}{2}", "1/2"),
    (r"\frac{3}{4}", "3/4"),
    ("2/3", "2/3"),
    (r"-\frac{1}{2}", "-1/2"),
    (r"\frac{5}{13}", "5/13"),
    (r"\dfrac{7}{3}", "7/3"),
    ("-5/6", "-5/6"),
    (r"\frac{36}{25}", "36/25"),
    (r"3\frac{1}{2}", "7/2"),
    (r"2\frac{1}{3}", "7/3"),
    (r"-1\frac{3}{4}", "-7/4"),
    (r"5\frac{2}{7}", "37/7"),
    (r"\frac{1}{3}", "1/3"),
    (r"\frac{11}{8}", "11/8"),
]
SCIENTIFIC = ["3.2 4", "1.6 -19", "6.02 23", "9.1 -31", "5 -7", "1.5 11", "-2.4 -3", "8.85 -12"]
TRANSCENDENTAL = [
    (
        r"\log_2 3",
        r"\log_{2} 3;\log_2{3};\log_2(3);\frac{\ln 3}{\ln 2};\frac{\ln{3}}{\ln{2}}",
        r"\log_3 2;\log_2 5;2\log_2 3;\frac{\ln 2}{\ln 3};-\log_2 3;\log_2 3+1",
    ),
    (r"\ln 2", r"\ln{2};\ln(2);\ln\left(2\right);-\ln\frac{1}{2}", r"\ln 3;-\ln 2;2\ln 2;\log_2 2"),
    (r"2\ln 3", r"\ln 9;2\ln{3};2\ln(3);2\cdot\ln 3", r"\ln 6;\ln 3;3\ln 2;-2\ln 3"),
    ("e^2", r"e^{2};\exp(2);\mathrm{e}^2;e\cdot e;\mathrm{e}^{2}", "2e;e^3;e^{-2};-e^2;e"),
    (r"\frac{1}{e}", r"e^{-1};1/e;\frac{1}{\mathrm{e}}", r"e;\frac{2}{e};-\frac{1}{e};e^{-2}"),
    (r"1+\ln 5", r"\ln 5+1;1+\ln{5};1+\ln(5)", r"\ln 5;1-\ln 5;2+\ln 5;\ln 6"),
    (r"\lg 2+3", r"3+\lg 2;3+\lg{2}", r"\lg 2;3-\lg 2;\lg 5;\lg 3+3"),
    (r"2^{-70}", r"\frac{1}{2^{70}};4^{-35};2^{-69}/2", r"2^{-69};2^{-71};0;-2^{-70};2^{70}"),
]
SURDS = [
    (
        r"6+2\sqrt{3}",
        r"2\sqrt{3}+6;2(3+\sqrt{3});6+\sqrt{12}",
        r"6-2\sqrt{3};6+2\sqrt{2};8\sqrt{3};2+6\sqrt{3}",
    ),
    (
        r"\sqrt{2}-1",
        r"-1+\sqrt{2};\frac{1}{\sqrt{2}+1}",
        r"1-\sqrt{2};\sqrt{2}+1;\sqrt{2};\sqrt{3}-1",
    ),
    (
        r"\sqrt[3]{2}",
        r"2^{1/3};2^{\frac{1}{3}};\sqrt[3] {2}",
        r"\sqrt{2};3\sqrt{2};\sqrt[3]{3};2^{3}",
    ),
    (
        r"\frac{1+\sqrt{5}}{2}",
        r"\frac{\sqrt{5}+1}{2};\frac{1}{2}+\frac{\sqrt{5}}{2};(1+\sqrt{5})/2;\frac12(1+\sqrt5)",
        r"\frac{1-\sqrt{5}}{2};1+\frac{\sqrt{5}}{2};\frac{1+\sqrt{5}}{4};\frac{1+\sqrt{3}}{2}",
    ),
    (
        r"\sqrt{2}+\sqrt{3}",
        r"\sqrt{3}+\sqrt{2};√3+√2",
        r"\sqrt{5};\sqrt{3}-\sqrt{2};\sqrt{6};\sqrt{2}+\sqrt{5}",
    ),
    (
        r"4\pi-2\sqrt{3}",
        r"-2\sqrt{3}+4\pi;2(2\pi-\sqrt{3});4π-2√3",
        r"4\pi+2\sqrt{3};2\pi-2\sqrt{3};4-2\sqrt{3}",
    ),
]
EXPRESSIONS = [
    ("1~x^2 + 2~x + 1", "y=;f(x)=", "(x+1)^2;x(x+2)+1"),
    ("1~x^2 + -1", "y = ", "(x-1)(x+1);(x+1)(x-1)"),
    ("1~x^3 + -1~x", "y=", "x(x-1)(x+1);x(x^2-1)"),
    ("3~n + 1", "a_n=;a_n = ", ""),
    ("1/2~n^2 + 1/2~n", "", r"\frac{n(n+1)}{2};\frac{n^2+n}{2};n(n+1)/2"),
    ("2~a~b", "", r"ab+ab;2a \cdot b"),
    ("1~a^2 + -2~a~b + 1~b^2", "", "(a-b)^2;(b-a)^2"),
    ("-5~t^2 + 10~t", "", "5t(2-t);10t-5t^2"),
    ("3~c",),
    ("6~t",),
    ("1~x^2 + 3~t",),
    ("1~m~g~h",),
    ("1/2~m~v^2", "", r"0.5mv^2;\frac{1}{2}mv^{2}"),
    ("1/2~q~v~B",),
    ("1~I^2~R~t",),
    (r"1~\pi~r^2~h", "", r"\pi r^{2}h;πr²h"),
    (r"4~\pi~r^2", "", r"4\pi r^{2};4πr²"),
    (r"2~\pi~h", "", "2πh"),
    ("1/2~b~h", "", r"\frac{bh}{2};bh/2"),
    ("2~a + 1~b", "", "b+2a"),
    ("2~x~y~z",),
    (r"1~\alpha + 1~\beta", "", "α+β;β+α"),
    (r"2~\sin x~\cos x", "", r"\sin 2x;\sin(2x);\sin{2x}"),
    (r"1~x~\sin x + 1~\cos x",),
    (r"3~\cos\theta + -2",),
    ("1~x~e^{x} + -1~e^{x}", "y=", "(x-1)e^x;e^x(x-1)"),
    ("1~e^{x} + 2", "", "2+e^x;e^x+2"),
    ("2~|x-2| + 1", "", r"2|2-x|+1;1+2|x-2|;2\left|x-2\right|+1"),
    (r"180~^\circ + -2~\alpha", "", "180°-2α"),
    (r"90~^\circ + -1/2~\alpha", "", r"90^\circ-\frac{1}{2}\alpha"),
    (r"360~^\circ + -1~\alpha + -1~\beta", "", r"360^\circ-(\alpha+\beta)"),
    ("5~a~b^2 + -3~c",),
]
"""Terms of a sum, the names that may stand before it, and other forms of it."""

OTHER_EXPRESSIONS = [
    (
        r"\frac{a}{b+c}",
        r"a/(b+c);\frac{a}{c+b};a \div (b+c)",
        r"a/b+c;\frac{b}{a+c};\frac{a}{b-c};\frac{a}{b}",
    ),
    (
        r"\frac{x+1}{x-1}",
        r"1+\frac{2}{x-1};(x+1)/(x-1);\frac{1+x}{x-1}",
        r"\frac{x-1}{x+1};x+1/x-1;-1",
    ),
    (r"\sin^2 x", r"1-\cos^2 x;(\sin x)^2;\sin^{2}x", r"\sin x^2;\cos^2 x;\sin x;1-\cos x"),
    (r"|x-2|", r"|2-x|;\left|x-2\right|;\lvert x-2\rvert", r"x-2;|x+2|;2-x;|x-3|;-|x-2|"),
    ("2(x+3)", r"2x+6;6+2x;2\cdot(3+x)", "2x+3;2(x-3);x+3;2(y+3);x+6"),
    (r"\sqrt{x^2+1}", r"\sqrt{1+x^2};(x^2+1)^{1/2}", r"x+1;\sqrt{x^2-1};\sqrt{x^2}+1;\sqrt{x+1}"),
    (
        r"\frac{V_0}{R_1+R_2}",
        r"V_0/(R_1+R_2);\frac{V_0}{R_2+R_1}",
        r"\frac{V_0}{R_1};\frac{V_0}{R_1+R_3};V_0",
    ),
    (r"\sqrt{2gh}", r"\sqrt{2hg};(2gh)^{1/2};\sqrt{2 g h}", r"2gh;\sqrt{gh};\sqrt{2g};\sqrt{2}gh"),
    ("x^{10}", r"x^10;x^{5}\cdot x^5;(x^5)^2", "x^9;10x;x;y^{10};x^{11}"),
    ("3-4i", r"-4i+3;3-4\mathrm{i};3 - 4 i", "3+4i;-3+4i;4-3i;3-4;3-5i"),
    (
        r"k\frac{q^2}{r^2}",
        r"\frac{kq^2}{r^2};kq^2/r^2",
        r"\frac{kq^2}{r};k\frac{q}{r^2};\frac{q^2}{r^2}",
    ),
]
EQUATIONS = [
    (
        "x^2+y^2=25",
        "x^2+y^2-25=0;25=x^2+y^2;y^2+x^2=5^2",
        "x^2+y^2=5;x^2-y^2=25;x^2+y^2=26;x^2+y^2+25=0",
    ),
    (
        "(x-1)^2+(y+2)^2=9",
        "x^2+y^2-2x+4y-4=0;(y+2)^2+(x-1)^2=9;(x-1)^2+(y+2)^2=3^2",
        "(x+1)^2+(y+2)^2=9;(x-1)^2+(y+2)^2=3;(x-1)^2+(y-2)^2=9;x^2+y^2=9",
    ),
    (
        r"\frac{x^2}{4}+\frac{y^2}{3}=1",
        r"3x^2+4y^2=12;\frac{y^2}{3}+\frac{x^2}{4}=1",
        r"\frac{x^2}{3}+\frac{y^2}{4}=1;3x^2-4y^2=12",
    ),
    ("y^2=4x", "y^{2} = 4x;4x=y^2;y^2-4x=0", "x^2=4y;y^2=-4x;y=4x;y^2=2x"),
    ("2x+3y=12", "3y+2x=12;2x+3y-12=0;4x+6y=24", "2x+3y=13;2x-3y=12;3x+2y=12;2x+3y"),
    (
        "y=x^2-4x+3",
        "y=(x-1)(x-3);y=(x-2)^2-1;y=3-4x+x^2",
        "y=x^2-4x-3;y=x^2+4x+3;y=-x^2+4x-3;x=y^2-4y+3",
    ),
    (r"y=\frac{6}{x}", r"y=6/x;\frac{6}{x}=y", r"y=6x;y=-\frac{6}{x};y=\frac{x}{6};y=\frac{3}{x}"),
    ("F=ma", r"F=am;ma=F;F = m a", "F=m;F=\\frac{m}{a};F=mg;F=2ma;a=Fm"),
]
INTERVALS = [
    "(2,3]",
    "[1,2)",
    "[-1,3]",
    "(0,5)",
    "(3,inf)",
    "[-2,inf)",
    "(-inf,7)",
    "(-inf,-1]",
    "(-inf,-1) U (2,inf)",
    "(-inf,0] U [3,inf)",
    "[-4,-1) U (1,6]",
    r"[\sqrt{3},inf)",
    "[1/2,4)",
    r"[0,2\pi)",
]
SETS = [
    (r"\{1,2,3\}", "1;2;3"),
    (r"\{-2,1\}", "-2;1"),
    ("2, 3, 5", "2;3;5"),
    (r"\{0,4\}", "0;4"),
    (r"\{\frac{1}{2},3\}", "1/2;3"),
    ("x = 3 or x = -1", "3;-1"),
    (r"x=1 \text{ or } x=-2", "1;-2"),
    (r"5 \text{ or } 8", "5;8"),
    (r"\{-1,0,6,9\}", "-1;0;6;9"),
]
PLUS_MINUS = [
    (
        r"2\pm\sqrt{3}",
        r"2+\sqrt{3}",
        r"2-\sqrt{3}",
        r"x=2\pm\sqrt{3};2 ± √3;\pm\sqrt{3}+2",
        r"\pm\sqrt{3};2\pm\sqrt{5};-2\pm\sqrt{3};3\pm\sqrt{2};2+\sqrt{3}",
    ),
    (
        r"\frac{-1\pm\sqrt{5}}{2}",
        r"\frac{-1+\sqrt{5}}{2}",
        r"\frac{-1-\sqrt{5}}{2}",
        r"-\frac12\pm\frac{\sqrt5}{2};x=\frac{-1\pm\sqrt{5}}{2}",
        r"\frac{1\pm\sqrt{5}}{2};\frac{-1\pm\sqrt{5}}{4};-1\pm\sqrt{5};\frac{-1+\sqrt{5}}{2}",
    ),
    (
        r"\pm\sqrt{2}",
        r"\sqrt{2}",
        r"-\sqrt{2}",
        r"x=\pm\sqrt{2};±√2",
        r"\sqrt{2};\pm 2;\pm\sqrt{3}",
    ),
]
"""A gold, its two values, other forms of it, and other values."""
