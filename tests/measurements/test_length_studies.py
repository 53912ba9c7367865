"""Predicted pushes beside changes of length, over runs whose length follows a known rule.

Mutations, each seen red:
    the change not divided by the length of the run -> studies of any length count alike
    blocks drawn instead of runs -> interval of one odd run
    the sign of the verdict turned -> verdicts
    unfinished runs read -> command
"""

import json
import math

import pytest

from measurements import length_studies
from measurements.length_studies import (
    BEGIN,
    END,
    Predicted,
    block_correlation,
    correlation_table,
    equal_q_table,
    outcome_table,
    pareto_table,
    predicted,
    put_into,
    run_correlation,
    verdict,
)
from measurements.log_ratios import EQUAL_Q
from vlm_rl.run.study_report import Interval, Outcome
from vlm_rl.show.markdown import Markdown

STEPS = 20


def run(variant: str, push: float, gain: float, start: float = 20.0, seed: int = 0) -> Predicted:
    """Return a run whose length grows by `gain` of itself over its steps; pushes swing a little."""
    factor = (1 + gain) ** (1 / STEPS)
    steps = [
        {"length/push": push * (1 + 0.1 * (i % 2)), "completion/length_tokens": start * factor**i}
        for i in range(STEPS)
    ]
    ends = [{"val/length_tokens": value} for value in (start, start * (1 + gain))]
    return predicted("s, c", Outcome("c", variant, seed, ends, steps, {}))


def test_a_run_pairs_its_mean_push_with_the_log_of_its_change():
    one = run("GSPO", -0.2, -0.5)
    assert one.point == pytest.approx((-0.21, math.log(0.5)))
    assert one.tokens == pytest.approx(-10)
    assert len(one.blocks) == STEPS // 5 - 1
    assert run("GSPO", 0.1, 1.0).first_push == pytest.approx(0.1 * (1 + 0.1 * 2 / 5))


def test_a_step_without_a_push_counts_as_none():
    steps = [{"length/push": 0.2, "completion/length_tokens": 10.0}, {}, {}]
    steps = [{"completion/length_tokens": 10.0} | step for step in steps]
    ends = [{"val/length_tokens": 10.0}, {"val/length_tokens": 11.0}]
    assert predicted("s", Outcome("c", "GSPO", 0, ends, steps, {})).push == pytest.approx(0.2 / 3)


def test_studies_of_any_length_count_alike():
    pushes = [(-0.3, -0.3), (-0.1, -0.1), (0.1, 0.1), (0.3, 0.3)]
    short = [run("GSPO", push, gain, start=10) for push, gain in pushes]
    long = [run("GSPO", push, gain, start=500) for push, gain in pushes]
    assert [one.log_change for one in short] == pytest.approx([one.log_change for one in long])
    for one, other in zip(short, long, strict=True):
        assert sum(one.blocks, ()) == pytest.approx(sum(other.blocks, ()))
    assert run_correlation([*short, *long]).startswith("r +1.00 [+0.9")


def test_interval_over_blocks_is_one_over_runs():
    """Six runs follow their push and one goes against it, far; its blocks come and go together."""
    follow = [run("GSPO", p, p) for p in (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)]
    assert block_correlation(follow).startswith("r +1.00 [+0.9")
    text = block_correlation([*follow, run("GSPO", 0.6, -0.5)])
    low, high = (float(part) for part in text[text.index("[") + 1 : text.index("]")].split(", "))
    assert low < -0.5
    assert high > 0.9
    assert block_correlation(follow[:3]) == "too few, n 3"


@pytest.mark.parametrize(
    ("push", "change", "said"),
    [
        ((0.2, 0.1), (3.0, 1.0), "as predicted"),
        ((-0.2, 0.1), (-3.0, 1.0), "as predicted"),
        ((0.2, 0.1), (-3.0, 1.0), "against"),
        ((0.2, 0.1), (3.0, 4.0), "did not move"),
        ((0.2, 0.3), (3.0, 4.0), "nothing predicted"),
        ((0.2, 0.3), (3.0, 1.0), "nothing predicted, it moved"),
        ((0.2, math.nan), (3.0, math.nan), "too few runs"),
    ],
)
def test_verdicts(push, change, said):
    assert verdict(Interval(*push), Interval(*change)) == said


def test_tables_have_a_row_for_each_study_and_one_for_all():
    runs = [run(v, p, s * p, seed=i) for v, s in (("GSPO", -1), ("LUSPO", 1)) for i, p in P]
    rows = outcome_table(runs).splitlines()
    assert [row.split(" | ")[1] for row in rows[2:]] == ["GSPO", "LUSPO"]
    assert rows[2].endswith("| 0 of 4 | nothing predicted |")
    assert rows[3].endswith("| 4 of 4 | nothing predicted |")
    rows = correlation_table(runs, run_correlation, "r").splitlines()
    assert [row.split(" | ")[0] for row in rows] == ["| r", "| ---", "| s, c", "| all studies"]
    assert rows[2].count("r -0.99") == rows[2].count("r +0.99") == 1
    assert rows[3].endswith("n 8 |")


P = list(enumerate((-0.3, -0.1, 0.1, 0.4)))


def test_equal_q_has_a_column_for_each_share_and_chance_below(tmp_path):
    for name, lre in (("a", 0.1), ("b", 0.3)):
        values = [
            {"form": form, "q": q, "lre": lre, "floor": 0.01}
            for form in ("sum", "sum / sqrt(L)")
            for q in (0.8001, 0.9)
        ]
        (tmp_path / name).mkdir()
        (tmp_path / name / EQUAL_Q).write_text(json.dumps(values))
    rows = equal_q_table([tmp_path / "a", tmp_path / "b"]).splitlines()
    assert rows[0] == "| LRE at E q | 0.80 | 0.90 |"
    assert rows[2].startswith("| sum | 0.200 ± 1.271 |")
    assert rows[-1] == "| chance | 0.010 | 0.010 |"


def test_command_refuses_folders_without_a_finished_run(tmp_path, capsys):
    (tmp_path / "torn" / "torn" / "GSPO-0").mkdir(parents=True)
    with pytest.raises(SystemExit):
        length_studies.main([str(tmp_path / "torn"), "--output", str(tmp_path / "out")])
    assert "no finished run in" in capsys.readouterr().err


def test_page_keeps_what_is_outside_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_into(page, Markdown("new\n"))
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="must have"):
        put_into(page, Markdown("new\n"))


def test_pareto_table_has_the_shortest_first_and_the_front():
    runs = []
    for name, length, accuracy in (("base", 30.0, 0.7), ("worse", 35.0, 0.6), ("cut", 10.0, 0.5)):
        for seed, off in enumerate((-1.0, 1.0)):
            starts = {"val/accuracy": 0.4, "val/length_tokens": 20.0}
            ends = [starts, {"val/accuracy": accuracy, "val/length_tokens": length + off}]
            runs.append(Outcome("c", name, seed, ends, [], {}))
    rows = pareto_table(runs).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| cut", "| base", "| worse"]
    assert rows[0].endswith("| 40.0 ± 0.0 | 50.0 ± 0.0 | 20.0 ± 0.0 | 10.0 ± 12.7 | yes |")
    assert [row.endswith("| yes |") for row in rows] == [True, True, False]
