"""One question to a checkpoint: what is printed, and the errors if it cannot be asked."""

import random

import pytest
import torch

from data_prep import scenes
from tests.support.places import TINY_POLICY
from vlm_rl import ask as command
from vlm_rl.ask import ask
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.records import Problem, Rows

MODEL = str(TINY_POLICY)
QUESTION = "What is the sum of the bars?"


@pytest.fixture
def chart(tmp_path):
    path = tmp_path / "chart.png"
    scenes.render(scenes.draw_scene(random.Random(0), "chart", 2)).save(path)
    return path


def run(monkeypatch, *options):
    monkeypatch.setattr("sys.argv", ["vlm_rl.ask", *options])
    command.main()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_answer_has_the_logprobs_of_the_packed_forward(chart, temperature):
    completion = ask(MODEL, QUESTION, [chart], temperature, max_completion_tokens=16)
    problem = Problem(uid="ask", question=QUESTION, answer="?", images=(chart,))
    prompt = PromptEncoder(MODEL).encode(problem)
    rows = Rows.build([prompt], [[completion]], trained=torch.ones(1, 1, dtype=torch.bool))
    policy = Policy.from_pretrained(MODEL)
    with policy.evaluating():
        forward = policy.logprobs(rows, temperature=temperature or 1.0).logprobs[0]
    assert len(completion) > 0
    torch.testing.assert_close(completion.sampling_logprobs, forward, rtol=0, atol=1e-5)


def test_samples_follow_the_seed(chart):
    def sampled(seed):  # so hot that two samples are never equal by chance
        completion = ask(MODEL, QUESTION, [chart], 20.0, max_completion_tokens=12, seed=seed)
        return completion.token_ids.tolist()

    first = sampled(0)
    assert sampled(0) == first
    assert sampled(1) != first


def test_answer_depends_on_the_image(chart):
    with_image = ask(MODEL, QUESTION, [chart], max_completion_tokens=8)
    without = ask(MODEL, QUESTION, max_completion_tokens=8)
    shared = min(len(with_image), len(without))
    assert not torch.allclose(
        with_image.sampling_logprobs[:shared], without.sampling_logprobs[:shared], atol=1e-4
    )


def test_answer_and_logprob_are_printed(monkeypatch, capsys):
    expected = ask(MODEL, "What is 17 + 4?", max_completion_tokens=8)
    options = ["--model", MODEL, "--question", "What is 17 + 4?", "--max_completion_tokens", "8"]
    run(monkeypatch, *options)
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith(" ".join(expected.text.split()))
    total = float(expected.sampling_logprobs.sum())
    assert f"log-probability {total:.4f} over {len(expected)} tokens" in printed
    assert ("cut at max_completion_tokens" in printed) == expected.truncated


def test_image_is_given_by_its_name(monkeypatch, capsys, chart):
    expected = ask(MODEL, QUESTION, [chart], max_completion_tokens=8)
    options = ["--model", MODEL, "--question", QUESTION, "--image", str(chart)]
    run(monkeypatch, *options, "--max_completion_tokens", "8")
    total = float(expected.sampling_logprobs.sum())
    assert f"log-probability {total:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            ["--image", "missing.png"],
            "problem ask: image missing.png cannot be read: "
            "[Errno 2] No such file or directory: 'missing.png'",
        ),
        (
            ["--image", "{folder}/notes.png"],
            "problem ask: image {folder}/notes.png cannot be read: unknown format",
        ),
        (["--question", ""], "problem 'ask': question is empty"),
        (
            ["--model", "{folder}/nothing"],
            "{folder}/nothing is not a folder; give a checkpoint folder or a hub id",
        ),
        (["--model", "{folder}"], "{folder} has no config.json, so it is not a checkpoint"),
        (
            ["--temperature", "-1"],
            "sampling.temperature must be finite and >= 0, got -1.0",
        ),
        (["--quetsion", "x"], "unknown key quetsion; did you mean question?"),
        (
            ["--style", "boxed"],
            "style must be one of 'plain', 'boxed_think', 'think_answer', "
            "'answer_line', got boxed; did you mean boxed_think?",
        ),
    ],
    ids=[
        "no image",
        "text as image",
        "no question",
        "no folder",
        "no checkpoint",
        "temperature",
        "unknown option",
        "unknown style",
    ],
)
def test_what_cannot_be_asked_is_an_error_in_one_line(monkeypatch, capsys, tmp_path, options, line):
    (tmp_path / "notes.png").write_text("not an image")
    options = [option.format(folder=tmp_path) for option in options]
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--model", MODEL, "--question", QUESTION, *options)
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"vlm_rl.ask: {line.format(folder=tmp_path)}"]


def test_question_is_required(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        run(monkeypatch, "--model", MODEL)
    assert capsys.readouterr().err == "vlm_rl.ask: question: required, but not set\n"
