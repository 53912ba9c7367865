"""Preflight names each planted fault, and nothing else; of a sound run it says nothing.

Mutations tried, each seen red in the fault that it is about: switched off, one at a time, the
conditions for golds, duplicates, leaks, benchmarks, image sizes and pixels, lengths, validation
size, generation prompt, stop tokens, thinking, answer form, memory, disk, time, truncation, drift
and scores; a learning rate of 0 or groups without signal as warnings; the lowest reward of a group
taken too low; a term that is always 1 named, in the sound run; other answer slots not read; stages
that are not there not caught.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from tests.support.benchmark_rows import ROWS
from tests.support.parameters import also_long
from tests.support.planted import TEMPLATE, Bench, sound_data
from tests.support.tiny import picture
from vlm_rl.fit import choose_threads, quieten
from vlm_rl.preflight.__main__ import preflight
from vlm_rl.preflight.remarks import Inspected

Fault = Callable[[Bench], list[str]]
FAULTS: dict[str, tuple[set[str], Fault]] = {}
"""By name: the remarks that it causes, as `LEVEL NAME`, and what plants it and returns options."""

ACCURACY = "vlm_rl.rewards.Accuracy"
NO_ROLLOUT = "--problems=0"


def fault(name: str, *remarks: str) -> Callable[[Fault], Fault]:
    """Add a fault to the list."""

    def add(plant: Fault) -> Fault:
        FAULTS[name] = set(remarks), plant
        return plant

    return add


def option(name: str, *words: str) -> None:
    """Add a fault that is in the options alone; other words are its remarks."""
    options = [word for word in words if word.startswith("--")]
    FAULTS[name] = {*words} - {*options}, lambda bench: options


def terms(**more: object) -> str:
    accuracy = {"class_path": ACCURACY, "init_args": {"weight": 0.9}}
    return f"--reward.terms={json.dumps({'accuracy': accuracy} | more)}"


option("unknown key", "stop configuration", "--updates.num_minibatch=4")
option("value of the wrong type", "stop configuration", "--group_size=many")
option("value out of its range", "stop classes", "--optimizer.lr=2")
option("more updates than prompts", "stop consistency", "--updates.num_minibatches=99", NO_ROLLOUT)
option("style that is not read", "stop consistency", "--prompt.style=think_answer", NO_ROLLOUT)
option("a GPU that is not there", "stop devices", "--trainer.accelerator=gpu")
option("fewer problems than a step", "stop training data", "--data.prompts_per_step=64", NO_ROLLOUT)
option("tracker that is not installed", "stop trackers", "--logging.trackers=[swanlab]", NO_ROLLOUT)
option("no validation", "warning validation size", "--data.val=[]", NO_ROLLOUT)
option("learning rate of zero", "stop learning", "--optimizer.lr=0", NO_ROLLOUT)
option(
    "all of it frozen",
    "stop learning",
    "--policy.freeze=[vision_tower,language_model]",
)
option(
    "a forward above the device", "stop memory", f"--updates.micro_batch_tokens={10**9}", NO_ROLLOUT
)
option(
    "checkpoints above the disk",
    "stop disk",
    f"--steps={10**9}",
    "--checkpoint.every_n_steps=1",
    f"--checkpoint.keep_last={10**9}",
    NO_ROLLOUT,
)
option("answers cut off", "warning truncation", "--sampling.max_completion_tokens=10")
option("a step above the hang timeout", "stop time", "--hang_timeout_s=1e-9")
option(
    "engine that disagrees",
    "stop engine against policy",
    "--engine=tests.support.planted.OtherLogprobs",
)
option(
    "reward that is not a number",
    "stop reward",
    terms(
        broken={
            "class_path": "tests.support.broken_parts.BrokenReward",
            "init_args": {"fault": "nan"},
        }
    ),
)
option(
    "reward that sometimes fails",
    "warning accuracy",
    terms(own={"class_path": "tests.support.planted.SometimesFails"}),
)
option(
    "term that is always 0",
    "warning constant terms",
    terms(
        format={
            "class_path": "vlm_rl.rewards.Format",
            "init_args": {"weight": 0.1, "style": "think_box"},
        }
    ),
)
option(
    "answers in another place",
    "stop misjudged answers",
    "stop signal",
    "--reward.terms.accuracy.init_args.answer_style=tag",
)


@fault("folder in a file", "stop run folder")
def _(bench: Bench) -> list[str]:
    (bench.folder / "file").touch()
    return [f"--run_dir={bench.folder / 'file/run'}", NO_ROLLOUT]


@fault("folder of something else", "stop run folder")
def _(bench: Bench) -> list[str]:
    (bench.folder / "run").mkdir()
    (bench.folder / "run/thesis.tex").touch()
    return [NO_ROLLOUT]


@fault("not a checkpoint", "stop checkpoint", "stop tokenizer and template")
def _(bench: Bench) -> list[str]:
    (bench.folder / "policy").mkdir()
    return [f"--policy.path={bench.folder / 'policy'}"]


@fault("weights that are missing", "stop small rollout")
def _(bench: Bench) -> list[str]:
    return bench.checkpoint(without="model.safetensors")


@fault("template without generation prompt", "stop generation prompt")
def _(bench: Bench) -> list[str]:
    return [*bench.checkpoint(TEMPLATE.partition("{% if add_generation_prompt %}")[0]), NO_ROLLOUT]


@fault("turn that ends with no stop token", "stop stop tokens")
def _(bench: Bench) -> list[str]:
    return [*bench.checkpoint(TEMPLATE.replace("<|im_end|>", "<|box_end|>")), NO_ROLLOUT]


@fault("turn without an end", "warning stop tokens")
def _(bench: Bench) -> list[str]:
    return [*bench.checkpoint(TEMPLATE.replace("<|im_end|>", "")), NO_ROLLOUT]


def thinks(bench: Bench, opening: str) -> list[str]:
    return bench.checkpoint(TEMPLATE.replace("assistant\n", f"assistant\n{opening}\n"))


@fault("thinking opened twice", "warning thinking")
def _(bench: Bench) -> list[str]:
    return [*thinks(bench, "<think>"), "--prompt.style=boxed_think", NO_ROLLOUT]


@fault("thinking asked for and switched off", "warning thinking")
def _(bench: Bench) -> list[str]:
    return [*thinks(bench, "<think>\n\n</think>"), "--prompt.style=boxed_think", NO_ROLLOUT]


@fault("thinking that never ends", "warning thinking that ends", "stop signal")
def _(bench: Bench) -> list[str]:
    return thinks(bench, "<think>")


@fault("instruction for another place", "warning answer form")
def _(bench: Bench) -> list[str]:
    return ["--prompt.instruction=End with <answer>5</answer>.", NO_ROLLOUT]


@fault("image column that is not ours", "stop training data")
def _(bench: Bench) -> list[str]:
    rows = bench.rows()
    return bench.train([row | {"shot": row.pop("images")[0]} for row in rows])


@fault("image file that is missing", "stop rows")
def _(bench: Bench) -> list[str]:
    return bench.first_row(images=["nowhere.png"])


@fault("file that is no image", "stop rows")
def _(bench: Bench) -> list[str]:
    (bench.folder / "own.png").write_bytes(b"not an image")
    return bench.first_row(images=[str(bench.folder / "own.png")])


@fault("image that ends early", "stop image pixels")
def _(bench: Bench) -> list[str]:
    options = bench.first_image(picture(64, 64), "own.jpg")
    path = bench.folder / "own.jpg"
    path.write_bytes(path.read_bytes()[:-300])
    return options


@fault("image smaller than a token", "warning image sizes")
def _(bench: Bench) -> list[str]:
    return bench.first_image(picture(9, 9))


@fault("image that is reduced a lot", "warning image sizes")
def _(bench: Bench) -> list[str]:
    return bench.first_image(Image.new("RGB", (700, 600)))


@fault("prompt above the limit", "warning prompt lengths")
def _(bench: Bench) -> list[str]:
    return bench.first_row(problem="<image>" + "What is it? " * 300)


@fault("gold of another type", "stop gold types")
def _(bench: Bench) -> list[str]:
    return bench.first_row(answer="many")


@fault("gold that does not verify", "warning golds")
def _(bench: Bench) -> list[str]:
    return bench.first_row(answer="A} or B", answer_type="text")


@fault("rows that come twice", "warning duplicates")
def _(bench: Bench) -> list[str]:
    rows = bench.rows()
    return bench.train([*rows, *(row | {"uid": f"{row['uid']}-again"} for row in rows[:5])])


@fault("two answers to one question", "warning duplicates")
def _(bench: Bench) -> list[str]:
    first, *others = bench.rows()
    return bench.train([first, first | {"uid": "again", "answer": "77"}, *others])


@fault("validation that is trained on", "warning training in validation")
def _(bench: Bench) -> list[str]:
    val = json.dumps([{"path": str(bench.data / "train.jsonl")}])
    return [f"--data.val={val}", NO_ROLLOUT]


@fault("validation trained on by other names", "warning training in validation")
def _(bench: Bench) -> list[str]:
    options = bench.train([row | {"uid": f"mine-{row['uid']}"} for row in bench.rows()])
    val = json.dumps([{"path": str(bench.data / "train.jsonl")}])
    return [*options, f"--data.val={val}"]


@fault("validation of a few problems", "warning validation size")
def _(bench: Bench) -> list[str]:
    return ["--data.val_problems=8", NO_ROLLOUT]


@fault("training on a benchmark", "warning training in benchmarks")
def _(bench: Bench) -> list[str]:
    image = picture(40, 40)
    image.save(bench.folder / "0.png")
    copy = bench.folder / "mathvista.json"
    copy.write_text(json.dumps(ROWS["mathvista"]))
    settings = {"benchmark": ["mathvista"], "data": {"mathvista": str(copy)}}
    return [*bench.first_image(image, "mine.png"), f"--benchmarks={json.dumps(settings)}"]


@fault("problems that are too hard", "stop signal")
def _(bench: Bench) -> list[str]:
    return [*bench.train([row | {"answer": "9876"} for row in bench.rows()]), "--problems=8"]


@fault("problems that are too easy", "stop signal")
def _(bench: Bench) -> list[str]:
    anything = [str(number) for number in range(300)]
    return [*bench.train([row | {"answer": anything} for row in bench.rows()]), "--problems=8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    choose_threads()
    quieten()
    return sound_data(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def bench(data: Path, tmp_path: Path) -> Bench:
    return Bench(data, tmp_path)


def found(inspected: Inspected) -> set[str]:
    """Return the remarks that are not ok, as a set of `LEVEL NAME`."""
    return {f"{one.level} {one.name}" for one in inspected.remarks if one.level != "ok"}


def test_sound_run_has_no_remark(bench: Bench) -> None:
    inspected, _ = preflight(bench.argv([]))
    assert not found(inspected), [*inspected.remarks]
    assert not inspected.left_out


@pytest.mark.parametrize(
    "name", [also_long(name) if number % 3 else name for number, name in enumerate(FAULTS)]
)
def test_fault_is_named(name: str, bench: Bench) -> None:
    remarks, plant = FAULTS[name]
    inspected, _ = preflight(bench.argv(plant(bench)))
    assert found(inspected) == remarks, [*inspected.remarks]
    assert all(one.todo for one in inspected.remarks if one.level != "ok")


def test_there_are_25_faults_and_more() -> None:
    assert len(FAULTS) >= 25


def test_key_of_wandb_that_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.sdk.lib import module

    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", str(bench.folder / "netrc"))
    try:
        inspected, _ = preflight(bench.argv(["--logging.wandb=online", NO_ROLLOUT]))
    finally:
        with suppress(OSError):
            wandb.teardown()
        module.unset_globals()
    assert found(inspected) == {"stop trackers"}


def test_independent_faults_are_found_together(bench: Bench) -> None:
    options = [
        *bench.first_row(answer="many", images=["nowhere.png"]),
        *bench.checkpoint(TEMPLATE.partition("{% if add_generation_prompt %}")[0]),
        "--optimizer.lr=0",
        "--data.val_problems=8",
        "--updates.num_minibatches=99",
        "--sampling.max_completion_tokens=3",
        "--problems=8",
    ]
    inspected, _ = preflight(bench.argv(options))
    assert found(inspected) >= {
        "stop rows",
        "stop generation prompt",
        "stop learning",
        "warning validation size",
        "stop consistency",
        "warning truncation",
    }


def test_faults_of_a_recipe_by_name_are_found_together(bench: Bench) -> None:
    argv = ["--config", "quickstart", *bench.argv(["--group_size=many", "--seed=x"])[2:]]
    inspected, _ = preflight(argv)
    lines = [one.sentence for one in inspected.remarks if one.level == "stop"]
    assert [any(key in line for line in lines) for key in ("group_size", "seed")] == [True, True]
