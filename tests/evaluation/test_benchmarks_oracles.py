"""Rules of the benchmarks against those of their authors, written here again, over many responses.

Broken on purpose, one at a time, each seen red:
"""

import json
import random
import re
from pathlib import Path

import pytest

from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.hallusionbench import accuracies
from vlm_rl.evaluation.benchmarks.loading import load, problem_of
from vlm_rl.records import Problem

WORDS = ("Paris", "a cat", "the red line", "14", "blue 7")
COUNT = 300


def responses(draw: random.Random, options, letters: str):
    """Ways in which a model ends: by letter, by words, by several, by none."""
    letter, other = draw.choice(letters), draw.choice(letters)
    option = draw.choice(options)
    forms = (
        "{x}", "({x})", "{x}.", "{x}: {o}", "({x}) {o}", "{low}", "({low})", "option {x}",
        "Answer: {x}", "Answer: {x}.", "Answer: ({y})", "Answer: {x} and {y}", "Answer:",
        "I think that {o} is shown here by all of it.", "It is {o}", "the answer is {x}.",
        "The answer is {low}", "Between ({x}) and ({y}) it is hard to say.", "{x} or {y} maybe",
        "[Answer] ({x}) [Rationale] since ({y}) is not", "so it is {low} then", "no idea",
        "We see that {x} is wrong, so the one left is {y}.", "'{x}'", " {x}!", "",
        "Final: {y}. And Answer: {x} is given by {o}", "the answer is ({x}), not {y} ,",
    )  # fmt: skip
    return draw.choice(forms).format(x=letter, y=other, low=letter.lower(), o=option)


def outcomes(name: str, row, authors) -> list[bool]:
    """Rule on generated responses, each with a gold of its own."""
    draw = random.Random(0)
    found = []
    for _ in range(COUNT):
        options = draw.sample(WORDS, 4)
        gold = draw.choice("ABCD")
        problem = problem_of(BENCHMARKS[name], row(options, gold))
        response = responses(draw, options, "ABCD")
        ruling = BENCHMARKS[name].official(problem, response)
        expected = authors(response, options) == gold
        assert ruling.correct is expected, (response, options, gold, ruling)
        boxed = BENCHMARKS[name].official(problem, rf"{response} \boxed{{{gold}}}")
        assert boxed.correct, "the box goes before the rest"
        found.append(expected)
    return found


def mmmu_pro(response: str, options) -> str | None:
    """Read as the steps of mmmu-pro/evaluate.py say, but for its draw."""
    letters = "ABCD"
    if "Answer:" in response:
        rest = response[response.rindex("Answer:") :][7:]
        named = {letter for letter in letters if letter in rest}
        if len(named) == 1:
            return named.pop()
    for mark in (",", ".", "!", "?", ";", ":", "'"):
        while response[:1] == mark:
            response = response[1:]
        while response[-1:] == mark:
            response = response[:-1]
    text = " " + response + " "
    bracketed = [(text.rindex(f"({x})"), x) for x in letters if f"({x})" in text]
    if bracketed:
        return max(bracketed)[1]
    for mark in (" ", "."):
        standing = [x for x in letters if x + mark in text]
        if standing:
            places = [text.rfind(f" {x} ") for x in standing]
            return standing[places.index(max(places))]
    if len(text.split()) > 5:
        worded = [(text.lower().rfind(o.lower()), x) for x, o in zip(letters, options, strict=True)]
        worded = [one for one in worded if one[0] >= 0]
        if worded:
            best = max(place for place, _ in worded)
            return next(x for place, x in worded if place == best)
    return None


@pytest.mark.parametrize("name", ["mmmu_pro", "mmmu_pro_vision"])
def test_mmmu_pro_equals_its_authors_rule(name):
    def row(options, gold):
        shared = {"id": "test_Art_1", "options": repr(options), "answer": gold, "subject": "Art"}
        return shared | {"question": "Which?", "image_1": "x.png", "image": "x.png"}

    found = outcomes(name, row, mmmu_pro)
    assert 40 < sum(found) < COUNT - 40


def test_mmmu_pro_has_ten_options_and_its_own_configurations():
    nested = {"id": "1", "options": "[['3', '4']]", "answer": "B", "subject": "s", "image": "x"}
    assert problem_of(BENCHMARKS["mmmu_pro_vision"], nested).meta["options"] == ("3", "4")
    options = [f"thing {n}" for n in range(10)]
    row = {"id": "test_Art_1", "options": repr(options), "answer": "J", "subject": "Art"}
    problem = problem_of(BENCHMARKS["mmmu_pro_vision"], row | {"image": "x.png"})
    assert problem.choices is None, "the options are in the picture only"
    for response in (r"\boxed{J}", r"\boxed{(J)}", r"\boxed{J. thing 9}", "Answer: J"):
        assert BENCHMARKS["mmmu_pro_vision"].official(problem, response).correct, response
    configs = [
        table.config
        for name in ("mmmu_pro", "mmmu_pro_vision")
        for table in BENCHMARKS[name].tables("MMMU/MMMU_Pro", "test")
    ]
    assert configs == ["standard (10 options)", "vision"]


def mmstar(response: str, options) -> str | None:
    """Read the first character as mmstar.py of the authors does, after three openings."""
    text = response.lower().strip()
    for place, opening in ((0, ""), (1, "("), (7, "option "), (14, "the answer is ")):
        if text[:place] == opening and text[place : place + 1] in ("a", "b", "c", "d"):
            return text[place].upper()
    return None


def test_mmstar_equals_its_authors_rule():
    def row(options, gold):
        listed = ", ".join(f"{x}: {o}" for x, o in zip("ABCD", options, strict=True))
        question = f"Which?\nOptions: {listed}"
        kinds = {"category": "math", "l2_category": "geometry", "image": "x.png"}
        return kinds | {"index": 1, "question": question, "answer": gold}

    found = outcomes("mmstar", row, mmstar)
    assert 30 < sum(found) < COUNT - 40
    problem = problem_of(BENCHMARKS["mmstar"], row(["1, 2", "3", "4", "5"], "A"))
    assert (problem.question, problem.choices) == ("Which?", ("1, 2", "3", "4", "5"))


def m3cot(response: str, options) -> str | None:
    """Read as judge_answer of the authors' metric.py does."""
    if "[Answer]" in response:
        response = response[response.rindex("[Answer]") + 8 :]
        for end in ("[Rationale]", "[Context]"):
            if end in response:
                response = response[: response.index(end)]
    bracketed = [x[1] for x in re.findall(r"\([A-Za-z]\)", response)]
    if bracketed:
        return bracketed[-1].upper()
    last = None
    for letter, option in zip("ABCD", options, strict=True):
        last = letter if option.lower() in response.lower() else last
    if last:
        return last
    tokens = "".join(" " if c in "\n.,!?" else c for c in response).split(" ")
    for spelled in (str.upper, str.lower):
        named = [letter for letter in "ABCD" if spelled(letter) in tokens]
        if named:
            return named[-1]
    return None


def test_m3cot_equals_its_authors_rule():
    def row(options, gold):
        kinds = {"domain": "science", "topic": "physics", "context": "", "image": "x.png"}
        return kinds | {"id": "1", "question": "Which?", "choices": options, "answer": gold}

    found = outcomes("m3cot", row, m3cot)
    assert 40 < sum(found) < COUNT - 40


def emma(response: str) -> str:
    """Extract as fast_extract_answer does."""
    response = response.strip()
    for letter in "ABCDEFGH":
        if response.upper() == letter or response[:2] == f"{letter}:":
            return letter
    try:
        float(response)
        return response
    except ValueError:
        pass
    if "boxed{" in response:
        inside = response[response.rindex("boxed{") + 6 : response.rindex("}")]
        if "\\text{" in inside:
            return inside[inside.rindex("\\text{") + 6 :].split("}")[0].strip()
        return inside.strip()
    for phrase in ("final answer is", "correct answer is", "answer should be", "answer is"):
        lower = response.lower()
        if phrase in lower:
            rest = lower[lower.rindex(phrase) + len(phrase) :].strip()
            return rest.split("\n")[0].split(".")[0]
    return response


def test_emma_mini_equals_its_authors_fast_evaluation():
    draw = random.Random(1)
    right = 0
    for _ in range(COUNT):
        options = draw.sample(WORDS, 4)
        gold = draw.choice("ABCD")
        text = options["ABCD".index(gold)]
        row = {
            "pid": "1", "question": "Which?", "options": options, "answer": gold, "subject": "Math",
            "type": "Multiple Choice", "context": "none", "image_1": "x.png",
        }  # fmt: skip
        problem = problem_of(BENCHMARKS["emma_mini"], row)
        response = responses(draw, options, "ABCD")
        if draw.random() < 0.5:
            form = draw.choice(("{}", r"\boxed{{{}}}", r"so \boxed{{\text{{{}}}}}"))
            response = form.format(draw.choice((gold, gold.lower(), text, draw.choice(options))))
        given = emma(response).lower().strip()
        numbers = [t for t in (given, text) if re.fullmatch(r"[\d.]+", t)]
        expected = given in (gold.lower(), text.lower()) or (
            len(numbers) == 2 and round(float(given), 2) == round(float(text), 2)
        )
        ruling = BENCHMARKS["emma_mini"].official(problem, response)
        assert ruling.correct is expected, (response, gold, options, ruling)
        right += expected
    assert 60 < right < COUNT - 60


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        ("0.333", r"\boxed{\frac{1}{3}}", True),  # to two decimals
        ("0.35", r"\boxed{\frac{1}{3}}", False),
        ("2\\sqrt{3}", r"\boxed{3.464}", True),
        ("x+1", r"\boxed{x+1}", True),
        ("x+1", r"\boxed{1+x}", False),  # their script simplifies here
        ("CO2", "The final answer is CO2.", True),
    ],
)
def test_emma_mini_free_answers_are_compared_to_two_decimals(gold, response, correct):
    row = {
        "pid": "1", "question": "What?", "options": [], "answer": gold, "subject": "Physics",
        "type": "Open-ended", "context": "A fall.", "image_1": "x.png",
    }  # fmt: skip
    problem = problem_of(BENCHMARKS["emma_mini"], row)
    assert problem.question == "A fall.\nWhat?"
    assert BENCHMARKS["emma_mini"].official(problem, response).correct is correct


def test_chartqa_is_the_papers_sentence_on_numbers_and_words():
    draw = random.Random(2)
    right = 0
    for _ in range(COUNT):
        gold = draw.choice((f"{draw.randint(1, 400) / 4:g}", "Yes", "United States", "12%"))
        given = draw.choice(
            (gold, gold.upper(), "no", f"{draw.randint(1, 400) / 4:g}", "12", ".12")
        )
        if draw.random() < 0.4 and gold[0].isdigit() and gold[-1] != "%":
            given = f"{float(gold) * draw.choice((0.94, 0.951, 1.049, 1.06)):.6f}"
        row = {"type": "human_test", "question": "q", "answer": gold, "image": "x.png", "row": 0}
        problem = problem_of(BENCHMARKS["chartqa"], row)
        values = [float(t[:-1]) / 100 if t[-1] == "%" else t for t in (given, gold)]
        try:
            a, b = map(float, values)
            expected = b - 0.05 * b <= a <= b + 0.05 * b
        except ValueError:
            expected = given.lower() == gold.lower()
        for form in ("{}", r"\boxed{{{}}}", "I read it. The answer is {}."):
            response = form.format(given.replace("%", r"\%") if "box" in form else given)
            ruling = BENCHMARKS["chartqa"].official(problem, response)
            assert ruling.correct is expected, (response, gold, ruling)
            assert not ruling.by_reading
        right += expected
    assert 60 < right < COUNT - 60


def hallusion(category, figure, question, gold="1", edited="1", chain="0"):
    shown = "0" if (category, figure) == ("VS", "0") else edited
    row = {
        "category": category, "subcategory": "chart", "set_id": chain, "figure_id": figure,
        "question_id": question, "visual_input": shown,
        "question": "Is it?", "gt_answer": gold, "filename": None,
    }  # fmt: skip
    return problem_of(BENCHMARKS["hallusionbench"], row)


def test_hallusionbench_counts_by_question_figure_and_pair_as_its_authors_do():
    draw = random.Random(3)
    for _ in range(100):
        rows = [
            (category, str(figure), str(question), chain)
            for category in ("VD", "VS")
            for chain in "01"
            for figure in range(draw.randint(1, 3))
            for question in range(draw.randint(1, 3))
        ]
        scored = [
            (hallusion(c, f, q, edited=str(1 + (f != "0")), chain=s), draw.random() < 0.7)
            for c, f, q, s in rows
        ]
        right = {row: ok for row, (_, ok) in zip(rows, scored, strict=True)}
        pairs = {(c, q, s) for c, f, q, s in rows}
        figures = {(c, f, s) for c, f, q, s in rows if (c, f) != ("VS", "0")}
        whole_pairs = [all(ok for r, ok in right.items() if (r[0], r[2], r[3]) == p) for p in pairs]
        whole = [all(ok for r, ok in right.items() if (r[0], r[1], r[3]) == f) for f in figures]
        rates = accuracies(scored)
        assert rates["aAcc"] == pytest.approx(sum(right.values()) / len(rows))
        assert rates["qAcc"] == pytest.approx(sum(whole_pairs) / len(pairs))
        assert rates["fAcc"] == pytest.approx(sum(whole) / len(figures))


@pytest.mark.parametrize("judged", ["0", "1", "2", "correct", "Incorrect", "unclear", 1])
def test_hallusionbench_takes_the_judgement_of_gpt4(judged):
    word = str(judged).lower()
    right = {"0": 0, "1": 1, "incorrect": 0, "correct": 1}.get(word)
    for asked, without_picture in ((hallusion("VS", "0", "0"), 1), (hallusion("VD", "0", "0"), 0)):
        ruling = BENCHMARKS["hallusionbench"].official_of_extraction(asked, judged)
        assert ruling.correct is bool(without_picture if right is None else right)
        assert not ruling.by_reading


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("Yes", "yes"),
        ("No, the circles appear to be the same size.", "no"),
        ("Yes, there is no difference.", "yes"),
        ("They differ. The answer is no.", "no"),
        (r"No doubt about it, yes. \boxed{Yes}", "yes"),
        (r"\boxed{\text{no}}", "no"),
        ("I know that nobody said it.", None),
        ("It may be yes or no.", None),
        ("<think>yes</think>I cannot tell.", None),
        ("", None),
    ],
)
def test_hallusionbench_reads_yes_no_or_neither(response, said):
    for gold, name in (("1", "yes"), ("0", "no")):
        for category, figure in (("VD", "0"), ("VS", "0"), ("VS", "1")):
            asked = hallusion(category, figure, "0", gold)
            ruling = BENCHMARKS["hallusionbench"].official(asked, response)
            unclear_is_right = (category, figure) == ("VS", "0") and response != ""
            assert ruling.correct is (unclear_is_right if said is None else said == name)
            assert ruling.by_reading


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "correct"),
    [
        (1, "Joint-CNN", "joint-cnn", True),
        (1, "(b)", "b", True),
        (1, "A, B and C", "B and C, A", True),
        (1, "ACC+", "ACC", False),
        (1, "$R^2_t$", "R^2_t", True),
        (2, "increasing", "Increasing.", True),
        (2, "[50, 100]", "[50, 100]", True),
        (2, "increasing", "growing", False),  # the judge of the authors sees it
        (3, "0.01", "10^{-2}", True),
        (3, "1500", "1.5e3", True),
        (3, "1500", "1,500", True),
        (3, "0.01", "0.012", False),
        (4, "12", r"12\%", True),
        (4, "12", "unknown", False),
    ],
)
def test_charxiv_reading_follows_the_judges_instructions(kind, gold, answer, correct):
    row = {"figure_id": 7, "query": "q", "answer": gold, "inst_category": kind}
    problem = problem_of(BENCHMARKS["charxiv"], row)
    assert problem.uid == "7"
    for response in (rf"\boxed{{{answer}}}", f"It rises. The answer is {answer}"):
        ruling = BENCHMARKS["charxiv"].official(problem, response)
        assert ruling.correct is correct, (response, ruling)
        assert ruling.by_reading
    scored = BENCHMARKS["charxiv"].official_of_extraction(
        problem, {"extracted_answer": answer, "score": 1}
    )
    assert (scored.correct, scored.by_reading) == (True, False)


def test_chartqa_reads_the_two_files_of_its_authors(tmp_path):
    for kind, label in (("human", "14"), ("augmented", "Yes")):
        rows = [{"imgname": "0.png", "query": f"{kind}?", "label": label}]
        (tmp_path / f"test_{kind}.json").write_text(json.dumps(rows))
    problems = load(BENCHMARKS["chartqa"], str(tmp_path), images=False)
    assert [(p.uid, p.answer) for p in problems] == [("human/0", "14"), ("augmented/0", "Yes")]


def test_mm_math_on_the_hub_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"pictures without their questions; .*--data\.mm_math"):
        load(BENCHMARKS["mm_math"])
    problem = Problem(uid="1", question="q", answer=r"\frac{3}{2}")
    for answer, correct in ((r"\frac{3}{2}", True), ("1.5", True), ("1.51", False), ("", False)):
        ruling = BENCHMARKS["mm_math"].official(problem, rf"so \boxed{{{answer}}}")
        assert (ruling.correct, ruling.by_reading) == (correct, True)


def test_page_lists_every_benchmark_with_its_splits():
    page = (Path(__file__).parents[2] / "docs/evaluation.md").read_text()
    table = page.split("| benchmark | splits |")[1].split("\n\n")[0]
    for name, benchmark in BENCHMARKS.items():
        (line,) = [line for line in table.splitlines() if f"`{name}`" in line]
        assert all(split in line for split in benchmark.splits), name
