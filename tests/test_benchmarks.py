"""Benchmarks: published schemas, loading, choices and golds, measures against tables made by hand.

Broken on purpose, one at a time, each seen red:
    loading.py: columns not checked
    loading.py: bad rows only warned of
    loading.py: ids not checked
    loading.py: limit overstepped
    loading.py: seed not used
    loading.py: split column not looked at
    loading.py: pictures never read
    mathvision.py: labels given as options
    mathvision.py: form feed not mended
    mathvista.py: gold left as the text of the option
    mathvista.py: no tolerance for floats
    mmmu.py: pictures in the order of their columns
    exam.py: exam answers not whole
    wemath.py: a point ;C.; taken for an option
    wemath.py: chains with missing rows kept
    wemath.py: strict and loose swapped
    wemath.py: insufficient knowledge only without any step
    wemath.py: rote memorisation over all chains
    samples.py: unchecked answers counted as wrong
    samples.py: samples not kept apart
    dynamath.py: worst case over fewer variants
    dynamath.py: any variant for the worst case
    dynamath.py: tolerance of 0.01
"""

import csv
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vlm_rl.benchmarks import BENCHMARKS
from vlm_rl.benchmarks.benchmark import Judged, Response, Ruling, cluster_of
from vlm_rl.benchmarks.dynamath import NUM_VARIANTS
from vlm_rl.benchmarks.loading import load
from vlm_rl.benchmarks.mathvision import repaired
from vlm_rl.benchmarks.wemath import options_of
from vlm_rl.records import IMAGE_MARK, Problem, Verdict
from vlm_rl.rewards.accuracy import Accuracy

SHARED = Path(os.environ.get("VLM_RL_SHARED", Path(__file__).parents[2] / "shared")) / "data"
META = {"category": "c", "task": "t", "context": "x", "grade": "g", "language": "english"}

ROWS = {
    "mathvista": [
        {"pid": "1", "question": "How far?", "image": "0.png", "choices": None, "unit": None,
         "precision": 1, "answer": "1.2", "question_type": "free_form", "answer_type": "float",
         "metadata": META},
        {"pid": "2", "question": "How old?", "image": "0.png", "choices": None, "unit": "years",
         "precision": None, "answer": "7", "question_type": "free_form", "answer_type": "integer",
         "metadata": META},
        {"pid": "3", "question": "Which?", "image": "0.png", "choices": ["15 cm", "18 cm"],
         "unit": None, "precision": None, "answer": "18 cm", "question_type": "multi_choice",
         "answer_type": "text", "metadata": META},
    ],
    "mathvision": [
        {"id": "1", "question": "Which?\n<image1>", "options": ["A", "B", "C", "D", "E"],
         "answer": "D", "image": "0.png", "level": 1, "subject": "logic"},
        {"id": "2", "question": "How big?\n<image1>", "options": [], "image": "0.png",
         "answer": "\x0crac{36}{13}", "level": 5, "subject": "algebra"},
        {"id": "3", "question": "How wide?\n<image1>", "options": [], "image": "0.png",
         "answer": "$\\frac{90}{23}^{\\circ}$", "level": 5, "subject": "algebra"},
    ],
    "mathverse": [
        {"sample_index": "1", "problem_index": "1", "problem_version": "Text Lite",
         "question": "The angle is ()\nChoices:\nA:40°\nB:60°\nC:120°\nD:140°", "image": "0.png",
         "answer": "D", "question_type": "multi-choice", "metadata": {"subject": "Plane Geometry"}},
        {"sample_index": "5", "problem_index": "1", "problem_version": "Vision Only",
         "question": "", "image": "0.png", "answer": "D", "question_type": "multi-choice",
         "metadata": {"subject": "Plane Geometry"}},
    ],
    "wemath": [
        {"ID": "2steps_1", "question": "OA is", "option": "A. 300, 400;B. 400, 300; C. no answer",
         "answer": "B", "image_path": "0.png", "key": "2steps_multi", "knowledge concept": "k"},
    ],
    "logicvista": [
        {"id": "v1_1", "question": "Which of A-D?", "answer": "B, D", "image": "0.png",
         "skill": ["inductive"]},
        {"id": "v1_2", "question": "Which of 1-5?", "answer": "3", "image": "0.png",
         "skill": ["deductive"]},
    ],
    "mmmu": [
        {"id": "validation_Math_1", "question": "In <image 1>, which?", "options": "['3', '4']",
         "answer": "B", "question_type": "multiple-choice", "image_1": "0.png"},
        {"id": "validation_Art_Theory_2", "question": "How much?", "options": "[]",
         "answer": "['24/7', '3.43']", "question_type": "open", "image_1": "0.png"},
    ],
    "geometry3k": [
        {"images": ["0.png"], "problem": "<image>Find x.", "answer": "2 \\sqrt { 221 }"},
    ],
    "aime24": [{"id": 60, "problem": "Find n.", "answer": "025"}],
    "aime25": [{"id": "0", "problem": "Find n.", "answer": "70"}],
    "amc23": [{"id": 0, "question": "Find n.", "answer": "27.0"}],
    "math500": [
        {"unique_id": "test/1.json", "problem": "Find r.", "answer": "\\frac{\\pi}{2}",
         "subject": "Precalculus", "level": 2},
    ],
}  # fmt: skip
RIGHT = {
    "mathvista": ["1.24", "7 \\text{ years}", "18\\text{ cm}"],
    "mathvision": ["(D)", "36/13", "\\frac{90}{23}^\\circ"],
    "mathverse": ["140^\\circ", "D"],
    "wemath": ["B"],
    "logicvista": ["D, B", "3"],
    "mmmu": ["4", "\\frac{24}{7}"],
    "geometry3k": ["2\\sqrt{221}"],
    "aime24": ["25"],
    "aime25": ["70"],
    "amc23": ["27"],
    "math500": ["\\pi/2"],
}
WRONG = {
    "mathvista": ["1.26", "8 \\text{ years}", "15 cm"],
    "mathvision": ["A", "2.77", "\\frac{90}{23} \\text{ cm}"],
    "mathverse": ["120^\\circ", "A"],
    "wemath": ["A"],
    "logicvista": ["B", "4"],
    "mmmu": ["A", "3.5"],
    "geometry3k": ["2\\sqrt{22}"],
    "aime24": ["26"],
    "aime25": ["70.5"],
    "amc23": ["27.5"],
    "math500": ["\\pi/3"],
}


@pytest.fixture(scope="module")
def accuracy():
    term = Accuracy()
    yield term
    term.close()


@pytest.fixture
def write(tmp_path):
    """Rows as a JSONL file beside the pictures that they name."""

    def write(rows, name="rows.jsonl"):
        for number in range(3):
            Image.new("RGB", (28, 28), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return write


def shared(name):
    if not (SHARED / name).exists():
        pytest.skip(f"needs the benchmark data in {SHARED / name}")
    return str(SHARED / name)


def dynamath_folder(folder, num_seeds=3):
    kinds = [("float", "2.094"), ("multiple choice", "B"), ("text", "Jul")]
    for variant in range(1, NUM_VARIANTS + 1):
        trial = folder / f"trial{variant}"
        trial.mkdir()
        Image.new("RGB", (28, 28)).save(trial / "0.png")
        rows = {
            str(seed): {
                "question": "q", "image": "0.png", "answer": kinds[seed % 3][1],
                "answer_type": kinds[seed % 3][0], "subject": "analytic     geometry", "level": "l",
            }
            for seed in range(num_seeds)
        }  # fmt: skip
        (trial / "dataset.json").write_text(json.dumps(rows))
    return str(folder)


def judge(problem, correct, sample=0, official=None, verdict=None):
    verdict = verdict or (Verdict.CORRECT if correct else Verdict.WRONG)
    response = Response(problem.uid, sample, "")
    ruling = None if official is None else Ruling(official, None, "by hand")
    return Judged(problem, response, None, verdict, "by hand", None, ruling)


def test_every_benchmark_asks_for_one_box_and_says_what_it_reads():
    assert set(BENCHMARKS) == {*ROWS, "dynamath"}
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.instruction.count("\\boxed{}") == 1
        assert "one \\boxed{}" in benchmark.instruction
        assert all(figure.source and 0 < figure.percent < 100 for figure in benchmark.published)


@pytest.mark.parametrize("name", ROWS)
def test_published_rows_are_judged_rightly(name, write, accuracy):
    problems = load(BENCHMARKS[name], write(ROWS[name]))
    assert accuracy.unusable(problems) == []
    texts = [
        [f"<think>\\boxed{{0}}</think> so \\boxed{{{given}}}" for given in pair]
        for pair in zip(RIGHT[name], WRONG[name], strict=True)
    ]
    for row in accuracy.read(problems, texts):
        assert [reading.verdict for reading in row] == [Verdict.CORRECT, Verdict.WRONG]
    for problem, row in zip(problems, texts, strict=True):
        rulings = [BENCHMARKS[name].official(problem, text) for text in row]
        assert rulings[1] is None or not rulings[1].correct
        assert (problem.task, problem.answer_style) == (name, "box")
        assert len(problem.images) == (0 if name.startswith(("ai", "am", "math5")) else 1)


@pytest.mark.parametrize("name", ROWS)
def test_missing_column_is_named_with_those_found(name, write):
    benchmark = BENCHMARKS[name]
    column = benchmark.columns[-1]
    theirs = {column} | {old for old, new in benchmark.aliases.items() if new == column}
    rows = [{key: row[key] for key in row if key not in theirs} for row in ROWS[name]]
    with pytest.raises(ValueError, match=f"no column '{column}' that {name} needs; there are"):
        load(benchmark, write(rows))


def test_bad_rows_are_counted_and_named(write):
    row = ROWS["logicvista"][0]
    rows = [row | {"id": "a"}, row | {"id": "b", "answer": " "}, row | {"id": "c"}]
    # one such row is published, a second is an error
    assert [p.uid for p in load(BENCHMARKS["logicvista"], write(rows))] == ["a", "c"]
    rows.append(row | {"id": "d", "image": "none.png"})
    with pytest.raises(ValueError, match=r"2 rows are no problems: .*row 2: .*answer is empty"):
        load(BENCHMARKS["logicvista"], write(rows))
    assert len(load(BENCHMARKS["logicvista"], write(rows), max_bad_rows=2)) == 2
    broken = ROWS["mmmu"][0] | {"options": "['3', "}
    with pytest.raises(ValueError, match=r"1 rows are no problems: .*row 1: SyntaxError"):
        load(BENCHMARKS["mmmu"], write([broken]))
    with pytest.raises(ValueError, match="id 'a' stands twice"):
        load(BENCHMARKS["logicvista"], write([rows[0], rows[0]]))


def test_unknown_split_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"splits testmini, test, got split='tets'; did you mean"):
        load(BENCHMARKS["mathvision"], split="tets")


def test_rows_of_another_split_are_left_out(write):
    row = ROWS["wemath"][0]
    rows = [row | {"split": "testmini"}, row | {"split": "other", "ID": "2steps_2"}]
    assert [p.uid for p in load(BENCHMARKS["wemath"], write(rows))] == ["2steps_1/multi"]


def test_limit_keeps_versions_together_and_grows_by_adding(tmp_path):
    source = dynamath_folder(tmp_path, num_seeds=6)
    benchmark = BENCHMARKS["dynamath"]
    full = [p.uid for p in load(benchmark, source)]
    small = [p.uid for p in load(benchmark, source, limit=25)]
    large = [p.uid for p in load(benchmark, source, limit=40)]
    assert len(small) == 20
    assert set(small) < set(large)
    assert large == [uid for uid in full if uid in set(large)]
    assert small != [p.uid for p in load(benchmark, source, limit=25, seed=1)]
    with pytest.raises(ValueError, match="limit=9 is too small"):
        load(benchmark, source, limit=9)


def test_pictures_are_not_needed_to_score_responses(write):
    rows = [row | {"image": "none.png"} for row in ROWS["mathvista"]]
    problems = load(BENCHMARKS["mathvista"], write(rows), images=False)
    assert [problem.images for problem in problems] == [()] * 3
    with pytest.raises(ValueError, match="3 rows are no problems"):
        load(BENCHMARKS["mathvista"], write(rows))


def test_mathvision_leaves_out_labels_and_mends_golds(write):
    rows = [
        ROWS["mathvision"][0] | {"id": str(number), "options": options}
        for number, options in enumerate([list("ABCDE"), ["(A)", "(B)"], list("xyzuv")])
    ]
    rows[1]["answer"] = "A"
    choices = [p.choices for p in load(BENCHMARKS["mathvision"], write(rows))]
    assert choices == [None, None, ("x", "y", "z", "u", "v")]
    assert repaired("11 ") == ("11", None)
    assert repaired("$\\boxed{\\frac{16}{7}}$") == ("\\frac{16}{7}", None)
    assert repaired("69{degrees}") == ("69", "°")
    assert repaired("8\\sqrt{3}{squareinches}") == ("8\\sqrt{3}", "squareinches")
    assert repaired("\\sqrt{34}") == ("\\sqrt{34}", None)


def test_mathvista_gold_is_the_letter_where_an_option_looks_like_one(write):
    row = ROWS["mathvista"][2] | {"choices": ["B", "A"], "answer": "A"}
    problem = load(BENCHMARKS["mathvista"], write([row]))[0]
    assert problem.answer == "B"


def test_mmmu_pictures_stand_where_they_are_named(write):
    row = ROWS["mmmu"][0] | {"image_1": "0.png", "image_2": "1.png", "image_3": "2.png"}
    row["question"] = "<image 2> beside <image 1>; <image 2> again?"
    problem = load(BENCHMARKS["mmmu"], write([row]))[0]
    # the third, which is not named, comes first
    assert [path.name for path in problem.images] == ["2.png", "1.png", "0.png"]
    text = f"{IMAGE_MARK}{IMAGE_MARK} beside {IMAGE_MARK}; <image 2> again?"
    assert problem.question == text
    row |= {"question": "Which?", "options": "['<image 1>', '<image 2>']", "image_3": None}
    problem = load(BENCHMARKS["mmmu"], write([row]))[0]
    assert problem.question == f"Which?\nChoices:\n(A) {IMAGE_MARK}\n(B) {IMAGE_MARK}"
    assert problem.choices is None


def test_hub_sets_in_several_tables_name_them_all():
    parts = BENCHMARKS["mmmu"].parts("MMMU/MMMU", "validation")
    assert len({part.config for part in parts}) == 30
    parts = BENCHMARKS["dynamath"].parts("DynaMath/DynaMath_Sample", "sample")
    assert [part.split for part in parts] == [f"sample_variant{n}" for n in range(1, 11)]
    assert BENCHMARKS["mathverse"].parts("AI4Math/MathVerse", "testmini")[0].config == "testmini"


def test_wemath_options_come_apart_at_letters_in_order():
    assert options_of("A. 3;B. 4 ; C. No; really") == ("3", "4", "No; really")
    assert options_of("A. to ;C.; B. to ;C.; C. no") == ("to ;C.", "to ;C.", "no")
    assert options_of("A. 3; B. 4; F. no") == ()  # a letter would not be its place
    assert options_of("3 or 4") == ()


def chain(name, steps, last):
    rows = [*enumerate(steps, 1), ("multi", last)]
    problem = Problem(uid="x", question="q", answer="A", answer_type="choice")
    for place, correct in rows:
        meta = {
            "cluster": name,
            "place": str(place),
            "steps": len(steps),
            "categories": {"steps": str(len(steps)) if place == "multi" else "1"},
        }
        yield replace(problem, uid=f"{name}/{place}", meta=meta), bool(correct)


# 20 rows, every branch: 2 of 6 chains insufficient knowledge, 1 inadequate generalisation
TABLE = [
    *chain("complete mastery", (1, 1), 1),
    *chain("inadequate generalisation", (1, 1), 0),
    *chain("insufficient knowledge", (1, 0), 0),
    *chain("rote memorisation, strict and loose", (0, 0), 1),
    *chain("rote memorisation strict, mastery loose", (1, 0, 1), 1),
    *chain("insufficient knowledge, no step", (0, 0, 0), 0),
]
FIGURES = {
    "S1": 7 / 14, "S2": 2 / 4, "S3": 1 / 2, "whole_chains": 1.0,
    "insufficient_knowledge": 2 / 6, "inadequate_generalization": 1 / 6,
    "complete_mastery_strict": 1 / 6, "complete_mastery_loose": 2 / 6,
    "rote_memorization_strict": 2 / 3, "rote_memorization_loose": 1 / 3,
    # the authors': (6 - 0.5 * 1 - 2 - 2) / 6 and (6 - 0.5 * 1 - 1 - 2) / 6
    "score_strict": 1.5 / 6, "score_loose": 2.5 / 6,
}  # fmt: skip


def test_wemath_measures_equal_the_formulas_on_a_table_by_hand():
    assert len(TABLE) == 20
    judged = [judge(*row) for row in TABLE]
    assert BENCHMARKS["wemath"].measures(judged) == pytest.approx(FIGURES)


def test_wemath_measures_average_over_samples_and_stand_by_both_rulings():
    first = [judge(problem, right, 0, official=False) for problem, right in TABLE]
    second = [judge(problem, False, 1, official=False) for problem, _ in TABLE]
    figures = BENCHMARKS["wemath"].measures(first + second)
    assert figures["score_strict"] == pytest.approx(FIGURES["score_strict"] / 2)
    assert figures["insufficient_knowledge"] == pytest.approx((2 / 6 + 1) / 2)
    assert figures["official/insufficient_knowledge"] == 1
    assert figures["official/rote_memorization_strict"] == 0  # 0/0


def test_wemath_chain_with_a_row_missing_or_unchecked_is_left_out_and_counted():
    judged = [judge(*row) for row in TABLE]
    figures = BENCHMARKS["wemath"].measures(judged[1:])  # without a step of complete mastery
    assert figures["whole_chains"] == pytest.approx(5 / 6)
    assert figures["complete_mastery_strict"] == 0
    assert figures["insufficient_knowledge"] == pytest.approx(2 / 5)
    judged[0] = judge(TABLE[0][0], None, verdict=Verdict.TIMEOUT)
    assert BENCHMARKS["wemath"].measures(judged) == pytest.approx(figures)


def seed_question(seed, variant):
    meta = {"cluster": seed, "variant": variant, "categories": {}}
    return Problem(uid=f"{seed}-{variant}", question="q", answer="1", meta=meta)


@pytest.mark.parametrize(
    ("name", "average", "worst"),
    [("GPT4o", 3173, 174), ("Qwen2-7B", 2111, 69), ("llava1.5-7B", 821, 9)],
)
def test_dynamath_measures_follow_from_the_published_verdicts(name, average, worst):
    with open(shared(f"dynamath/{name}-result.csv"), newline="") as lines:
        rows = [row for row in csv.reader(lines) if row[0][:1] == "Q" and row[0][1:].isdigit()]
    assert len(rows) == 501
    judged = [
        judge(seed_question(row[0], variant), row[variant] == "correct")
        for row in rows
        for variant in range(1, 11)
    ]
    figures = BENCHMARKS["dynamath"].measures(judged)
    # the file's own count of right variants per question
    counts = [int(row[11]) for row in rows]
    assert (sum(counts), counts.count(10)) == (average, worst)
    assert figures["average"] == pytest.approx(average / 5010, abs=1e-12)
    assert figures["worst_case"] == pytest.approx(worst / 501, abs=1e-12)
    same = counts.count(10) + counts.count(0)
    assert figures["consistency"] == pytest.approx(same / 501, abs=1e-12)


def test_dynamath_worst_case_needs_all_variants():
    whole = [judge(seed_question("1", n), True) for n in range(10)]
    part = [judge(seed_question("2", n), False) for n in range(9)]
    figures = BENCHMARKS["dynamath"].measures(whole + part)
    assert figures["worst_case"] == 1
    assert figures["whole_questions"] == 0.5
    assert figures["average"] == pytest.approx(10 / 19)
    assert "worst_case" not in BENCHMARKS["dynamath"].measures(part)


def test_dynamath_folder_is_ten_variants_of_each_question(tmp_path, accuracy):
    problems = load(BENCHMARKS["dynamath"], dynamath_folder(tmp_path))
    assert len(problems) == 30
    assert {cluster_of(problem) for problem in problems} == {"0", "1", "2"}
    assert problems[0].meta["categories"]["subject"] == "analytic geometry"
    texts = [[f"\\boxed{{{given}}}" for given in row] for row in
             [("2.0948", "2.0952"), ("(B)", "A"), ("jul", "Jun")]]  # fmt: skip
    verdicts = [[r.verdict for r in row] for row in accuracy.read(problems[:3], texts)]
    assert verdicts == [[Verdict.CORRECT, Verdict.WRONG]] * 3


@pytest.mark.parametrize(
    ("name", "file", "images", "count", "clusters"),
    [
        ("mathvision", "mathvision/testmini.jsonl", True, 304, 304),
        ("mathvista", "mathvista/testmini.json", False, 1000, 1000),
        ("wemath", "wemath/testmini.json", False, 1740, 525),
        ("dynamath", "dynamath", True, 630, 63),
    ],
)
def test_published_data_loads_and_every_gold_can_be_read(
    name, file, images, count, clusters, accuracy
):
    problems = load(BENCHMARKS[name], shared(file), images=images)
    assert len(problems) == count
    assert len({cluster_of(problem) for problem in problems}) == clusters
    assert accuracy.unusable(problems) == []
    assert all(bool(problem.images) == images for problem in problems)


def test_pictures_in_the_rows_are_kept_as_bytes():
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, "PNG")
    picture = {"bytes": buffer.getvalue(), "path": None}
    row = ROWS["mathvista"][0] | {"decoded_image": picture}
    assert list(BENCHMARKS["mathvista"].images(row)) == [picture]
