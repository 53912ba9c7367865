"""Predicted pushes beside changes of length, over runs whose length follows a known rule.

Mutations, each seen red:
    the change not divided by the length of the run -> studies of any length count alike
    blocks drawn instead of runs -> interval of one odd run
    the sign of the verdict turned -> verdicts
    unfinished runs read -> command
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from measurements import length_studies
from measurements.length_studies import (
    BEGIN,
    END,
    Run,
    Study,
    block_correlation,
    correlation_table,
    equal_q_table,
    outcome_table,
    pareto_table,
    put_into,
    run_correlation,
    together,
    verdict,
)
from measurements.log_ratios import EQUAL_Q
from vlm_rl.run.study_report import Interval, Outcome
from vlm_rl.show.markdown import Markdown

STEPS = 20


def run(variant: str, push: float, gain: float, start: float = 20.0, seed: int = 0) -> Run:
    """Return a run whose length grows by `gain` of itself over its steps; pushes swing a little."""
    factor = (1 + gain) ** (1 / STEPS)
    steps = [
        {"length/push": push * (1 + 0.1 * (i % 2)), "completion/length_tokens": start * factor**i}
        for i in range(STEPS)
    ]
    lengths = (start, start * (1 + gain))
    ends = [{"val/accuracy": 0.4, "val/length_tokens": value} for value in lengths]
    return Run.of("s, c", Outcome("c", variant, seed, ends, steps, {}))


def test_a_run_pairs_its_mean_push_with_the_log_of_its_change():
    one = run("GSPO", -0.2, -0.5)
    assert one.point == pytest.approx((-0.21, math.log(0.5)))
    assert one.tokens == pytest.approx(-10)
    assert len(one.blocks) == STEPS // 5 - 1
    assert run("GSPO", 0.1, 1.0).first_push == pytest.approx(0.1 * (1 + 0.1 * 2 / 5))


def test_a_step_without_a_push_counts_as_none():
    steps = [{"length/push": 0.2, "completion/length_tokens": 10.0}, {}, {}]
    steps = [{"completion/length_tokens": 10.0} | step for step in steps]
    ends = [{"val/accuracy": 0.4, "val/length_tokens": value} for value in (10.0, 11.0)]
    assert Run.of("s", Outcome("c", "GSPO", 0, ends, steps, {})).push == pytest.approx(0.2 / 3)


def test_studies_of_any_length_count_alike():
    pushes = [(-0.3, -0.3), (-0.1, -0.1), (0.1, 0.1), (0.3, 0.3)]
    short = [run("GSPO", push, gain, start=10) for push, gain in pushes]
    long = [run("GSPO", push, gain, start=500) for push, gain in pushes]
    assert [one.point for one in short] == [pytest.approx(one.point) for one in long]
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


def at_equal_q(lre: float) -> list[dict[str, Any]]:
    return [
        {"form": form, "q": q, "lre": lre, "floor": 0.01}
        for form in ("sum", "sum / sqrt(L)")
        for q in (0.8001, 0.9)
    ]


def test_equal_q_has_a_column_for_each_share_and_chance_below():
    rows = equal_q_table([*at_equal_q(0.1), *at_equal_q(0.3)]).splitlines()
    assert rows[0] == "| LRE at E q | 0.80 | 0.90 |"
    assert rows[2].startswith("| sum | 0.200 ± 1.271 |")
    assert rows[-1] == "| chance | 0.010 | 0.010 |"


def test_command_refuses_folders_without_a_finished_run(tmp_path, capsys):
    (tmp_path / "torn" / "torn" / "GSPO-0").mkdir(parents=True)
    with pytest.raises(SystemExit):
        length_studies.main([str(tmp_path / "torn"), "--output", str(tmp_path / "out")])
    assert "no finished run in" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", '{"name": "torn"}', '{"runs": [{"seed": 0}]}', "no JSON"])
def test_command_refuses_a_file_that_it_did_not_write(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "torn.json"
    file.write_text(text)
    with pytest.raises(SystemExit):
        length_studies.main([str(file), "--output", str(tmp_path / "out")])
    assert len(capsys.readouterr().err.splitlines()[-1]) < 300


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
    for name, length, accuracy in (
        ("base", 30.0, 70.0),
        ("worse", 35.0, 60.0),
        ("cut", 10.0, 50.0),
    ):
        for seed, off in enumerate((-1.0, 1.0)):
            one = run(name, 0.1, 0.1, seed=seed)
            lengths = (20.0, length + off)
            runs.append(replace(one, accuracies=(40.0, accuracy), lengths=lengths))
    rows = pareto_table(runs).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == ["| cut", "| base", "| worse"]
    assert rows[0].endswith("| 40.0 ± 0.0 | 50.0 ± 0.0 | 20.0 ± 0.0 | 10.0 ± 12.7 | yes |")
    assert [row.endswith("| yes |") for row in rows] == [True, True, False]


def test_parts_of_a_study_are_put_together():
    """A run that both parts have counts once, as the later part has it."""
    runs = [run(name, 0.1, 0.1, seed=seed) for name in ("GSPO", "LUSPO") for seed in (0, 1)]
    again = replace(runs[2], push=0.5)
    parts = [Study("a", 1, tuple(runs[:3])), Study("b", 0, ()), Study("a", 2, (again, runs[3]))]
    first, second = together(parts)
    assert (first.name, first.unfinished) == ("a", 3)
    assert first.runs == (runs[0], runs[1], again, runs[3])
    assert second == Study("b", 0, ())


def test_report_of_the_files_it_wrote_is_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Runs are many gigabytes, and their tables need some kilobytes of them."""
    first, second = tmp_path / "first", tmp_path / "second"
    pairs = [("GSPO", -0.31, -0.2), ("LUSPO", 0.2, 0.3), ("LUSPO", 0.1, 0.123456789)]
    own = [run(variant, push, gain, seed=i) for i, (variant, push, gain) in enumerate(pairs)]
    Study("torn", 2, tuple(own)).write(tmp_path)
    (tmp_path / "lre").mkdir()
    (tmp_path / "lre" / EQUAL_Q).write_text(json.dumps(at_equal_q(0.123456789)))
    given = [str(tmp_path / "torn.json"), "--pareto", str(tmp_path / "torn.json")]
    length_studies.main([*given, "--log_ratios", str(tmp_path / "lre"), "--output", str(first)])
    told = capsys.readouterr().out
    given = [str(first / "torn.json"), "--pareto", str(first / "torn.json")]
    written = str(first / EQUAL_Q)
    length_studies.main([*given, "--log_ratios", written, "--output", str(second)])
    assert capsys.readouterr().out == told.replace(str(first), str(second))
    assert "torn: 3 runs finished, 2 begun and not finished." in told
    for name in ("torn.json", EQUAL_Q):
        assert (first / name).read_text() == (second / name).read_text()
    assert {"prediction.png", "pareto.png"} <= {path.name for path in second.iterdir()}
