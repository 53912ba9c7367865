"""The plot of accuracy by tokens: what is on it, and that no label hides another.

Broken on purpose, one at a time, each seen red:
"""

import random
from pathlib import Path

import pytest

from vlm_rl.evaluation import spending
from vlm_rl.evaluation.intervals import IntervalEstimate
from vlm_rl.evaluation.spending import SPENDING, Spending, Spent, plot_spending


def spent(accuracy: float, mean_length: float) -> Spent:
    low, high = max(0, accuracy - 0.05), min(1, accuracy + 0.05)
    return Spent(IntervalEstimate(accuracy, low, high, 0.02, 100, 100), mean_length)


@pytest.fixture
def drawn(monkeypatch):
    """Keep the figures that are saved."""
    figures = []
    save = spending.save

    def kept(figure, target):
        figures.append(figure)
        figure.draw_without_rendering()
        save(figure, target)

    monkeypatch.setattr(spending, "save", kept)
    return figures


def texts(figure) -> list[str]:
    return [one.get_text() for one in figure.axes[0].texts if one.get_text()]


def test_arrows_go_from_before_to_after(drawn, tmp_path: Path):
    places = [Spending("a", spent(0.4, 100), spent(0.5, 150)), Spending("b", spent(0.7, 120))]
    assert plot_spending(places, tmp_path / SPENDING)
    (figure,) = drawn
    (arrow,) = [one for one in figure.axes[0].texts if getattr(one, "arrow_patch", None)]
    assert (arrow.xyann, arrow.xy) == ((100, 40), (150, 50))
    assert texts(figure) == ["1", "2"]
    names = [one.get_text() for one in figure.legends[0].get_texts()]
    assert names == ["1 a", "2 b", "first", "second"]
    assert not plot_spending([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize(("longest", "scale"), [(700, "linear"), (900, "log")])
def test_wide_spans_have_a_log_axis(longest, scale, drawn, tmp_path: Path):
    plot_spending([Spending("a", spent(0.4, 100), spent(0.5, longest))], tmp_path / SPENDING)
    assert drawn[0].axes[0].get_xscale() == scale


@pytest.mark.parametrize("seed", range(5))
def test_numbers_do_not_hide_one_another(seed, drawn, tmp_path: Path):
    draw = random.Random(seed)
    places = []
    for number in range(22):
        accuracy, length = draw.uniform(0.45, 0.55), draw.uniform(300, 400)
        after = spent(accuracy + 0.02, length + 20)
        places.append(Spending(f"benchmark {number}", spent(accuracy, length), after))
    plot_spending(places, tmp_path / SPENDING)
    (figure,) = drawn
    labels = [one for one in figure.axes[0].texts if one.get_text()]
    boxes = [one.get_window_extent() for one in labels]
    assert len(boxes) == 22
    hidden = [
        (labels[i].get_text(), labels[j].get_text())
        for i in range(22)
        for j in range(i)
        if boxes[i].overlaps(boxes[j])
    ]
    assert hidden == []
