"""Results of an evaluation against counts by hand, and what is written for people and programs.

Broken on purpose, one at a time, each seen red:
    failed checks as wrong; as reason to leave a question out of pass@k -> failed checks are counted
    a failed check as a vote -> failed check is no vote
    strict accuracy over other responses than the official one -> official rule
    timeouts among the wrong; tokens of right answers only -> lengths by verdict
    levels sorted as text; the blind difference turned round -> categories, blind control
    a pipe not escaped -> report says all in tables
    a timeout as a disagreement -> disagreements are kept
    a repeated sample read -> broken samples
    options by shown choices only; unknown ones as free -> guessing
    the size of a split not looked at -> part of a split
    a table with borders -> overview
    a field of a result renamed or moved -> layout of report.json
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vlm_rl.evaluation.benchmarks.benchmark import Judged, PublishedResult, Response, Ruling
from vlm_rl.evaluation.intervals import IntervalEstimate, clustered
from vlm_rl.evaluation.markdown import asked
from vlm_rl.evaluation.report import read_samples, sample_row, write_report, write_samples
from vlm_rl.evaluation.results import (
    Excluded,
    ExtractionFailures,
    LengthDistribution,
    LengthsByVerdict,
    OfficialResult,
    SampleCounts,
    Truncation,
    metrics,
)
from vlm_rl.evaluation.screen import print_overview
from vlm_rl.evaluation.summary import Evaluation, summarise
from vlm_rl.records import Problem, Verdict

MARKS = {
    "r": Verdict.CORRECT,
    "w": Verdict.WRONG,
    "u": Verdict.UNPARSABLE,
    "t": Verdict.TIMEOUT,
    "e": Verdict.ERROR,
}


def question(
    uid: str, marks: str, *, lengths=None, official=None, text="What is it?", answer="7", **fields
) -> list[Judged]:
    """Return samples by the letters of MARKS, "-" for no answer slot; `official` likewise by "r",
    "w" and " " for no ruling. Right answers are class 0, every other answer its own class."""
    problem = Problem(uid, text, answer, **fields)
    return [
        Judged(
            problem,
            Response(uid, i, f"text {i}", lengths and lengths[i], lengths and lengths[i] == 99),
            None if mark == "-" else "7",
            MARKS.get(mark, Verdict.UNPARSABLE),
            "number",
            None if mark == "-" else 0 if mark == "r" else i + 1,
            None if not official or official[i] == " " else Ruling(official[i] == "r", "7", "box"),
        )
        for i, mark in enumerate(marks)
    ]


def evaluation(judged, **fields) -> Evaluation:
    return Evaluation("mathvision", "testmini", "a/b @ 1", "tiny", judged, **fields)


def test_accuracy_is_a_mean_of_questions_over_clusters():
    judged = question("a", "rrrr", meta={"cluster": "one"}) + question("b", "rw")
    judged += question("c", "ww", meta={"cluster": "one"}) + question("d", "rrww")
    result = summarise(evaluation(judged))
    expected = clustered([1, 0.5, 0, 0.5], ["one", "b", "one", "d"])
    assert result.accuracy == expected  # over responses it would be 7 of 12
    assert (result.num_questions, result.num_clusters, result.num_responses) == (4, 3, 12)
    assert result.samples_per_question == SampleCounts(2, 4)


def test_failed_checks_are_counted_and_in_no_accuracy():
    judged = question("a", "rt") + question("b", "we") + question("c", "tt")
    result = summarise(evaluation(judged))
    assert result.excluded == Excluded(timeout=3, error=1, questions_without_verdict=1)
    assert (result.accuracy.mean, result.accuracy.num_questions) == (0.5, 2)
    # c was never checked; a and b keep their place, their failed samples are not right
    assert result.pass_at_k[2].num_questions == 2
    assert result.pass_at_k[2].mean == 0.5
    nothing = summarise(evaluation(question("a", "tt")))
    assert nothing.accuracy is None
    assert "eval/mathvision/accuracy" not in metrics(nothing)


def test_pass_and_majority_at_powers_of_two():
    judged = question("a", "rrwwww--") + question("b", "r-------") + question("c", "rw")
    result = summarise(evaluation(judged))
    assert list(result.pass_at_k) == list(result.maj_at_k) == [2, 4, 8]
    # c has two samples only
    assert [one.num_questions for one in result.pass_at_k.values()] == [3, 2, 2]
    # 1 - C(6, 4) / C(8, 4) = 55/70 and 1 - C(7, 4) / C(8, 4) = 1/2
    assert result.pass_at_k[4].mean == pytest.approx((55 / 70 + 0.5) / 2)
    # two alike beat four different answers, one answer beats none
    assert result.maj_at_k[8].mean == 1
    assert summarise(evaluation(question("a", "r"))).pass_at_k == {}


def test_failed_check_is_no_vote():
    # the timed out answers are of a class of their own each, which would tie with the right one
    result = summarise(evaluation(question("a", "rttt")))
    assert result.maj_at_k[4].mean == 1
    assert result.pass_at_k[2].mean == pytest.approx(0.5)


def test_official_rule_stands_beside_the_strict_one():
    judged = question("a", "rwt", official="rrr") + question("b", "rw ", official="ww ")
    result = summarise(evaluation([*judged, *question("c", "u")])).official
    assert result.accuracy.mean == 0.5  # a 3 of 3, b 0 of 2
    assert result.strict.mean == 0.5  # a 1 of 2, b 1 of 2
    assert (result.num_responses, result.no_ruling) == (5, 2)
    assert (result.right_by_official_only, result.right_by_strict_only) == (1, 1)
    assert summarise(evaluation(question("a", "r"))).official is None


def test_what_was_not_read_and_what_was_cut_off():
    judged = question("a", "r-ut", lengths=[10, 99, 99, 20])
    result = summarise(evaluation(judged))
    assert result.extraction == ExtractionFailures(1, 1, 2 / 3)
    assert result.truncated == Truncation(0.5, 4)
    unknown = summarise(evaluation(question("a", "rw")))
    assert unknown.truncated is None
    assert unknown.length_tokens is None
    assert unknown.accuracy_by_length == []


def test_lengths_by_verdict_and_tokens_per_right_answer():
    lengths = [*range(1, 101)]
    result = summarise(evaluation(question("a", "r" * 50 + "w" * 48 + "tt", lengths=lengths)))
    everything = result.length_tokens.all
    assert (everything.mean, everything.median) == (50.5, 50.5)
    # numpy's default quantile: 1 + 99 q
    assert [everything.p10, everything.p90, everything.p99] == pytest.approx([10.9, 90.1, 99.01])
    assert result.length_tokens.correct.mean == 25.5
    assert result.length_tokens.wrong.mean == 74.5  # 51 to 98: without the timeouts
    assert result.tokens_per_correct.value == sum(range(1, 99)) / 50
    bins = result.accuracy_by_length
    assert sum(part.num_responses for part in bins) == 98
    assert [part.mean for part in bins[:4]] == [1, 1, 1, 1]
    assert bins[-1].mean == 0
    assert (bins[0].least, bins[-1].most) == (1, 98)
    never = summarise(evaluation(question("a", "w", lengths=[5])))
    assert never.tokens_per_correct is None
    assert never.length_tokens.correct is None


def test_categories_blind_control_and_guessing():
    judged = []
    for i, marks in enumerate(("rr", "rw", "ww", "rr")):
        meta = {"categories": {"level": str(2 + 4 * i), "half": "first" if i < 2 else "last"}}
        judged += question(f"q{i}", marks, meta=meta, choices=tuple("ABCD") if i else None)
    blind = question("q0", "w") + question("q1", "w") + question("q2", "w") + question("q3", "t")
    result = summarise(evaluation(judged, blind=blind))
    assert list(result.categories["level"]) == ["2", "6", "10", "14"]  # not as text
    half = result.categories["half"]
    assert (half["first"].mean, half["last"].mean) == (0.75, 0.5)
    assert half["first"].num_questions == 2
    assert result.chance == 3 / 16
    assert result.num_chance_questions == 4
    # q3 has no blind verdict; the others gain 1, 0.5, 0
    assert result.blind.images_add.mean == pytest.approx(0.5)
    assert result.blind.accuracy.num_questions == 3


def test_guessing_counts_options_that_are_not_shown():
    # two drawn options, a free answer, shown choices, and one of which nothing is known
    judged = question("a", "r", meta={"num_options": 2}) + question("b", "w")
    judged += question("c", "w", choices=("1", "2", "3", "4"))
    result = summarise(evaluation([*judged, *question("d", "w", meta={"num_options": None})]))
    assert (result.chance, result.num_chance_questions) == (0.25, 3)
    assert summarise(evaluation(question("d", "w", meta={"num_options": None}))).chance is None


def partial(count: int, **fields) -> Evaluation:
    """Evaluate the first questions of MathVision's test split, which has 3,040."""
    part = {"task": "mathvision", "split": "test"}
    judged = [one for n in range(count) for one in question(str(n), "r" if n < 2 else "w", **part)]
    return evaluation(judged, **fields)


def test_part_of_a_split_is_not_reported_as_the_split(tmp_path: Path, capsys):
    (result,) = write_report([partial(4)], tmp_path)
    assert result.num_published == 3040
    text = (tmp_path / "report.md").read_text()
    assert "These are 4 of 3,040 published problems." in text
    assert "| mathvision | 4 of 3,040 | 1 |" in text
    print_overview([result])
    assert "mathvision: 4 of 3,040 published problems" in capsys.readouterr().out.splitlines()
    whole = summarise(evaluation(question("a", "r")))
    assert whole.num_published is None
    assert asked(whole) == "1"
    assert asked(replace(result, num_published=4)) == "4"


def test_overview_fits_into_80_columns(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    best = IntervalEstimate(1.0, 0.999, 1.0, None, 3940, 788)
    long = LengthDistribution(3940, *[16384.0] * 5)
    result = replace(
        summarise(partial(6)),
        benchmark="mathverse-testmini_text_only",
        num_questions=3940,
        accuracy=best,
        official=OfficialResult(best, best, 3940, 0, 0, 0),
        truncated=Truncation(0.125, 3940),
        length_tokens=LengthsByVerdict(long, long, None),
    )
    print_overview([result])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    for value in ("100.0 [99.9, 100.0]", "3940", "12.5", "16384"):
        assert value in shown
    assert "mathverse-testmini " in shown  # the rest of the name is in the next line


CATEGORY = {"categories": {"subject": "algebra"}}
OTHER = {"categories": {"subject": "a | b"}}


@pytest.fixture(scope="module")
def known() -> Evaluation:
    """Evaluate a benchmark about which almost all is known."""
    judged = question("a", "rrwt", lengths=[5, 6, 7, 8], official="rrrr", meta=CATEGORY)
    judged += question("b", "-wwr", lengths=[9, 99, 99, 8], official="wwww", meta=OTHER)
    return evaluation(
        judged,
        published=(PublishedResult("Other | model", 14.34, "arXiv 1, table 2"),),
        settings={"temperature": 0.7},
        measures={"consistency": 0.25},
        skipped={"no image": 3},
    )


@pytest.fixture(scope="module")
def written(known: Evaluation, tmp_path_factory) -> Path:
    """Write a report with a second benchmark about which little is known."""
    folder = tmp_path_factory.mktemp("report")
    unknown = Evaluation("aime24", "train", "c/d", "tiny", question("x", "w"))
    write_report([known, unknown], folder)
    return folder


ESTIMATE = "mean low high standard_error num_questions num_clusters"
DISTRIBUTION = "num_responses mean p10 median p90 p99"
LAYOUT = {
    "": "benchmark split source model num_questions num_published num_clusters num_responses "
    "samples_per_question excluded refused accuracy chance num_chance_questions pass_at_k maj_at_k "
    "official reading extraction truncated length_tokens accuracy_by_length tokens_per_correct "
    "categories blind measures published skipped settings notes",
    "samples_per_question": "least most",
    "excluded": "timeout error questions_without_verdict",
    "accuracy": ESTIMATE,
    "pass_at_k": "2 4",
    "maj_at_k 4": ESTIMATE,
    "official": "accuracy strict num_responses no_ruling right_by_official_only "
    "right_by_strict_only",
    "official strict": ESTIMATE,
    "extraction": "no_answer unparsable frac",
    "truncated": "frac num_known",
    "tokens_per_correct": "value low high",
    "length_tokens": "all correct wrong",
    "length_tokens wrong": DISTRIBUTION,
    "accuracy_by_length 0": "least most mean_length num_responses mean low high",
    "categories subject algebra": ESTIMATE,
    "blind": "accuracy images_add",
    "blind images_add": "mean low high p_value standard_error mcnemar_p num_questions num_clusters",
    "published 0": "model percent source measure",
}
"""The keys of report.json by place, in their order: programs of others read them."""


def test_layout_of_report_json_is_the_published_one(tmp_path: Path):
    judged = question("a", "rrwt", lengths=[5, 6, 7, 8], official="rrrr", meta=CATEGORY)
    published = (PublishedResult("Other", 14.34, "arXiv 1, table 2"),)
    write_report([evaluation(judged, blind=question("a", "w"), published=published)], tmp_path)
    (plain,) = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    for place, keys in LAYOUT.items():
        inside = plain
        for key in place.split():
            inside = inside[int(key) if isinstance(inside, list) else key]
        assert list(inside) == keys.split(), place


def test_report_says_all_in_tables(written: Path):
    text = (written / "report.md").read_text()
    assert text.index("| benchmark |") < text.index("## mathvision") < text.index("## aime24")
    for line in (
        "| Other \\| model | accuracy | 14.34 | arXiv 1, table 2 |",
        "| consistency | 25.0 |  |",
        "| temperature | 0.7 |",
        "| responses right by the official rule only | 1 |  |",
        "| a \\| b | 25.0 [0.0, 99.4] | 1 |",
    ):
        assert line in text.splitlines()
    assert "with another harness and other prompts" in text
    assert "Left out beforehand: 3 x no image." in text
    assert "timed out on 1 responses" in text
    assert "Published figures: none on record." in text
    for line in text.splitlines():
        if line.startswith("!["):
            assert (written / line.partition("](")[2][:-1]).stat().st_size > 5000
    assert text.count("![") == 4  # two of all; aime24 has neither lengths nor categories
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("| ")]
    widths = {row.count("|") for row in rows}
    assert widths <= {3, 4, 5, 8, 12}


def test_disagreements_are_kept_to_look_at(written: Path):
    lines = (written / "mathvision" / "disagreements.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    # a's third sample is right by the official rule only, b's last by ours only; a's last timed out
    assert [(row["uid"], row["sample"], row["official"]) for row in rows] == [
        ("a", 2, True),
        ("b", 3, False),
    ]
    assert rows[0]["official_rule"] == "box"


def test_metrics_have_the_names_of_curves(known: Evaluation):
    result = summarise(known)
    values = metrics(result)
    assert values["eval/mathvision/accuracy"] == result.accuracy.mean
    assert values["eval/mathvision/accuracy_low"] == result.accuracy.low
    assert values["eval/mathvision/official_accuracy"] == 0.5
    assert values["eval/mathvision/pass_at_4"] == 1
    assert values["eval/mathvision/consistency"] == 0.25
    assert values["eval/mathvision/length_tokens"] == 30.125
    assert values["eval/mathvision/length_correct_tokens"] == result.length_tokens.correct.mean
    assert values["eval/mathvision/excluded_frac"] == 1 / 8
    assert all(type(value) is float for value in values.values())


def test_samples_are_read_as_written(tmp_path: Path):
    judged = question("a", "r-", lengths=[5, 99], official="w ", meta=CATEGORY)
    row = sample_row(judged[0])
    expected = {
        "uid": "a",
        "sample": 0,
        "cluster": "a",
        "categories": {"subject": "algebra"},
        "verdict": "correct",
        "rule": "number",
        "answer": "7",
        "answer_class": 0,
        "official": False,
        "length_tokens": 5,
        "truncated": False,
        "response": "text 0",
    }
    assert expected.items() <= row.items()
    assert sample_row(judged[1])["official"] is None
    path = tmp_path / "samples.jsonl"
    write_samples(judged, path)
    samples = read_samples(path)
    assert [(one.uid, one.sample, one.correct, one.length_tokens) for one in samples] == [
        ("a", 0, True, 5),
        ("a", 1, False, 99),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"uid": "a", "sam', "line 2 is not JSON"),
        ('{"uid": "a"}', "line 2 has no field 'sample'"),
        ("again", "line 2: sample 0 of question 'a' is there twice"),
        ("good", "line 2: 'good' is not a valid Verdict"),
    ],
)
def test_broken_samples_are_named(line, message, tmp_path: Path):
    path = tmp_path / "samples.jsonl"
    write_samples(question("a", "r"), path)
    first = path.read_text()
    again = {"again": first, "good": first.replace("correct", "good")}.get(line, line)
    path.write_text(first + again)
    with pytest.raises(ValueError, match=message):
        read_samples(path)


def test_report_refuses_what_it_cannot_tell_apart(tmp_path: Path):
    twice = [evaluation(question("a", "r"))] * 2
    with pytest.raises(ValueError, match="one evaluation per benchmark"):
        write_report(twice, tmp_path)
    with pytest.raises(ValueError, match="mathvision: there is no judged response"):
        evaluation([])
