"""Configurations: what is wrong in one line, how files and options merge."""

import copy
import inspect

import lightning as L
import pytest
import torch
import yaml

from tests.support.places import CONFIGS
from vlm_rl.config import parse, plain
from vlm_rl.evaluate import evaluate
from vlm_rl.fit import build_parser, fit
from vlm_rl.run import folder as run_folder
from vlm_rl.run.trainer import OURS

QUICKSTART = CONFIGS / "quickstart.yaml"
MISSING = object()


def quickstart(changes):
    """Return the quickstart with dotted keys set, or without them if the value is MISSING."""
    config = copy.deepcopy(yaml.safe_load(QUICKSTART.read_text()))
    for key, value in changes.items():
        *path, last = key.split(".")
        node = config
        for name in path:
            node = node[name]
        node.pop(last) if value is MISSING else node.update({last: value})
    return config


def write(path, config):
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return str(path)


def refusal(capsys, argv, program=fit):
    """Return the one line that a program answers with, without its prefix."""
    with pytest.raises(SystemExit) as stop:
        program(argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    prefix = f"vlm_rl.{program.__name__}: "
    assert line.startswith(prefix)
    return line.removeprefix(prefix)


def class_of(name, **arguments):
    return {"class_path": f"vlm_rl.{name}", "init_args": arguments}


def kl(**arguments):
    return {
        "objective": class_of(
            "objectives.GSPO", regularizers=[class_of("objectives.KL", **arguments)]
        )
    }


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"stepz": 3}, "unknown key stepz; did you mean steps?"),
        ({"lr": 1e-6}, "unknown key lr; did you mean optimizer.lr?"),
        ({"num_generations": 8}, "unknown key num_generations; here it is group_size"),
        (
            {"updates.num_minibatch": 2},
            "unknown key updates.num_minibatch; did you mean updates.num_minibatches?",
        ),
        (
            {"trainer.precison": "32-true"},
            "unknown key trainer.precison; did you mean trainer.precision?",
        ),
        ({"trainer.max_steps": 3}, "trainer.max_steps follows from the run; use steps"),
        (
            {"trainer.num_sanity_val_steps": 0},
            "trainer.num_sanity_val_steps follows from the run; leave it out",
        ),
        (
            {"objective": class_of("objectives.GSPO", clip_hgh=4e-4)},
            "objective: vlm_rl.objectives.GSPO has no argument clip_hgh; did you mean clip_high?",
        ),
        (
            {"objective": class_of("objectives.GSPO", foo=1)},
            "objective: vlm_rl.objectives.GSPO has no argument foo; "
            "it has clip_low, clip_high, regularizers, token_weights, dual_clip",
        ),
        (
            {"objective": {"class_path": "vlm_rl.objectives.GSPO", "clip_low": 3e-4}},
            "objective must have only class_path and, under init_args, its arguments; "
            "got class_path",
        ),
        (
            {"objective": class_of("objectives.DrGRPO")},
            "objective: vlm_rl.objectives.DrGRPO needs constant_tokens",
        ),
        (
            kl(kl_coeff=0.01),
            "objective.regularizers: vlm_rl.objectives.KL has no argument kl_coeff; "
            "did you mean kl_coef?",
        ),
        (
            kl(kl_coef=0.01, estimator="k4"),
            "objective.regularizers.estimator must be one of 'k1', 'k2', 'k3', got k4",
        ),
        (
            kl(kl_coef=-1),
            "kl_coef must be > 0, got -1.0; to train without it, leave the term out",
        ),
        (
            {"data.train": [{"path": "x", "wieght": 2}]},
            "data.train: vlm_rl.data.datamodule.DataSource has no argument wieght; "
            "did you mean weight?",
        ),
        (
            {"objective": class_of("objectives.GSPX")},
            "objective: vlm_rl.objectives.GSPX cannot be imported; "
            "did you mean vlm_rl.objectives.GSPO?",
        ),
        (
            {"objective": "GSPX"},
            "objective: GSPX cannot be imported; did you mean vlm_rl.objectives.GSPO?",
        ),
        (
            {"objective": {"class_path": "elsewhere.GSPO"}},
            "objective: elsewhere.GSPO cannot be imported; did you mean vlm_rl.objectives.GSPO? "
            "(No module named 'elsewhere')",
        ),
        (
            {"reward.terms.accuracy": class_of("rewards.Acuracy")},
            "reward.terms: vlm_rl.rewards.Acuracy cannot be imported; "
            "did you mean vlm_rl.rewards.Accuracy?",
        ),
        ({"seed": "three"}, "seed must be int, got three"),
        ({"optimizer.betas": [0.9]}, "optimizer.betas must be tuple with 2 elements, got [0.9]"),
        ({"updates.max_grad_norm": "big"}, "updates.max_grad_norm must be float, got big"),
        (
            {"policy.freeze": ["vision"]},
            "policy.freeze must be one of 'vision_tower', 'language_model', 'router', got vision; "
            "did you mean vision_tower?",
        ),
        (
            {"objective": class_of("objectives.GSPO", clip_low=3)},
            "clip_low must be in (0, 1], got 3.0; token ratios use values near 0.2, "
            "sequence means of ratios near 3e-4 (GSPO) or 2e-3 (LUSPO), 1 is no lower end",
        ),
        ({"steps": 0}, "steps must be > 0, got 0"),
        ({"group_size": 1}, "group_size must be >= 2, got 1"),
        ({"optimizer.lr": 2}, "optimizer.lr must be in [0, 1), got 2.0"),
        (
            {"sampling.temperature": -1},
            "sampling.temperature must be finite and >= 0, got -1.0",
        ),
        ({"steps": MISSING}, "steps: required, but not set"),
        ({"objective": MISSING}, "objective: required, but not set"),
        (
            {"reward.terms.accuracy": MISSING},
            "Reward.terms must hold a term that says what is right, such as class_path "
            "vlm_rl.rewards.Accuracy (weight 0 for its verdicts alone); none of them does",
        ),
        (
            {"updates.num_minibatches": 17},
            "updates.num_minibatches=17 is above data.prompts_per_step=16; "
            "each minibatch needs at least one prompt",
        ),
        (
            {"sampling.temperature": 0},
            "sampling.temperature must be > 0 in training, got 0; greedy groups are all equal",
        ),
        (
            {"policy.freeze": ["vision_tower"], "optimizer.vision_lr": 1e-6},
            "optimizer.vision_lr=1e-06 is for the vision tower, which policy.freeze does not "
            "train; drop one of them",
        ),
        (
            {"prompt.style": "think_answer"},
            "prompt.style=think_answer asks for an answer that the accuracy term does not read: "
            "its answer_style must be tag, got box",
        ),
        (
            {"optimizer.betas": [0.9, 1.5]},
            "optimizer.betas must both be in [0, 1), got (0.9, 1.5)",
        ),
        (
            {"trainer.precision": "bf16-true"},
            "trainer.precision must be one of 32-true, bf16-mixed, got bf16-true; "
            "weights stay float32, in bfloat16 small updates vanish",
        ),
        (
            {"trainer.devices": 2, "data.prompts_per_step": 1, "updates.num_minibatches": 1},
            "data.prompts_per_step=1 is less than one for each of 2 processes; raise it, or lower "
            "trainer.devices",
        ),
        (
            {"trainer.strategy": "fsdp"},
            "trainer.strategy must be one of auto, ddp, fsdp2, fsdp2_offload, zero1, zero2, zero3, "
            "zero2_offload, zero3_offload, got 'fsdp'",
        ),
        (
            {"reward.terms.mean": class_of("rewards.Format")},
            "Reward.terms: 'mean' is the name of a metric of its own; rename the term",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_wrong_setting_is_answered_in_one_line(tmp_path, capsys, changes, line):
    changes = {"run_dir": str(tmp_path / "run")} | changes
    path = write(tmp_path / "run.yaml", quickstart(changes))
    assert refusal(capsys, ["--config", path]) == line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--checkpoint.every_n_steps=0", "checkpoint.every_n_steps must be >= 1, got 0"),
        ("--trainer.strategy=DDPStrategy", "trainer.strategy must be one of auto, ddp, fsdp2"),
    ],
)
def test_option_that_only_its_owner_checks_is_refused_before_anything_is_written(
    tmp_path, capsys, option, line
):
    run_dir = tmp_path / "run"
    argv = ["--config", str(QUICKSTART), f"--run_dir={run_dir}", option]
    assert refusal(capsys, argv).startswith(line)
    assert not run_dir.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU where there is none")
def test_absent_accelerator_is_answered_in_one_line(tmp_path, capsys):
    changes = {"trainer.accelerator": "gpu", "run_dir": str(tmp_path / "run")}
    path = write(tmp_path / "run.yaml", quickstart(changes))
    assert refusal(capsys, ["--config", path]).startswith("trainer: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("vlm_rl.objectives.GRPO", "engine: vlm_rl.objectives.GRPO is not an Engine; there are "),
        ("vlm_rl.rollout.Engine", "engine: vlm_rl.rollout.Engine is abstract; there are "),
        ("json.dumps", "engine: json.dumps is not an Engine; there are "),
    ],
)
def test_class_of_the_wrong_family_is_answered_with_the_right_ones(tmp_path, capsys, path, start):
    file = write(tmp_path / "run.yaml", quickstart({"engine": {"class_path": path}}))
    for argv in (["--config", file], ["--config", str(QUICKSTART), "--engine", path]):
        line = refusal(capsys, argv)
        assert line.startswith(start)
        assert "vlm_rl.rollout.TransformersEngine" in line


MOVED = [
    (fit, ("dynamic_sampling",), "sampling", "training.MixedVerdicts"),
    (fit, ("engine",), "vllm_engine", "rollout.VLLMEngine"),
    (fit, ("kl_in_reward",), "kl_in_reward", "rewards.KLInReward"),
    (fit, ("objective", "regularizers"), "kl", "objectives.KL"),
    (fit, ("reward", "terms"), "reward_terms", "rewards.Accuracy"),
    (evaluate, ("engine",), "responding", "servers.chat_server.ChatServer"),
]
"""Program, key, a module that is no more, and the path of a class that stood there."""


@pytest.mark.parametrize(("program", "key", "module", "path"), MOVED)
def test_moved_class_is_answered_with_its_new_path(tmp_path, capsys, program, key, module, path):
    """In a file, and as an option if the key is a class itself."""
    moved = f"vlm_rl.{module}.{path.rpartition('.')[2]}"
    node = {"class_path": moved}
    changes = {key[0]: node}
    if key[-1] == "regularizers":
        changes = {"objective": class_of("objectives.GSPO", regularizers=[node])}
    elif key[-1] == "terms":
        changes = {"reward": {"terms": {"right": node}}}
    argvs = [["--config", write(tmp_path / "over.yaml", changes)]]
    if len(key) == 1:
        argvs += [[f"--{key[0]}", moved], [f"--{key[0]}.class_path", moved]]
    base = ["--config", str(QUICKSTART)] if program is fit else ["--model", "m"]
    line = f"{'.'.join(key)}: {moved} cannot be imported; did you mean vlm_rl.{path}?"
    for argv in argvs:
        assert refusal(capsys, [*base, *argv], program) == line


def test_wrong_precision_is_answered_with_the_nearest(tmp_path, capsys):
    path = write(tmp_path / "run.yaml", quickstart({"trainer.precision": "bf16mixed"}))
    line = refusal(capsys, ["--config", path])
    assert line.startswith("trainer.precision must be ")
    assert line.endswith("got bf16mixed; did you mean bf16-mixed?")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--trainer.max_step", "3"], "unknown key trainer.max_step; did you mean steps?"),
        (["--step", "3"], "unknown key step; did you mean steps?"),
        (["--step=3"], "unknown key step; did you mean steps?"),
        (["--updates.num", "3"], "unknown key updates.num; did you mean updates.num_minibatches?"),
        (["steps=3"], "unrecognized arguments: steps=3; options are written --key value"),
        (["--steps"], "argument --steps: expected one argument"),
        (
            ["--objective.clip_hgh", "0.1"],
            "objective: vlm_rl.objectives.LUSPO has no argument clip_hgh; did you mean clip_high?",
        ),
        (
            ["--objective", "GSPX"],
            "objective: GSPX cannot be imported; did you mean vlm_rl.objectives.GSPO?",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_wrong_option_is_answered_in_one_line(capsys, options, line):
    assert refusal(capsys, ["--config", str(QUICKSTART), *options]) == line


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (
            "steps: [1\n",
            "{path} line 2, column 1 is not valid YAML: expected ',' or ']', but got "
            "'<stream end>'",
        ),
        ("", "{path} must hold `key: value` lines, got None"),
        ("- steps\n", "{path} must hold `key: value` lines, got ['steps']"),
        ("seed: 1\nsteps: 2\nseed: 3\n", "{path} line 3: 'seed' is given twice; keep one"),
        (
            "data:\n  train:\n  - path: a\n    path: b\n",
            "{path} line 4: 'path' is given twice; keep one",
        ),
        (
            b"\xff\xfe\x00",
            "{path} is not a text file: 'utf-8' codec can't decode byte 0xff in "
            "position 0: invalid start byte",
        ),
    ],
    ids=["syntax", "empty", "a list", "twice", "twice inside", "binary"],
)
def test_broken_file_is_named(tmp_path, capsys, content, line):
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refusal(capsys, ["--config", str(path)]) == line.format(path=path)


def test_missing_file_is_answered_with_the_nearest(tmp_path, capsys):
    (tmp_path / "quickstart.yaml").touch()
    path = tmp_path / "quickstrat.yaml"
    assert refusal(capsys, ["--config", str(path)]) == (
        f"--config {path} is not a file, and no recipe has that name; did you mean "
        f"{tmp_path}/quickstart.yaml?"
    )
    assert refusal(capsys, ["--config", str(tmp_path)]) == (
        f"--config {tmp_path} is a folder, and no recipe has that name; `vlm-rl recipes` lists them"
    )


def test_type_error_shows_how_the_value_is_written(tmp_path, capsys):
    for option, line in {
        "--data.train=x.jsonl": "data.train must be a list, got x.jsonl; write [{path: x.jsonl}]",
        "--data.train=[x.jsonl]": (
            "data.train: x.jsonl is a value without its key; write [{path: x.jsonl}]"
        ),
        "--policy.freeze=vision_tower": (
            "policy.freeze must be a list, got vision_tower; write [vision_tower]"
        ),
        "--policy.lora=16": "policy.lora: 16 is a value without its key; write {rank: 16}",
        "--reward.terms=mine.Good": (
            "reward.terms must be a dict, got mine.Good; write {NAME: {class_path: mine.Good}}"
        ),
        "--objective=grpo": (
            "objective: grpo cannot be imported; did you mean vlm_rl.objectives.GRPO?"
        ),
    }.items():
        argv = ["--config", str(QUICKSTART), f"--run_dir={tmp_path}/run", option]
        assert refusal(capsys, argv) == line


def resolved(*argv):
    parser = build_parser()
    return plain(parser, parse(parser, list(argv)))


def test_later_files_win_and_options_win_over_files(tmp_path):
    overlay = write(tmp_path / "over.yaml", {"steps": 7, "optimizer": {"lr": 3e-6}})
    before = resolved("--config", str(QUICKSTART))
    merged = resolved("--config", str(QUICKSTART), "--config", overlay, "--optimizer.lr", "4e-6")
    changes = {"steps: 80 -> 7", "optimizer.lr: 5e-05 -> 4e-06"}
    assert set(run_folder.differences(before, merged)) == changes
    assert resolved("--config", overlay, "--config", str(QUICKSTART)) == before


def test_argument_of_a_class_is_overridden_after_the_file():
    for option in ("--objective.clip_low", "--objective.init_args.clip_low"):
        config = resolved("--config", str(QUICKSTART), option, "0.5")
        assert config["objective"]["init_args"]["clip_low"] == 0.5
        assert config["objective"]["class_path"] == "vlm_rl.objectives.LUSPO"


TUNED = {"objective": class_of("objectives.LUSPO", clip_low=0.01, clip_high=0.02)}


@pytest.mark.parametrize(
    ("overlay", "options", "kept"),
    [
        (class_of("objectives.GSPO", clip_high=4e-4), [], ["clip_low"]),
        ("GSPO", [], ["clip_low", "clip_high"]),
        (None, ["--objective=GSPO", "--objective.clip_high", "4e-4"], ["clip_low"]),
    ],
    ids=["file", "short name in a file", "option"],
)
def test_new_class_may_not_keep_arguments_of_another(tmp_path, capsys, overlay, options, kept):
    argv = ["--config", write(tmp_path / "base.yaml", quickstart(TUNED)), *options]
    if overlay:
        argv += ["--config", write(tmp_path / "over.yaml", {"objective": overlay})]
    paths = ", ".join(f"objective.init_args.{name}" for name in kept)
    assert refusal(capsys, argv) == (
        f"objective: GSPO would keep {', '.join(kept)} as set for LUSPO; "
        f"state {paths} where GSPO is named"
    )


def test_new_class_with_its_own_arguments_is_accepted(tmp_path):
    base = write(tmp_path / "base.yaml", quickstart(TUNED))
    stated = class_of("objectives.GSPO", clip_low=1e-4, clip_high=2e-4)
    overlay = write(tmp_path / "over.yaml", {"objective": stated})
    by_file = resolved("--config", base, "--config", overlay)
    options = ["--objective=GSPO", "--objective.clip_low=1e-4", "--objective.clip_high=2e-4"]
    assert by_file == resolved("--config", base, *options)
    stated["init_args"] |= {"regularizers": [], "token_weights": [], "dual_clip": None}
    assert by_file["objective"] == stated
    # what the new class has no argument for is dropped
    other = {"objective": class_of("objectives.DrGRPO", constant_tokens=9)}
    base = write(tmp_path / "base.yaml", quickstart(other))
    assert resolved("--config", base, "--config", overlay)["objective"] == stated
    # reward terms are replaced as a whole
    terms = {"reward": {"terms": {"right": class_of("rewards.Accuracy")}}}
    overlay = write(tmp_path / "over.yaml", terms)
    assert list(resolved("--config", base, "--config", overlay)["reward"]["terms"]) == ["right"]


def test_print_config_shows_what_is_run(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        fit(["--config", str(QUICKSTART), "--steps", "7", "--print_config"])
    assert stop.value.code == 0
    printed = write(tmp_path / "printed.yaml", capsys.readouterr().out)
    assert resolved("--config", printed) == resolved("--config", str(QUICKSTART), "--steps", "7")


def test_saved_config_gives_the_same_run(tmp_path):
    """Also where null is set and the default is another."""
    changes = {"optimizer.lr": 1e-6, "updates.max_grad_norm": None, "run_dir": str(tmp_path)}
    path = write(tmp_path / "run.yaml", quickstart(changes))
    config = resolved("--config", path)
    assert config["optimizer"]["lr"] == 1e-6
    assert config["updates"]["max_grad_norm"] is None
    run_folder.save_config(tmp_path, config)
    assert resolved("--config", str(tmp_path / run_folder.CONFIG)) == config


def test_what_the_run_decides_is_of_the_trainer_and_its_substitutes_are_keys():
    assert set(OURS) <= set(inspect.signature(L.Trainer).parameters)
    keys = set(build_parser().get_defaults(skip_validation=True).keys())
    assert set(OURS.values()) - {""} <= keys
