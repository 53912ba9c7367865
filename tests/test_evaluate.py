"""The evaluation command: its files and results, a kill in the middle, comparisons, wrong lines.

Broken on purpose, one at a time, each seen red:
    responses that are there asked again -> killed; a batch size that may change, another
        evaluation's folder not looked at -> output of something else
    checkpoint looked for late, samples at temperature 0, options without use, no suggestion for a
        split or for a class that has moved -> wrong command
    blind prompts with images, blind results left out -> blind; W&B off -> offline
    problems without a response not counted -> given response; refused ones not counted -> named
    model loaded though nothing is missing -> same command; common_only always -> on request
    one sample given for all -> samples of a problem
"""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support import evaluation_helpers as helpers
from tests.support.evaluation_helpers import BROKEN, TOO_LONG, WARM_START, lines, reported, run
from vlm_rl.evaluate import evaluate
from vlm_rl.evaluation.responders import PolicyResponder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt
from vlm_rl.rollout import TransformersEngine

NUM_ROWS = 12


class Heard(TransformersEngine):
    """Keeps the prompts it is asked."""

    asked: ClassVar[list[Prompt]] = []

    def generate(self, prompts: Sequence[Prompt], **how: Any) -> list[list[Completion]]:
        Heard.asked += prompts
        return super().generate(prompts, **how)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mathvision")
    return helpers.write(folder, [*helpers.rows(NUM_ROWS), *helpers.unanswerable()])


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the policy, for a test to take away."""
    return Path(shutil.copytree(WARM_START, tmp_path_factory.mktemp("policy") / "tiny"))


@pytest.fixture(scope="module")
def whole(data: Path, policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Greedy, without a break."""
    return run(data, tmp_path_factory.mktemp("whole"), model=policy)


@pytest.fixture(scope="module")
def sampled(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four answers to each, drawn at temperature 1."""
    changes = {"sampling.temperature": 1.0, "samples_per_problem": 4}
    return run(data, tmp_path_factory.mktemp("sampled"), **changes)


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_results_are_those_of_the_samples_counted_by_hand(whole: Path) -> None:
    result, samples = reported(whole), lines(whole / "mathvision" / "samples.jsonl")
    assert {
        "config.yaml",
        "report.md",
        "report.json",
        "overview.png",
        "mathvision/samples.jsonl",
        "mathvision/responses.jsonl",
        "mathvision/responses.png",
        "mathvision/disagreements.jsonl",
    } <= content(whole).keys()
    assert [row["uid"] for row in samples] == [*map(str, range(NUM_ROWS)), TOO_LONG, BROKEN]
    right = [row for row in samples if row["verdict"] == "correct"]
    assert 0 < len(right) < NUM_ROWS
    assert result["accuracy"]["mean"] == pytest.approx(len(right) / (NUM_ROWS + 2))
    official = sum(row["official"] for row in samples)
    assert result["official"]["accuracy"]["mean"] == pytest.approx(official / (NUM_ROWS + 2))
    for category in ("level", "subject", "kind"):
        for value, part in result["categories"][category].items():
            own = [row for row in samples if row["categories"][category] == value]
            share = sum(row["verdict"] == "correct" for row in own) / len(own)
            assert (part["num_questions"], part["mean"]) == (len(own), pytest.approx(share))
    lengths = [row["length_tokens"] for row in samples if row["length_tokens"] is not None]
    assert len(lengths) == NUM_ROWS
    assert result["length_tokens"]["all"]["mean"] == pytest.approx(sum(lengths) / NUM_ROWS)
    spent = result["tokens_per_correct"]
    assert spent["value"] == pytest.approx(sum(lengths) / len(right))
    assert spent["low"] < spent["value"] < spent["high"]


def test_problems_that_cannot_be_asked_are_wrong_and_named(whole: Path) -> None:
    result = reported(whole)
    samples = {row["uid"]: row for row in lines(whole / "mathvision" / "samples.jsonl")}
    reasons = {
        TOO_LONG: "above max_prompt_tokens=200",
        BROKEN: "is broken: image file is truncated",
    }
    assert len(result["refused"]) == 2
    for uid, reason in reasons.items():
        assert f"problem {uid}" in samples[uid]["refused"]
        assert reason in samples[uid]["refused"]
        assert result["refused"][samples[uid]["refused"]] == 1
        assert (samples[uid]["verdict"], samples[uid]["official"]) == ("unparsable", False)
        assert samples[uid]["refused"] in (whole / "report.md").read_text()
    assert list(result["skipped"].values()) == [2]


def test_same_command_again_changes_nothing_and_needs_no_model(
    whole: Path, data: Path, policy: Path
) -> None:
    before = content(whole)
    away = policy.rename(policy.with_name("away"))
    try:
        run(data, whole, model=policy)
    finally:
        away.rename(policy)
    assert content(whole) == before


def test_killed_evaluation_resumes_bit_for_bit(
    whole: Path, data: Path, policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    respond = PolicyResponder.respond
    asked: list[list[str]] = []

    def counted(self: PolicyResponder, problems: Sequence[Problem], **how: Any) -> Any:
        asked.append([problem.uid for problem in problems])
        if len(asked) > 2 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return respond(self, problems, **how)

    monkeypatch.setattr(PolicyResponder, "respond", counted)
    output, parent = tmp_path / "killed", os.getpid()
    child = os.fork()
    if child == 0:
        run(data, output, model=policy)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL
    file = output / "mathvision" / "responses.jsonl"
    undisturbed = (whole / "mathvision" / "responses.jsonl").read_bytes()
    kept = file.read_bytes()
    assert undisturbed.startswith(kept)
    assert kept.count(b"\n") == 6
    following = undisturbed[len(kept) :].split(b"\n")
    file.write_bytes(kept + following[0] + b"\n" + following[1][:-20])  # half of the third batch
    run(data, output, model=policy)
    assert asked == [["6", "7", "8"], ["9", "10", "11"], [TOO_LONG, BROKEN]]
    assert file.read_bytes() == undisturbed
    assert content(output).keys() == content(whole).keys()
    for name in ("report.json", "report.md", "mathvision/samples.jsonl"):
        assert (output / name).read_bytes() == (whole / name).read_bytes()


def test_samples_of_a_problem_give_averages_passes_and_majorities(sampled: Path) -> None:
    result, samples = reported(sampled), lines(sampled / "mathvision" / "samples.jsonl")
    groups = [samples[i : i + 4] for i in range(0, len(samples), 4)]
    assert all([row["sample"] for row in group] == [0, 1, 2, 3] for group in groups)
    assert len({row["response"] for row in samples}) > 20
    rights = [sum(row["verdict"] == "correct" for row in group) for group in groups]
    assert any(0 < right < 4 for right in rights)
    count = len(groups)
    assert result["accuracy"]["mean"] == pytest.approx(sum(rights) / 4 / count)
    passed = [sum(right > 0 for right in rights), sum(1 - comb(4 - r, 2) / 6 for r in rights)]
    assert result["pass_at_k"]["4"]["mean"] == pytest.approx(passed[0] / count)
    assert result["pass_at_k"]["2"]["mean"] == pytest.approx(passed[1] / count)
    assert result["maj_at_k"]["4"]["mean"] == pytest.approx(sum(map(majority, groups)) / count)


def majority(group: Sequence[dict[str, Any]]) -> float:
    """Whether the most frequent class is the right one, 0; among equals, by lot."""
    classes = [row["answer_class"] for row in group if row["answer_class"] is not None]
    sizes = {kind: classes.count(kind) for kind in classes}
    most = [kind for kind, size in sizes.items() if size == max(sizes.values())]
    return (0 in most) / len(most) if most else 0.0


@pytest.fixture(scope="module")
def blind(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five problems, also without their images; the engine's class keeps what it was asked."""
    Heard.asked.clear()
    changes = {"blind": "true", "limit": 5, "engine": "tests.test_evaluate.Heard"}
    return run(data, tmp_path_factory.mktemp("blind"), logging__wandb="offline", **changes)


def test_blind_prompts_have_the_text_and_no_image(blind: Path) -> None:
    samples = lines(blind / "mathvision" / "samples.jsonl")
    seen = {prompt.uid: prompt for prompt in Heard.asked if prompt.images}
    without = {prompt.uid: prompt for prompt in Heard.asked if not prompt.images}
    assert seen.keys() | {TOO_LONG, BROKEN} >= {row["uid"] for row in samples}
    assert len(seen) + len(without) == len(Heard.asked)
    assert seen.keys() <= without.keys() <= seen.keys() | {BROKEN}
    for uid, prompt in seen.items():
        other = without[uid]
        assert prompt.grid_thw is not None
        assert other.pixel_values is other.grid_thw is None
        assert len(prompt) - len(other) == int(prompt.grid_thw.prod()) // 4 + 2
        assert other.problem.question == prompt.problem.question


def test_blind_results_are_paired(blind: Path) -> None:
    result = reported(blind)
    assert result["blind"]["accuracy"]["num_questions"] == 5
    gap = result["accuracy"]["mean"] - result["blind"]["accuracy"]["mean"]
    assert result["blind"]["images_add"]["mean"] == pytest.approx(gap)
    assert len(lines(blind / "mathvision" / "blind.jsonl")) == 5


def test_offline_metrics_lie_in_the_folder_for_wandb(blind: Path) -> None:
    assert list((blind / "wandb").glob("offline-run-*/*.wandb"))


def test_comparison_is_printed_and_written(
    whole: Path, sampled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(["--compare", str(whole), str(sampled), "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    (compared,) = json.loads((tmp_path / "comparison.json").read_text())["benchmarks"]
    means = [reported(folder)["accuracy"]["mean"] for folder in (whole, sampled)]
    assert [compared[side]["mean"] for side in ("first", "second")] == pytest.approx(means)
    assert compared["accuracy"]["mean"] == pytest.approx(means[1] - means[0])
    assert compared["sentence"] in printed
    assert compared["sentence"] in (tmp_path / "comparison.md").read_text()


def test_other_questions_are_compared_only_on_request(
    whole: Path, blind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--compare", str(whole), str(blind), "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        evaluate(argv)
    assert ended.value.code == 2
    assert "9 questions are in" in capsys.readouterr().err
    evaluate([*argv, "--common_only=true"])
    (compared,) = json.loads((tmp_path / "comparison.json").read_text())["benchmarks"]
    assert compared["accuracy"]["num_questions"] == 5


@pytest.fixture(scope="module")
def responses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("responses") / "given.jsonl"
    path.write_text('{"id": "1", "response": "\\\\boxed{5}"}\n')
    return path


def test_problems_without_a_given_response_are_in_no_result_and_counted(
    responses: Path, data: Path, tmp_path: Path
) -> None:
    result = scored("mathvision", data, responses, tmp_path)
    assert result["num_questions"] == 1
    assert result["skipped"] == {"problems without a response, in no figure": NUM_ROWS + 1}
    gold = helpers.rows(2)[1]["answer"]
    assert result["accuracy"]["mean"] == float(gold == "5")


ASK = "--benchmark mathvision --data.mathvision DATA "
CHAT = f"{ASK} --engine vlm_rl.evaluation.ChatServer --engine.url http://127.0.0.1:9/v1 "
WRONG = {
    "no benchmark": ("--model M", "--benchmark NAME[:SPLIT] is missing"),
    "unknown benchmark": (
        "--benchmark mathvison --data.mathvision DATA --model M",
        "did you mean mathvision?",
    ),
    "unknown split": ("--benchmark mathvision:tset --model M", "did you mean test?"),
    "one twice": (
        "--benchmark amc23 amc23 --data.amc23 AMC --samples_per_problem 1 --model M",
        "names one twice",
    ),
    "no such data": ("--benchmark amc23 --data.amc23 a.json --model M", "no data file a.json"),
    "data of no benchmark": (f"{ASK} --data.amc23 x --model M", "data.amc23 is for a benchmark"),
    "nothing to evaluate": (ASK, "--model PATH is missing"),
    "missing model": (f"{ASK} --model no/such/model", "no/such/model"),
    "abbreviated": (f"{ASK} --mod M", "unknown key mod"),
    "samples that are equal": (f"{ASK} --model M --samples_per_problem 4", "set a temperature"),
    "responses and model": (f"{ASK} --responses FILE --model M", "leave --model or them out"),
    "responses of two": ("--benchmark mathvision amc23 --responses FILE", "name it alone"),
    "responses and limit": (f"{ASK} --responses FILE --limit 3", "no use for limit=3"),
    "common_only alone": (f"{ASK} --model M --common_only true", "no use for common_only"),
    "benchmark compared": ("--compare A B --benchmark amc23", "no use for benchmark"),
    "nothing to compare": ("--compare A B", "A holds no <benchmark>/samples.jsonl"),
    "pixels of a server": (f"{CHAT} --prompt.max_pixels 9", "a server resizes images itself"),
    "no server": (f"{CHAT} --engine.max_retries 0", "no server answers at http://127.0.0.1:9/v1"),
    "server of an old name": (
        CHAT.replace("evaluation", "responding"),
        "did you mean vlm_rl.servers.chat_server.ChatServer?",
    ),
}


@pytest.mark.parametrize(("line", "message"), WRONG.values(), ids=WRONG)
def test_wrong_command_is_one_line_before_a_model_is_loaded(
    line: str,
    message: str,
    data: Path,
    responses: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Policy, "from_pretrained", pytest.fail)
    monkeypatch.chdir(tmp_path)
    amc = responses.with_name("amc.json")
    amc.write_text('[{"id": 0, "question": "Find n.", "answer": "27.0"}]')
    paths = {"M": WARM_START, "FILE": responses, "DATA": data, "AMC": amc}
    with pytest.raises(SystemExit) as ended:
        evaluate([str(paths.get(word, word)) for word in line.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith("vlm_rl.evaluate: ")
    assert error.count("\n") == 1
    assert message in error
    assert not any(tmp_path.iterdir())  # nothing that the command, put right, would meet


@pytest.mark.parametrize(
    ("holds", "message"),
    [
        ("limit", "holds an evaluation with other settings (limit: None -> 3; questions"),
        ("batch_problems", "other settings (batch_problems: 3 -> 2"),
        ("something else", "is not empty and holds no evaluation"),
        ("file", "is a file, not a folder"),
    ],
)
def test_output_of_something_else_is_left_as_it_is(
    holds: str,
    message: str,
    whole: Path,
    data: Path,
    policy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, changes = tmp_path / "output", {}
    if holds == "file":
        output.write_text("x")
    elif holds == "something else":
        output.mkdir()
        (output / "mine.txt").write_text("x")
    else:
        shutil.copytree(whole, output)
        changes = {"limit": {"limit": 3}, "batch_problems": {"batch_problems": 2}}[holds]
    before = content(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(data, output, model=policy, **changes)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert content(tmp_path) == before


PUBLISHED = {"Qwen-VL-Max-CoT": 12.63, "Gemini-Pro-CoT": 14.34, "InternLM-XComposer2-VL-CoT": 14.37}
"""Percent on all of MathVision, by its authors' code, from their `*_result.json`."""


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_mathvision_accuracy_comes_back(model: str, shared: Path, tmp_path: Path) -> None:
    """Within 0.3 points: the authors evaluate answers as code."""
    folder = shared / "data" / "mathvision"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds the published outputs")
    result = scored(
        "mathvision:test", folder / "test.jsonl", folder / f"outputs/{model}.jsonl", tmp_path
    )
    assert result["num_questions"] == 3040
    assert 100 * result["official"]["accuracy"]["mean"] == pytest.approx(PUBLISHED[model], abs=0.3)


@pytest.mark.parametrize(("model", "right"), [("bard", 348), ("llava_llama_2_13b", 261)])
def test_published_mathvista_counts_come_back_exactly(
    model: str, right: int, shared: Path, tmp_path: Path
) -> None:
    """With the extractions that the authors stored beside the responses."""
    folder = shared / "data" / "mathvista"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: it holds the published outputs")
    stored = json.loads((folder / "outputs" / f"output_{model}.json").read_text())
    given = tmp_path / "responses.jsonl"
    names = ("response", "extraction")
    rows = [{"id": pid} | {name: row[name] for name in names} for pid, row in stored.items()]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = scored("mathvista", folder / "testmini.json", given, tmp_path / "out")
    assert result["num_questions"] == 1000
    assert result["official"]["accuracy"]["mean"] == pytest.approx(right / 1000, abs=1e-9)


def scored(benchmark: str, data: Path, responses: Path, output: Path) -> dict[str, Any]:
    name = benchmark.partition(":")[0]
    options = [f"--data.{name}={data}", f"--responses={responses}", f"--output={output}"]
    evaluate(["--benchmark", benchmark, *options, "--logging.wandb=off"])
    return reported(output)
