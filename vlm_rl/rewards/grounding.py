"""Terms for golds that are places in an image: overlap of boxes, points in boxes.

The data set says the space of its golds (`box_space`), the term that of the answers
(`answer_space`). Both are brought to parts of the image before they are compared: neither IoU nor
GIoU changes with the units of an axis.

Coordinates that are not finite cannot be read. A box without area, or with its corners the wrong
way round, overlaps nothing; as a gold it is refused. Boxes are not cut off at the image's border.
"""

from collections.abc import Sequence
from typing import get_args

from vlm_rl.records import BoxSpace, Problem, Verdict
from vlm_rl.rewards.answer_term import AnswerTerm, Rated, SlotStyle
from vlm_rl.rewards.overlap import contained, giou, iou, mean_of_best
from vlm_rl.rewards.spaces import converted, in_pixels
from vlm_rl.verification.gold import GoldUnparsable, Unparsable, reading_gold
from vlm_rl.verification.places import Place, read_boxes, read_points

SPACES: tuple[str, ...] = get_args(BoxSpace)
Located = tuple[Place, ...]


class PlaceTerm(AnswerTerm[Located, Located]):
    """A term that compares places, sorted, in parts of the image's width and height."""

    def __init__(self, weight: float, answer_style: SlotStyle, answer_space: BoxSpace) -> None:
        super().__init__(weight, answer_style)
        if answer_space not in SPACES:
            raise ValueError(
                f"{type(self).__name__}.answer_space must be one of {', '.join(SPACES)}, got "
                f"{answer_space!r}; Qwen2.5-VL answers in resized, Qwen2-VL and Qwen3-VL in "
                "relative_1000"
            )
        self.answer_space = answer_space

    def check_gold(self, problem: Problem, answer: str) -> None:
        """Raise GoldUnparsable for places that cannot be used, or of which nobody says the space.

        Asked before the images are resized, so that their sizes need not be known.
        """
        self.gold_places(answer)
        space = problem.box_space
        if space is None:
            raise GoldUnparsable(
                "nothing says what its coordinates count; set box_space of the row or of its "
                f"source to one of {', '.join(SPACES)}"
            )
        has_pixels = in_pixels(space) or in_pixels(self.answer_space)
        # a rank has the problems of others without their images, but with the sizes
        if has_pixels and (len(problem.sizes) or len(problem.images)) != 1:
            raise GoldUnparsable(
                f"its pixels are those of one image, and the problem has {len(problem.images)}; "
                "give it one image, or set both spaces to relative ones"
            )

    def gold(self, problem: Problem, answer: str) -> Located:
        self.check_gold(problem, answer)
        assert problem.box_space is not None
        return self._to_parts(problem, self.gold_places(answer), problem.box_space)

    def gold_places(self, answer: str) -> Located:
        """Read a gold in its own space. Raises GoldUnparsable."""
        with reading_gold():
            boxes = read_boxes(answer)
            if not all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in boxes):
                raise Unparsable("a box needs x1 < x2 and y1 < y2")
            return boxes

    def _to_parts(self, problem: Problem, places: Sequence[Place], space: BoxSpace) -> Located:
        sizes = problem.sizes[0] if problem.sizes else None
        if sizes is None and in_pixels(space):
            raise GoldUnparsable("the sizes of its image are not known")
        return tuple(sorted(converted(places, space, "relative_1", sizes)))


class BoxIoU(PlaceTerm):
    """Mean IoU of boxes, matched one to one so that it is largest.

    A box that is left over on either side counts as 0, so the mean is over the larger number. Where
    the gold is one box, several different ones are a hedge: wrong, and worth `lowest`. Correct from
    a mean IoU of `threshold`; 0.5 is that of PASCAL VOC (https://doi.org/10.1007/s11263-009-0275-4)
    and of RefCOCO. Boxes stand in JSON or as `(x1,y1),(x2,y2)`.
    """

    def __init__(
        self,
        answer_space: BoxSpace,
        threshold: float = 0.5,
        answer_style: SlotStyle = "bare",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, answer_style, answer_space)
        if not 0 < threshold <= 1:
            raise ValueError(
                f"{type(self).__name__}.threshold must be in (0, 1], got {threshold}; 0.5 is usual"
            )
        self.threshold = threshold

    def given(self, problem: Problem, text: str) -> Sequence[Located]:
        return [self._to_parts(problem, read_boxes(text), self.answer_space)]

    def compare(self, gold: Located, given: Located) -> Rated:
        if len(gold) == 1 < len(given):
            return Rated(self.lowest, Verdict.WRONG)
        right = mean_of_best(iou(gold, given), unmatched=0.0) >= self.threshold
        return Rated(self.value(gold, given), Verdict.CORRECT if right else Verdict.WRONG)

    def value(self, gold: Located, given: Located) -> float:
        """Return what boxes are worth beside those of the gold."""
        return mean_of_best(iou(gold, given), unmatched=0.0)


class BoxGIoU(BoxIoU):
    """Mean generalised IoU of boxes, matched one to one so that it is largest (arXiv:1902.09630).

    In [-1, 1]: it also says how far apart two boxes are that do not overlap. What is left over,
    hedged or cannot be read is worth -1. Verdicts are those of `BoxIoU`.
    """

    lowest = -1.0

    def value(self, gold: Located, given: Located) -> float:
        return mean_of_best(giou(gold, given), unmatched=self.lowest)


class PointInBox(PlaceTerm):
    """The share of points that lie in a box of the gold, matched one to one; correct if all do.

    The border counts as inside. The mean is over the larger number of points and boxes. Where the
    gold is one box, several different points are a hedge: wrong, and worth 0. As in ScreenSpot
    (https://arxiv.org/abs/2401.10935). A gold that is a point itself stands for the box that
    reaches `reach` of the image's width and height around it; without `reach` it cannot be used.
    """

    def __init__(
        self,
        answer_space: BoxSpace,
        reach: float | None = None,
        answer_style: SlotStyle = "bare",
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight, answer_style, answer_space)
        if reach is not None and not 0 < reach < 1:
            raise ValueError(
                f"PointInBox.reach must be in (0, 1), parts of the image's sides, got {reach}"
            )
        self.reach = reach

    def gold_places(self, answer: str) -> Located:
        try:
            read_boxes(answer)
        except Unparsable:
            with reading_gold():
                points = read_points(answer)
            if self.reach is None:
                raise GoldUnparsable(
                    "it is a point; set PointInBox.reach, how near counts"
                ) from None
            return points
        return super().gold_places(answer)

    def gold(self, problem: Problem, answer: str) -> Located:
        places, reach = super().gold(problem, answer), self.reach
        if reach is None or len(places[0]) == 4:
            return places
        return tuple((x - reach, y - reach, x + reach, y + reach) for x, y in places)

    def given(self, problem: Problem, text: str) -> Sequence[Located]:
        return [self._to_parts(problem, read_points(text), self.answer_space)]

    def compare(self, gold: Located, given: Located) -> Rated:
        if len(gold) == 1 < len(given):
            return Rated(0.0, Verdict.WRONG)
        share = mean_of_best(contained(gold, given), unmatched=0.0)
        return Rated(share, Verdict.CORRECT if share == 1 else Verdict.WRONG)
