"""Every configuration that rewards.md shows is one that a run accepts.

Broken on purpose, seen red: an argument that its class does not have.
"""

import pytest
import yaml

from tests.support.documented import DOCS, blocks
from tests.support.run_helpers import QUICKSTART
from vlm_rl.config import parse
from vlm_rl.fit import build_parser

SNIPPETS = blocks((DOCS / "rewards.md").read_text(), "yaml")
OWN_FILES = "my_rewards.py"


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_snippet_is_a_configuration(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippet = SNIPPETS[number]
    if "file:" in snippet:
        (tmp_path / OWN_FILES).write_text("")
    values = yaml.safe_load(snippet)
    assert values.keys() <= {"reward", "data", "benchmarks"}
    terms = values["reward"].pop("terms", {})
    file = tmp_path / "snippet.yaml"
    file.write_text(yaml.safe_dump(values))
    given = ["--config", str(QUICKSTART), "--config", str(file), f"--run_dir={tmp_path}"]
    config = parse(build_parser(), [*given, f"--reward.terms={yaml.safe_dump(terms)}"])
    assert config.reward.terms.keys() == terms.keys()
