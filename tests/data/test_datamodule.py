"""Position and sharing out of the training data, and what is left out of it.

Mutations that must go red: start at step 0 on resume, slice the step by something else than the
rank, drop `generator=` of the loader, compare no `order` in `load_state_dict`, replace a failed
prompt by nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from tests.support.places import TINY_POLICY
from tests.support.problem_data import CUT_JPEG, JPEG, NOISE, data, write, write_image_rows
from tests.support.tiny import png
from vlm_rl.data.datamodule import SKIPPED_FILE, DataSource, ProblemData
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.ranks import round_robin
from vlm_rl.records import Prompt


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(str(TINY_POLICY), max_prompt_tokens=400)


def uids(batches: Iterator[list[Prompt]]) -> list[list[str]]:
    return [[prompt.uid for prompt in batch] for batch in batches]


def first_steps(module: ProblemData, steps: int) -> list[list[str]]:
    return uids(islice(iter(module.train_dataloader()), steps))


def first_batch(module: ProblemData) -> list[Prompt]:
    return next(iter(module.train_dataloader()))


def on_rank(module: ProblemData, rank: int, ranks: int, folder: Path, steps: int = 0) -> None:
    """Stand in for a trainer on several ranks; real ones take ten seconds to start."""
    module.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=ranks,
        is_global_zero=rank == 0,
        default_root_dir=folder,
        lightning_module=SimpleNamespace(completed_steps=steps),
    )
    module.setup()


class CountingModule(L.LightningModule):
    """Trains nothing but counts its steps, as the run's module does."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.steps = steps
        self.completed_steps = 0
        self.seen: list[list[str]] = []

    def training_step(self, batch: list[Prompt], batch_idx: int) -> None:
        self.optimizers().step()
        self.seen.append([prompt.uid for prompt in batch])
        self.completed_steps += 1
        self.trainer.should_stop = self.completed_steps >= self.steps

    def validation_step(self, batch: list[Prompt], batch_idx: int) -> None:
        assert all(isinstance(prompt, Prompt) for prompt in batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["completed_steps"] = self.completed_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.completed_steps = checkpoint["completed_steps"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def fit(module: CountingModule, prompts: ProblemData, folder: Path, **options: Any) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    trainer.fit(module, datamodule=prompts, weights_only=True, **options)
    return trainer


@pytest.mark.parametrize("num_workers", [0, 1])
def test_restart_goes_on_with_the_very_next_step(
    tmp_path: Path, encoder: PromptEncoder, num_workers: int
):
    def fresh() -> ProblemData:
        val = [DataSource(write(tmp_path, 3, "v"))]
        sources = (write(tmp_path, 9, "a"), write(tmp_path, 7, "b"))
        return data(encoder, *sources, val=val, num_workers=num_workers)

    whole, first, second = CountingModule(6), CountingModule(3), CountingModule(6)
    fit(whole, fresh(), tmp_path)
    fit(first, fresh(), tmp_path).save_checkpoint(tmp_path / "at3.ckpt")
    fit(second, fresh(), tmp_path, ckpt_path=tmp_path / "at3.ckpt")
    assert first.seen + second.seen == whole.seen
    assert len(second.seen) == 3


def test_state_alone_gives_the_position_back(tmp_path: Path, encoder: PromptEncoder):
    path = write(tmp_path, 11)
    before = data(encoder, path)
    on_rank(before, 0, 1, tmp_path, steps=5)
    after = data(encoder, path)
    after.load_state_dict(before.state_dict())
    assert after.completed_steps == 5
    assert first_steps(after, 2) == first_steps(data(encoder, path), 7)[5:]


def test_another_order_is_refused_after_a_restart(tmp_path: Path, encoder: PromptEncoder):
    path = write(tmp_path, 12)
    state = data(encoder, path).state_dict()
    for other, message in (
        (data(encoder, path, prompts_per_step=2), "prompts_per_step 4, this run has 2"),
        (data(encoder, path, seed=1), "seed 0, this run has 1"),
        (data(encoder, write(tmp_path, 12, "other")), "12 rows gone: 't0', 't1', 't2' and 9 more;"),
        (data(encoder, write(tmp_path, 11)), "training data has changed since: 1 row gone: 't11';"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            other.load_state_dict(state)
        assert "\n" not in str(error.value)


def test_ranks_share_every_step_out(tmp_path: Path, encoder: PromptEncoder):
    path = write(tmp_path, 20)
    for prompts, ranks in ((6, 3), (6, 2), (7, 3), (5, 2), (3, 3)):
        whole = first_steps(data(encoder, path, prompts_per_step=prompts), 8)
        parts = []
        for rank in range(ranks):
            module = data(encoder, path, prompts_per_step=prompts)
            on_rank(module, rank, ranks, tmp_path)
            parts.append(first_steps(module, 8))
        # in turns, so that a minibatch is the same slots of a step on any number of ranks
        assert [round_robin(list(step)) for step in zip(*parts, strict=True)] == whole
    with pytest.raises(ValueError, match="prompts_per_step=4 is less than one for each of 5"):
        on_rank(data(encoder, path), 0, 5, tmp_path)


def test_validation_is_in_order_and_shared_out_in_equally_many_batches(
    tmp_path: Path, encoder: PromptEncoder
):
    val = [DataSource(write(tmp_path, 7, "v"))]
    options: dict[str, Any] = {"val": val, "val_batch_prompts": 2, "prompts_per_step": 3}
    alone = data(encoder, write(tmp_path, 8), **options)
    in_order = [["v0", "v1"], ["v2", "v3"], ["v4", "v5"], ["v6"]]
    assert uids(alone.val_dataloader()) == in_order == uids(alone.val_dataloader())
    assert len(alone.val_dataloader()) == 4
    seen = []
    for rank in range(3):
        module = data(encoder, write(tmp_path, 8), **options)
        on_rank(module, rank, 3, tmp_path)
        batches = uids(module.val_dataloader())
        assert len(batches) == len(module.val_dataloader()) == 2
        seen += chain(*batches)
    assert sorted(seen) == [f"v{i}" for i in range(7)]


def test_val_problems_are_evenly_spaced_over_all_sources(tmp_path: Path, encoder: PromptEncoder):
    val = [DataSource(write(tmp_path, 4, "v")), DataSource(write(tmp_path, 4, "w"))]
    module = data(encoder, write(tmp_path, 8), val=val, val_problems=4)
    assert [problem.uid for problem in module.val_set] == ["v0", "v2", "w0", "w2"]


def test_too_long_prompts_are_left_out_counted_and_named(
    tmp_path: Path, encoder: PromptEncoder, capsys: pytest.CaptureFixture[str]
):
    path = write(tmp_path, 8)
    with open(path, "a") as file:
        for i in range(12):
            row = {"uid": f"long{i}", "problem": "why " * 500, "answer": "1"}
            file.write(json.dumps(row) + "\n")
    module = data(encoder, path)  # also under "stop"
    assert len(module.train_set) == 8
    assert Counter(row.reason for row in module.skipped) == {"prompt too long": 12}
    assert re.search(
        r"row 9: a prompt of \d{3,} tokens, above max_prompt_tokens=400", module.skipped[0].message
    )
    shown = capsys.readouterr().out
    assert "12 prompts above 400 tokens left out: long0, long1" in shown
    assert "long10" not in shown
    on_rank(module, 0, 1, tmp_path / "run")
    lines = (tmp_path / "run" / SKIPPED_FILE).read_text().splitlines()
    assert [json.loads(line)["uid"] for line in lines] == [f"long{i}" for i in range(12)]


def test_limit_is_met_by_a_prompt_of_exactly_that_length(tmp_path: Path, encoder: PromptEncoder):
    path = write(tmp_path, 4)
    tokens = len(first_batch(data(encoder, path))[0])
    exact = PromptEncoder(str(TINY_POLICY), max_prompt_tokens=tokens)
    assert len(data(exact, path).train_set) == 4
    with pytest.raises(ValueError, match="no row is a problem"):
        data(PromptEncoder(str(TINY_POLICY), max_prompt_tokens=tokens - 1), path)


def test_bad_rows_stop_or_are_skipped_as_asked(
    tmp_path: Path, encoder: PromptEncoder, capsys: pytest.CaptureFixture[str]
):
    path = write(tmp_path, 8)
    with open(path, "a") as file:
        file.write('{"problem": "q"}\n{"problem": \n')
    with pytest.raises(ValueError, match=r"row 9: answer is missing.*1 more.*on_bad_row") as error:
        data(encoder, path)
    assert "\n" not in str(error.value)
    module = data(encoder, path, on_bad_row="skip")
    assert [row.reason for row in module.skipped] == ["no answer", "bad json"]
    assert "row 10: not valid JSON" in capsys.readouterr().out


def test_uids_are_distinct_over_sources_and_overlap_with_validation_is_shown(
    tmp_path: Path, encoder: PromptEncoder, capsys: pytest.CaptureFixture[str]
):
    path = write(tmp_path, 6)
    with pytest.raises(ValueError, match=r"uid 't0' is already that of .*row 1 \(and 5 more"):
        data(encoder, path, path)
    data(encoder, path, val=[DataSource(path, limit=1)])
    assert "1 validation problems are trained on too: t0" in capsys.readouterr().out


def test_unusual_images_become_prompts(tmp_path: Path, encoder: PromptEncoder):
    images = {
        "rgba.png": png(Image.new("RGBA", (60, 60), (255, 0, 0, 10))),
        "palette.gif": png(NOISE.convert("P"), "GIF"),
        "grey16.png": png(Image.new("I;16", (60, 60), 40_000)),
        "strip.png": png(Image.new("RGB", (5, 900))),
        "cmyk.jpg": png(NOISE.convert("CMYK"), "JPEG"),
    }
    path = write_image_rows(tmp_path, images)
    batch = first_batch(data(encoder, path, prompts_per_step=5))
    assert {prompt.uid for prompt in batch} == set(images)
    assert {prompt.images[0].mode for prompt in batch} == {"RGB"}
    grey = next(prompt for prompt in batch if prompt.uid == "grey16.png").images[0]
    assert grey.getpixel((0, 0))[0] in (155, 156)  # 40,000 of 65,535, as 8 bits
    assert first_batch(data(encoder, write(tmp_path, 4)))[0].pixel_values is None


def test_an_extreme_strip_is_found_before_training(tmp_path: Path, encoder: PromptEncoder):
    strip = {"strip.png": png(Image.new("RGB", (5, 8920)))}
    with pytest.raises(ValueError, match=r"images.jsonl, row 1: .*5 x 8920"):
        data(encoder, write_image_rows(tmp_path, strip))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_image_that_breaks_while_decoding_is_replaced_and_counted_once(
    tmp_path: Path, encoder: PromptEncoder, num_workers: int
):
    path = write(tmp_path, 11)
    images = write_image_rows(tmp_path, {"cut.jpg": CUT_JPEG} | {f"{i}": JPEG for i in range(7)})
    options: dict[str, Any] = {"on_bad_row": "skip", "num_workers": num_workers}
    module = data(encoder, path, images, **options)
    assert module.skipped == []
    steps = first_steps(module, 12)
    assert [(row.uid, row.reason) for row in module.skipped] == [("cut.jpg", "not encodable")]
    assert "images.jsonl, row 1: " in module.skipped[0].message
    planned = [[module.train_set[i].uid for i in module.mixture.batch(k)] for k in range(13)]
    failed = [(k, slot) for k in range(12) for slot in range(4) if planned[k][slot] == "cut.jpg"]
    assert len(failed) >= 2
    for k, slot in failed:
        planned[k][slot] = planned[k + 1][slot]
    assert steps == planned[:12]


def test_an_image_that_breaks_while_decoding_stops_with_its_row(
    tmp_path: Path, encoder: PromptEncoder
):
    images = {"cut.jpg": CUT_JPEG} | {f"{i}": JPEG for i in range(3)}
    path = write_image_rows(tmp_path, images)
    for num_workers in (0, 1):
        with pytest.raises(ValueError, match=r"images.jsonl, row 1: .*cut.jpg") as error:
            first_steps(data(encoder, path, num_workers=num_workers), 1)
        assert "\n" not in str(error.value)
    module = data(encoder, write(tmp_path, 4), val=[DataSource(path)], on_bad_row="skip")
    assert uids(module.val_dataloader()) == [["0", "1", "2"]]
    assert [row.uid for row in module.skipped] == ["cut.jpg"]


def test_reading_prompts_leaves_the_global_random_numbers_alone(
    tmp_path: Path, encoder: PromptEncoder
):
    module = data(encoder, write(tmp_path, 8))
    before = torch.get_rng_state()
    first_steps(module, 3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts_per_step": 0}, "prompts_per_step must be at least 1, got 0"),
        ({"val_problems": 0}, "val_problems must be at least 1, got 0"),
        ({"on_bad_row": "sotp"}, "on_bad_row must be skip or stop, got 'sotp'"),
        ({"prompts_per_step": 16}, "has 8 problems, but a step may need 16"),
        ({"train": []}, "no data source"),
    ],
)
def test_wrong_options_are_one_clear_line(
    tmp_path: Path, encoder: PromptEncoder, options: dict[str, Any], message: str
):
    train = [DataSource(write(tmp_path, 8))]
    with pytest.raises(ValueError, match=message):
        ProblemData(
            **{"train": train, "val": [], "encoder": encoder, "prompts_per_step": 4} | options
        ).setup()


def test_wrong_sources_are_one_clear_line(encoder: PromptEncoder):
    with pytest.raises(ValueError, match="weight must be above 0, got -1"):
        DataSource("t.jsonl", weight=-1)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        DataSource("t.jsonl", limit=0)
    with pytest.raises(ValueError, match=r"got 'anwser'; did you mean answer\?"):
        DataSource("t.jsonl", columns={"anwser": "gold"})
    with pytest.raises(ValueError, match="a validation source has no weight"):
        ProblemData(
            [DataSource("a")], [DataSource("b", weight=2)], encoder=encoder, prompts_per_step=1
        )


def test_long_text_is_a_bad_row_by_its_setting(tmp_path: Path, encoder: PromptEncoder):
    path = write(tmp_path, 12)  # the last two questions have eight characters
    module = data(encoder, path, on_bad_row="skip", max_text_chars=7)
    assert [problem.uid for problem in module.train_set] == [f"t{i}" for i in range(10)]
    assert Counter(row.reason for row in module.skipped) == {"text too long": 2}
    with pytest.raises(ValueError, match="above max_text_chars=7"):
        data(encoder, path, max_text_chars=7)
