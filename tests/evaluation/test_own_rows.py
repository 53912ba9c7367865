"""Files of a user's own as benchmarks: read, asked, scored by a rule of theirs; several models.

Broken on purpose, one at a time, each seen red:
    images looked for in the working folder; golds not read -> unusable rows
    the verifier in place of a rule of the user's own -> scoring
    a rule that scores nothing accepted; one that reads tokens -> one line
    the first checkpoint as the last -> run
    the responses of two models in one folder -> two models; no Holm's correction -> three folders
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.support import own_rows
from tests.support.evaluation_helpers import WARM_START, lines
from tests.support.own_rows import command, run, write
from tests.test_evaluate import Heard
from vlm_rl.evaluate import evaluate
from vlm_rl.evaluate.subjects import before_and_after, folders_of
from vlm_rl.evaluation.intervals import holm
from vlm_rl.evaluation.responders import PolicyResponder
from vlm_rl.model.policy import Policy

NUM_ROWS = 8
RULES = """
def shows_gold_shortly(problem, completion, length):
    assert length == len(completion)
    return problem.answer in completion.text and length < 18

def fails_once(problem, completion):
    return 1 / (problem.uid != "q3")

def by_ids(completions, completion_ids, **columns):
    return [1.0] * len(completions)

def by_hint(completions, hint, **columns):
    return [1.0] * len(completions)

def fails(problem, completion):
    raise RuntimeError("no such thing")
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write my.jsonl, other.jsonl and the rules."""
    folder = tmp_path_factory.mktemp("own")
    write(folder / "my.jsonl", own_rows.rows(folder, NUM_ROWS))
    write(folder / "other.jsonl", [{"problem": "What is 1 + 1?", "answer": "2"}])
    (folder / "my_rules.py").write_text(RULES)
    return folder


def noisy(target: Path, scale: float) -> Path:
    """Copy the policy with noise on its weights: another one, which answers worse."""
    shutil.copytree(WARM_START, target)
    weights = load_file(target / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    for name, weight in weights.items():
        if weight.ndim == 2:
            noise = torch.randn(weight.shape, generator=draw)
            weights[name] = weight + (scale * weight.std() * noise).to(weight.dtype)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def models(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluate the policy and a worse one on both files, with all that lengths say."""
    output = tmp_path_factory.mktemp("models")
    worse = noisy(tmp_path_factory.mktemp("worse") / "worse", 0.25)
    argv = command(
        own / "my.jsonl",
        own / "other.jsonl",
        model=[WARM_START, worse],
        samples_per_problem=2,
        sampling__temperature=1.0,
    )
    extra = ["--lengths", "--target_words", "10", "30", f"--output={output}"]
    Heard.asked.clear()
    evaluate([*argv, "--engine=tests.test_evaluate.Heard", *extra])
    return output


def results(folder: Path) -> dict[str, Any]:
    benchmarks = json.loads((folder / "report.json").read_text())["benchmarks"]
    return {one["benchmark"]: one for one in benchmarks}


def test_own_rows_are_asked_with_their_images_and_counted(own: Path, models: Path) -> None:
    found = results(models / "warm_start")
    assert set(found) == {"my", "other"}
    samples = lines(models / "warm_start" / "my" / "samples.jsonl")
    assert [row["uid"] for row in samples[::2]] == [f"q{n}" for n in range(NUM_ROWS)]
    right = sum(row["verdict"] == "correct" for row in samples)
    assert 0 < right < len(samples)
    assert found["my"]["accuracy"]["mean"] == pytest.approx(right / len(samples))
    for source, part in found["my"]["categories"]["source"].items():
        those = [row for row in samples if row["categories"]["source"] == source]
        share = sum(row["verdict"] == "correct" for row in those) / len(those)
        assert part["mean"] == pytest.approx(share)
    asked = {prompt.uid: prompt for prompt in Heard.asked}
    assert len(asked) == NUM_ROWS + 1
    assert all(len(asked[f"q{n}"].images) == 1 for n in range(NUM_ROWS))
    assert samples[0]["images"] == [str(own / "pictures" / "3-0.png")]
    assert samples[0]["question"] == own_rows.rows(own, 1)[0]["problem"]


def test_two_models_make_one_table_and_comparisons(models: Path) -> None:
    table = json.loads((models / "models.json").read_text())
    assert table["models"] == ["warm_start", "worse"]
    by_name = {one["benchmark"]: one["models"] for one in table["benchmarks"]}
    first, second = by_name["my"]
    means = [results(models / name)["my"]["accuracy"]["mean"] for name in table["models"]]
    assert [first["accuracy"]["mean"], second["accuracy"]["mean"]] == pytest.approx(means)
    assert means[1] < means[0]
    compared = json.loads((models / "worse" / "comparison.json").read_text())["benchmarks"]
    assert {one["benchmark"] for one in compared} == {"my", "other"}
    paired = next(one for one in compared if one["benchmark"] == "my")
    assert second["difference"] == paired["accuracy"]
    assert second["difference"]["mean"] == pytest.approx(means[1] - means[0])
    assert first["difference"] is None
    assert first["pareto"]["accuracy"]["mean"] == pytest.approx(means[0])
    assert (models / "pareto.png").stat().st_size > 10_000
    changes = json.loads((models / "worse" / "changes.json").read_text())["benchmarks"]
    lost = next(one for one in changes if one["benchmark"] == "my")["lost"]
    page = (models / "worse" / "changes.md").read_text()
    assert lost
    assert all(f"**{one['uid']}**" in page for one in lost)
    assert list((models / "worse" / "changes" / "my").glob("*.jpg"))


def test_lengths_and_targets_are_in_the_report(models: Path) -> None:
    folder = models / "warm_start"
    assert "[lengths.md](lengths.md)" in (folder / "report.md").read_text()
    lengths = json.loads((folder / "lengths.json").read_text())["benchmarks"]
    (mine,) = [one for one in lengths if one["benchmark"] == "my"]
    samples = lines(folder / "my" / "samples.jsonl")
    assert mine["num_responses"] == len(samples) == 2 * NUM_ROWS
    total = sum(cell["mean"] * cell["num_responses"] for cell in mine["cells"])
    assert total == pytest.approx(sum(row["length_tokens"] for row in samples))
    targeted = lines(folder / "my" / "targeted_samples.jsonl")
    assert len(targeted) == len(samples)
    requests = {row["question"].rpartition("\n")[2] for row in targeted}
    assert requests == {
        f"The response should have a word count of {words} words." for words in (10, 30)
    }
    assert mine["targets"][-1]["num_responses"] == len(targeted)


def test_same_command_again_needs_no_model(
    own: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does the first model alone, as its responses lie in a folder of its name."""
    monkeypatch.setattr(PolicyResponder, "respond", pytest.fail)
    monkeypatch.setattr(Policy, "from_pretrained", pytest.fail)
    before = (models / "warm_start" / "report.json").read_bytes()
    argv = command(
        own / "my.jsonl", own / "other.jsonl", samples_per_problem=2, sampling__temperature=1.0
    )
    extra = ["--engine=tests.test_evaluate.Heard", "--target_words", "10", "30"]
    evaluate([*argv, *extra, f"--output={models / 'warm_start'}"])
    assert (models / "warm_start" / "report.json").read_bytes() == before


def test_three_folders_are_compared_in_one_table(
    own: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    third = shutil.copytree(models / "worse", tmp_path / "copy" / "third")
    folders = [str(models / "warm_start"), str(models / "worse"), str(third)]
    with pytest.raises(SystemExit):
        evaluate(["--compare", *folders])
    assert "needs --output FOLDER" in capsys.readouterr().err
    evaluate(["--compare", *folders, "--output", str(tmp_path / "out")])
    table = json.loads((tmp_path / "out" / "models.json").read_text())
    assert table["models"] == ["warm_start", "worse", "third"]
    (my,) = [one for one in table["benchmarks"] if one["benchmark"] == "my"]
    worse, third_one = my["models"][1:]
    assert worse["difference"] == third_one["difference"]
    # Holm's correction is over all differences of the table, of both files
    others = [one for b in table["benchmarks"] for one in b["models"][1:]]
    raw = [one["difference"]["p_value"] for one in others]
    assert [one["holm_p"] for one in others] == pytest.approx(holm(raw))
    assert holm(raw) != pytest.approx(raw)
    assert (tmp_path / "out" / "third" / "changes.md").is_file()


TEXTS = ["it is GOLD", r"\boxed{GOLD} or so", "<think>it is GOLD", "nothing"]


def scored(own: Path, output: Path, function: str) -> Path:
    """Score responses from a file by one of the user's rules."""
    given = [
        {
            "id": f"q{n}",
            "response": TEXTS[n % 4].replace("GOLD", row["answer"]),
            "length_tokens": 3 * n,
        }
        for n, row in enumerate(own_rows.rows(own, NUM_ROWS))
    ]
    responses = write(output.with_suffix(".jsonl"), given)
    rule = {
        "scoring": "vlm_rl.rewards.JudgingFunction",
        "scoring.function": function,
        "scoring.file": own / "my_rules.py",
    }
    return run(output, own / "my.jsonl", model=(), responses=responses, **rule)


def test_scoring_is_what_the_users_function_says(own: Path, tmp_path: Path) -> None:
    folder = scored(own, tmp_path / "out", "shows_gold_shortly")
    samples = lines(folder / "my" / "samples.jsonl")
    verdicts = ["correct", "correct", "correct", "wrong", "correct", "correct", "wrong", "wrong"]
    assert [row["verdict"] for row in samples] == verdicts  # q6 has 18 tokens
    assert {row["rule"] for row in samples} == {"shows_gold_shortly"}
    result = results(folder)["my"]
    assert result["accuracy"]["mean"] == 5 / 8
    assert result["settings"]["scored by"] == "shows_gold_shortly"


def test_what_a_rule_fails_on_is_in_no_accuracy(own: Path, tmp_path: Path) -> None:
    result = results(scored(own, tmp_path / "out", "fails_once"))["my"]
    assert result["excluded"]["error"] == 1
    assert result["accuracy"]["num_questions"] == NUM_ROWS - 1
    assert result["accuracy"]["mean"] == 1


def test_a_rule_that_scores_nothing_ends_in_one_line(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        scored(own, tmp_path / "out", "fails")
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "fails could score none of 8 responses" in error
    assert "RuntimeError: no such thing" in error


UNUSABLE = {
    "gold": ({"answer": "\\frac{", "answer_type": "number"}, "cannot be read as a number"),
    "image": ({"images": ["pictures/none.png"]}, "image 'pictures/none.png'"),
    "value": ({"answer_type": "nubmer"}, "did you mean number?"),
}


@pytest.mark.parametrize(("change", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_rows_are_refused_before_a_model_is_loaded_unless_allowed(
    change: dict[str, object],
    message: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Policy, "from_pretrained", pytest.fail)
    good, bad = own_rows.rows(tmp_path, 2)
    path = write(tmp_path / "bad.jsonl", [good, bad | change])
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "out", path)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("vlm_rl.evaluate: bad: 1 rows cannot be problems: ")
    assert message in error
    assert "allow them with max_bad_rows=1" in error
    assert not (tmp_path / "out").exists()


def test_allowed_rows_are_left_out(tmp_path: Path) -> None:
    good, bad = own_rows.rows(tmp_path, 2)
    path = write(tmp_path / "bad.jsonl", [good, bad | UNUSABLE["gold"][0]])
    given = write(tmp_path / "given.jsonl", [{"id": "q0", "response": r"\boxed{1}"}])
    run(tmp_path / "out", path, model=(), responses=given, max_bad_rows=1)
    assert [row["uid"] for row in lines(tmp_path / "out/bad/samples.jsonl")] == ["q0"]
    assert results(tmp_path / "out")["bad"]["skipped"] == {}


MINE = "--model M --benchmark MY "
RULE = f"{MINE} --scoring vlm_rl.rewards.JudgingFunction --scoring.file RULES"
FUNCTION = f"{RULE} --scoring.function"
WRONG = {
    "same name": ("--model M --benchmark MY AGAIN", "files need different names"),
    "a benchmark's name": ("--model M --benchmark TAKEN", "would have the name of the benchmark"),
    "no such file": ("--model M --benchmark none.jsonl", "no data file none.jsonl"),
    "no such split": ("--model M --benchmark MY:dev", "no column 'split'"),
    "misspelt": ("--model M --benchmark mathvison", "did you mean mathvision?"),
    "scoring of a benchmark": (
        "--model M --benchmark aime24 --scoring vlm_rl.rewards.ExactMatch",
        "scoring is for own rows",
    ),
    "rows of a benchmark": (
        "--model M --benchmark aime24 --rows.form plain",
        "rows is for own rows",
    ),
    "no such form": (f"{MINE} --rows.form plane", "form must be one of"),
    "no such rule": (f"{FUNCTION} shows_gold_shorty", "did you mean shows_gold_shortly?"),
    "rule of tokens": (f"{FUNCTION} by_ids", "by_ids reads tokens or their probabilities"),
    "rule of a column": (f"{FUNCTION} by_hint", "needs a column 'hint'"),
    "no band": (f"{MINE} --target_words 60", "target_words=60 has no published band"),
    "run and model": (f"{MINE} --run_dir runs/x", "--run_dir has no use for model"),
    "no run": ("--run_dir nowhere --benchmark MY", "holds no run with a checkpoint"),
    "one folder": ("--compare A", "--compare A has nothing beside it"),
    "a name twice": ("--model M M --benchmark MY", "two have one name"),
    "not a list": ("--config YAML", "model must be a list, as in model: [some/model]"),
}


@pytest.mark.parametrize(("line", "message"), WRONG.values(), ids=WRONG)
def test_wrong_command_is_one_line_before_a_model_is_loaded(
    line: str,
    message: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Policy, "from_pretrained", pytest.fail)
    for name in ("again/my.jsonl", "aime24.jsonl"):
        (own / name).parent.mkdir(exist_ok=True)
        shutil.copy(own / "my.jsonl", own / name)
    (own / "one.yaml").write_text("model: some/model\n")
    monkeypatch.chdir(tmp_path)
    paths = {
        "M": WARM_START,
        "MY": own / "my.jsonl",
        "AGAIN": own / "again" / "my.jsonl",
        "TAKEN": own / "aime24.jsonl",
        "RULES": own / "my_rules.py",
        "YAML": own / "one.yaml",
    }
    spelled = line.replace("MY:dev", f"{own / 'my.jsonl'}:dev")
    words = [str(paths.get(word, word)) for word in spelled.split()]
    with pytest.raises(SystemExit) as ended:
        evaluate(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("vlm_rl.evaluate: ")
    assert error.count("\n") == 1
    assert message in error
    assert not any(tmp_path.iterdir())


def test_run_is_what_it_began_with_and_its_last_checkpoint(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "mine"
    for step in (5, 20, 10):
        (run_dir / "checkpoints" / f"step_{step}" / "hf").mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump({"policy": {"path": "some/policy"}}))
    models = before_and_after(run_dir)
    assert models == ("some/policy", str(run_dir / "checkpoints/step_20/hf"))
    config = type("Config", (), {"output": None, "responses": None})()
    assert [str(one) for one in folders_of(config, models)] == [
        "runs/evaluate/policy",
        "runs/evaluate/mine-step_20",
    ]
    assert [str(one) for one in folders_of(config, ["a/base", "b/base", "c"])] == [
        "runs/evaluate/a-base",
        "runs/evaluate/b-base",
        "runs/evaluate/c",
    ]
