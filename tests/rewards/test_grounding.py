"""Boxes and points: IoU, GIoU, matching, spaces, and what models write.

Oracles: exact fractions by counting cells of a grid, every permutation in place of the matching,
and the formulas of arXiv:1902.09630 for hand-made boxes.
"""

import itertools
import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlm_rl.records import Completion, ImageSizes, Problem, Verdict
from vlm_rl.rewards import BoxGIoU, BoxIoU, PointInBox
from vlm_rl.rewards.overlap import giou, iou, mean_of_best
from vlm_rl.rewards.spaces import converted
from vlm_rl.verification.gold import GoldUnparsable

SIZES = ImageSizes((640, 480), (644, 476))
C, W, U = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSABLE


def problem(answer, space="relative_1000", **fields):
    text = answer if isinstance(answer, str) else json.dumps(answer)
    given = {"images": (b"an image",), "sizes": (SIZES,), "box_space": space} | fields
    return Problem("p0", "where?", text, **given)


def completion(text):
    return Completion(torch.zeros(3, dtype=torch.int64), torch.zeros(3), "stop", text)


def judged(term, asked, *texts):
    judgement = term.judge([asked], [[completion(text) for text in texts]])
    assert judgement.values.dtype == torch.float64
    assert judgement.values.shape == (1, len(texts))
    return list(zip(judgement.values[0].tolist(), judgement.verdicts[0], strict=True))


def cells(box):
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def random_box(rng, most=12):
    x1, x2 = sorted(rng.sample(range(most + 1), 2))
    y1, y2 = sorted(rng.sample(range(most + 1), 2))
    return x1, y1, x2, y2


def counted_iou(a, b):
    return len(cells(a) & cells(b)) / len(cells(a) | cells(b))


def counted_giou(a, b):
    around = cells((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    return counted_iou(a, b) - len(around - cells(a) - cells(b)) / len(around)


def test_overlaps_are_those_of_counted_cells():
    rng = random.Random(0)
    boxes, others = ([random_box(rng) for _ in range(40)] for _ in range(2))
    for measure, count in ((iou, counted_iou), (giou, counted_giou)):
        expected = [[count(a, b) for b in others] for a in boxes]
        np.testing.assert_allclose(measure(boxes, others), expected, atol=1e-12)


@pytest.mark.parametrize("measure", [iou, giou])
def test_overlaps_are_symmetric_bounded_and_one_for_the_same_box(measure):
    rng = random.Random(1)
    boxes = [tuple(map(float, random_box(rng, 100))) for _ in range(50)]
    values = measure(boxes, boxes)
    np.testing.assert_allclose(values, values.T, atol=1e-12)
    np.testing.assert_allclose(values.diagonal(), 1.0)
    assert (values <= 1 + 1e-12).all()
    assert (values >= (0 if measure is iou else -1)).all()


@pytest.mark.parametrize("measure", [iou, giou])
def test_overlaps_do_not_change_with_the_units_of_an_axis(measure):
    rng = np.random.default_rng(2)
    boxes = np.sort(rng.uniform(0, 50, (20, 2, 2)), axis=1).reshape(20, 4)
    scale, shift = np.tile([0.3, 7.0], 2), np.tile([-11.0, 5.0], 2)
    moved = [tuple(box) for box in boxes * scale + shift]
    original = [tuple(box) for box in boxes]
    np.testing.assert_allclose(measure(moved, moved), measure(original, original), atol=1e-9)


def test_giou_is_never_above_iou_and_equal_where_one_box_holds_the_other():
    rng = random.Random(3)
    for _ in range(200):
        a, b = random_box(rng), random_box(rng)
        assert giou([a], [b])[0, 0] <= iou([a], [b])[0, 0] + 1e-12
    inner, outer = (2, 2, 4, 4), (0, 0, 8, 8)
    assert giou([inner], [outer])[0, 0] == iou([inner], [outer])[0, 0] == 4 / 64


@pytest.mark.parametrize("box", [(3, 3, 3, 9), (9, 1, 2, 8), (1, 9, 8, 2), (5, 5, 5, 5)])
def test_box_without_area_overlaps_nothing(box):
    for other in (box, (0, 0, 10, 10)):
        assert iou([box], [other])[0, 0] == 0
        assert giou([box], [other])[0, 0] == giou([other], [box])[0, 0] == -1


def by_every_permutation(values, unmatched):
    """Try all ways to give each row of the shorter side a partner."""
    wide = values if values.shape[0] <= values.shape[1] else values.T
    rows, columns = wide.shape
    best = max(
        sum(wide[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(columns), rows)
    )
    return (best + unmatched * (columns - rows)) / columns


@pytest.mark.parametrize("unmatched", [0.0, -1.0])
def test_matching_is_the_best_of_all_permutations(unmatched):
    rng = np.random.default_rng(4)
    for shape in itertools.product(range(1, 5), repeat=2):
        values = rng.uniform(-1, 1, shape)
        assert mean_of_best(values, unmatched) == pytest.approx(
            by_every_permutation(values, unmatched), abs=1e-12
        )


FORMS = {
    "bare list": "[{0}, {1}, {2}, {3}]",
    "in words": "The cat is at [{0}, {1}, {2}, {3}].",
    "fenced": '```json\n[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "cat"}}]\n```',
    "fence in words": 'Here:\n```json\n{{"bbox_2d": [{0}, {1}, {2}, {3}]}}\n```\nDone.',
    "object": '{{"bbox": [{0}, {1}, {2}, {3}]}}',
    "pairs": "({0},{1}),({2},{3})",
    "pairs with spaces": "the cat ({0}, {1}), ({2}, {3})",
    "list of lists": "[[{0}, {1}, {2}, {3}]]",
    "after thinking": "<think>[9, 9, 99, 99]</think>[{0}, {1}, {2}, {3}]",
    "twice the same": "[{0}, {1}, {2}, {3}], that is [{0}, {1}, {2}.0, {3}]",
    "with a footnote": "As in [1], [{0}, {1}, {2}, {3}]",
}


@pytest.mark.parametrize("form", FORMS)
def test_box_is_read_in_every_form(form):
    text = FORMS[form].format(100, 200, 300, 400)
    [(value, verdict)] = judged(BoxIoU("relative_1000"), problem([100, 200, 300, 400]), text)
    assert (value, verdict) == (1.0, C)


@pytest.mark.parametrize(
    ("style", "text"),
    [
        ("box", r"so \boxed{[100, 200, 300, 400]}"),
        ("tag", 'x <answer>{"bbox_2d": [100, 200, 300, 400]}</answer>'),
        ("answer_line", "[1, 2, 3, 4]?\nAnswer: (100,200),(300,400)"),
    ],
)
def test_slot_of_the_style_is_read(style, text):
    term = BoxIoU("relative_1000", answer_style=style)
    assert judged(term, problem([100, 200, 300, 400]), text) == [(1.0, C)]
    own = problem([100, 200, 300, 400], answer_style=style)
    assert judged(BoxIoU("relative_1000"), own, text) == [(1.0, C)]


@pytest.mark.parametrize(
    "text",
    [
        *("", "no idea", "[1, 2, 3]", "[10, 20, 30, 40", "[NaN, 1, 2, 3]", "[1, 2, Infinity, 3]"),
        *('{"bbox_2d": [1, 2, 3]}', '{"box": [1, 2, 3, 4]}', "[1e999, 2, 3, 4]"),
        *('[{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [5, 6, 7, 8]}]', "[[1, 2, 3, 4], []]"),
        *("<think>[100, 200, 300, 400]", "[" * 5000, "(1,2),(3", "[true, false, 2, 3]"),
        *('["1", "2", "3", "4"]', "1" * 70_000, f"[1, 2, 3, {'9' * 5000}]"),
    ],
)
def test_what_is_no_box_is_unparsable_and_worth_least(text):
    asked = problem([100, 200, 300, 400])
    assert judged(BoxIoU("relative_1000"), asked, text) == [(0.0, U)]
    assert judged(BoxGIoU("relative_1000"), asked, text) == [(-1.0, U)]


def test_hedge_is_wrong_and_worth_least():
    asked = problem([100, 200, 300, 400])
    text = "[100, 200, 300, 400] or [0, 0, 50, 50]"
    assert judged(BoxIoU("relative_1000"), asked, text) == [(0.0, W)]
    assert judged(BoxGIoU("relative_1000"), asked, text) == [(-1.0, W)]
    slots = r"\boxed{[100, 200, 300, 400]} \boxed{[0, 0, 50, 50]}"
    several = problem([[100, 200, 300, 400], [0, 0, 50, 50]])
    assert judged(BoxIoU("relative_1000", answer_style="box"), several, slots) == [(0.0, W)]


def test_threshold_decides_the_verdict_and_not_the_value():
    asked = problem([0, 0, 100, 100])
    half, less = "[0, 0, 100, 50]", "[0, 0, 100, 49]"
    (a, b), (c, d) = judged(BoxIoU("relative_1000"), asked, half, less)
    assert (a, b, c, d) == (pytest.approx(0.5), C, pytest.approx(0.49), W)
    assert judged(BoxIoU("relative_1000", threshold=0.4), asked, less)[0][1] is C
    assert judged(BoxGIoU("relative_1000"), asked, half)[0][1] is C


@pytest.mark.parametrize("term", [BoxIoU("relative_1000"), BoxGIoU("relative_1000")])
def test_several_boxes_count_in_any_order(term):
    rng = random.Random(5)
    golds = [random_box(rng, 1000) for _ in range(4)]
    given = [random_box(rng, 1000) for _ in range(3)]
    expected = judged(term, problem(golds), json.dumps(given))
    for _ in range(6):
        rng.shuffle(golds)
        rng.shuffle(given)
        shuffled = judged(term, problem(golds), json.dumps(given))
        assert shuffled[0][0] == pytest.approx(expected[0][0], abs=1e-12)
    assert judged(term, problem(golds), json.dumps(golds)) == [(pytest.approx(1.0), C)]


def test_missing_and_extra_boxes_count_as_nothing():
    a, b, c = [0, 0, 10, 10], [100, 100, 300, 300], [500, 500, 700, 700]
    term = BoxIoU("relative_1000")
    values = judged(term, problem([a, b]), json.dumps([a]), json.dumps([a, b, c]))
    assert [value for value, _ in values] == pytest.approx([1 / 2, 2 / 3])


def test_best_of_several_golds_counts():
    asked = replace(problem([0, 0, 10, 10]), alternatives=("[500, 500, 700, 700]",))
    assert judged(BoxIoU("relative_1000"), asked, "[500, 500, 700, 700]") == [(1.0, C)]


SPACES = ("original", "resized", "relative_1", "relative_1000")


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("answer_space", SPACES)
def test_spaces_of_gold_and_answer_meet(space, answer_space):
    """The same corner of the image, in two spaces, is the same box."""
    part = (0.1, 0.25, 0.5, 0.75)
    whole = {"original": (640, 480), "resized": (644, 476), "relative_1": (1, 1)}
    whole["relative_1000"] = (1000, 1000)

    def in_space(name):
        return [value * whole[name][i % 2] for i, value in enumerate(part)]

    asked = problem(in_space(space), space)
    [(value, verdict)] = judged(BoxIoU(answer_space), asked, json.dumps(in_space(answer_space)))
    assert value == pytest.approx(1.0, abs=1e-9)
    assert verdict is C


def test_conversion_there_and_back_loses_only_rounding():
    """Whole pixels and thousandths move an edge by at most half of one: a box of w x h keeps an IoU
    of (w - 2e)(h - 2e) / ((w + 2e)(h + 2e)), e the sum of what each rounding may move."""
    rng = random.Random(6)
    for _ in range(300):
        original = rng.randint(200, 2000), rng.randint(200, 2000)
        resized = tuple(max(28, round(side * rng.uniform(0.5, 1.5) / 28) * 28) for side in original)
        sizes = ImageSizes(original, resized)
        x1, x2 = sorted((rng.uniform(0, 1), rng.uniform(0, 1)))
        y1, y2 = sorted((rng.uniform(0, 1), rng.uniform(0, 1)))
        box = (x1 * original[0], y1 * original[1], x2 * original[0], y2 * original[1])
        exact = rounded = (box,)
        for source, target in itertools.pairwise(("original", "resized", "relative_1000")):
            exact = converted(exact, source, target, sizes)
            moved = converted(rounded, source, target, sizes)
            rounded = (tuple(map(round, moved[0])),)
        np.testing.assert_allclose(converted(exact, "relative_1000", "original", sizes), [box])
        back = converted(rounded, "relative_1000", "original", sizes)
        moves = [o * (0.5 / r + 0.5 / 1000) for o, r in zip(original, resized, strict=True)]
        least = np.prod([(s - 2 * e) / (s + 2 * e) for s, e in zip(sides(box), moves, strict=True)])
        if min(s - 2 * e for s, e in zip(sides(box), moves, strict=True)) > 0:
            assert iou((box,), back)[0, 0] >= least - 1e-9
        if all(side > 0.4 * whole for side, whole in zip(sides(box), original, strict=True)):
            assert least > 0.97 or min(resized) < 400
            assert iou((box,), back)[0, 0] > 0.97


def sides(box):
    return box[2] - box[0], box[3] - box[1]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (problem([1, 2, 3, 4], None), "set box_space"),
        (problem([3, 2, 1, 4]), "x1 < x2"),
        (problem([1, 2, 1, 4]), "x1 < x2"),
        (problem("a cat"), "no box"),
        (problem([1, 2, 3]), "no box"),
        (problem([1, 2, 3, 4], "original", images=(), sizes=()), "has 0"),
        (problem([1, 2, 3, 4], "original", images=(b"a", b"b"), sizes=()), "has 2"),
    ],
)
def test_gold_that_cannot_be_used_is_named_before_and_is_an_error(asked, why):
    term = BoxIoU("relative_1000")
    [line] = term.unusable([asked])
    assert why in line
    assert "'p0'" in line
    assert judged(term, asked, "[1, 2, 3, 4]") == [(0.0, Verdict.ERROR)]


def test_good_golds_are_usable_before_images_are_resized():
    asked = problem([1, 2, 3, 4], "original", sizes=())
    assert BoxIoU("resized").unusable([asked]) == []
    with pytest.raises(GoldUnparsable, match="not known"):
        BoxIoU("resized").gold(asked, asked.answer)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"BoxIoU\.answer_space must be one of original"):
        BoxIoU("pixels")
    for term in (BoxIoU, BoxGIoU):
        for threshold in (0.0, 1.1, math.nan):
            with pytest.raises(ValueError, match=f"{term.__name__}.threshold"):
                term("resized", threshold=threshold)
    with pytest.raises(ValueError, match=r"answer_style must be one of box, tag"):
        BoxIoU("resized", answer_style="json")
    with pytest.raises(ValueError, match=r"PointInBox\.reach"):
        PointInBox("resized", reach=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[150, 250]", (1.0, C)),
        ('```json\n[{"point_2d": [150, 250], "label": "ok"}]\n```', (1.0, C)),
        ("click (150, 250)", (1.0, C)),
        ("(100,200)", (1.0, C)),  # a corner
        ("(300, 401)", (0.0, W)),
        ("(150, 250) or (1, 1)", (0.0, W)),
        ("[100, 200, 300, 400]", (0.0, U)),
        ("in the middle", (0.0, U)),
    ],
)
def test_point_is_right_inside_the_box(text, expected):
    term = PointInBox("relative_1000")
    assert judged(term, problem([100, 200, 300, 400]), text) == [expected]


def test_points_are_matched_to_boxes_one_to_one():
    asked = problem([[0, 0, 100, 100], [50, 50, 200, 200], [800, 800, 900, 900]])
    term = PointInBox("relative_1000")
    values = judged(
        term, asked, "[[70, 70], [10, 10], [850, 850]]", "[[70, 70], [75, 75], [80, 80]]", "[7, 7]"
    )
    assert values == [(1.0, C), (pytest.approx(2 / 3), W), (pytest.approx(1 / 3), W)]


def test_gold_point_counts_within_reach_only():
    asked = problem([500, 500])
    assert "set PointInBox.reach" in PointInBox("relative_1000").unusable([asked])[0]
    term = PointInBox("relative_1000", reach=0.1)
    assert term.unusable([asked]) == []
    values = judged(term, asked, "(599, 401)", "(601, 500)", "(500, 399)")
    assert values == [(1.0, C), (0.0, W), (0.0, W)]
