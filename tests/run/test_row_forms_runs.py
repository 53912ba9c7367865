"""A run of three steps on rows in each form, in the container in which people have them.

Broken on purpose, seen red: images of a chat's parts left out.
"""

import json
import random
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.support.row_forms import CONTAINERS, FORMS, NAMINGS, OWN_COLUMNS, draw
from tests.support.run_helpers import command
from vlm_rl.fit import fit
from vlm_rl.run.metrics_csv import read_metrics

CONTAINER = dict.fromkeys(FORMS, "jsonl") | {"verl": "parquet", "r1v": "arrow", "question": "csv"}
OF_MESSAGES = dict.fromkeys(("swift", "openai", "inline"), "messages")
SAID = {form: form for form in FORMS} | OF_MESSAGES | {"vlm_r1": "conversations"}
SHORT = ("verl", "openai")


def source(form: str, part: str, count: int, folder: Path) -> str:
    """Write rows of a form; return the value of `data.train` or `data.val`."""
    rng, container = random.Random(f"{form} {part}"), CONTAINER[form]
    naming = NAMINGS["object of bytes" if container in ("parquet", "arrow") else "path"]
    drawn = (draw(rng, number, most_images=2) for number in range(99))
    rows = []
    for truth in islice((truth for truth in drawn if truth.images), count):
        options = truth.options if form in OWN_COLUMNS else None
        images = [naming(image, folder) for image in truth.images]
        rows.append(FORMS[form](replace(truth, options=options), images))
    file = folder / f"{part}.{container}"
    CONTAINERS[container](rows, file)
    return json.dumps([{"path": str(file)}])


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[] if form in SHORT else pytest.mark.long) for form in FORMS]
)
def test_run_trains_on_rows_of_a_form(
    form: str, policy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "data.train": source(form, "train", 6, tmp_path),
        "data.val": source(form, "val", 4, tmp_path),
        "prompt.max_prompt_tokens": 400,
    }
    run_dir = tmp_path / "run"
    module = fit(command(policy_folder, tmp_path, run_dir, steps=3, **data))
    assert module.completed_steps == 3
    steps = [row["step"] for row in read_metrics(run_dir / "metrics.csv") if "policy/loss" in row]
    assert steps == [1, 2, 3]
    said = capsys.readouterr().out
    assert f"form {SAID[form]} (by" in said
    assert len([*(run_dir / "first_problems").glob("*.png")]) == 2
    assert "<|im_start|>user" in said, "the first problem as the model sees it"
