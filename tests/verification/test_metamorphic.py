"""Answers made from golds: equivalents are accepted, near misses refused, for every answer type.

The siblings come from `tests/support/answer_siblings.py`, written from the specification and not
from the verifier. `VLM_RL_METAMORPHIC=20000 VLM_RL_METAMORPHIC_SEED=1 pytest
tests/verification/test_metamorphic.py` tries more; `python -m tests.verification.test_metamorphic
20000 1` prints what was misjudged, by what had been done to the answer.
"""

import os
import random
import sys
import time
from collections import Counter, defaultdict

import pytest

from tests.support.answer_bases import bases
from tests.support.answer_siblings import dress, has_plain_words, siblings
from vlm_rl.records import Verdict
from vlm_rl.verification.extraction import answers
from vlm_rl.verification.gold import Gold
from vlm_rl.verification.pool import CheckerPool, read_answers

COUNT = int(os.environ.get("VLM_RL_METAMORPHIC", "2000"))
SEED = int(os.environ.get("VLM_RL_METAMORPHIC_SEED", "0"))
WORDS = ("text", "Chinese text", "choice")
OTHER_UNITS = ("another size", "another kind", "another unit")
AMBIGUOUS = ("set", "plus and minus", "interval: inequality")
"""Kinds whose spellings, as golds without a type of their own, are also points or tuples."""


@pytest.fixture(scope="module")
def pool():
    with CheckerPool(workers=1) as shared:
        yield shared


def judge(count, seed, pool):
    """Return the pairs with the checks that do not agree with their labels."""
    pairs = list(siblings(count, seed))
    checks = pool.check([(pair.gold, pair.answer) for pair in pairs])
    return [
        (pair, check)
        for pair, check in zip(pairs, checks, strict=True)
        if (check.verdict is Verdict.CORRECT) is not pair.right
        or check.verdict in (Verdict.ERROR, Verdict.TIMEOUT)
    ]


def shown(pair, check):
    kind = f"{pair.kind}, {pair.gold.answer_type}"
    moves = ", ".join(pair.moves)
    return f"{kind}: {pair.gold.answer} <- {pair.answer} ({moves}): {check.rule}"


def test_equivalents_are_accepted_and_near_misses_refused(pool):
    misjudged = judge(COUNT, SEED, pool)
    accepted = [shown(*found) for found in misjudged if not found[0].right]
    refused = [shown(*found) for found in misjudged if found[0].right]
    assert accepted == []
    assert refused == []


def itself(base):
    """Return the forms in which a gold is its own answer."""
    gold = base.gold.answer
    dollars = r"\$" in gold
    forms = [gold, f"{gold}.", gold if dollars else f"${gold}$", f"  {gold} "]
    if base.kind.startswith(WORDS):
        return [*forms, rf"\text{{{gold}}}"]
    if dollars or not gold.isascii() or base.words or has_plain_words(gold):
        return forms
    forms.append(rf"\boldsymbol{{{gold}}}")
    return forms if "," in gold else [*forms, f"{{{gold}}}"]


def test_each_gold_verifies_against_itself(pool):
    asked = [(base.gold, form) for base in bases(SEED) for form in itself(base)]
    checks = pool.check(asked)
    pairs = zip(asked, checks, strict=True)
    assert [(g, a, c.rule) for (g, a), c in pairs if c.verdict is not Verdict.CORRECT] == []


def test_equivalents_are_symmetric(pool):
    asked = []
    rng = random.Random(SEED)
    for base in bases(SEED):
        gold = base.gold
        pure = [core.text for core in base.same if core.pure]
        ambiguous = gold.answer_type == "latex" and base.kind in AMBIGUOUS
        if gold.choices or gold.unit or ambiguous or not pure:
            continue
        for text in rng.sample(pure, min(len(pure), 1 + COUNT // 1000)):
            asked.append((Gold(gold.answer, gold.answer_type), text))
            asked.append((Gold(text, gold.answer_type), gold.answer))
    checks = pool.check(asked)
    right = [check.verdict is Verdict.CORRECT for check in checks]
    broken = [asked[i] for i in range(0, len(asked), 2) if right[i] is not right[i + 1]]
    assert broken == []


def boxed(count, seed):
    """Yield (gold, completion, whether it is right), with boxes of siblings.

    Only spellings that say all that the gold says are paired: whether 5 beside 50 mm is a hedge
    depends on the gold's unit. So does whether 5 beside 5 m is one.
    """
    rng = random.Random(seed)
    golds = bases(seed)
    for _ in range(count):
        base = rng.choice(golds)
        full = [core for core in base.same if core.pure and core.move != "conversion"]
        first, second = (dress(base, rng.choice(full), rng, 1)[0] for _ in range(2))
        other = rng.choice([core for core in base.other if core.move not in OTHER_UNITS])
        before = rng.choice(["", "<think>a</think> ", r"<think>\boxed{0}, no</think> "])
        joint = rng.choice([" or ", " and ", ", "])
        right, again, wrong = (rf"\boxed{{{text}}}" for text in (first, second, other.text))
        yield base.gold, f"{before}{right}", True
        yield base.gold, f"{before}{right}, that is {again}", True
        yield base.gold, f"{before}{right}{joint}{wrong}", False
        yield base.gold, f"{before}{wrong}{joint}{right}", False
        yield base.gold, rf"{before}\boxed{{{other.text} {right}}}", False
        yield base.gold, rf"{before}{right}{joint}\boxed{{", False
        yield base.gold, rf"{before}{right}{joint}\boxed{{{other.text}", False
        yield base.gold, f"<think>{right}", False


def misread(cases, pool):
    """Return the completions whose reading does not agree with their label."""
    cases = list(cases)
    readings = read_answers([(gold, answers(text, "box")) for gold, text, _ in cases], pool)
    return [
        (gold.answer, text, reading.rule)
        for (gold, text, right), reading in zip(cases, readings, strict=True)
        if (reading.verdict is Verdict.CORRECT) is not right
    ]


def test_equal_boxes_are_one_answer_and_others_a_hedge(pool):
    assert misread(boxed(COUNT // 20, SEED), pool) == []


BOXES = [
    (Gold("5", "number"), r"\boxed{5} and \boxed{6}", False),
    (Gold("5", "number"), r"\boxed{5}, so \boxed{5.0}", True),
    (Gold("5", "number"), r"\boxed{5\text{ cm}}, so the length is \boxed{5}", True),
    (Gold("5 cm", "number_unit"), r"\boxed{5}\text{ cm}, so \boxed{5\text{ cm}}", True),
    (Gold("5", "number"), r"\boxed{\boxed{5}}", True),
    (Gold("5", "number"), r"\boxed{4 \boxed{5}}", False),
    (Gold("5", "number"), r"\boxed{5 \boxed{4}}", False),
    (Gold("5", "number"), r"\boxed{5} ... \boxed{", False),
    (Gold("5", "number"), r"\boxed{5} or \boxed{6", False),
    (Gold("5", "number"), r"<think>a \boxed{5}", False),
    (Gold("5", "number"), r"<think>\boxed{6}</think> \boxed{5}", True),
    (Gold("5", "number"), r"I write it in \boxed{}. \boxed{5}", True),
    (Gold("B", "choice", ("30°", "40°", "50°")), r"\boxed{B}, so \boxed{\text{B}}", True),
    (Gold("B", "choice", ("30°", "40°", "50°")), r"\boxed{40^\circ}. Answer: \boxed{B}", True),
    (Gold("B", "choice", ("30°", "40°", "50°")), r"\boxed{40^\circ}. Answer: \boxed{C}", False),
    (Gold("B", "choice", ("30°", "40°", "50°")), r"\boxed{A} \boxed{B} \boxed{C}", False),
]


def test_boxes_by_hand(pool):
    assert misread(BOXES, pool) == []


def main(count, seed):
    start = time.monotonic()
    with CheckerPool(workers=1) as pool:
        misjudged = judge(count, seed, pool)
    seconds = time.monotonic() - start
    labels = Counter(pair.right for pair in siblings(count, seed))
    print(f"{count} pairs of {len(bases(seed))} golds in {seconds:.1f} s: {dict(labels)}")
    for right, word in ((False, "accepted wrongly"), (True, "refused wrongly")):
        found = [item for item in misjudged if item[0].right is right]
        print(f"\n{len(found)} {word}")
        by_kind = defaultdict(list)
        for pair, check in found:
            move = "" if check.verdict is Verdict.ERROR else pair.moves[0 if right else -1]
            by_kind[pair.kind, move].append((pair, check))
        for _, items in sorted(by_kind.items(), key=lambda item: -len(item[1])):
            print(f"{len(items):5d}  {shown(*items[0])}")
    raise SystemExit(bool(misjudged))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
