"""Three real steps with boxes, and three with a judge whose server fails in between.

The completions are written by the test, so that each term's value is known; all else is the real
run: rows, images that are resized, rewards, updates, metrics.
"""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.judge_server import enclosed, judge_server
from tests.support.run_helpers import command
from tests.support.tiny import picture, png
from vlm_rl.fit import fit
from vlm_rl.servers import chat_server

SIZE = (100, 75)
"""Of the images, which the model does not see at this size."""
STEPS = 3


def write(folder: Path, answer: Any, texts: list[str]) -> dict[str, list[str]]:
    """Write rows with an image each; return the completions of each."""
    rows = [
        {
            "uid": f"r{n}",
            "problem": f"<image>Where is {n}?",
            "answer": answer,
            "images": [f"{n}.png"],
        }
        for n in range(6)
    ]
    for number in range(len(rows)):
        image = picture(SIZE[1], SIZE[0], seed=number)
        (folder / f"{number}.png").write_bytes(png(image))
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {str(row["uid"]): texts for row in rows}


def run(policy: Path, folder: Path, terms: dict[str, Any], texts: Any, **source: Any) -> Any:
    data = [{"path": str(folder / "train.jsonl"), **source}]
    engine = {"class_path": "tests.support.run_helpers.Scripted", "init_args": {"texts": texts}}
    changes = {
        "steps": STEPS,
        "engine": json.dumps(engine),
        "reward.terms": json.dumps(terms),
        "data.train": json.dumps(data),
        "data.val": "[]",
        "prompt.style": "plain",
        "sampling.max_completion_tokens": 64,
    }
    fit(command(policy, folder, folder / "run", **changes))
    with (folder / "run" / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("reward/mean")]


def test_boxes_in_pixels_of_the_file_are_met_in_pixels_of_the_model(
    policy_folder: Path, tmp_path: Path
) -> None:
    """The gold is the left half of the file's pixels; the policy answers in those that it sees."""
    from vlm_rl.data.prompts import PromptEncoder
    from vlm_rl.records import Problem

    encoder = PromptEncoder(str(policy_folder), max_prompt_tokens=2048)
    image = png(picture(SIZE[1], SIZE[0]))
    [sizes] = encoder.encode(Problem("p", "<image>?", "1", images=(image,))).problem.sizes
    width, height = sizes.resized
    assert sizes.original == SIZE != sizes.resized
    half = [0, 0, width / 2, height]
    texts = [
        f'```json\n[{{"bbox_2d": {json.dumps(half)}}}]\n```',
        f"({0},{0}),({width},{height})",
        "nowhere",
        json.dumps([0, 0, SIZE[0] / 2, SIZE[1]]),
    ]
    scripted = write(tmp_path, [0, 0, SIZE[0] / 2, SIZE[1]], texts)
    term = {"class_path": "vlm_rl.rewards.BoxIoU", "init_args": {"answer_space": "resized"}}
    said = {"answer_type": "box", "box_space": "original"}
    rows = run(policy_folder, tmp_path, {"iou": term}, scripted, **said)
    mistaken = (
        min(SIZE[0], width)
        * min(SIZE[1], height)
        / (SIZE[0] * SIZE[1] + width * height - min(SIZE[0], width) * min(SIZE[1], height))
    )
    assert len(rows) == STEPS
    for row in rows:
        assert float(row["reward/iou"]) == pytest.approx((1 + 0.5 + 0 + mistaken) / 4, abs=1e-6)
        assert float(row["reward/unparsable_frac"]) == 0.25
        assert float(row["reward/correct_frac"]) == 0.5 + 0.25 * (mistaken >= 0.5)


def test_box_without_a_space_stops_before_the_model_is_loaded(
    policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted = write(tmp_path, [1, 2, 3, 4], ["a"] * 4)
    term = {"class_path": "vlm_rl.rewards.BoxIoU", "init_args": {"answer_space": "resized"}}
    with pytest.raises(SystemExit):
        run(policy_folder, tmp_path, {"iou": term}, scripted)
    error = capsys.readouterr().err
    assert "set box_space of the row or of its source to one of original, resized" in error
    assert "'r0'" in error


def test_judge_whose_server_fails_in_between_loses_nothing(
    policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer in four gets no judgement: it is counted, in no mean, and the run goes on."""
    monkeypatch.setattr(chat_server, "_FIRST_PAUSE_S", 0.001)
    texts = ["<think>hm</think>left", "right", "broken", ""]
    scripted = write(tmp_path, "on the left", texts)

    def reply(text: str) -> str:
        answer = enclosed(text, "answer")
        return "hm" if answer == "broken" else f"Verdict: {'no' if answer == 'right' else 'yes'}"

    with judge_server(reply, "", "500", "close", "429") as server:
        term = {
            "class_path": "vlm_rl.rewards.Judge",
            "init_args": {
                "url": server.url,
                "model": "m",
                "cache": str(tmp_path / "replies"),
                "price_in": 1.0,
                "price_out": 2.0,
            },
        }
        said = {"answer_type": "free_text"}
        rows = run(policy_folder, tmp_path, {"judge": term}, scripted, **said)
    assert len(rows) == STEPS
    for row in rows:
        assert float(row["reward/judge"]) == pytest.approx(1 / 3)  # of left, right and nothing
        assert float(row["reward/error_frac"]) == 0.25
        assert float(row["reward/unparsable_frac"]) == 0.25
        assert float(row["reward/judge/cached_frac"]) == 0
        assert float(row["reward/judge/tokens_in"]) == 100
        assert float(row["reward/judge/cost"]) == pytest.approx(120 / 1e6)
        assert float(row["time/judge/latency_s"]) > 0
    assert sum(float(row["reward/judge/retries"]) for row in rows) > 0
    kept = [*(tmp_path / "replies").rglob("*.json")]
    assert len(kept) == 1 + 2 * 6  # the question of the start, and two answers to each problem
