"""Benchmarks: published schemas, loading, choices, types and golds.

Broken on purpose, one at a time, each seen red:
    loading.py: columns not checked
    loading.py: bad rows only warned of
    loading.py: ids not checked
    loading.py: limit overstepped
    loading.py: seed not used
    loading.py: split column not looked at
    loading.py: images never read
    loading.py: a missing answer as the gold None; an IndexError not caught
    percentages.py: never asked for; units and all words before it taken
    benchmark.py: the file of a split not looked for; options counted by those shown
    mathvision.py: letters outside the options; options of another type
    mathvision.py: dollar signs and marks of images no labels
    dynamath.py: points no tuples
    mathvision.py: labels given as options
    mathvision.py: form feed not mended
    mathvista.py: gold left as the text of the option
    mathvista.py: no tolerance for floats
    mmmu.py: images in the order of their columns
    exam.py: exam answers not whole
    wemath.py: a point ;C.; taken for an option
    dynamath.py: tolerance of 0.01
"""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.support.benchmark_rows import RIGHT, ROWS, WRONG, dynamath_folder
from tests.support.places import SHARED
from vlm_rl.evaluation.benchmarks import BENCHMARKS
from vlm_rl.evaluation.benchmarks.benchmark import cluster_of, num_options
from vlm_rl.evaluation.benchmarks.cutting import labels_in
from vlm_rl.evaluation.benchmarks.loading import load
from vlm_rl.evaluation.benchmarks.mathvision import repaired
from vlm_rl.evaluation.benchmarks.percentages import asks_for_percentage
from vlm_rl.evaluation.benchmarks.wemath import options_of
from vlm_rl.records import IMAGE_MARK, Verdict
from vlm_rl.rewards.accuracy import Accuracy

DATA = SHARED / "data"


@pytest.fixture(scope="module")
def accuracy():
    term = Accuracy()
    yield term
    term.close()


@pytest.fixture
def write(tmp_path):
    """Rows as a JSONL file beside the images that they name."""

    def write(rows, name="rows.jsonl"):
        for number in range(3):
            Image.new("RGB", (28, 28), (80 * number, 0, 0)).save(tmp_path / f"{number}.png")
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return write


def shared(name):
    if not (DATA / name).exists():
        pytest.skip(f"needs the benchmark data in {DATA / name}")
    return str(DATA / name)


def test_every_benchmark_asks_for_one_box_and_says_what_it_reads():
    assert set(BENCHMARKS) == {*ROWS, "dynamath"}
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert benchmark.instruction.count("\\boxed{}") == 1
        assert "one \\boxed{}" in benchmark.instruction
        assert all(one.source and 0 < one.percent < 100 for one in benchmark.published)


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
        assert len(problem.images) == (0 if name.startswith(("aime", "amc", "math5")) else 1)


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
    with pytest.raises(ValueError, match=r"2 rows cannot be problems: .*row 2: .*answer is empty"):
        load(BENCHMARKS["logicvista"], write(rows))
    assert len(load(BENCHMARKS["logicvista"], write(rows), max_bad_rows=2)) == 2
    broken = ROWS["mmmu"][0] | {"options": "['3', "}
    with pytest.raises(ValueError, match=r"1 rows cannot be problems: .*row 1: SyntaxError"):
        load(BENCHMARKS["mmmu"], write([broken]))
    with pytest.raises(ValueError, match="id 'a' occurs twice"):
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


def test_images_are_not_needed_to_score_responses(write):
    rows = [row | {"image": "none.png"} for row in ROWS["mathvista"]]
    problems = load(BENCHMARKS["mathvista"], write(rows), images=False)
    assert [problem.images for problem in problems] == [()] * 3
    with pytest.raises(ValueError, match="3 rows cannot be problems"):
        load(BENCHMARKS["mathvista"], write(rows))


def test_mathvision_leaves_out_labels_and_mends_golds(write):
    rows = [
        ROWS["mathvision"][0] | {"id": str(number), "options": options}
        for number, options in enumerate([list("ABCDE"), ["(A)", "(B)"], list("xyzuv")])
    ]
    rows[1]["answer"] = "A"
    choices = [p.choices for p in load(BENCHMARKS["mathvision"], write(rows))]
    assert choices == [None, None, ("x", "y", "z", "u", "v")]
    marks = ["<image2>", "<image3>", "<image4>"]
    more = [["$a$", "$b$", "$C$", "$d$", "$e$"], marks, ["$A$", "$B$", "$C$", "$D$", "No pocket"]]
    rows = [
        rows[2] | {"id": str(n), "options": options, "answer": "A"}
        for n, options in enumerate(more)
    ]
    problems = load(BENCHMARKS["mathvision"], write(rows))
    assert [p.choices for p in problems] == [None, None, tuple(more[2])]
    assert [num_options(p) for p in problems] == [5, 3, 5]
    assert repaired("11 ") == ("11", None)
    assert repaired("$\\boxed{\\frac{16}{7}}$") == ("\\frac{16}{7}", None)
    assert repaired("69{degrees}") == ("69", "°")
    assert repaired("8\\sqrt{3}{squareinches}") == ("8\\sqrt{3}", "squareinches")
    assert repaired("\\sqrt{34}") == ("\\sqrt{34}", None)


@pytest.mark.parametrize(
    "changed",
    [{"answer": "F"}, {"answer": "1"}, {"answer": "AB"}, {"options": "['3', '4']"}],
)
def test_malformed_choices_are_bad_rows(changed, write):
    rows = [ROWS["mathvision"][1], ROWS["mathvision"][0] | changed]
    (problem,) = load(BENCHMARKS["mathvision"], write(rows), max_bad_rows=1)
    assert problem.uid == "2"
    with pytest.raises(
        ValueError, match=r"row 2: (the answer .* is not a letter|options .* not a list)"
    ):
        load(BENCHMARKS["mathvision"], write(rows))


@pytest.mark.parametrize("name", ["mathvista", "mathvision", "mathverse", "mmmu", "math500"])
@pytest.mark.parametrize("cell", [None, float("nan"), " "])
def test_missing_answer_is_no_gold(name, cell, write):
    with pytest.raises(ValueError, match=r"row 1: the answer is empty"):
        load(BENCHMARKS[name], write([ROWS[name][0] | {"answer": cell}]))


def test_short_rows_are_bad_rows(write):
    class Short(type(BENCHMARKS["aime24"])):
        def problem(self, row, images):
            return ()[0]

    with pytest.raises(ValueError, match=r"1 rows cannot be problems: .*IndexError"):
        load(Short(), write(ROWS["aime24"]))


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("What percent of her class chose candy E?", True),
        ("What percentage of her tablecloth is black?", True),
        ("By what percent is the highest price more than the lowest price?", True),
        ("What is the combined percentage of Lowest ROI and Medium ROI in SEO?", True),
        ("The percent increase in the surface area of the cube is closest to", True),
        ("In how many years, is the percentage of merchandise exports greater than 4 %?", False),
        ("After 90 % of the votes were counted, how many students had a chance?", False),
        ("What is the ratio of the percentage of A to that of B?", False),
        ("What year has percentage values above 10?", False),
        ("What is the month her shooting percentage doubled?", False),
        ("Steph scored a higher percentage. How many more baskets did she score?", False),
    ],
)
def test_percentage_is_asked_for_and_not_only_named(question, asked):
    assert asks_for_percentage(question) is asked


def test_answer_to_a_percent_question_may_have_the_sign(write, accuracy):
    asked = {"question": "What percent is black?"}
    vista = load(BENCHMARKS["mathvista"], write([ROWS["mathvista"][1] | asked | {"unit": None}]))
    vision = load(
        BENCHMARKS["mathvision"], write([ROWS["mathvision"][1] | asked | {"answer": "7"}])
    )
    texts = [[f"\\boxed{{{given}}}" for given in (r"7\%", "7", "0.07", r"8\%", "7 cm")]] * 2
    for row in accuracy.read([*vista, *vision], texts):
        assert [reading.verdict is Verdict.CORRECT for reading in row] == [True, True] + [False] * 3
    with_unit, choice = ROWS["mathvista"][1] | asked, ROWS["mathvista"][2] | asked
    kinds = [p.answer_type for p in load(BENCHMARKS["mathvista"], write([with_unit, choice]))]
    assert kinds == ["number_unit", "choice"]
    inches = ROWS["mathvision"][1] | asked | {"answer": "7{inches}"}
    assert load(BENCHMARKS["mathvision"], write([inches]))[0].answer_type is None


def test_number_of_options_is_known_also_where_they_are_not_shown(write):
    counts = {
        name: [num_options(p) for p in load(BENCHMARKS[name], write(rows))]
        for name, rows in ROWS.items()
    }
    assert counts == {
        "mathvista": [0, 0, 2],
        "mathvision": [5, 0, 0],
        "mathverse": [4, None],
        "wemath": [3],
        "logicvista": [None, None],
        "mmmu": [2, 0],
        "mmmu_pro": [10],
        "mmmu_pro_vision": [2],
        "mmstar": [4],
        "hallusionbench": [2],
        "m3cot": [3],
        "charxiv": [0, 0],
        "chartqa": [0, 0],
        "ai2d": [4],
        "emma_mini": [2, 0],
        "mm_math": [0],
        "geometry3k": [0],
        "aime24": [0],
        "aime25": [0],
        "amc23": [0],
        "math500": [0],
    }
    assert labels_in("Which?\nA: [4, 7]\nB: [4]\nC: [3]") == 3
    assert labels_in("choice: (A) + (B) - (C) * (D) /") == 4
    assert labels_in("Angle ABC. And B.") is None
    letter = ROWS["mathvision"][1] | {"answer": "C"}  # its options are in the image
    assert num_options(load(BENCHMARKS["mathvision"], write([letter]))[0]) is None


def test_dynamath_golds_of_the_kind_text_have_their_own_types(tmp_path):
    source = Path(dynamath_folder(tmp_path, num_seeds=1)) / "trial1" / "dataset.json"
    row = json.loads(source.read_text())["0"]
    golds = {"G": "text", "Product C": "text", "(1.0, -2.0)": "tuple", "x = 0": None, "275": None}
    rows = {
        str(n): row | {"answer": f"{gold} ", "answer_type": "text"} for n, gold in enumerate(golds)
    }
    question = "Even or odd? choice: (A) odd (B) even (C) neither"
    rows["9"] = row | {"answer": "B", "answer_type": "multiple choice", "question": question}
    source.write_text(json.dumps(rows))
    problems = load(BENCHMARKS["dynamath"], str(tmp_path))[:6]
    assert {p.answer: p.answer_type for p in problems[:5]} == golds
    assert num_options(problems[5]) == 3


def test_folder_with_a_file_of_the_split_is_read(write):
    rows = [ROWS["mathvision"][1] | {"id": str(n)} for n in range(3)]
    write(rows, "test.jsonl")
    folder = Path(write(rows[:1], "testmini.jsonl")).parent
    counts = [len(load(BENCHMARKS["mathvision"], str(folder), s)) for s in (None, "test")]
    assert counts == [1, 3]


def test_mathvista_gold_is_the_letter_where_an_option_looks_like_one(write):
    row = ROWS["mathvista"][2] | {"choices": ["B", "A"], "answer": "A"}
    problem = load(BENCHMARKS["mathvista"], write([row]))[0]
    assert problem.answer == "B"


def test_mmmu_images_stand_where_they_are_named(write):
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
    tables = BENCHMARKS["mmmu"].tables("MMMU/MMMU", "validation")
    assert len({table.config for table in tables}) == 30
    tables = BENCHMARKS["dynamath"].tables("DynaMath/DynaMath_Sample", "sample")
    assert [table.split for table in tables] == [f"sample_variant{n}" for n in range(1, 11)]
    assert BENCHMARKS["mathverse"].tables("AI4Math/MathVerse", "testmini")[0].config == "testmini"


def test_wemath_options_come_apart_at_letters_in_order():
    assert options_of("A. 3;B. 4 ; C. No; really") == ("3", "4", "No; really")
    assert options_of("A. to ;C.; B. to ;C.; C. no") == ("to ;C.", "to ;C.", "no")
    assert options_of("A. 3; B. 4; F. no") == ()  # a letter would not be its place
    assert options_of("3 or 4") == ()


def test_dynamath_folder_is_ten_variants_of_each_question(tmp_path, accuracy):
    problems = load(BENCHMARKS["dynamath"], dynamath_folder(tmp_path))
    assert len(problems) == 30
    assert {cluster_of(problem) for problem in problems} == {"0", "1", "2"}
    assert problems[0].meta["categories"]["subject"] == "analytic geometry"
    texts = [
        [f"\\boxed{{{given}}}" for given in row]
        for row in [("2.0948", "2.0952"), ("(B)", "A"), ("jul", "Jun")]
    ]
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


def test_images_in_the_rows_are_kept_as_bytes():
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28)).save(buffer, "PNG")
    stored = {"bytes": buffer.getvalue(), "path": None}
    row = ROWS["mathvista"][0] | {"decoded_image": stored}
    assert list(BENCHMARKS["mathvista"].images(row)) == [stored]
