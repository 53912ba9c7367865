"""Adversarial text from a seeded generator, with honest answers in between that must stay right.

No adversarial text is ever correct, unless it shows the answer itself, and none crashes a checking
process. Half of it is noise. The other half is a right answer made wrong by something beside it:
another number in a text command, a relation, letters of the other case, another base.

`VLM_RL_FUZZ=10000 VLM_RL_FUZZ_SEED=1 pytest tests/verification/test_fuzz.py` runs more;
`python -m tests.verification.test_fuzz 10000 1` prints a summary.

Broken on purpose, one at a time, each seen red: the verdicts of a batch returned in another order;
words behind a number taken for a unit.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import unicodedata
from collections import Counter

import psutil

from tests.support.patience import at_most_cpu_s
from tests.support.places import REPOSITORY
from vlm_rl.records import Verdict
from vlm_rl.verification.extraction import ANSWER_STYLES, answers
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.pool import CheckerPool, read_answers

COUNT = int(os.environ.get("VLM_RL_FUZZ", "300"))
SEED = int(os.environ.get("VLM_RL_FUZZ_SEED", "0"))
MEMORY_MB = 1024

OPTIONS = ("12", "14", r"\sqrt{3}", "18")
HONEST = [
    (Gold("5", "number"), "5.0", Verdict.CORRECT),
    (Gold("5", "number"), "6", Verdict.WRONG),
    (Gold("C", "choice", OPTIONS), r"\frac{3}{\sqrt{3}}", Verdict.CORRECT),
    (Gold("C", "choice", OPTIONS), "B", Verdict.WRONG),
    (Gold(r"2\sqrt{3}", "latex"), r"\sqrt{12}", Verdict.CORRECT),
    (Gold("x^2+2x+1", "expression"), "(x+1)^2", Verdict.CORRECT),
    (Gold("5 cm", "number_unit"), r"50\text{ mm}", Verdict.CORRECT),
    (Gold("[1,2)", "interval"), "[1,2]", Verdict.WRONG),
    (Gold("[1,2)", "interval"), r"1 \le x < 2", Verdict.CORRECT),
    (Gold("(1,2)", "tuple"), "(1.0, 2)", Verdict.CORRECT),
    (Gold("1:2", "ratio"), "2:4", Verdict.CORRECT),
    (Gold("50%", "percent"), "0.5", Verdict.CORRECT),
    (Gold(r"k \neq 1", "latex"), r"k \ne 1", Verdict.CORRECT),
    (Gold(r"\{1,2\}", "set"), "2, 1", Verdict.CORRECT),
    (Gold("3:05 pm", "time"), "15:05", Verdict.CORRECT),
    (Gold("red", "text"), "Red.", Verdict.CORRECT),
]
"""Golds, answers and verdicts; the golds are also asked about the adversarial text."""

BESIDE = [
    r"\text{ or 7}",
    r"\mbox{ or 7}",
    r"\text{, not 7}",
    r"\text{ but maybe }7",
    r"\text{, 7}",
    r"\hbox{ and }7",
    r"\textbf{, 7, 8}",
    r"\mathrm{ or }\frac{7}{9}",
    r"\text{ or seven}",
    r"\text{ (not 7)}",
    r"\text{\mbox{ or 7}}",
    r"\lor 7",
    r"\text{ }7",
    "; 7",
    " = 7",
    r" \neq 7",
    r" \approx 70",
    r"\parallel 7",
    r" \mid 7",
    "_7",
    "_{7}",
    r"_{\text{seven}}",
    "或7",
    " <7",
]
"""What makes a right answer wrong when it follows it."""

ALTERED = [
    (Gold(r"\frac{R}{r}", "latex"), [r"\frac{r}{R}", r"\frac{R}{R}", "1", r"\frac{r}{r}"]),
    (Gold("M-m", "expression"), ["m-M", "0", "M-M", "m-m"]),
    (Gold("V_a", "latex"), ["V_A", "v_a", "v_A"]),
    (Gold("52_8", "latex"), ["52_9", "52_{7}", "42", r"52_{\text{nine}}", "42_{10}", "(52)_9"]),
    (Gold("101", "number"), ["101_2", "101_{2}", r"101_{\text{two}}", "{101}_3", "x = 101_2"]),
    (Gold(r"\angle ABC", "latex"), [r"\angle BAC", r"\angle ACB", "ABC", r"\triangle ABC"]),
    (Gold("June 20", "latex"), ["nuJe 20", "20 enuJ", "June 02"]),
    (Gold("(1,2)", "latex"), [r"\{1,2\}", "(2,1)", "1:2", "[1,2]"]),
    (Gold(r"k \neq 1", "latex"), ["k>1", "k<1", "k=1", "1"]),
]
"""Golds, and other answers with the same letters or digits."""

COMMANDS = [
    r"\frac",
    r"\sqrt",
    r"\log",
    r"\sin",
    r"\binom",
    r"\left(",
    r"\right)",
    r"\cup",
    r"\pm",
    r"\infty",
    r"\text{or}",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\\",
    "&",
    r"\{",
    r"\}",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "^",
    "_",
    "=",
    "<",
    ",",
    ";",
    ":",
    "/",
    "*",
    "!",
    "|",
    "'",
    "%",
    "$",
    "x",
    "y",
    "2",
    "9",
    "37",
    "0.5",
    "e",
    r"\pi",
    "°",
    "√",
    "cm",
    "h",
    "min",
    "pm",
    "\x0c",
    " ",
]


def tower(rng):
    base, marks = str(rng.randint(2, 99)), rng.choice(["{}", "()"])
    text = base
    for _ in range(rng.randint(2, 9)):
        text = f"{rng.choice([base, 'x+9'])}^{marks[0]}{text}{marks[1]}"
    return rng.choice([text, f"({text})!", rf"\sin({text})", rf"\log({text})"])


def power_of_powers(rng):
    text = f"{rng.randint(2, 9)}^{{{rng.randint(100, 9999)}}}"
    for _ in range(rng.randint(1, 4)):
        text = f"({text})^{{{rng.randint(100, 9999)}}}"
    return text


def factorial(rng):
    number = str(rng.randint(10**4, 10**9))
    return rng.choice([f"{number}!", f"({number})!!", rf"\binom{{{number}}}{{{number[:3]}}}"])


def nesting(rng):
    opening, closing = rng.choice([("(", ")"), (r"\sqrt{", "}"), (r"\frac{1}{", "}"), ("{", "}")])
    depth = rng.choice([12, 20, 100, 5000])
    return opening * depth + "7" + closing * rng.choice([depth, depth - 1, 0])


def megabytes(rng):
    piece = rng.choice(["9", "5 ", "(", "{", r"\boxed{", r"\frac{", "x^", "a", "√", "=", "1,"])
    return piece * (rng.randint(10**5, 2 * 10**6) // len(piece))


def control_characters(rng):
    return "".join(chr(rng.choice([*range(32), 127, *range(128, 160), 53])) for _ in range(40))


def marks_and_surrogates(rng):
    hidden = [0x202E, 0x200F, 0x200B, 0xFEFF, 0xD800, 0xDFFF, 0x10FFFF, 0x35, 0x0301, 0xFF15]
    return "".join(chr(rng.choice(hidden)) for _ in range(rng.randint(1, 60)))


def boxes(rng):
    return rng.choice(
        [r"\boxed{" * 3000, r"\boxed{1}\boxed{2}" * 3000, r"2} \boxed{5", r"\boxed{}"]
    )


def digits(rng):
    return rng.choice(["", "-", "0.", "1e", "x^"]) + str(rng.randint(1, 9)) * rng.randint(50, 6000)


def commands(rng):
    return "".join(rng.choice(COMMANDS) for _ in range(rng.randint(1, 40)))


def heavy(rng):
    """Return text that passes the filter, and that the limits of the process end."""
    return rf"(x+{rng.randint(2, 9)})^{{{rng.randint(5000, 9999)}}}"


KINDS = [
    tower,
    power_of_powers,
    factorial,
    nesting,
    megabytes,
    control_characters,
    marks_and_surrogates,
    boxes,
    digits,
    commands,
]


def asked(count, seed):
    """Yield (gold, answers in the slots, verdict or None), a tenth of them honest."""
    rng = random.Random(seed)
    for index in range(count):
        gold, answer, verdict = rng.choice(HONEST)
        if index % 10 == 0:
            yield gold, [answer], verdict
            continue
        if index % 2 == 0:
            yield *tampered(rng), None
            continue
        text = heavy(rng) if index % 200 == 1 else rng.choice(KINDS)(rng)
        text = rng.choice([text, rf"\boxed{{{text}}}", f"<answer>{text}</answer>", text[:900]])
        slots = answers(text, rng.choice(ANSWER_STYLES))
        yield gold, slots or [text], None


def tampered(rng):
    """Return a gold and an answer that looks like a right one."""
    if rng.random() < 0.3:
        gold, texts = rng.choice(ALTERED)
        return gold, [rng.choice(texts)]
    gold, answer, _ = rng.choice([item for item in HONEST if item[2] is Verdict.CORRECT])
    return gold, [answer + rng.choice(BESIDE)]


def fuzz(count, seed, memory_mb=MEMORY_MB):
    """Return the counts of verdicts, what was misjudged, and a process's peak memory in MiB."""
    counts, mistaken, peak, done = Counter(), [], [0], threading.Event()
    with CheckerPool(workers=2, timeout_s=1.0, memory_mb=memory_mb) as pool:
        watcher = threading.Thread(target=_watch, args=(pool, peak, done))
        watcher.start()
        try:
            questions = list(asked(count, seed))
            readings = read_answers([(gold, slots) for gold, slots, _ in questions], pool)
        finally:
            done.set()
            watcher.join()
    for (gold, slots, verdict), reading in zip(questions, readings, strict=True):
        counts[str(reading.verdict)] += 1
        rewarded = reading.verdict is Verdict.CORRECT and not is_seen_as(gold, slots)
        misjudged = rewarded if verdict is None else reading.verdict is not verdict
        if misjudged or reading.rule == "checker died":
            mistaken.append((gold, slots[0][:200], reading))
    return counts, mistaken, peak[0] / 2**20


def is_seen_as(gold, slots):
    """Return whether the only slot shows a right answer, without its invisible characters."""
    seen = unicodedata.normalize("NFKC", slots[0])
    shown = "".join(c for c in seen if unicodedata.category(c) not in ("Cf", "Cc", "Zs"))
    shown = shown.removeprefix(r"\boxed{").removesuffix("}")
    right = {gold.answer, gold.answer.removesuffix(" cm")} | {
        a for g, a, v in HONEST if g == gold and v is Verdict.CORRECT
    }
    return shown.strip(".,;:") in {text.replace(" ", "") for text in right}


def _watch(pool, peak, done):
    while not done.wait(0.05):
        for pid in pool.pids:
            try:
                peak[0] = max(peak[0], psutil.Process(pid).memory_info().rss)
            except psutil.Error:
                continue  # it was killed meanwhile


def test_adversarial_text_is_bounded_and_honest_answers_stay_right():
    with at_most_cpu_s(max(60.0, COUNT * 0.03)):  # 300 s for 10,000
        counts, mistaken, peak = fuzz(COUNT, SEED)
    assert mistaken == []
    assert counts.total() == COUNT
    assert 0 < peak < MEMORY_MB


def test_nothing_altered_and_nothing_with_an_alternative_beside_it_is_right():
    right = [(gold, answer) for gold, answer, verdict in HONEST if verdict is Verdict.CORRECT]
    questions = [(gold, answer + beside) for gold, answer in right for beside in BESIDE]
    questions += [(gold, text) for gold, texts in ALTERED for text in texts]
    with CheckerPool(timeout_s=1.0) as pool:
        checks = pool.check(questions)
    pairs = zip(questions, checks, strict=True)
    assert [q for q, check in pairs if check.verdict not in ("wrong", "unparsable")] == []


def test_fuzz_in_a_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(fuzz(COUNT // 6, SEED + 1)))
    thread.start()
    thread.join()
    ((counts, mistaken, _),) = results
    assert mistaken == []
    assert counts.total() == COUNT // 6


def test_fuzz_in_a_subprocess():
    command = [sys.executable, __file__, str(COUNT // 6), str(SEED + 2)]
    paths = {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | paths)
    assert done.returncode == 0, done.stderr


def test_fuzz_under_a_foreign_alarm():
    fired = []

    def handler(number, frame):
        fired.append(number)

    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        _, mistaken, _ = fuzz(COUNT // 6, SEED + 3)
        assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.002
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert mistaken == []
    assert len(fired) > 3


def main(count, seed):
    start = time.monotonic()
    counts, mistaken, peak = fuzz(count, seed)
    seconds = time.monotonic() - start
    print(f"{count} strings in {seconds:.1f} s, {dict(counts)}, peak {peak:.0f} MiB")
    if mistaken:
        raise SystemExit(f"{len(mistaken)} answers misjudged, such as {mistaken[0]}")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
