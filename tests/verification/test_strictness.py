"""Wrong answers that computer algebra takes for right, and their honest twins."""

import pytest

from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import decide, infer_type
from vlm_rl.verification.reading import plain_number


def decision(gold, prediction, kind=None):
    return decide(Gold(gold, kind or infer_type(gold, False)), prediction, numeric=True)[0]


WRONG = [
    # temperatures, answers to several questions, Chinese layouts: near misses
    ("45°", "45°F"),
    ("27°", "27°C"),
    ("3, 5, cylinder", "5, 3, cylinder"),
    ("x=0, x=3/2", r"y\in\{1.5, 0\}"),
    ("Solution B", "Solution A"),
    ("increasing", "It is not increasing"),
    ("80千米/时", "每分钟80千米"),
    ("11:20 AM", "下午11:20"),
    ("0.5", "三分之一"),
    # Chinese numerals, words for signs, choices between words: near misses
    ("3:4", "四比三"),
    ("13", "三十"),
    ("等边三角形", "三角形"),
    ("90°", r"\pi\text{ rad}"),
    (r"\angle DEF=62°", r"m\angle EFD = 62^\circ"),
    (r"AB \perp CD", "AB is parallel to CD"),
    ("5", "5 equals 6"),
    ("Brown", "The colour is not brown."),
    ("Mar", "May"),
    ("mango and cherry", "mango or cherry"),
    ("red, blue", "red or blue"),
    ("三角形", "3角形"),
    ("一样多", "1样多"),
    (r"\frac17", "0.142857"),
    # sets, residues, parameters, named sums, figures, counts: near misses
    (r"x=k\pi+\frac{\pi}{4}, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+2n\pi\ (n\in\mathbb{Z})"),
    (r"x=k\pi+\frac{\pi}{4}, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+n\pi\ (n\in\mathbb{N})"),
    (r"x=k\pi+\frac{\pi}{4}, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+k\pi\ (n\in\mathbb{Z})"),
    (r"x\equiv 3 \pmod 7", "3"),
    (r"x\equiv 3 \pmod 7", r"x\equiv 4 \pmod 7"),
    (r"x\equiv 3 \pmod 7", r"x\equiv 3 \pmod 5"),
    ("x+y=3", "3"),
    ("7", "2x=7"),
    ("7", "x+2=7"),
    ("7", "x+x=7"),
    (r"30\pi", r"S=\pi r l=31\pi"),
    ("5", "x=5=2a"),
    ("5", "2a=5"),
    ("40 N·m", r"40\text{ nm}"),
    ("△ABE", "triangle ABD"),
    ("12", r"\text{The number of ways is not } 12"),
    ("45 people", "45 dogs"),
    ("1:2", "x:2"),
    (r"[1,2]\cup[3,4]", r"A\cup B=[1,2]\cup[3,5]"),
    (r"\{(1,2),(3,4)\}", r"\{(4,3),(1,2)\}"),
    ("3:45", "a quarter to five"),
    ("7°6'", "7 degrees 6 seconds"),
    (r"\emptyset", r"\{\emptyset\}"),
    (r"\{1,2\}", r"\{\{1,2\}\}"),
    (r"(0,\infty)", r"(0,\infty]"),
    # capitals are other variables than small letters
    ("r", "R"),
    (r"\frac{r}{R}", r"\frac{R}{r}"),
    ("1", r"\frac{R}{r}"),
    ("2r", "2R"),
    ("m-M", "M-m"),
    ("0", "M-m"),
    ("V_a", "V_A"),
    (r"\delta x", r"\Delta x"),
    ("(r, R)", "(R, r)"),
    # digits in a base
    ("52_9", "52_8"),
    ("4210_6", "4210_{5}"),
    ("52", "52_8"),
    ("101", "101_2"),
    ("52_8", "42"),
    ("52_8", "52_{10}"),
    ("5", "101_2"),
    ("101", "50_3+51"),
    ("101", "{101}_2"),
    ("101", "x = 101_2"),
    # hedges in text commands
    ("7", r"7\text{, 8, 9, 10}"),
    ("7", r"7\mbox{, 8}"),
    ("3", r"3\text{, not 4, 5}"),
    ("5", r"5 \text{ (not 6)}"),
    ("3", r"3\text{ but maybe 4}"),
    ("3", r"3 \text{ or four}"),
    ("3", r"3\mbox{ or 4}"),
    ("3", r"3\text{\mbox{ or 4}}"),
    ("3", "3或四"),
    ("3", r"3\text{ maybe}"),
    ("3", r"3\text{ four}"),
    ("3", r"3\text{ (four)}"),
    (r"\sqrt{2}", r"\sqrt{2}\text{ maybe }\sqrt{3}"),
    (r"\sqrt{2}", r"\sqrt{2}\mbox{ or }\sqrt{3}"),
    (r"\sqrt{2}", r"\sqrt{2}\text{ or two}"),
    ("(1,2)", r"(1,2\mbox{ or 3})"),
    ("1:2", r"1:2\mbox{ 3}"),
    ("7", "7, A"),
    ("[1,2]", r"[1,2]\mbox{ or }(1,2)"),
    ("[1,2]", r"[1,2] \lor (1,2)"),
    ("3", r"3 \approx 4"),
    (r"\sqrt{2}", r"\sqrt{2} \approx 4"),
    (r"3 \text{ cm}", r"3 \text{ cm}\phantom{4}"),
    ("(1,2)", "(1,2=3)"),
    (r"\{1,2\}", r"\{1,2=3\}"),
    # inequalities and figures
    (r"k \neq 1", "k>1"),
    (r"\angle ABC", r"\angle BAC"),
    (r"\angle ABC", r"\angle ACB"),
    (r"\triangle ABC", r"\triangle ABD"),
    (r"\triangle ABC", r"\angle ABC"),
    (r"AB \parallel CD", r"AC \parallel BD"),
    (r"AB \parallel CD", r"AB \perp CD"),
    (r"\triangle ABC \sim \triangle DEF", r"\triangle ABC \sim \triangle EDF"),
    # words, and golds without a type
    ("June 20", "nuJe 20"),
    ("Lot 5", "tLo 5"),
    (r"\{1,2\}", "(1,2)"),
    ("(1,2)", r"\{1,2\}"),
    ("3, 5", "(3,5)"),
    ("1:2", "0.5"),
    ("0.5", "1:2"),
    ("(1,2)", "(2,1)"),
    ("[1,2,3]", "[2,1,3]"),
    ("(1,2),(3,4)", r"\{1,2\},(3,4)"),
    ("[June 20, 5, 1]", "[nuJe 20, 5, 1]"),
    ("1:0", "0:1"),
    ("x=1, y=2", "x=2, y=1"),
    ("x=1, y=2", "(2,1)"),
    ("x_1=1, x_2=2", "1, 3"),
    ("5:30", "1:6"),
]
RIGHT = [
    # temperatures, answers to several questions, Chinese layouts
    ("25°C", "25°"),
    ("3, 5, cylinder", "3, 5, cylinder."),
    ("x=0, x=3/2", r"x\in\{1.5, 0\}"),
    ("Solution B", "solution B"),
    ("increasing", "It is increasing"),
    (r"\$1.8 million", r"\$1.8M"),
    (r"\$15", "USD 15"),
    ("对", "对\N{FULLWIDTH EXCLAMATION MARK}"),
    (r"\sqrt{3}", "根号3"),
    ("80千米/时", "每小时80千米"),
    ("11:20 AM", "上午11:20"),
    ("0.5", "二分之一"),
    # Chinese numerals, words for signs, months cut short
    ("12平方米", "十二平方米"),
    ("30000", "三万"),
    ("-6", "负六"),
    ("6天", "六天"),
    ("22.5%", "百分之22.5"),
    ("3:4", "三比四"),
    ("105", "一百零五"),
    ("1234", "一千二百三十四"),
    ("20000000", "两千万"),
    ("36", "three dozen"),
    ("120°", r"\frac{2\pi}{3}\text{ rad}"),
    ("90°", r"\frac{\pi}{2} rad"),
    (r"\angle DEF=62°", r"m\angle FED = 62^\circ"),
    (r"\binom{9}{4}", r"{9 \choose 5}"),
    ("DG", "line segment DG"),
    ("35%", "35 per cent"),
    (r"AB \perp CD", "AB is perpendicular to CD"),
    (r"AB \parallel CD", "AB is parallel to CD"),
    ("62.5", r"\text{Area of triangle } AFK = 62.5"),
    (r"4\sqrt{2}", r"|\vec{a}+\vec{b}| = 4\sqrt2"),
    ("13.5", r"the shaded area equals 13\frac12"),
    ("Brown", "The colour is brown."),
    ("Aug", "August"),
    ("June", "Jun"),
    ("Monday", "Mon"),
    ("78.5398", r"25\pi"),
    ("x=1 or x=2", "1, 2"),
    ("五", "5"),
    ("60°", "六十度"),
    # sets, residues, parameters, named sums, figures, counts
    (r"x=k\pi+\frac{\pi}{4}, k\in\mathbb{Z}", r"x=\frac{\pi}{4}+n\pi\ (n\in\mathbb{Z})"),
    (r"x\equiv 3 \pmod 7", r"x \equiv 3 \ (\text{mod } 7)"),
    (r"x\equiv 3 \pmod 7", "3 (mod 7)"),
    ("7", "m+n=7"),
    ("2047276", r"\dbinom{2024}{2}"),
    ("135°C", r"135^\circ"),
    ("25 °C", "25°"),
    ("17", r"17\text{ integers}"),
    ("13.6 eV", r"13.6\text{ electron volts}"),
    ("40 N·m", r"40\text{ Nm}"),
    ("△ABE", "triangle ABE"),
    ("12", "The perimeter of the rhombus is 12 cm."),
    ("12", r"\text{The number of ways is } 12"),
    ("45 people", "45人"),
    ("45 people", "45个人"),
    ("AB", "BA"),
    (r"\angle ABC", "angle CBA"),
    ("60°", "angle ABC = 60°"),
    ("(1,2)", r"\text{Vertex: }(1,2)"),
    ("6", r"\det A=6"),
    ("6", "E[X]=6"),
    (r"[1,2]\cup[3,4]", r"A\cup B=[1,2]\cup[3,4]"),
    (r"\{(1,2),(3,4)\}", r"\{(3,4),(1,2)\}"),
    (r"\frac{a+b}{2}", r"{{a+b} \over {2}}"),
    (r"30\pi", r"S=\pi r l=\pi \cdot 3 \cdot 10=30\pi"),
    ("3:45", "a quarter to four"),
    ("3:00", "three o'clock"),
    ("0.24", r"P(\text{exactly two heads}) = 0.24"),
    ("7°6'", "7 degrees 6 minutes"),
    ("7°6'5''", "7 degrees, 6 minutes, 5 seconds"),
    ("5:8", r"5\mathbin{:}8"),
    ("R", "R"),
    (r"\frac{R}{r}", r"\frac{2R}{2r}"),
    ("V_A", "V_{A}"),
    ("2E", "E+E"),
    (r"\Delta x", r"x\Delta"),
    ("52_8", "52_{8}"),
    ("4210_{5}", r"4210_{\text{five}}"),
    ("52_8", "52"),
    ("52", "52_{10}"),
    (r"2A_{16}", r"\text{2A}_{16}"),
    ("5", r"5\text{ red apples}"),
    (r"2\sqrt{3}", r"2\sqrt{3}\text{ cm}"),
    ("7", r"\mathbf{7}"),
    (r"2\sqrt{3}", r"\mathbf{2\sqrt{3}}"),
    (r"\sqrt{50}", r"\sqrt{50} \approx 7.07"),
    (r"10,\!080", "10080"),
    (r"11,\!111,\!100,\!000", "11111100000"),
    (r"\$32,\!348", r"\$32,348"),
    (r"\$32,\!348", "32348"),
    ("10080", r"10{,}\!080"),
    (r"k \neq 1", r"k \ne 1"),
    (r"k \neq 1", "k ≠ 1"),
    (r"\angle ABC", r"\angle CBA"),
    (r"\angle ABC", "∠ABC"),
    (r"\triangle ABC", r"\triangle BCA"),
    (r"AB \parallel CD", r"DC \parallel BA"),
    (r"\overline{AB} \perp \overline{CD}", r"CD \perp AB"),
    (r"\triangle ABC \sim \triangle DEF", r"\triangle DEF \sim \triangle ABC"),
    ("June 20", r"\text{June 20}"),
    ("June 20, 2020", "june 20, 2020"),
    ("(1,2)", "(1.0, 2)"),
    ("(1,2)", "1 < x < 2"),
    ("(1,2)", r"x \in (1,2)"),
    ("3, 5", "5, 3"),
    (r"3 \text{ and } 5", "5 and 3"),
    (r"\pm 2", "2, -2"),
    (r"(3,\frac{\pi}{2})", r"(3, \pi/2)"),
    (r"(-\infty,2]\cup[3,\infty)", r"x \le 2 \text{ or } x \ge 3"),
    ("1:2", r"\frac{2}{4}"),
    (r"0.\overline{3}", r"\frac13"),
    (r"\frac13", r"0.\bar{3}"),
    (r"0.1\overline{6}", "1/6"),
    ("1:0", "2:0"),
    ("x=1, y=2", "(1,2)"),
    ("x=1, y=2", "y=2, x=1"),
    ("x_1=1, x_2=2", "x_1=2, x_2=1"),
    ("x_1=1, x_2=2", "2, 1"),
    (r"x=1 \text{ or } x=2", "x=2,1"),
]


@pytest.mark.parametrize(("gold", "prediction"), WRONG)
def test_another_answer_than_the_gold_is_never_right(gold, prediction):
    for kind in (None, "latex"):
        assert decision(gold, prediction, kind) in ("wrong", "unparsable")


@pytest.mark.parametrize(("gold", "prediction"), RIGHT)
def test_other_spelling_of_the_gold_is_right(gold, prediction):
    assert decision(gold, prediction) == "correct"


@pytest.mark.parametrize("gold", sorted({gold for gold, _ in WRONG + RIGHT}))
def test_gold_is_right_for_itself_whatever_its_type(gold):
    for kind in (None, "latex"):
        assert decision(gold, gold, kind) == "correct"


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("(2, 1)", "tuple"),
        ("(1, 2)", "latex"),  # a point, or an open interval
        (r"(\frac12, a, 3)", "tuple"),
        ("[1,2)", "interval"),
        (r"(-\infty, 3)", "interval"),
        ("[1,2,3]", "list"),
        (r"\{1,2\}", "set"),
        ("1, -2", "set"),
        (r"\{x \mid x>2\}", "interval"),
        ("1:2", "ratio"),
        ("1:2:3", "ratio"),
        ("5:30", "time"),
        ("June 20", "text"),
        (r"\text{June 20}", "text"),
        ("sin x", "latex"),
        ("pi", "latex"),
        ("1,000", "number"),
        ("(1+2)(3+4)", "number"),
        (r"(1,2)\cup(3,4)", "interval"),
        ("x=1, y=2", "latex"),
        (r"\angle ABC", "latex"),
        ("x<1 or x>2", "interval"),
    ],
)
def test_type_is_inferred_from_the_form(gold, kind):
    assert infer_type(gold, False) == kind


@pytest.mark.parametrize(
    ("options", "gold", "prediction", "rule"),
    [
        (("x", "y", "z"), "B", "y", "choice: option value"),
        (("x", "y", "z"), "B", "z", "choice: another option value"),
        (("x", "y", "z"), "y", "y", "choice: option value"),
        (("x", "y", "z"), "B", "b", "choice: letter"),
        (("R", "r", "2"), "A", "r", "choice: another option value"),
        (("R", "r", "2"), "B", "r", "choice: option value"),
        (("b", "c", "a"), "B", "b", "choice: letter"),
    ],
)
def test_option_that_is_a_letter_is_chosen_by_it(options, gold, prediction, rule):
    assert decide(Gold(gold, "choice", options), prediction, numeric=False)[1] == rule


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"0.\overline{142857}", "1/7"),
        (r"-1.\bar3", "-4/3"),
        (r".\dot{9}", "1"),
        (r"\bar{3}", None),
    ],
)
def test_repeating_decimal_is_exact(text, value):
    assert plain_number(text) == (None if value is None else plain_number(value))


@pytest.mark.parametrize("joint", [", ", " and "])
def test_many_conditions_are_refused(joint):
    conditions = joint.join(f"x>{bound}" for bound in range(-8, 3))
    verdict = decide(Gold("x>2", "interval"), conditions, numeric=True)
    assert verdict == ("unparsable", "refused: many conditions")


def test_tolerance_of_more_digits_than_any_gold_has_is_an_error_of_the_gold():
    gold = Gold("3.14", "number", tolerance=(("decimals", 31),))
    decision, rule = decide(gold, "3.14", numeric=True)
    assert decision == "error"
    assert "decimals up to 30" in rule


@pytest.mark.parametrize("letter", "abcdfghkmnpqrstuvwxyz")
def test_root_of_a_square_is_an_absolute_value_whatever_the_letter(letter):
    assert decision(letter, rf"\sqrt{{{letter}^2}}", "latex") == "wrong"
    assert decision(rf"|{letter}|", rf"\sqrt{{{letter}^2}}", "latex") == "correct"
    other = "z" if letter != "z" else "y"
    assert decision(rf"{letter}{other}", rf"\sqrt{{{letter}^2{other}^2}}", "latex") == "wrong"


@pytest.mark.parametrize("space", [r"\quad", r"\qquad ", r"\hspace{1em}", "  ", r"\;\;\quad "])
def test_wide_space_sets_digits_apart(space):
    for kind in ("number", "latex", "text"):
        assert decision("1234", f"1{space}234", kind) != "correct"


def test_point_is_no_inequality_but_what_may_be_an_interval_is():
    assert decision("(1,2)", "1<x<2", "tuple") == "wrong"
    assert decision("(1,2)", "1<x<2") == "correct"


NUMERALS = ("I", "II", "III", "IV")
SPEEDS = ("5 m/s", "10 m/s", "15 m/s", "20 m/s")


@pytest.mark.parametrize(
    ("options", "answer", "right"),
    [
        (NUMERALS, "IV", True),
        (NUMERALS, "VI", False),
        (("I and III", "I and IV", "II", "II and III"), "II or III", False),
        (("I and III", "I and IV", "II", "II and III"), "II and III", True),
        (("red and tan", "tan", "red", "tan and blue"), "tan or blue", False),
        (SPEEDS, "DD", False),
        (SPEEDS, "D, D", True),
        (SPEEDS, "(d) 20 m/s", True),
        (SPEEDS, "(c) 20 m/s", False),
    ],
)
def test_numerals_are_words_and_small_letters_are_labels(options, answer, right):
    decided = decide(Gold("D", "choice", options), answer, numeric=True)[0]
    assert (decided == "correct") == right
