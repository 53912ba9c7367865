"""Policies, prompts and engines that the tests of vLLM share."""

import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from tests.support.tiny import build_checkpoint, picture, png, sharp_policy
from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.distributed.weights import whole_weights
from vlm_rl.model.policy import Policy
from vlm_rl.records import Completion, Problem, Prompt, Rows
from vlm_rl.rollout import Engine, Sampling, VLLMEngine, VLLMServer
from vlm_rl.rollout.vllm.protocol import Answer, Request

SAMPLING = Sampling(1.0, 24)
LONG = "What is shown here, and how many of them are there? " * 12
ROUNDING = 1e-4
"""How far a log-probability may be off by float32 alone, whatever requests share a batch: up to
1.3e-5 was seen. What is wrong in kind moves some by 0.05 and more."""
MISSING = "vLLM is not installed; `make vllm` installs it"


@dataclasses.dataclass
class Setup:
    """A policy, its engine, and prompts: longer than a cached block, images that come again."""

    folder: Path
    policy: Policy
    encoder: PromptEncoder
    engine: Engine
    prompts: list[Prompt]

    @classmethod
    def build(cls, family: str, folder: Path, engine: Engine) -> "Setup":
        build_checkpoint(family, folder)
        encoder = PromptEncoder(str(folder), max_prompt_tokens=1024)
        return cls(folder, sharp_policy(folder, scale=1.25), encoder, engine, prompts_of(encoder))

    def start(self) -> "Setup":
        self.engine.start(self.policy, self.encoder, SAMPLING)
        return self

    def generate(self, sampling: Sampling = SAMPLING, seed: int = 0) -> list[list[Completion]]:
        size = 1 if sampling.temperature == 0 else 4
        return self.engine.generate(self.prompts, group_size=size, sampling=sampling, seed=seed)

    def gaps(self, groups: list[list[Completion]], temperature: float = 1.0) -> Tensor:
        """Return |engine - policy| of every sampled token."""
        everything = torch.ones(len(groups), len(groups[0]), dtype=torch.bool)
        rows = Rows.build(self.prompts, groups, trained=everything)
        with self.policy.evaluating():
            own = self.policy.logprobs(rows, temperature=temperature).logprobs
        return (own - rows.sampling_logprobs)[rows.completion_mask].abs()

    def scale(self, part: Any, factor: float = 0.8) -> None:
        with torch.no_grad():
            for parameter in self.policy.part(part).parameters():
                parameter.mul_(factor)


def in_process(**changes: Any) -> VLLMEngine:
    return VLLMEngine(**{"kv_cache_gib": 1 / 16, "max_concurrent": 64} | changes)


def change_stream(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Send `change(name, weight)`, a list of pairs, in place of every weight."""

    def changed(policy: Policy, **how: Any) -> Iterator[tuple[str, Tensor]]:
        for name, weight in whole_weights(policy, **how):
            yield from change(name, weight)

    monkeypatch.setattr("vlm_rl.rollout.vllm.base.whole_weights", changed)


def tokens_of(groups: list[list[Completion]]) -> list[list[int]]:
    return [completion.token_ids.tolist() for group in groups for completion in group]


def prompts_of(encoder: PromptEncoder) -> list[Prompt]:
    again = png(picture(64, 96, seed=3))
    described = [
        ("an image", f"{LONG}<image>", (again,)),
        ("the same image, other words", f"Look: <image> {LONG}", (again,)),
        ("no image", LONG, ()),
        ("two images", f"<image> or <image>? {LONG}", (again, png(picture(48, 48)))),
        ("the mark as text", f"Here stand <|image_pad|> and <|vision_start|>. {LONG}", ()),
        ("the mark beside an image", f"<image> is no <|image_pad|>. {LONG}", (again,)),
    ]
    return [
        encoder.encode(Problem(uid=uid, question=text, answer="1", images=images))
        for uid, text, images in described
    ]


class Attacked(VLLMServer):
    """Attacks its own server in the middle of training rollouts, the nth by `attacks[n]`."""

    def __init__(self, attacks: list[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.attacks = attacks
        self.due = ""

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, **how: Any
    ) -> list[list[Completion]]:
        if group_size > 1 and self.attacks:  # validation samples one
            self.due = self.attacks.pop(0)
        return super().generate(prompts, group_size=group_size, **how)

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        attack, self.due = self.due, ""
        if attack:
            assert self._process is not None
            (server,) = psutil.Process(self._process.pid).children()  # of die_with_parent.py
            (core,) = [c for c in server.children() if "EngineCore" in " ".join(c.cmdline())]
            # requests wait in front of a stopped engine, so that the attack always finds them there
            os.kill(core.pid, signal.SIGSTOP)
            if attack == "kill engine":
                Timer(1.0, os.kill, (core.pid, signal.SIGKILL)).start()
            elif attack == "abort":
                Timer(1.0, self._http.post, ("abort_requests", {})).start()
            else:
                assert attack == "hang"
        return super()._ask(requests)


class Breaking(VLLMEngine):
    """Fails in the `breaks_at`th training rollout, unless `marker` exists, and creates it."""

    def __init__(self, marker: str, breaks_at: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.marker = Path(marker)
        self.left = breaks_at

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, **how: Any
    ) -> list[list[Completion]]:
        self.left -= group_size > 1
        if self.left == 0 and not self.marker.exists():
            self.marker.touch()
            self._llm.llm_engine.engine_core.engine_core.scheduler = None
        return super().generate(prompts, group_size=group_size, **how)


class Killed(VLLMEngine):
    """Loses its worker in the middle of the `dies_at`th training rollout of `rank`."""

    def __init__(self, rank: int, dies_at: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.rank = rank
        self.left = dies_at

    def generate(
        self, prompts: Sequence[Prompt], *, group_size: int, **how: Any
    ) -> list[list[Completion]]:
        self.left -= group_size > 1  # validation samples one
        if self.left == 0 and ranks.rank() == self.rank:
            self.left = -1
            executor = self._llm.llm_engine.engine_core.engine_core.model_executor
            pid = executor.workers[0].proc.pid
            # requests wait in front of a stopped worker, so that the kill always finds them there
            os.kill(pid, signal.SIGSTOP)
            Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
        return super().generate(prompts, group_size=group_size, **how)
