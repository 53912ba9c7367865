"""Responses that an evaluation must not reuse, and settings by which nothing is answered.

Broken on purpose, one at a time, each seen red:
    digest of the questions, or of the weights, left out of what is kept -> other questions
    a batch of refusals kept as answers -> nothing can be asked
"""

import shutil
from pathlib import Path

import pytest

from tests.support.evaluation_helpers import WARM_START, rows, run, write


def test_responses_to_other_questions_or_by_other_weights_are_not_reused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ids are the same, and so is the command."""
    wanted, model = rows(2), tmp_path / "policy"
    shutil.copytree(WARM_START, model)
    table = write(tmp_path, wanted)
    output = run(table, tmp_path / "run", model=model)
    write(tmp_path, [row | {"question": f"{row['question']} Really?"} for row in wanted])
    for what in ("questions.mathvision", "weights"):
        with pytest.raises(SystemExit):
            run(table, output, model=model)
        assert f"other settings ({what}: sha256" in capsys.readouterr().err
        write(tmp_path, wanted)
        weights = model / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-4096:] = bytes(4096)
        weights.write_bytes(content)


def test_settings_by_which_nothing_can_be_asked_answer_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(write(tmp_path, rows(2)), tmp_path / "run", prompt__max_prompt_tokens=5)
    assert stopped.value.code == 3
    assert "no problem can be asked; the first: problem" in capsys.readouterr().err
    assert not (tmp_path / "run" / "mathvision" / "responses.jsonl").read_text()
