"""Each answer type: its notations, both orders of the arguments, and the rule that decided."""

import pytest

from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import decide, infer_type
from vlm_rl.verification.notation import normalise
from vlm_rl.verification.spoken import spoken_number

SAME = {
    "number": [
        ("5", "five"),
        ("21", "twenty-one"),
        ("105", "one hundred and five"),
        ("12", "12th"),
        ("12", r"12^{\text{th}}"),
        ("12345", r"12\,345"),
        ("12345", "12\u2009345"),
        ("3.5", "3½"),
        (r"3\frac{1}{2}", "3 1/2"),
        ("8", "\uff18"),
        ("0.5", "½"),
        ("0.05", r"5\%"),
        ("-3", "\u22123"),
        (r"\frac{36}{13}", "\x0crac{36}{13}"),
        (r"\frac { 1 } { 2 }", ".5"),
        ("5", "5\u200b"),
        ("8", "2**3"),
        ("3", r"\log_2 8"),
        ("5", r"\lfloor 5.5 \rfloor"),
    ],
    "number_unit": [
        (r"\$34", "34 dollars"),
        (r"\$1,000.50", "1000.5"),
        (r"-\$34", "-34"),
        ("5 m", "500 cm"),
        ("5 m", "5"),
        (r"36 \text{ km/h}", r"10 \text{ m/s}"),
        ("1 h", "60 min"),
        ("2 m^2", r"20000 \text{ cm}^2"),
        ("1 L", r"1000 \text{ cm}^3"),
        ("1 ft", "12 inches"),
        ("6 N", r"6 \text{ kg m/s}^2"),
        ("30°", "30º"),
        ("5 cm", "5厘米"),
        (r"30^\circ 15'", "30.25°"),
        ("5 square cm", r"5 \text{ cm}^2"),
        ("7 km/h", "7 km per h"),
    ],
    "percent": [("50%", "0.5"), ("50%", "50"), ("20", r"20\%"), (r"12.5\%", r"\frac{1}{8}")],
    "time": [
        ("3:05 pm", "15:05"),
        ("3:05 p.m.", "3:05 PM"),
        ("2:30 PM", "2:30"),
        ("05:00", "5:00"),
        ("12:30 am", "0:30"),
        ("3 pm", "15:00"),
        ("12:45", "quarter to one"),
        ("2:50", "ten to three"),
        ("1 h 30 min", "90 min"),
        ("90 min", "1:30"),
        ("1 h 30 min", "1:30"),
        ("90 s", "1:30"),
        ("1.5 h", "90 minutes"),
        ("90 min", "90"),
        ("1 hour and 30 minutes", "1小时30分钟"),
        ("Monday", "monday"),
    ],
    "ratio": [
        ("1:2", "2:4"),
        ("1:2", r"\frac{1}{2}"),
        ("1:2", "50 cm : 1 m"),
        ("3:4", "3\uff1a4"),
        (r"\frac{1}{2}:\frac{3}{4}", "2:3"),
        ("3:4", "3 to 4"),
        (r"\sqrt{2}:1", r"2:\sqrt{2}"),
        ("1:2:3", "2:4:6"),
    ],
    "set": [(r"\{1, 2\}", "2, 1"), (r"\{1,2\}", "1 and 2"), (r"\{1\}", "1"), ("1/2, 3", "3; 0.5")],
    "interval": [
        ("[1,2)", r"1 \le x < 2"),
        ("[1,2)", "2 > x >= 1"),
        (r"(3,\infty)", "x > 3"),
        (r"(-\infty,2]\cup[3,\infty)", r"[3,+\infty) \cup (-\infty,2]"),
        ("(0.5,1]", r"(\frac12,1]"),
        (r"(-\infty,2]\cup[3,\infty)", r"x \le 2 \text{ or } x \ge 3"),
        ("(0,1)", r"x \in (0, 1)"),
        (r"(0,2)\cup(1,3)", r"(0,1.5)\cup(1,3)"),
    ],
    "latex": [
        (r"\sqrt{3}", "sqrt(3)"),
        (r"2\sqrt{3}", "2*sqrt(3)"),
        (r"\pi", "pi"),
        ("2√3", r"\sqrt{12}"),
        (r"\frac{3\pi}{4}", "3pi/4"),
        (r"2\sqrt{221}", r"2 \sqrt { 221 }"),
        ("√(3)", r"\sqrt{3}"),
        (r"\sqrt{1+\sqrt{2}}", "sqrt(1+sqrt(2))"),
        ("x^2", "x**2"),
        (r"\sqrt[3]{8}", "∛{8}"),
        (r"\frac{\pi}{2}", "\x0crac{\\pi}{2}"),
    ],
    "list": [("[1, 2]", "1, 2"), ("[red, blue]", "['Red', 'blue']"), ("(A, B)", "A, B")],
    "tuple": [("(1, 2)", "1, 2"), (r"(\frac12, 3)", "(0.5, 3)"), ("(1,2),(3,4)", "(1, 2), (3, 4)")],
    "matrix": [(r"\begin{pmatrix}1\\ 2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}")],
    "text": [(r"\text{parallel}", "Parallel.")],
}
DIFFERENT = {
    "number": [
        ("5", "six"),
        ("12", "12.0000004"),
        ("0.0000001", "0.0000002"),
        ("5", r"5\%"),
        ("12", "1 2"),
        ("5", "15"),
        ("1,5", "1.5"),
        ("5", "5 x"),
        ("15", "1\x005"),
        ("25", "five twenty"),
    ],
    "number_unit": [
        ("5 m", "5 cm"),
        ("5 m", "5 m^2"),
        ("5 m", "5 s"),
        ("5 kg", "5 lb"),
        ("30°", r"30^\circ 15'"),
        ("1 year", "365 days"),
        ("5 dollars", "5 yuan"),
        ("60 km/h", "60 m/s"),
        ("2", "2x"),
        (r"\$34", "34 cents"),
        (r"\$34", "34 cm"),
    ],
    "percent": [("50%", "5%"), ("20%", r"2000\%"), ("50", "0.5")],
    "time": [
        ("3:05", "3.05"),
        ("13:18", "1:18"),
        ("2:30 am", "2:30 pm"),
        ("2:30 pm", "2:31"),
        ("90 min", "1:31"),
        ("90 min", "90 s"),
        ("11:30", "11.5"),
        ("5:61", "6:01"),
    ],
    "ratio": [("3:4", "4:3"), ("1:2", "1:2:3"), ("1 cm : 1 m", "1:1")],
    "set": [(r"\{1,2\}", "1"), (r"\{1,2\}", "1, 2, 3")],
    "interval": [
        ("[1,2)", "[1,2]"),
        ("[1,2)", r"1 < x < 2"),
        (r"(3,\infty)", "x < 3"),
        ("(1,2)", "(1,3)"),
        (r"(-\infty,2]\cup[3,\infty)", r"(-\infty,2]"),
    ],
    "latex": [(r"\sqrt{3}", r"\sqrt{2}"), (r"9\pi", "9"), ("listen", "silent")],
    "list": [("[1, 2]", "[2, 1]"), ("[listen]", "[silent]"), ("[1, 2]", "(1, 2)")],
    "tuple": [("(1,2)", r"\{1,2\}"), ("(1,2)", "(1,2,3)")],
    "text": [("cat", "concatenate"), ("10-3", "7")],
}


def pairs(table):
    return [(kind, *pair) for kind, row in table.items() for pair in row]


@pytest.mark.parametrize(("kind", "first", "second"), pairs(SAME))
def test_same_answer_is_right_in_both_orders(kind, first, second):
    assert decide(Gold(first, kind), second, numeric=True)[0] == "correct"
    assert decide(Gold(second, kind), first, numeric=True)[0] == "correct"


@pytest.mark.parametrize(("kind", "first", "second"), pairs(DIFFERENT))
def test_different_answer_is_not_right_in_either_order(kind, first, second):
    assert decide(Gold(first, kind), second, numeric=True)[0] != "correct"
    assert decide(Gold(second, kind), first, numeric=True)[0] != "correct"


OPTIONS = ("12", "14", r"$2\sqrt{3}$", "50 cm", "none", "18", "20")


@pytest.mark.parametrize(
    ("answer", "prediction", "outcome", "rule"),
    [
        ("B", "Option B", "correct", "choice: letter"),
        ("B", "(B)", "correct", "choice: letter"),
        ("G", "g", "correct", "choice: letter"),
        ("20", "G", "correct", "choice: letter"),
        ("B, D", "D and B", "correct", "choice: letter"),
        ("B, D", "BD", "correct", "choice: letter"),
        ("B, D", "B", "wrong", "choice: another letter"),
        ("C", "2*sqrt(3)", "correct", "choice: option value"),
        ("C", r"\sqrt{12}", "correct", "choice: option value"),
        ("D", "0.5 m", "correct", "choice: option value"),
        ("D", "50 m", "wrong", "choice: another option value"),
        ("B", "(B) 14", "correct", "choice: letter with value"),
        ("B", "B: 18", "wrong", "choice: letter that contradicts its value"),
        ("A", "B. 14", "wrong", "choice: another letter with value"),
        ("A", "A. 12 B. 14 C. 3", "wrong", "choice: letter that contradicts its value"),
    ],
)
def test_choice_by_letter_or_value(answer, prediction, outcome, rule):
    assert decide(Gold(answer, "choice", OPTIONS), prediction, numeric=True) == (outcome, rule)


@pytest.mark.parametrize(
    ("gold", "prediction", "rule"),
    [
        (Gold("5", "number"), "5.0", "number: same value"),
        (Gold("5", "number"), "5", "number: same text"),
        (Gold("7", "number", tolerance=(("abs", 1),)), "7.5", "number: same value"),
        (Gold("5 m", "number_unit"), "500 cm", "number_unit: same value"),
        (Gold("5 m", "number_unit"), "5 s", "number_unit: another unit"),
        (Gold("5", "number"), "6", "number: another value"),
        (Gold("15:05", "time"), "3:05 pm", "time: same time"),
        (Gold("red", "text"), "Red", "text: same words"),
        (Gold("5", "number"), "9^{9^{9}}", "refused: huge number"),
        (Gold("5", "number"), "((2^{999})^{999})^{99}", "refused: huge number"),
        (Gold("5", "number"), "99999!", "refused: huge number"),
        (Gold("5", "number"), "(" * 50 + "5" + ")" * 50, "refused: nested"),
        (Gold("5", "number"), r"2} \boxed{5", "not read as mathematics"),
        (Gold("5", "number"), "5" * 1001, "refused: long"),
        (Gold("5", "number"), "  ", "empty answer"),
        (Gold("5", "number"), r"\frac{", "not read as mathematics"),
        (Gold("5", "number"), "soon ?", "not read as mathematics"),
        (Gold("soon", "number"), "5", "gold unreadable: not one number"),
        (Gold("5", "colour"), "5", "gold unreadable: unknown answer type"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_rule_that_decided_is_named(gold, prediction, rule):
    assert decide(gold, prediction, numeric=True)[1] == rule


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("zero", 0),
        ("nineteen", 19),
        ("ninety nine", 99),
        ("a hundred", 100),
        ("minus two", -2),
        ("two hundred thirty-one", 231),
        ("twenty ten", None),
        ("hundred", None),
        ("", None),
        ("someone", None),
    ],
)
def test_number_words(text, value):
    assert spoken_number(text) == value


@pytest.mark.parametrize("text", ["3:04 pm", "5:00"])
def test_clock_times_are_inferred(text):
    assert infer_type(text, False) == "time"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ud8005", "\N{REPLACEMENT CHARACTER}5"),
        ("1\x005", "1 5"),
        ("\u202e5\u200f", "5"),
        ("a\tb", "a b"),
        ("\\left( 1 \\right)", "( 1 )"),
        ("\tfrac12", r"\frac 12"),
    ],
)
def test_invisible_characters_are_removed(text, expected):
    assert normalise(text) == expected


def test_exact_path_needs_no_algebra():
    for kind in ("number", "number_unit", "percent", "time", "text", "set"):
        first, second = SAME[kind][0]
        assert decide(Gold(first, kind), second, numeric=False)[0] == "correct"


def test_unknown_unit_is_compared_as_a_word():
    assert decide(Gold("5", "number_unit", unit="apples"), r"5 \text{ apples}", numeric=True)[
        0
    ] == ("correct")
    assert decide(Gold("5", "number_unit", unit="apples"), r"5 \text{ pears}", numeric=True)[0] == (
        "wrong"
    )
