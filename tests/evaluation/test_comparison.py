"""Two evaluations of the same questions: goldens, refusals, noise, and what is written.

Broken on purpose, one at a time, each seen red:
    different questions accepted -> different questions are refused
    paired by position -> pairing finds what unpaired intervals hide
    no Holm; a sentence without it -> Holm correction, sentence after correction
    other clusters accepted -> folders that cannot be compared
    golds not compared; questions not compared -> the same ids for other questions
    length difference turned round -> lengths are compared
"""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.evaluation.test_report import question
from vlm_rl.evaluation.comparison import compare, print_comparison, write_comparison
from vlm_rl.evaluation.report import write_samples


def folder(path: Path, marks: dict[str, str], *, benchmark="mathvision", **fields) -> Path:
    """Write an evaluation folder with a question per uid; see `question` for the marks."""
    (path / benchmark).mkdir(parents=True, exist_ok=True)
    judged = [one for uid, letters in marks.items() for one in question(uid, letters, **fields)]
    write_samples(judged, path / benchmark / "samples.jsonl")
    return path


def test_difference_is_paired_by_question(tmp_path: Path):
    # 8 questions, in another order on the second side: differences 1, 1, 1, -1, 0, 0, 0, 0
    first = folder(tmp_path / "a", dict(zip("abcdefgh", "wwwrrrww", strict=True)))
    second = folder(tmp_path / "b", dict(zip("hgfedcba", "wwrrwrrr", strict=True)))
    (compared,) = compare(first, second).benchmarks
    oracle = stats.ttest_1samp([1, 1, 1, -1, 0, 0, 0, 0], 0)
    assert (compared.first.mean, compared.second.mean) == (3 / 8, 5 / 8)
    assert compared.accuracy.mean == pytest.approx(0.25)
    assert compared.accuracy.p_value == pytest.approx(oracle.pvalue)
    assert compared.holm_p == compared.accuracy.p_value
    assert compared.accuracy.mcnemar_p == pytest.approx(10 / 16)  # 3 of 4: (1 + 4) / 16 twice
    assert compared.sentence.endswith("the difference is within noise.")
    assert "+25.0 points" in compared.sentence


def test_failed_checks_are_left_out_and_counted(tmp_path: Path):
    first = folder(tmp_path / "a", {"a": "rt", "b": "tt", "c": "ww"})
    second = folder(tmp_path / "b", {"a": "ww", "b": "rr", "c": "rt"})
    comparison = compare(first, second)
    (compared,) = comparison.benchmarks
    assert compared.without_verdict == 1
    assert (compared.first.mean, compared.second.mean) == (0.5, 0.5)
    write_comparison(comparison, tmp_path / "out")
    assert "1 questions are left out" in (tmp_path / "out" / "comparison.md").read_text()


def test_different_questions_are_refused_unless_asked(tmp_path: Path):
    first = folder(tmp_path / "a", {"a": "r", "b": "r", "c": "w"})
    second = folder(tmp_path / "b", {"b": "w", "c": "w", "d": "r", "e": "r", "f": "r"})
    with pytest.raises(ValueError, match=r"1 questions are in .* and 3 in .*, 2 in both"):
        compare(first, second)
    (compared,) = compare(first, second, common_only=True).benchmarks
    assert (compared.only_first, compared.only_second, compared.accuracy.num_questions) == (1, 3, 2)
    assert (compared.first.mean, compared.second.mean) == (0.5, 0)


def test_folders_that_cannot_be_compared(tmp_path: Path):
    first = folder(tmp_path / "a", {"a": "r"})
    with pytest.raises(ValueError, match="no benchmark in common"):
        compare(first, folder(tmp_path / "b", {"a": "r"}, benchmark="aime24"))
    with pytest.raises(ValueError, match=r"holds no <benchmark>/samples\.jsonl"):
        compare(first, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no question has a verdict in both"):
        compare(first, folder(tmp_path / "c", {"a": "t"}))
    versions = folder(tmp_path / "d", {"a": "r"}, meta={"cluster": "one"})
    with pytest.raises(ValueError, match=r"'a' is a version of a and of one.*evaluate both again"):
        compare(first, versions)


def test_same_ids_for_other_questions_are_refused(tmp_path: Path):
    marks = {"a": "r", "b": "r"}
    first = folder(tmp_path / "a", marks)
    golds = folder(tmp_path / "b", marks, answer="8")
    with pytest.raises(ValueError, match=r"2 of 2 ids have different golds .*'a' \('7' and '8'\)"):
        compare(first, golds, common_only=True)
    texts = folder(tmp_path / "c", marks, text="What is that?")
    with pytest.raises(
        ValueError, match=r"2 of 2 ids have different questions .* the first is 'a'"
    ):
        compare(first, texts)
    choices = folder(tmp_path / "d", marks, choices=("6", "7"))
    with pytest.raises(ValueError, match="different questions"):
        compare(first, choices)
    marked = folder(tmp_path / "e", marks, text="<image>What is <image 2> it?")
    assert len(compare(first, marked).benchmarks) == 1


def test_versions_of_a_question_are_one_draw(tmp_path: Path):
    uids = [f"q{i}" for i in range(12)]
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b" / "x").mkdir(parents=True)
    for side, mark in (("a", "w"), ("b", "r")):
        judged = [
            one
            for i, uid in enumerate(uids)
            for one in question(uid, mark if i < 6 else "w", meta={"cluster": str(i // 6)})
        ]
        write_samples(judged, tmp_path / side / "x" / "samples.jsonl")
    (compared,) = compare(tmp_path / "a", tmp_path / "b").benchmarks
    assert compared.accuracy.num_clusters == 2
    assert compared.accuracy.within_noise  # six gained questions, but all versions of one
    assert compared.accuracy.mcnemar_p == pytest.approx(2 / 2**6)


def test_lengths_are_compared_where_both_know_them(tmp_path: Path):
    first = folder(tmp_path / "a", {"a": "rw", "b": "ww"}, lengths=[10, 20])
    second = folder(tmp_path / "b", {"a": "r", "b": "w"}, lengths=[18])
    (compared,) = compare(first, second).benchmarks
    assert compared.length.mean == 3
    assert compared.length.low is None  # no spread, so no interval
    unknown = folder(tmp_path / "c", {"a": "r", "b": "w"})
    assert compare(first, unknown).benchmarks[0].length is None


def test_tokens_of_both_sides_are_plotted_and_told(tmp_path: Path):
    marks = {f"q{i}": "rw" if i % 3 else "ww" for i in range(12)}
    lengths = {"a": [10, 30], "b": [100, 200]}
    first, second = (folder(tmp_path / s, marks, lengths=lengths[s]) for s in "ab")
    folder(first, {"x": "r"}, benchmark="unknown")
    folder(second, {"x": "r"}, benchmark="unknown")
    comparison = compare(first, second)
    known, unknown = comparison.benchmarks
    # each right answer costs its question's tokens, and those of the four that are never right
    assert known.first_spent.mean == 20
    assert known.first_spent.per_correct.value == pytest.approx(12 * 40 / 8)
    assert known.second_spent.per_correct.value == pytest.approx(12 * 300 / 8)
    assert unknown.first_spent is unknown.second_spent is None
    write_comparison(comparison, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "(accuracy_by_tokens.png)" in text
    assert "20, then 150" in text
    assert "* The lengths in tokens of unknown are not known on both sides." in text.splitlines()
    write_comparison(compare(*(_only(side, "unknown") for side in (first, second))), tmp_path / "n")
    assert not (tmp_path / "n" / "accuracy_by_tokens.png").exists()
    assert "png" not in (tmp_path / "n" / "comparison.md").read_text()


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Three benchmarks: one clearly better, one better alone but not of three, one equal; and one
    that only the first side has."""
    root = tmp_path_factory.mktemp("sides")
    uids = [f"q{i}" for i in range(40)]
    gains = {"clear": 20, "alone": 6, "same": 0}
    for name, gain in gains.items():
        folder(root / "a", dict.fromkeys(uids, "w"), benchmark=name)
        marks = {uid: "r" if i < gain else "w" for i, uid in enumerate(uids)}
        folder(root / "b", marks, benchmark=name)
    folder(root / "a", {"a": "r"}, benchmark="extra")
    return root


def test_holm_correction_over_benchmarks(several: Path):
    by_name = {one.benchmark: one for one in compare(several / "a", several / "b").benchmarks}
    p_values = {name: one.accuracy.p_value for name, one in by_name.items()}
    assert by_name["clear"].holm_p == pytest.approx(3 * p_values["clear"])
    assert by_name["alone"].holm_p == pytest.approx(2 * p_values["alone"])
    assert p_values["same"] == by_name["same"].holm_p == 1
    assert "the second is better" in by_name["clear"].sentence
    assert by_name["same"].sentence.endswith("the difference is within noise.")


def test_sentence_after_correction(tmp_path: Path):
    # 5 gained of 40: p = 0.02 alone, 0.06 of three
    uids = [f"q{i}" for i in range(40)]
    for name in ("x", "y", "z"):
        folder(tmp_path / "a", dict.fromkeys(uids, "w"), benchmark=name)
        marks = {uid: "r" if i < 5 else "w" for i, uid in enumerate(uids)}
        folder(tmp_path / "b", marks, benchmark=name)
    compared = compare(tmp_path / "a", tmp_path / "b").benchmarks[0]
    assert compared.accuracy.p_value < 0.05 < compared.holm_p
    assert "not after correcting for the number of benchmarks" in compared.sentence
    (alone,) = compare(*(_only(tmp_path / side, "x") for side in "ab")).benchmarks
    assert "the second is better" in alone.sentence


def _only(side: Path, benchmark: str) -> Path:
    target = side.parent / f"{side.name}_only"
    (target / benchmark).mkdir(parents=True)
    (side / benchmark / "samples.jsonl").rename(target / benchmark / "samples.jsonl")
    return target


def test_comparison_is_written_and_shown(several: Path, tmp_path: Path, capsys):
    comparison = compare(several / "a", several / "b")
    write_comparison(comparison, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "* Only the first has extra: not compared." in text.splitlines()
    assert "Holm's correction for comparing on several benchmarks" in text
    plain = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert plain["only_first"] == ["extra"]
    by_name = {one["benchmark"]: one for one in plain["benchmarks"]}
    assert by_name["clear"]["accuracy"]["mean"] == 0.5
    assert "within noise" in by_name["same"]["sentence"]
    print_comparison(comparison)
    shown = capsys.readouterr().out
    assert "same: second +0.0 points" in shown
    assert "+50.0 [" in shown


def test_pairing_finds_what_unpaired_intervals_hide(tmp_path: Path):
    # 200 questions of eight samples, the second side right a tenth more often
    generator = np.random.default_rng(0)
    chances = generator.beta(0.5, 0.5, 200)
    sides = [
        {
            f"q{i}": "".join(generator.permutation(list("r" * n + "w" * (8 - n))))
            for i, n in enumerate(generator.binomial(8, np.clip(chances + shift, 0, 1)))
        }
        for shift in (0, 0.05)
    ]
    first, second = (folder(tmp_path / str(i), side) for i, side in enumerate(sides))
    (compared,) = compare(first, second).benchmarks
    assert compared.first.high > compared.second.low
    assert not compared.accuracy.within_noise
