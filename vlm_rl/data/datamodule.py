"""Prompts in training order: the DataModule that can be resumed.

The prompts of step k are a pure function of (seed, k). So resuming needs only k, and another number
of ranks changes which rank encodes a prompt, not which prompts a step has.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning import LightningDataModule

from vlm_rl.data.batches import Batches, PromptDataset
from vlm_rl.data.content import Acceptance, Changes, Contents, check_accepted
from vlm_rl.data.forms import FORMS
from vlm_rl.data.images import ImageStore
from vlm_rl.data.length_targets import LengthTargets
from vlm_rl.data.made import make_if_missing
from vlm_rl.data.order import Mixture
from vlm_rl.data.prompts import BadProblem, PromptEncoder
from vlm_rl.data.rows import COLUMNS, MAX_TEXT_CHARS, Skipped, read_problems
from vlm_rl.data.tables import BadRow
from vlm_rl.errors import nearest
from vlm_rl.ranks import is_zero, print_once
from vlm_rl.records import BoxSpace, GoldType, Problem, Prompt
from vlm_rl.show.json_text import json_text
from vlm_rl.show.screen import say, track

SKIPPED_FILE = "skipped.jsonl"
"""In the run's folder: one line per row that is left out, with its reason."""
IMAGES_IN_MEMORY = 512 * 2**20
"""Bytes of images that rows hold themselves; those beyond lie in a temporary folder."""
_SHOWN = 10
_LOOKED_AT = 32


@dataclass(frozen=True)
class DataSource:
    """One data set of a mixture.

    `path` is a file (`.jsonl`, `.json`, `.parquet`, `.arrow`, `.csv`, `.tsv`, `.tar`), a folder or
    a hub id `owner/name[:split]`; `split` names a split of a folder or hub data set, or the value
    of the `split` column of a file. `weight` is relative to the other sources. `columns` maps our
    column names to theirs ({"answer": "gold"}; a dot reaches into a struct). The first `limit`
    good problems are used. `form` names the form of the rows, which their columns tell if it is
    left out. Columns in `ignore` are neither used nor kept. Paths of images begin in
    `image_folder`, by default the folder of the file. `answer_type` and `box_space` say what the
    answers are, and what the coordinates in them count, of rows that do not say it themselves.
    `made_by` is for data that a program makes: the arguments of `python -m`, run if nothing is at
    `path`.
    """

    path: str
    weight: float = 1.0
    split: str | None = None
    columns: dict[str, str] | None = None
    limit: int | None = None
    form: str | None = None
    ignore: list[str] | None = None
    image_folder: str | None = None
    answer_type: GoldType | None = None
    box_space: BoxSpace | None = None
    made_by: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            raise ValueError(f"{self.path}: weight must be above 0, got {self.weight}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"{self.path}: limit must be at least 1, got {self.limit}")
        if self.form is not None and self.form not in FORMS:
            raise ValueError(
                f"{self.path}: form must be one of {', '.join(FORMS)}, got {self.form!r}"
                f"{nearest(self.form, FORMS)}"
            )
        for name in self.columns or {}:
            if name not in COLUMNS:
                close = nearest(name, COLUMNS)
                raise ValueError(f"{self.path}: columns must map our names, got {name!r}{close}")

    @property
    def defaults(self) -> dict[str, str]:
        """What counts in columns that a row does not have."""
        said = {"answer_type": self.answer_type, "box_space": self.box_space}
        return {name: value for name, value in said.items() if value is not None}


class ProblemData(LightningDataModule):
    """Training and validation prompts.

    `setup` reads and checks every row and drops prompts above the encoder's limit. What is left out
    is printed, kept in `skipped`, and written to `skipped.jsonl` of the run's folder. `on_bad_row`
    applies to a row that cannot be a problem, whether `setup` or decoding its image shows it:
    "stop" raises ValueError with its line, "skip" continues without it. A prompt that is too long
    never stops a run. A row with more than `max_text_chars` characters in one of its columns cannot
    be a problem. Images on the web are fetched with `allow_download`, and bad without.
    `length_targets` gives each problem a length to aim at, which its question says.

    A run that resumes refuses rows that were edited, added, removed or moved since. With
    `accept_changes` it goes on: "validation" with other validation rows, "added" also with rows
    added to the training data, "all" with any.

    Prompts are encoded ahead while a step trains: by a thread, which is one step ahead, or by
    `num_workers` processes, each two steps. They come in the same order either way.

    `prompts_per_step` counts over all ranks, `val_batch_prompts` on each. `val_problems` limits the
    validation problems, evenly spaced. The run's module must hold its `completed_steps`, restored
    before training begins; the attribute here is what the checkpoint says.
    """

    def __init__(
        self,
        train: list[DataSource],
        val: list[DataSource],
        encoder: PromptEncoder,
        *,
        prompts_per_step: int,
        val_problems: int | None = None,
        val_batch_prompts: int = 32,
        seed: int = 0,
        on_bad_row: Literal["skip", "stop"] = "stop",
        max_text_chars: int = MAX_TEXT_CHARS,
        accept_changes: Acceptance = "none",
        num_workers: int = 0,
        allow_download: bool = False,
        length_targets: LengthTargets | None = None,
    ) -> None:
        super().__init__()
        counts = {"prompts_per_step": prompts_per_step, "val_batch_prompts": val_batch_prompts}
        counts["max_text_chars"] = max_text_chars
        for name, value in (counts | {"val_problems": val_problems}).items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if on_bad_row not in ("skip", "stop"):
            raise ValueError(f"on_bad_row must be skip or stop, got {on_bad_row!r}")
        if not train:
            raise ValueError("train names no data source")
        for source in val:
            if source.weight != 1.0:
                raise ValueError(f"{source.path}: a validation source has no weight, use `limit`")
        self.train_sources = train
        self.val_sources = val
        self.encoder = encoder
        self.prompts_per_step = prompts_per_step
        self.val_problems = val_problems
        self.val_batch_prompts = val_batch_prompts
        self.seed = seed
        self.on_bad_row = on_bad_row
        self.max_text_chars = max_text_chars
        self.accept_changes = accept_changes
        self.num_workers = num_workers
        self.length_targets = length_targets
        self.completed_steps = 0
        self.train_set: list[Problem] = []
        self.val_set: list[Problem] = []
        self.looked_at: dict[str, list[Problem]] = {}
        self.skipped: list[Skipped] = []
        # lives as long as the problems
        self._images = ImageStore(IMAGES_IN_MEMORY, allow_download=allow_download)
        self._failed_here: list[Skipped] = []
        self._where: dict[str, str] = {}
        self._said: set[str] = set()
        self._handed_out: dict[int, list[Prompt]] = {}

    @property
    def images(self) -> ImageStore:
        """The images of all problems, which live as long as these."""
        return self._images

    def setup(self, stage: str | None = None) -> None:
        """Read all sources, once; with a trainer, check its ranks and write what is left out.

        Raises ValueError with one line for a source that cannot be read or has too few problems,
        for fewer prompts a step than ranks, and under "stop" for a bad row.
        """
        if not self.train_set:
            self._read_all()
        _, world_size = self._rank_and_world_size()
        if self.prompts_per_step < world_size:
            raise ValueError(
                f"prompts_per_step={self.prompts_per_step} is less than one for each of "
                f"{world_size} processes; raise it, or start fewer"
            )
        self._write_skipped()

    def state_dict(self) -> dict[str, Any]:
        rows = {name: [vars(part) for part in parts] for name, parts in self._contents.items()}
        return {"completed_steps": self._steps_done(), "order": self._order, "rows": rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue after the completed steps.

        Raises ValueError if this run has another order, or rows that have changed as
        `accept_changes` does not allow.
        """
        for name, value in self._order.items():
            before = state_dict["order"].get(name)
            if before != value:
                raise ValueError(
                    f"the checkpoint was made with {name} {before}, this run has {value}, so its "
                    "place in the data would be lost; use the same, or start a new run"
                )
        if "rows" not in state_dict:
            raise ValueError(
                "it was written by another version, which did not keep what its rows held; start a "
                "new run from its weights"
            )
        changes = {
            name: Changes.between([Contents(**part) for part in state_dict["rows"][name]], parts)
            for name, parts in self._contents.items()
        }
        for line in check_accepted(**changes, accepted=self.accept_changes):
            if line not in self._said:  # asked before the model is loaded, and after
                print_once(line)
            self._said.add(line)
        self.completed_steps = state_dict["completed_steps"]

    def train_dataloader(self) -> Iterable[list[Prompt]]:
        """Return this rank's prompts of each step, without end, from the first step to do."""
        return Batches(self._train_batches)

    def following(self, step: int) -> list[Prompt]:
        """Return this rank's prompts of the step after the one that is being trained.

        The Trainer has fetched them already, because it fetches a batch ahead.
        """
        return self._handed_out[step]

    def refill(self, position: int, used: Collection[str]) -> tuple[Prompt, int] | None:
        """Return the next prompt of a second endless order, and the position after it.

        It is the first at or after `position` whose uid is not in `used`; None if `used` has all
        that can be encoded. The result is a pure function of the seed and the arguments. Sources
        are mixed as in the order of the steps.
        """
        encoded = PromptDataset(self.train_set, self.encoder, self._where)
        failed: set[int] = set()
        while len(used) + len(failed) < len(self.train_set):
            (index,) = self.refill_order.batch(position)
            position += 1
            if self.train_set[index].uid in used or index in failed:
                continue
            item = encoded[index]
            if isinstance(item, Prompt):
                return item, position
            self._failed(item)
            failed.add(index)
        return None

    def val_dataloader(self) -> Iterable[list[Prompt]]:
        """Return every world-size-th problem in order.

        All ranks have equally many batches, so the last may be shorter on some, or empty.
        """
        return Batches(self._val_batches, len(self._val_indices()))

    def transfer_batch_to_device(
        self, batch: list[Prompt], device: torch.device, dataloader_idx: int
    ) -> list[Prompt]:
        """Keep prompts on the CPU: policy and engine move the parts that they need."""
        return batch

    def _read_all(self) -> None:
        images = self._images
        by_source = [*self._read("train", self.train_sources)]
        val = [problem for part in self._read("val", self.val_sources) for problem in part]
        wanted = min(self.val_problems or len(val), len(val))
        self.val_set = [val[i * len(val) // wanted] for i in range(wanted)]
        sizes = [len(part) for part in by_source]
        self.mixture = self.mixture_of(sizes)
        self.refill_order = Mixture(
            sizes, self.mixture.shares, prompts_per_step=1, seed=_refill_seed(self.seed)
        )
        self.train_set = [problem for part in by_source for problem in part]
        self._order = {
            "source weights": [source.weight for source in self.train_sources],
            "prompts_per_step": self.prompts_per_step,
            "seed": self.seed,
        }
        self._contents = {
            "training": [Contents.of(part, images) for part in by_source],
            "validation": [Contents.of(val, images)],
        }
        shared = {p.uid for p in self.train_set} & {p.uid for p in self.val_set}
        if shared:
            print_once(
                f"{len(shared)} validation problems are trained on too: {_first(sorted(shared))}"
            )

    def _read(self, part: str, sources: Sequence[DataSource]) -> Iterator[list[Problem]]:
        owners: dict[str, str] = {}
        for source in sources:
            if source.made_by:
                make_if_missing(Path(source.path).expanduser(), source.made_by)
            rows = read_problems(
                source.path,
                self._images,
                owners=owners,
                split=source.split,
                columns=source.columns,
                limit=source.limit,
                max_text_chars=self.max_text_chars,
                form=source.form,
                ignore=source.ignore or (),
                image_folder=source.image_folder,
                defaults=source.defaults,
            )
            self._where |= owners
            found = self._with_targets(rows.problems)
            checked = track(
                found,
                f"checking {source.path}",
                transient=True,
                hidden=not is_zero(),
            )
            unfit = {
                problem.uid: self._unfit(problem, what)
                for problem, what in self.encoder.unfit(checked, self._images.size_of)
            }
            problems = [problem for problem in found if problem.uid not in unfit]
            print_once(f"{rows.mapping}; {len(problems)} problems")
            for line in rows.lines:
                print_once(f"  {line}")
            self._leave_out([*rows.skipped, *unfit.values()])
            if not problems:
                raise ValueError(f"{source.path}: no row is a problem that can be used")
            # some of each source, the first of them shown before training
            shown = min(len(problems), _LOOKED_AT)
            name = f"{part} {source.path}"
            self.looked_at[name] = [problems[i * len(problems) // shown] for i in range(shown)]
            yield problems

    def _with_targets(self, problems: list[Problem]) -> list[Problem]:
        targets = self.length_targets
        return problems if targets is None else [targets.given_to(one) for one in problems]

    def _unfit(self, problem: Problem, what: int | BadProblem) -> Skipped:
        where, limit = self._where[problem.uid], self.encoder.max_prompt_tokens
        if isinstance(what, BadProblem):
            return Skipped(where, problem.uid, "not encodable", f"{where}: {what}")
        message = f"{where}: a prompt of {what} tokens, above max_prompt_tokens={limit}"
        return Skipped(where, problem.uid, "prompt too long", message)

    def _leave_out(self, skipped: Sequence[Skipped]) -> None:
        """Record, show and, under "stop", raise for bad rows."""
        self.skipped += skipped
        too_long = [str(s.uid) for s in skipped if s.reason == "prompt too long"]
        bad = [s for s in skipped if s.reason != "prompt too long"]
        if too_long:
            limit = self.encoder.max_prompt_tokens
            print_once(f"{len(too_long)} prompts above {limit} tokens left out: {_first(too_long)}")
        for row in bad[:_SHOWN]:
            print_once(row.message)
        if len(bad) > _SHOWN:
            print_once(f"... in all {dict(Counter(row.reason for row in bad))}")
        self._write_skipped()
        if bad and self.on_bad_row == "stop":
            more = f" (and {len(bad) - 1} more bad rows)" if len(bad) > 1 else ""
            raise BadRow(bad[0].reason, f"{bad[0].message}{more}; on_bad_row=skip leaves it out")

    def _write_skipped(self) -> None:
        """Write on rank 0 what all ranks leave out, on others what only they have tried."""
        rank, _ = self._rank_and_world_size()
        rows = self._failed_here if rank else self.skipped
        if not rows or self.trainer is None:
            return
        lines = [json_text(asdict(row)) + "\n" for row in rows]
        name = f"skipped_rank_{rank}.jsonl" if rank else SKIPPED_FILE
        target = Path(self.trainer.default_root_dir, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{name}.partial")  # a kill must not leave half of it
        partial.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
        partial.replace(target)

    def mixture_of(self, sizes: Sequence[int]) -> Mixture:
        """Return the order of sources of these sizes. Raises ValueError if one is too small."""
        weights = [source.weight for source in self.train_sources]
        mixture = Mixture(sizes, weights, prompts_per_step=self.prompts_per_step, seed=self.seed)
        for index, source in enumerate(self.train_sources):
            if sizes[index] < mixture.most_draws(index):
                raise ValueError(
                    f"{source.path} has {sizes[index]} problems, but a step may need "
                    f"{mixture.most_draws(index)} of it; lower prompts_per_step or its weight"
                )
        return mixture

    def _steps_done(self) -> int:
        if self.trainer is None:
            return self.completed_steps
        return cast(int, self.trainer.lightning_module.completed_steps)

    def _rank_and_world_size(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _train_batches(self) -> Iterator[list[Prompt]]:
        rank, world_size = self._rank_and_world_size()
        # in turns, so that minibatches, cut in this order, are those of a run on one rank
        slots = range(rank, self.prompts_per_step, world_size)
        start = self._steps_done()
        indices = ([self.mixture.batch(step)[slot] for slot in slots] for step in count(start))
        encoded = PromptDataset(self.train_set, self.encoder, self._where)
        for step, batch in enumerate(encoded.batches(indices, self.num_workers), start):
            prompts = [
                self._sound_prompt(item, encoded, step, slot)
                for item, slot in zip(batch, slots, strict=True)
            ]
            self._handed_out = {step: prompts}
            yield prompts

    def _sound_prompt(
        self, item: Prompt | Skipped, encoded: PromptDataset, step: int, slot: int
    ) -> Prompt:
        """Return `item`, or if it failed, the prompt in the same slot of the next sound step.

        Each rank can choose this alone. With a small set, a step may then have a prompt twice.
        """
        for later in range(step + 1, step + 2 + len(encoded)):
            if isinstance(item, Prompt):
                return item
            self._failed(item)
            item = encoded[self.mixture.batch(later)[slot]]
        raise ValueError(f"{len(encoded)} problems in a row have images that cannot be decoded")

    def _val_indices(self) -> list[list[int]]:
        rank, world_size = self._rank_and_world_size()
        own, size = range(rank, len(self.val_set), world_size), self.val_batch_prompts
        starts = range(0, math.ceil(len(self.val_set) / world_size), size)
        return [list(own[start : start + size]) for start in starts]

    def _val_batches(self) -> Iterator[list[Prompt]]:
        encoded = PromptDataset(self.val_set, self.encoder, self._where)
        for batch in encoded.batches(self._val_indices(), self.num_workers):
            for item in batch:
                if isinstance(item, Skipped):
                    self._failed(item)
            yield [item for item in batch if isinstance(item, Prompt)]

    def _failed(self, row: Skipped) -> None:
        """Leave out a row whose image only this rank has tried to decode."""
        if row not in self.skipped:
            self._failed_here.append(row)
            if self._rank_and_world_size()[0]:  # `_leave_out` prints on rank 0
                say(row.message)
            self._leave_out([row])


def _refill_seed(seed: int) -> int:
    """Return a seed for another order than that of the steps."""
    return int(np.random.SeedSequence([seed, *b"refill"]).generate_state(1)[0])


def _first(uids: Sequence[str]) -> str:
    more = f", ... (all in {SKIPPED_FILE})" if len(uids) > _SHOWN else ""
    return ", ".join(f"{uid:.60}" for uid in uids[:_SHOWN]) + more
