"""A checkpoint of a real run goes to a hub over HTTP: what is sent, what the card says, refusals.

Broken on purpose, one at a time, each seen red:
    rollouts and images sent unasked -> in private and without rows
    weights of an earlier upload kept -> rollouts and images
    the columns before and after turned round -> numbers of the run
    no comparison with the digest of the weights -> evaluation of other weights
    no look at SHA256SUMS -> refusals
    a public repository written to -> public repository
    the adapter's own path of its base sent -> adapter
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from tests.support.model_hub import ModelHub
from tests.support.run_helpers import command
from vlm_rl.config import parse, plain
from vlm_rl.disk.files import read_json, read_yaml
from vlm_rl.evaluation.benchmarks.benchmark import Judged, Response
from vlm_rl.evaluation.provenance import weights_digest
from vlm_rl.evaluation.report import RESULTS, results_json
from vlm_rl.evaluation.summary import Evaluation, summarise
from vlm_rl.fit import build_parser, fit
from vlm_rl.records import Problem, Verdict
from vlm_rl.run.lock import FolderLock
from vlm_rl.run.metrics_csv import read_metrics
from vlm_rl.upload.__main__ import main
from vlm_rl.upload.contents import STAGE

REPO = "someone/reads-charts"
TERMS = {
    "accuracy": {"class_path": "tests.support.run_helpers.FirstTokenEven"},
    "even": {"class_path": "tests.support.run_helpers.EvenTokens"},
}


@pytest.fixture(scope="module")
def run(policy_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train two steps, with a checkpoint at each."""
    folder = tmp_path_factory.mktemp("upload") / "run"
    every = {"checkpoint.every_n_steps": 1, "validation.every_n_steps": 2}
    terms = {"reward.terms": json.dumps(TERMS)}
    fit(command(policy_folder, data_folder, folder, steps=2, **every, **terms))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    with ModelHub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        # what HF_HUB_DISABLE_XET sets, which is read at import: Git LFS, as without hf_xet
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return the one line on standard error of a command that ends with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1, lines
    return lines[0]


def test_upload_sends_the_checkpoint_in_private_and_without_rows(run: Path, hub: ModelHub) -> None:
    main([str(run), "--repo", REPO])
    repository = hub.repositories[REPO]
    assert repository.private
    assert repository.commits == ["Step 2"]
    weights = run / "checkpoints" / "step_2" / "hf"
    sent = {name: repository.files[name] for name in os.listdir(weights)}
    assert sent == {path.name: path.read_bytes() for path in weights.iterdir()}
    assert hub.objects, "the weights went by Git LFS"
    beside = {name for name in repository.files if name.startswith("training/")}
    assert {"training/config.yaml", "training/metrics.csv"} <= beside
    assert repository.files["README.md"] == (run / STAGE / "README.md").read_bytes()
    everything = b"\n".join(repository.files.values())
    [question, *_] = (run / "rollouts" / "step_000001.jsonl").read_text().splitlines()
    assert json.loads(question)["uid"].encode() not in everything
    assert not [name for name in repository.files if "rollouts" in name or "problems" in name]


def test_rollouts_and_images_go_when_asked_and_leave_when_not(run: Path, hub: ModelHub) -> None:
    main([str(run), "--repo", REPO, "--rollouts", "--images"])
    files = hub.repositories[REPO].files
    assert "training/rollouts/step_000001.jsonl" in files
    assert [name for name in files if name.startswith("training/first_problems/")]
    files["model-00001-of-00002.safetensors"] = b"of an upload with other shards"
    files["LICENSE"] = b"of the owner"
    main([str(run), "--repo", REPO, "--checkpoint", "1"])
    assert not [name for name in files if "rollouts" in name or "first_problems" in name]
    assert "model-00001-of-00002.safetensors" not in files
    assert files["LICENSE"] == b"of the owner"
    assert hub.repositories[REPO].commits == ["Step 2", "Step 1"]


def test_a_dry_run_sends_nothing_and_is_what_would_be_sent(
    run: Path, hub: ModelHub, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run), "--repo", REPO, "--dry_run"])
    assert not hub.repositories
    staged = {p.relative_to(run / STAGE).as_posix() for p in (run / STAGE).rglob("*.*")}
    printed = set(re.findall(r"bytes  (\S+)$", capsys.readouterr().out, re.M))
    main([str(run), "--repo", REPO])
    sent = set(hub.repositories[REPO].files)
    assert sent == printed
    assert sent <= staged


def test_card_has_the_numbers_of_the_run(run: Path) -> None:
    main([str(run), "--repo", REPO, "--dry_run", "--license", "apache-2.0"])
    card = ModelCard.load(run / STAGE / "README.md")
    before, after = (
        next(r for r in read_metrics(run / "metrics.csv") if r["step"] == n and "val/accuracy" in r)
        for n in (0, 2)
    )
    assert before["val/accuracy"] != after["val/accuracy"], "else the columns look alike"
    row = f"| accuracy, sampled | {before['val/accuracy']:.1%} | {after['val/accuracy']:.1%} |"
    assert row in card.text
    assert "|  | step 0 | step 2 |" in card.text
    assert "16 problems of val.jsonl held out" in card.text
    assert "LUSPO(clip_low=0.002, clip_high=0.0025)" in card.text
    assert "2 of 2 problems x 4: 16 completions" in card.text
    assert "train.jsonl, 24 problems" in card.text
    assert f'from_pretrained("{REPO}")' in card.text
    assert str(run) not in card.text, "where its owner keeps it"
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["vlm_rl", "reinforcement-learning", "luspo"]
    assert card.data.base_model is None


def test_card_of_a_step_without_validation_says_so(run: Path) -> None:
    main([str(run), "--repo", REPO, "--dry_run", "--checkpoint", "1"])
    text = ModelCard.load(run / STAGE / "README.md").text
    assert "Step 1 was not validated" in text
    assert "accuracy, sampled" not in text


def test_command_of_the_card_starts_the_run_again(run: Path, hub: ModelHub, tmp_path: Path) -> None:
    main([str(run), "--repo", REPO])
    config = tmp_path / "config.yaml"
    config.write_bytes(hub.repositories[REPO].files["training/config.yaml"])
    assert "vlm_rl.fit --config checkpoint/training/config.yaml" in (
        hub.repositories[REPO].files["README.md"].decode()
    )
    parser = build_parser()
    again = plain(parser, parse(parser, ["--config", str(config), "--run_dir", "runs/again"]))
    assert again == read_yaml(run / "config.yaml") | {"run_dir": "runs/again"}


def evaluation(folder: Path, weights: Path | str, marks: str) -> Path:
    """Write the report of an evaluation: a question for each mark, right if it is r."""
    judged = []
    for number, mark in enumerate(marks):
        problem = Problem(str(number), "What is it?", "7", task="charts", split="test")
        verdict = Verdict.CORRECT if mark == "r" else Verdict.WRONG
        judged.append(
            Judged(
                problem, Response(str(number), 0, "7", 3, False), "7", verdict, "number", None, None
            )
        )
    settings = {"weights": weights_digest(str(weights))}
    result = summarise(Evaluation("charts", "test", "charts", str(weights), judged, settings))
    folder.mkdir()
    (folder / RESULTS).write_text(results_json([result]))
    return folder


def test_card_has_benchmarks_before_and_after(
    run: Path, policy_folder: Path, tmp_path: Path
) -> None:
    before = evaluation(tmp_path / "before", policy_folder, "rwww")
    after = evaluation(tmp_path / "after", run / "checkpoints" / "best" / "hf", "rrrw")
    argv = [str(run), "--repo", REPO, "--dry_run", "--evaluation", str(before), str(after)]
    main(argv)
    card = ModelCard.load(run / STAGE / "README.md")
    results = {
        name: read_json(path / RESULTS, dict)
        for name, path in (("before", before), ("after", after))
    }
    for name, mean in (("before", "25.0%"), ("after", "75.0%")):
        accuracy = results[name]["benchmarks"][0]["accuracy"]
        interval = f"{mean} [{accuracy['low']:.1%}, {accuracy['high']:.1%}]"
        assert f"| charts test | {name} | 4 | {interval} |" in card.text.replace("\\", "")
    [listed] = card.data.eval_results
    assert (listed.dataset_name, listed.metric_value) == ("charts", 75.0)
    assert "vlm_rl.evaluate --model checkpoint --benchmark charts" in card.text


def test_an_evaluation_of_other_weights_is_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"other weights")
    other = evaluation(tmp_path / "other", model, "rr")
    line = refusal(capsys, str(run), "--repo", REPO, "--dry_run", "--evaluation", str(other))
    assert str(other) in line
    assert "neither those of" in line


def test_refusals_name_the_value_and_the_way_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask = (str(run), "--repo", REPO, "--dry_run")
    assert "must be best, last or one of 1, 2" in refusal(capsys, *ask, "--checkpoint", "7")
    assert "--repo charts: must be OWNER/NAME" in refusal(capsys, str(run), "--repo", "charts")
    assert "--base_model a b: must be" in refusal(capsys, *ask, "--base_model", "a b")
    empty = tmp_path / "nothing"
    assert "is not a run" in refusal(capsys, str(empty), "--repo", REPO)
    assert not empty.exists()
    with FolderLock(run, "run_dir"):
        assert "is in use by process" in refusal(capsys, *ask)
    damaged = run / "checkpoints" / "step_2" / "hf" / "config.json"
    kept = damaged.read_bytes()
    damaged.write_bytes(kept + b" ")
    assert f"{damaged.name} is damaged" in refusal(capsys, *ask)
    damaged.write_bytes(kept)


def test_a_public_repository_is_not_written_to_by_default(
    run: Path, hub: ModelHub, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(run), "--repo", REPO, "--public"])
    assert not hub.repositories[REPO].private
    assert f"--repo {REPO} is public" in refusal(capsys, str(run), "--repo", REPO)
    assert hub.repositories[REPO].commits == ["Step 2"]


def test_a_hub_that_refuses_is_one_line(
    run: Path,
    hub: ModelHub,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ask = (str(run), "--repo", REPO)
    hub.writable = False
    assert "have the rights to create" in refusal(capsys, *ask)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert "Invalid username or password" in refusal(capsys, *ask)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refusal(capsys, *ask)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert "no token" in refusal(capsys, *ask)


def test_an_adapter_names_a_base_that_others_have(
    run: Path, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf = run / "checkpoints" / "step_1" / "hf" / "adapter_config.json"
    hf.write_text(json.dumps({"base_model_name_or_path": str(policy_folder), "r": 4}))
    ask = [str(run), "--repo", REPO, "--dry_run", "--checkpoint", "1"]
    assert "--base_model OWNER/NAME" in refusal(capsys, *ask)
    main([*ask, "--base_model", "Qwen/Qwen2.5-VL-3B-Instruct"])
    sent = read_json(run / STAGE / hf.name, dict)
    assert sent == {"base_model_name_or_path": "Qwen/Qwen2.5-VL-3B-Instruct", "r": 4}
    assert read_json(hf, dict)["base_model_name_or_path"] == str(policy_folder)
    card = ModelCard.load(run / STAGE / "README.md")
    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert card.data.library_name == "peft"
    hf.unlink()
