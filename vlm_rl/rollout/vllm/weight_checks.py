"""What is checked about the weights of an engine, in order.

Before the first launch
    1. `check_adapters`: with `adapter_rank`, the policy trains nothing but adapters vLLM computes.

At the start, once all weights were sent (`WeightChecks.at_start`)
    2. `check_name`: the engine has a place for every weight. It is asked weight by weight, so that
       one it silently ignores is found.
    3. `check_complete`: every weight of the engine arrived, a tied head too.
    4. The engine computes the policy's log-probabilities of the probe, within rounding.
    5. Each block in turn is changed, sent and seen in what the engine computes. Comparing once
       shows that both agree now. It does not show that the next update arrives: the engine may
       compute with a packed copy of a layer, or with image embeddings in a cache.
    6. As 4, after each block was restored.

At every update, and after every restart (`WeightChecks.after_update`)
    7. As 2, but chunk by chunk, and as 3. With `adapter_rank` an update sends adapters only.
    8. As 4.

Caches are emptied before every comparison. 2 and 3 run inside vLLM's workers (weight_receiver.py).
A failed check raises EngineMismatch with the name of the weight or block, and ends the run. What
else must agree is checked elsewhere: a server's settings in server.py, every answer in protocol.py.
"""

import io
from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vlm_rl import ranks
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import blocks, is_adapter, named_parameters
from vlm_rl.records import Groups, Problem, Prompt, Rows
from vlm_rl.rollout.faults import WEIGHT_STREAM, EngineMismatch
from vlm_rl.rollout.sampling import Sampling
from vlm_rl.rollout.vllm.restarts import agreed

REPEATS = 200
"""Repeats of the probe's question. It is longer than the blocks in which vLLM caches prompts (128
tokens on a CPU) and the same every time, so that a cache that survived an update shows."""

FACTORS = (1.25, 2.0, 4.0, 0.0)
"""Multiples of a block, tried until the policy's own log-probabilities move enough to tell."""

CLEAR = 4.0
"""Enough: this many times the distance of engine and policy while both have the change."""

TIED_HEAD = "lm_head.weight"
"""Not among a tied model's parameters, yet needed: the CPU backend keeps a packed copy of it."""


def check_adapters(policy: Policy, max_rank: int) -> None:
    """Check that the policy trains adapters up to `max_rank` that vLLM computes, and nothing else.

    Raises EngineMismatch.
    """
    trained = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    # vLLM ignores adapters in a vision tower, and logs that below the level shown
    other = [name for name in trained if not is_adapter(name) or ".visual." in name]
    if other or not trained:
        raise EngineMismatch(
            f"engine.init_args.adapter_rank={max_rank} sends adapters of the language model only, "
            f"but the policy trains {other[0] if other else 'none'}; leave it at 0"
        )
    rank = max(p.shape[0] for name, p in trained.items() if ".lora_A." in name)
    if rank > max_rank:
        raise EngineMismatch(
            f"engine.init_args.adapter_rank={max_rank} is below the policy's adapters; set {rank}"
        )


def check_name(name: str, loaded: Collection[str]) -> None:
    """Check that the engine `loaded` something for the weights from `name` on. Raises ValueError,
    which reaches the trainer as EngineMismatch."""
    if not loaded:
        raise ValueError(f"{WEIGHT_STREAM}the rollout engine has no {name!r}")


def check_complete(
    model: nn.Module, *, sent: Collection[str], loaded: Collection[str], tied: bool
) -> None:
    """Check that all of the engine's `model` was `loaded`, which are its own names.

    `sent` are the names in the stream; of a `tied` model the head must be among them. Raises
    ValueError, which reaches the trainer as EngineMismatch.
    """
    # an engine with adapters wraps the layers that may have one
    names = (name for name, _ in model.named_parameters() if ".lora_" not in name)
    missing = sorted({name.replace(".base_layer.", ".") for name in names}.difference(loaded))
    if tied and TIED_HEAD not in sent:
        missing.append(TIED_HEAD)
    if missing:
        raise ValueError(
            f"{WEIGHT_STREAM}{len(missing)} weights of the rollout engine were not sent, the first "
            f"of them {missing[0]!r}"
        )


class WeightChecks:
    """Compares an engine with the policy on the probe.

    `sample` returns the engine's completions of `probe.prompts`. `send` gives it the weights of
    these names and empties its caches. All ranks go through every check together; each has an
    engine of its own, or all share one. Distances are nats a token and at most `tolerance`.
    """

    def __init__(
        self,
        policy: Policy,
        probe: "Probe",
        *,
        sample: Callable[[], Groups],
        send: Callable[[frozenset[str]], None],
        tolerance: float,
    ) -> None:
        self._policy = policy
        self._probe = probe
        self._sample = sample
        self._send = send
        self._tolerance = tolerance

    def at_start(self) -> None:
        """Check that the engine computes what the policy does, and that every block reaches it."""
        self._compare("at the start")
        unseen = self._change_each_block()
        if unseen:
            ranks.print_once(f"rollout engine: the probe does not depend on {', '.join(unseen)}")
        self._compare("after each block was changed and restored")

    def after_update(self) -> None:
        """Check that the engine computes what the policy does."""
        self._compare("after an update")

    def _compare(self, when: str) -> None:
        groups = self._sample()
        agreed(partial(self._check_distance, groups, when))

    def _check_distance(self, groups: Groups, when: str) -> None:
        gap = _distance(sampling_logprobs(groups), self._probe.logprobs(self._policy, groups))
        if not gap <= self._tolerance:
            raise EngineMismatch(
                f"{when}, the rollout engine's log-probabilities are {gap:.2g} nats a token from "
                f"the policy's, above {self._tolerance:.2g}: it has other weights, caches or "
                "images; if its precision explains that, raise engine.init_args.probe_tolerance"
            )

    def _change_each_block(self) -> list[str]:
        """Change each block, send it, and compare on the probe until the change is seen.

        Weights are restored, bit for bit, in the policy and in the engine. Returns the blocks that
        the probe hardly depends on, of which nothing can be said. Each rank changes its share of
        the policy; a block is done once all ranks have seen it.
        """
        unseen = []
        stale: frozenset[str] = frozenset()
        for block, parameters in _parameters_by_block(self._policy).items():
            names = frozenset(parameters)
            seen, hardly_moved, farthest = False, True, (0.0, 0.0)
            for factor in FACTORS:
                moved, gap = self._distances(parameters, factor, names | stale)
                stale = names
                seen |= gap <= moved / CLEAR
                farthest = max(farthest, (gap, moved))
                hardly_moved &= moved <= CLEAR * self._tolerance and gap <= self._tolerance
                if all(ranks.gather(seen)):
                    break
            else:
                agreed(partial(_check_seen, seen or hardly_moved, block, *farthest))
                unseen.append(block)
        self._send(stale)
        return unseen

    def _distances(
        self, parameters: Mapping[str, Tensor], factor: float, names: frozenset[str]
    ) -> tuple[float, float]:
        """Measure with the `parameters` times `factor`, after sending `names`.

        Returns how far this moves the policy, and how far the engine is from the moved policy.
        """
        with torch.no_grad(), _Scaled(parameters, factor):
            self._send(names)
            groups = self._sample()
            changed = self._probe.logprobs(self._policy, groups)
        moved = _distance(changed, self._probe.logprobs(self._policy, groups))
        return moved, _distance(sampling_logprobs(groups), changed)


class Probe:
    """Prompts with and without an image, and the policy's log-probabilities of completions.

    They fit the encoder's limit on prompts: their text is shortened if that is low. The short one
    depends on its image the most: in a long prompt little of an image may be left.
    """

    def __init__(self, encoder: PromptEncoder, max_completion_tokens: int) -> None:
        self.sampling = Sampling(1.0, min(8, max_completion_tokens))
        self.prompts: list[Prompt] = [
            _longest(encoder, "probe with image", (_noise(),)),
            _longest(encoder, "probe without image", ()),
            _longest(encoder, "short probe with image", (_noise(),), repeats=0),
        ]

    def logprobs(self, policy: Policy, groups: Groups) -> Tensor:
        """Return the policy's log-probabilities of all tokens of `groups` [P][G], concatenated.

        They have the precision of its weights: autocast is the trainer's, the engine has none. The
        forward is one of all ranks.
        """
        trained = torch.ones(len(groups), len(groups[0]), dtype=torch.bool)
        rows = Rows.build(self.prompts, groups, trained)
        with policy.evaluating(), torch.autocast(policy.device.type, enabled=False):
            stats = policy.logprobs(rows, temperature=self.sampling.temperature)
        return stats.logprobs.cpu()[rows.completion_mask]


def sampling_logprobs(groups: Groups) -> Tensor:
    """Return the engine's log-probabilities, in the order of `Probe.logprobs`."""
    return torch.cat([c.sampling_logprobs for group in groups for c in group])


def _noise() -> bytes:
    """Draw noise: any difference in how it is resized or normalised changes every patch."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _longest(
    encoder: PromptEncoder, uid: str, images: tuple[bytes, ...], repeats: int = REPEATS
) -> Prompt:
    while True:
        question = "what is shown? " * repeats + "answer:"
        problem = Problem(uid=uid, question=question, answer="-", images=images)
        if repeats == 0 or encoder.count_tokens(problem) <= encoder.max_prompt_tokens:
            return encoder.encode(problem)
        repeats //= 2


def _check_seen(seen: bool, block: str, gap: float, moved: float) -> None:
    if not seen:
        raise EngineMismatch(
            f"weights of {block} do not reach the rollout engine: after a change that moves the "
            f"policy's log-probabilities by {moved:.2g} nats a token, the engine's are {gap:.2g} "
            "from them; if its precision explains that, raise engine.init_args.probe_tolerance"
        )


class _Scaled:
    """The parameters multiplied by a factor inside, restored bit for bit afterwards."""

    def __init__(self, parameters: Mapping[str, Tensor], factor: float) -> None:
        self._distinct = {id(p): p for p in parameters.values()}  # a tied one counts once
        self._factor = factor

    def __enter__(self) -> None:
        self._saved = {key: p.detach().clone() for key, p in self._distinct.items()}
        for parameter in self._distinct.values():
            parameter.mul_(self._factor)

    def __exit__(self, *_: object) -> None:
        for key, parameter in self._distinct.items():
            parameter.copy_(self._saved[key])


def _parameters_by_block(policy: Policy) -> dict[str, dict[str, Tensor]]:
    """Group parameters by block and checkpoint name; tied ones are together in the first block."""
    by_name: dict[str, Tensor] = dict(named_parameters(policy.model))
    result: dict[str, dict[str, Tensor]] = {}
    placed: set[str] = set()
    for block, names in blocks(by_name).items():
        own = {id(by_name[name]) for name in names}
        chosen = {n: p for n, p in by_name.items() if id(p) in own and n not in placed}
        placed |= chosen.keys()
        if chosen:
            result[block] = chosen
    return result


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the mean |difference| in nats a token."""
    return float((a.double() - b.double()).abs().mean())
