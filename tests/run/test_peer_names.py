"""A key of TRL, EasyR1 or verl is answered with the key here, which exists.

Broken on purpose, one at a time, each seen red: only whole names looked up.
"""

import pytest

from tests.support.run_helpers import QUICKSTART
from vlm_rl.config import parse
from vlm_rl.fit import build_parser
from vlm_rl.run import trainer
from vlm_rl.run.peer_names import PEER_NAMES, PEER_VALUES

ELSEWHERE = trainer.ELSEWHERE | PEER_NAMES


def test_peer_names_point_to_keys_that_exist() -> None:
    known = set(build_parser().get_defaults(skip_validation=True).keys())
    sections = {key.partition(".")[0] for key in known}
    for name, here in PEER_NAMES.items():
        key = here.split()[0].strip(",").partition(".init_args")[0]
        assert key in known | sections | {"engine", "objective", "advantage"}, (name, key)
        assert name not in known, f"{name} is a key here"


@pytest.mark.parametrize(
    ("option", "here"),
    [
        ("--learning_rate", "optimizer.lr"),
        ("--optimizer.learning_rate", "optimizer.lr"),
        ("--num_generations", "group_size"),
        ("--epochs", "steps (rollouts of the whole run)"),
        ("--data.epochs", "steps (rollouts of the whole run)"),
        ("--report_to", "logging.trackers and logging.wandb"),
        ("--beta", "objective.init_args.regularizers '[{class_path: vlm_rl.objectives.KL}]'"),
        ("--model", "policy.path"),
    ],
)
def test_a_peer_name_is_answered_with_the_key_here(option: str, here: str) -> None:
    with pytest.raises(ValueError, match="unknown key") as refused:
        parse(build_parser(), ["--config", str(QUICKSTART), option, "3"], ELSEWHERE)
    assert str(refused.value) == f"unknown key {option[2:]}; here it is {here}"


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--objective=PPO", "objective: there is no PPO; here it is vlm_rl.objectives.GRPO (PPO"),
        ("--trainer.precision=fp16", "trainer.precision: there is no fp16; here it is bf16-mixed"),
    ],
)
def test_a_peer_value_is_answered_with_the_value_here(option: str, line: str) -> None:
    with pytest.raises(ValueError, match="there is no") as refused:
        parse(build_parser(), ["--config", str(QUICKSTART), option], ELSEWHERE | PEER_VALUES)
    assert str(refused.value).startswith(line)


@pytest.mark.parametrize(("given", "here"), PEER_VALUES.items())
def test_values_for_peer_values_are_taken(given: str, here: str) -> None:
    key, value = given.partition("=")[0], here.split()[0]
    assert parse(build_parser(), ["--config", str(QUICKSTART), f"--{key}={value}"])
