"""Choices, texts, statements of geometry, times and angles as answers."""

# ruff: noqa: RUF001 - the characters that look like ASCII are meant

import itertools
import re
from fractions import Fraction

from tests.support.answer_formulas import COMMON_INJURIES, table
from tests.support.answer_numbers import Base, Core
from vlm_rl.verification.gold import Gold

LETTERS = (
    "{}",
    "({})",
    r"\text{{{}}}",
    r"\textbf{{({})}}",
    r"\mathrm{{{}}}",
    r"\boldsymbol{{{}}}",
    r"\mathbf{{{}}}",
    "Option {}",
    r"\text{{Choice {}}}",
    "选{}",
    "选项{}",
    "【{}】",
    "[{}]",
    "（{}）",
    "**{}**",
    "{} is correct",
    r"\text{{({})}}",
)
LABELLED = (
    "{}. {}",
    "({}) {}",
    r"\text{{({})}} {}",
    r"\textbf{{({})}}\ {}",
    r"\text{{{}. }}{}",
    "{}: {}",
    "{}、{}",
    "{} ({})",
    r"{}\ ({})",
)
CHOICES = [
    ("numeric", "12;14;16;18", 1, ["14", "14.0", r"\frac{28}{2}", "x = 14"]),
    ("numeric", "1;2;4;8", 3, ["8", "8.0", "x=8"]),
    ("numeric", "100;1,000;10,000;100,000", 1, ["1000", "1,000", r"1\,000"]),
    ("numeric", "3/4;1/2;2/3;1/4", 0, [r"\frac{3}{4}", "3/4", "0.75"]),
    ("numeric", r"$\sqrt{3}$;$2\sqrt{3}$;$3$;$6$", 1, [r"2\sqrt{3}", r"\sqrt{12}", "2√3"]),
    ("numeric", r"$12\pi$;$16\pi$;$24\pi$;$36\pi$", 2, [r"24\pi", "24π", r"V = 24\pi"]),
    (
        "degrees",
        "30°;40°;50°;60°",
        1,
        [r"40^\circ", "40°", r"x = 40^\circ", r"\angle A = 40^\circ"],
    ),
    (
        "degrees",
        r"$15^\circ$;$25^\circ$;$35^\circ$;$45^\circ$",
        2,
        [r"35^{\circ}", "35°", r"35^\circ"],
    ),
    ("lengths", "2 cm;4 cm;6 cm;8 cm", 3, ["8 cm", r"8\text{ cm}", r"8\ \mathrm{cm}"]),
    ("expressions", "$a-b$;$a+b$;$ab$;$2a+b$", 1, ["a+b", "b+a", "a + b"]),
    ("expressions", "$x^2-1$;$x^2+1$;$x^2$;$2x$", 0, ["x^2-1", "(x-1)(x+1)", "-1+x^2"]),
    ("points", "(1,2);(3,2);(2,3);(0,0)", 2, ["(2,3)", "(2, 3)", r"\left(2,3\right)"]),
    (
        "words",
        "cone;cylinder;sphere;cube",
        1,
        ["cylinder", "Cylinder", r"\text{cylinder}", "the cylinder"],
    ),
    ("words", "increase;decrease;stay the same", 2, ["stay the same", r"\text{stay the same}"]),
    ("words", "red;green;blue;yellow", 0, ["red", "Red", r"\text{red}"]),
    ("Chinese words", "圆锥;圆柱;球;正方体", 1, ["圆柱", r"\text{圆柱}"]),
    ("roman numerals", "I;II;III;IV", 1, ["II", r"\text{II}"]),
    ("roman numerals", "I;II;III;IV", 2, ["III", r"\mathrm{III}"]),
    ("segments", "AB;BC;CD;DA", 1, ["BC", r"\text{BC}", r"\overline{BC}"]),
    ("segments", "AC;BD;AE;CF", 3, ["CF", r"\text{CF}"]),
    ("equations", "$y=x$;$y=2x$;$y=x+2$;$y=x-2$", 2, ["y=x+2", "y = 2+x"]),
]
"""The kind of options, the options, the place of the right one, and spellings of its value."""


def choice(kind: str, joined: str, place: int, spellings: list[str]) -> Base:
    """Return a choice; its value is an answer too, a letter that contradicts its value is not."""
    options = tuple(joined.split(";"))
    plain = [option.strip("$") for option in options]
    letter = "ABCD"[place]
    same = [Core("letter", form.format(letter)) for form in (*LETTERS, letter.lower().join("()"))]
    same += [Core("full-width letter", chr(ord(letter) + 0xFEE0)), Core("letter", f"{letter}.")]
    same += [Core("value", text) for text in spellings]
    values = [text for text in spellings if "=" not in text or kind == "equations"]
    forms = LABELLED if kind not in ("points", "expressions") else LABELLED[:6]
    if kind in ("numeric", "degrees", "lengths"):
        forms = (*forms, "{} = {}", "{} - {}")
        same += [Core("value and letter", f"{text} ({letter})") for text in values]
    same += [Core("letter and value", f.format(letter, t)) for f in forms for t in values]
    other = []
    for index, value in enumerate(plain):
        if index == place:
            continue
        wrong = "ABCD"[index]
        other += [Core("another letter", form.format(wrong)) for form in LETTERS]
        other.append(Core("another value", value))
        other += [Core("another option", form.format(wrong, value)) for form in forms]
        other += [Core("letter against value", form.format(letter, value)) for form in forms]
        other += [Core("letter against value", f.format(wrong, values[0])) for f in forms]
        pairs = [f"{letter}, {wrong}", f"{wrong} or {letter}", f"{letter} and {wrong}"]
        other += [Core("two letters", text) for text in pairs]
    other.append(Core("negated", f"不选{letter}"))
    gold = Gold(letter, "choice", options)
    injuries = ("not", "taken back", "alternative")
    return Base(f"choice: {kind}", gold, tuple(same), tuple(other), (), (), injuries, words=True)


def several(letters: str) -> Base:
    """Return a choice of several options."""
    marks = (", ", ",", " and ", "、", r" \text{ and } ")
    orders = ["".join(order) for order in itertools.permutations(letters)]
    same = [Core("letters", mark.join(order)) for order in orders for mark in marks]
    wrong = [letters[:-1], letters[1:], letters + "D", letters[:-1] + "D"]
    other = [Core("letters", ", ".join(text)) for text in wrong]
    gold = Gold(", ".join(letters), "choice", ("1", "2", "3", "4"))
    return Base("choice: several", gold, tuple(same), tuple(other), injuries=("not",), words=True)


def text(gold: str, wrong: str, kind: str = "text") -> Base:
    """Return words; `wrong` has other words, separated by `;`."""
    spelled = [gold, rf"\text{{{gold}}}"]
    if gold.isascii():
        spelled += [gold.capitalize(), gold.title(), rf"\text{{{gold.capitalize()}}}"]
        wrong = ";".join([wrong, f"not {gold}", f"{gold} or {wrong.split(';')[0]}"])
        wrong = f"{wrong};{gold} and {wrong.split(';')[0]};neither"
    else:
        wrong = f"{wrong};不是{gold};{gold}或{wrong.split(';')[0]}"
    other = [Core("other words", t) for w in wrong.split(";") for t in (w, rf"\text{{{w}}}")]
    same = tuple(Core("words", t) for t in spelled)
    injuries = ("taken back",)
    return Base(kind, Gold(gold, "text"), same, tuple(other), (), (), injuries, words=True)


RELATIONS = {
    r"\parallel": ("∥", "//", r"\parallel"),
    r"\perp": ("⊥", r"\perp", r"\bot"),
    r"\sim": ("∽", "∼", r"\sim"),
    r"\cong": ("≌", "≅", r"\cong"),
}


def relation(left: str, mark: str, right: str, answer_type: str) -> Base:
    """Return a statement of two lines or two triangles."""
    lines = mark in (r"\parallel", r"\perp")
    shapes = ("",) if lines else (r"\triangle ", "△", r"\Delta ")

    def spell(a: str, relation: str, b: str) -> list[str]:
        spaced = [
            f"{shape}{a}{gap}{sign}{gap}{shape}{b}"
            for shape in shapes
            for sign in RELATIONS[relation]
            for gap in ("", " ")
        ]
        return [t for t in spaced if not re.search(rf"\\[a-z]+{b}$", t)]

    same = [Core("statement", t) for t in spell(left, mark, right)]
    same += [Core("sides exchanged", t) for t in spell(right, mark, left)]
    if lines:
        same += [Core("line turned", t) for t in spell(left[::-1], mark, right)]
    others = {
        "another vertex": (left, mark, right[:-1] + "K"),
        "another letter": (left[:-1] + "M", mark, right),
    }
    pairs = {r"\parallel": r"\perp", r"\perp": r"\parallel", r"\sim": r"\cong", r"\cong": r"\sim"}
    others["another relation"] = (left, pairs[mark], right)
    other = [Core(move, t) for move, statement in others.items() for t in spell(*statement)]
    shape = shapes[0]
    gold = Gold(f"{shape}{left} {mark} {shape}{right}", answer_type)
    injuries = ("not", "taken back")
    return Base("geometry", gold, tuple(same), tuple(other), (), (), injuries)


def angle(name: str, answer_type: str) -> Base:
    """Return the name of an angle, whose vertex is in the middle."""
    a, b, c = name
    marks = (r"\angle ", "∠")
    same = [Core("angle", mark + t) for mark in marks for t in (name, c + b + a)]
    other = [Core("another vertex", m + t) for m in marks for t in (a + c + b, b + a + c)]
    other += [Core("another letter", m + t) for m in marks for t in (a + b + "K", "K" + b + c)]
    other += [Core("triangle", rf"\triangle {name}")]
    gold = Gold(rf"\angle {name}", answer_type)
    return Base("geometry", gold, tuple(same), tuple(other), (), (), ("not", "taken back"))


def clock(hour: int, minute: int, half: str) -> Base:
    """Return a time of day; without a half of the day the hours go to 24."""

    def spell(h: int, m: int, pm: str) -> list[str]:
        if not pm:
            return [
                f"{h}:{m:02d}",
                f"{h}：{m:02d}",
                f"{h}时{m}分",
                f"{h}点{m}分",
                rf"\text{{{h}:{m:02d}}}",
            ]
        late = h % 12 + (12 if pm == "PM" else 0)
        return [
            f"{h}:{m:02d} {pm}",
            f"{h}:{m:02d} {pm.lower()}",
            f"{h}:{m:02d} {pm[0].lower()}.m.",
            rf"{h}:{m:02d}\text{{ {pm}}}",
            rf"{h}:{m:02d}\,\text{{{pm}}}",
            f"{late}:{m:02d}",
            f"{late}时{m}分",
        ]

    other = {"minute": (hour, minute + 1, half), "hour": (hour + 1, minute, half)}
    wrong = [Core(move, t) for move, time in other.items() for t in spell(*time)]
    if half:
        opposite = spell(hour, minute, "AM" if half == "PM" else "PM")[
            :5
        ]  # 3:45 may be either half
        wrong += [Core("half of day", t) for t in opposite]
    spelled = spell(hour, minute, half)
    same = tuple(Core("time of day", t, pure=half != "AM" or t in spelled[:5]) for t in spelled)
    gold = Gold(f"{hour}:{minute:02d} {half}".strip(), "time")
    injuries = ("not", "taken back", "alternative")
    return Base("time of day", gold, same, tuple(wrong), (), (), injuries, words=True)


def duration(hours: int, minutes: int, answer_type: str) -> Base:
    """Return hours and minutes."""

    def spell(h: int, m: int) -> list[str]:
        total = Fraction(60 * h + m)
        return [
            f"{h} h {m} min",
            f"{h} hours {m} minutes",
            rf"{h}\text{{ hours }}{m}\text{{ minutes}}",
            rf"{h}\text{{ h }}{m}\text{{ min}}",
            rf"{h}\ \text{{h}}\ {m}\ \text{{min}}",
            f"{h} hr {m} min",
            f"{h}小时{m}分钟",
            f"{total} min",
            rf"{total}\text{{ minutes}}",
            f"{float(total / 60)} hours",
            rf"{float(total / 60)}\text{{ h}}",
        ]

    others = {"minutes": (hours, minutes + 3), "hours": (hours + 1, minutes)}
    wrong = [Core(move, t) for move, time in others.items() for t in spell(*time)[:9]]
    wrong += [Core("another size", f"{60 * hours + minutes} {unit}") for unit in ("h", "s", "days")]
    wrong += [Core("minutes as tenths", f"{hours}.{minutes} h"), Core("dropped", f"{hours} h")]
    same = tuple(Core("duration", t) for t in spell(hours, minutes))
    gold = Gold(f"{hours} h {minutes} min", answer_type)
    injuries = ("not", "taken back", "alternative")
    return Base("duration", gold, same, tuple(wrong), (), (), injuries, words=True)


def minutes_of_arc(degrees: int, minutes: int) -> Base:
    """Return degrees and minutes."""

    def spell(d: int, m: int) -> list[str]:
        decimal = float(d + Fraction(m, 60))
        forms = [f"{d}°{m}'", rf"{d}^\circ{m}'", rf"{d}^{{\circ}}{m}^{{\prime}}", f"{d}°{m}′"]
        forms += [f"{d}度{m}分", rf"{d}^\circ {m}'"]
        return [*forms, f"{decimal}°", rf"{decimal}^\circ"] if m % 3 == 0 else forms

    others = {"minutes": (degrees, minutes + 1), "degrees": (degrees + 1, minutes)}
    others |= {"exchanged": (minutes, degrees)}
    wrong = [Core(move, t) for move, value in others.items() for t in spell(*value)]
    wrong += [Core("dropped", f"{degrees}°"), Core("as decimals", f"{degrees}.{minutes}°")]
    same = tuple(Core("degrees and minutes", t) for t in spell(degrees, minutes))
    names = (r"\angle ABC = ", r"\alpha = ")
    gold = Gold(f"{degrees}°{minutes}'", "number_unit")
    return Base("degrees and minutes", gold, same, tuple(wrong), names, (), COMMON_INJURIES)


def named(x: int, y: int) -> Base:
    """Return the values of two unknowns."""

    def spell(a: int, b: int) -> list[str]:
        cases = rf"\begin{{cases}} x={a} \\ y={b} \end{{cases}}"
        plain = [
            f"x={a}, y={b}",
            f"y={b}, x={a}",
            f"x={a},y={b}",
            rf"x={a},\ y={b}",
            f"x={a}，y={b}",
        ]
        return [*plain, rf"x={a} \text{{ and }} y={b}", cases, cases.replace(" ", "", 1)]

    others = {"swapped": (y, x), "x": (x + 1, y), "y": (x, y - 1), "sign": (-x, y)}
    wrong = [Core(move, t) for move, value in others.items() for t in spell(*value)]
    wrong += [Core("one only", f"x={x}"), Core("one only", f"y={y}")]
    same = [Core("named values", t) for t in spell(x, y)] + [
        Core("point", f"({x},{y})", pure=False)
    ]
    gold = Gold(f"x={x}, y={y}", "latex")
    return Base("named values", gold, tuple(same), tuple(wrong), injuries=("not", "taken back"))


def words() -> list[Base]:
    """Return everything that is not a formula."""
    bases = [choice(*row) for row in CHOICES] + [several("AC"), several("ABC")]
    bases += [text(*row.split("|")) for row in TEXTS] + [
        text(*row.split("|"), "Chinese text") for row in CHINESE
    ]
    for answer_type in ("text", "latex"):
        bases += [relation(*row.split("|"), answer_type) for row in STATEMENTS]
        bases += [angle(name, answer_type) for name in ("ABC", "DEF")]
    bases += [clock(3, 45, "PM"), clock(8, 5, "AM"), clock(11, 30, "PM"), clock(10, 25, "")]
    bases += [clock(7, 10, ""), clock(9, 50, "AM")]
    bases += [duration(2, 30, "time"), duration(1, 15, "number_unit"), duration(3, 45, "time")]
    bases += [duration(2, 30, "number_unit"), duration(5, 12, "time")]
    bases += [
        minutes_of_arc(30, 15),
        minutes_of_arc(45, 12),
        minutes_of_arc(20, 36),
        minutes_of_arc(12, 25),
    ]
    bases += [named(2, 3), named(-1, 4), named(5, -2), named(7, 1)]
    bases.append(table("geometry", "latex", "AB=CD", "CD=AB;AB = CD", "AB=CE;AB=2CD;AD=CE"))
    return bases


TEXTS = [
    "red|blue;green",
    "white|black;off",
    "equilateral triangle|isosceles triangle;triangle;right triangle",
    "yes|no;maybe",
    "true|false",
    "clockwise|counterclockwise",
    "right triangle|acute triangle;triangle",
    "parallelogram|trapezoid;rhombus",
    "decrease|increase;stay the same",
    "third quadrant|second quadrant;fourth quadrant",
    "Monday|Tuesday;Sunday",
    "copper|iron;zinc",
]
CHINESE = [
    "正确|错误",
    "圆锥|圆柱;球",
    "第三象限|第二象限;第一象限",
    "甲|乙;丙",
    "正方形|长方形;三角形",
    "增大|减小;不变",
]
STATEMENTS = [
    r"AB|\parallel|CD",
    r"EF|\perp|GH",
    r"ABC|\sim|DEF",
    r"ABC|\cong|DEF",
    r"PQ|\parallel|RS",
]
