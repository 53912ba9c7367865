"""The self test: pairs with a known verdict, right and wrong for each type, asked before a run."""

from vlm_rl.verification.gold import Gold
from vlm_rl.verification.matching import Decision
from vlm_rl.verification.pool import CheckerPool

_OPTIONS = ("12", "14", "16", r"$\frac{\sqrt{2}}{2}$")
_SIZES = (("abs", 0.05),)

KNOWN_PAIRS: tuple[tuple[Gold, str, Decision], ...] = (
    (Gold("B", "choice", _OPTIONS), r"\text{(B) }14", "correct"),
    (Gold("B", "choice", _OPTIONS), "B. 16", "wrong"),
    (Gold("D", "choice", _OPTIONS), r"\frac{1}{\sqrt{2}}", "correct"),
    (Gold("1,000", "number"), "1000.0", "correct"),
    (Gold("12", "number"), "12.0000004", "wrong"),
    (Gold("3", "number"), r"\log_2 8", "correct"),
    (Gold("5", "number"), "5, 6", "wrong"),
    (Gold("7.1", "number", tolerance=_SIZES), r"5\sqrt{2}", "correct"),
    (Gold("7.1", "number"), r"5\sqrt{2}", "wrong"),
    (Gold("140°", "number_unit"), r"140^\circ", "correct"),
    (Gold("5 cm", "number_unit"), r"5 \mathrm{~m}", "wrong"),
    (Gold(r"50\%", "percent"), r"\frac{1}{2}", "correct"),
    (Gold(r"20\%", "percent"), r"2000\%", "wrong"),
    (Gold("parallel", "text"), r"\text{Parallel.}", "correct"),
    (Gold("cat", "text"), "concatenate", "wrong"),
    (Gold("13:18", "time"), "13:18", "correct"),
    (Gold("13:18", "time"), "1:18", "wrong"),
    (Gold("3:4", "ratio"), "6 : 8", "correct"),
    (Gold("3:4", "ratio"), "4:3", "wrong"),
    (Gold("[2, 0, 2]", "list"), "[2,0,2]", "correct"),
    (Gold("[2, 0, 2]", "list"), "[2,0]", "wrong"),
    (Gold(r"(\frac{1}{2}, a)", "tuple"), "(0.5, a)", "correct"),
    (Gold("(1, 2)", "tuple"), r"\{1, 2\}", "wrong"),
    (Gold(r"\{1,2,3\}", "set"), r"\{3,2,1\}", "correct"),
    (Gold(r"\{1,2\}", "set"), "(1,2)", "wrong"),
    (Gold("[1,2]", "interval"), r"\left[1, 2\right]", "correct"),
    (Gold("[1,2]", "interval"), "(1,2)", "wrong"),
    (
        Gold(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix"),
        r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
        "correct",
    ),
    (
        Gold(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "matrix"),
        r"\begin{pmatrix}1&2\\3&5\end{pmatrix}",
        "wrong",
    ),
    (Gold("x^2+2x+1", "expression"), "(x+1)^2", "correct"),
    (Gold("x^2+2x+1", "expression"), "(x-1)^2", "wrong"),
    (Gold(r"\frac{\sqrt{3}}{3}", "latex"), r"\frac{1}{\sqrt{3}}", "correct"),
    (Gold(r"9\pi", "latex"), "9", "wrong"),
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
