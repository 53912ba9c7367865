"""The self test: pairs with a known verdict, right and wrong for each type, asked before a run."""

from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import Decision
from vlm_rl.verification.pool import CheckerPool

_OPTIONS = ("12", "14", "16", r"$\frac{\sqrt{2}}{2}$")
_MATRIX = r"\begin{pmatrix}1&2\\3&4\end{pmatrix}"

_RIGHT_AND_WRONG = (
    (Gold("B", "choice", _OPTIONS), r"\text{(B) }14", "B. 16"),
    (Gold("D", "choice", _OPTIONS), r"\frac{1}{\sqrt{2}}", "A"),
    (Gold("12", "number"), "12.0", "12.0000004"),
    (Gold("1,000", "number"), "1000.0", "1, 0"),
    (Gold("3", "number"), r"\log_2 8", "3, 4"),
    (Gold("7.1", "number", tolerance=(("abs", 0.05),)), r"5\sqrt{2}", r"6\sqrt{2}"),
    (Gold("7.1", "number"), "7.10", r"5\sqrt{2}"),
    (Gold("140°", "number_unit"), r"140^\circ", "140 cm"),
    (Gold("5 cm", "number_unit"), r"0.05 \mathrm{~m}", r"5 \mathrm{~m}"),
    (Gold(r"50\%", "percent"), r"\frac{1}{2}", r"5000\%"),
    (Gold("parallel", "text"), r"\text{Parallel.}", "parallelogram"),
    (Gold("13:18", "time"), "1:18 pm", "1:18"),
    (Gold("3:4", "ratio"), "6 : 8", "4:3"),
    (Gold("[2, 0, 2]", "list"), "[2,0,2]", "[2,0]"),
    (Gold(r"(\frac{1}{2}, a)", "tuple"), "(0.5, a)", r"\{0.5, a\}"),
    (Gold(r"\{1,2,3\}", "set"), r"\{3,2,1\}", "(1,2,3)"),
    (Gold("[1,2]", "interval"), r"\left[1, 2\right]", "(1,2)"),
    (Gold(_MATRIX, "matrix"), _MATRIX.replace("pmatrix", "bmatrix"), _MATRIX.replace("4", "5")),
    (Gold("x^2+2x+1", "expression"), "(x+1)^2", "(x-1)^2"),
    (Gold(r"\frac{\sqrt{3}}{3}", "latex"), r"\frac{1}{\sqrt{3}}", r"\sqrt{3}"),
    (Gold(r"9\pi", "latex"), r"3\pi \cdot 3", "9"),
)
KNOWN_PAIRS: tuple[tuple[Gold, str, Decision], ...] = (
    *((gold, right, "correct") for gold, right, _ in _RIGHT_AND_WRONG),
    *((gold, wrong, "wrong") for gold, _, wrong in _RIGHT_AND_WRONG),
    (Gold(r"9\pi", "latex"), r"\frac{", "unparsable"),
    (Gold(r"\frac{", "latex"), "1", "error"),
)


def self_test(pool: CheckerPool) -> None:
    """Check the known pairs; raise RuntimeError naming the first with another verdict."""
    checks = pool.check([(gold, answer) for gold, answer, _ in KNOWN_PAIRS])
    for (gold, answer, expected), (verdict, rule) in zip(KNOWN_PAIRS, checks, strict=True):
        if verdict != expected:
            raise RuntimeError(
                f"the answer checker is broken: {answer!r} for the {gold.answer_type} gold "
                f"{gold.answer!r} is {expected}, got {verdict} ({rule})"
            )
