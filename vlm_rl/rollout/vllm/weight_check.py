"""Proof that every block of the policy reaches the engine, and that nothing old is left there.

Comparing once shows that engine and policy agree now. It does not show that the next update will
arrive: a layer that the engine keeps a packed copy of, or image embeddings in a cache, would still
be those of the start. So each block in turn is changed, sent, and must be seen.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from vlm_rl.model.policy import Policy
from vlm_rl.model.weights import blocks, named_parameters
from vlm_rl.ranks import gather
from vlm_rl.records import Completion
from vlm_rl.rollout.faults import EngineMismatch
from vlm_rl.rollout.vllm.agreement import agreed
from vlm_rl.rollout.vllm.probe import Probe

Groups = Sequence[Sequence[Completion]]

FACTORS = (1.25, 2.0, 4.0, 0.0)
"""What a block is multiplied by, until the policy's own log-probabilities move enough to tell."""

CLEAR = 4.0
"""Enough: this many times what engine and policy differ by while the change is in both."""


def compare(policy: Policy, probe: Probe, groups: Groups, tolerance: float, when: str) -> None:
    """Raise EngineMismatch unless the engine's log-probabilities of `groups` are the policy's; the
    forward is one of all processes."""
    gap = _distance(probe.sampled_logprobs(groups), probe.logprobs(policy, groups))
    if not gap <= tolerance:
        raise EngineMismatch(
            f"{when}, the rollout engine's log-probabilities are {gap:.2g} nats a token from the "
            f"policy's, above {tolerance:.2g}: it has other weights, caches or images; where its "
            "precision explains that, raise engine.init_args.probe_tolerance"
        )


def prove_blocks(
    policy: Policy,
    probe: Probe,
    *,
    sample: Callable[[], Groups],
    send: Callable[[frozenset[str]], None],
    tolerance: float,
) -> list[str]:
    """Change each block, `send` its weights by name, `sample` the probe and compare.

    Weights are restored, bit for bit, in the policy and in the engine. Returns the blocks that the
    probe hardly depends on, of which nothing can be said. Raises EngineMismatch with the block's
    name. Every process goes through it with an engine of its own, or one that all share, and
    changes what it holds of the policy; a block is done once all of them have seen it.
    """
    unseen = []
    stale: frozenset[str] = frozenset()
    for block, parameters in _parameters_by_block(policy).items():
        names = frozenset(parameters)
        seen, hardly_moved = False, True
        for factor in FACTORS:
            with torch.no_grad(), _Scaled(parameters, factor):
                send(names | stale)
                groups = sample()
                changed = probe.logprobs(policy, groups)
            stale = names
            moved = _distance(changed, probe.logprobs(policy, groups))
            gap = _distance(probe.sampled_logprobs(groups), changed)
            seen |= gap <= moved / CLEAR
            hardly_moved &= moved <= CLEAR * tolerance and gap <= tolerance
            if all(gather(seen)):
                break
        else:
            stays = None if seen or hardly_moved else block
            agreed(partial(_refuse, stays, moved, gap))
            unseen.append(block)
    send(stale)
    return unseen


def _refuse(block: str | None, moved: float, gap: float) -> None:
    if block is not None:
        raise EngineMismatch(
            f"weights of {block} do not reach the rollout engine: after a change that moves the "
            f"policy's log-probabilities by {moved:.2g} nats a token, the engine's are {gap:.2g} "
            "from them"
        )


class _Scaled:
    """The parameters multiplied by a factor inside, as they were afterwards."""

    def __init__(self, parameters: Mapping[str, Tensor], factor: float) -> None:
        self._distinct = {id(p): p for p in parameters.values()}  # a tied one counts once
        self._factor = factor

    def __enter__(self) -> None:
        self._kept = {key: p.detach().clone() for key, p in self._distinct.items()}
        for parameter in self._distinct.values():
            parameter.mul_(self._factor)

    def __exit__(self, *_: object) -> None:
        for key, parameter in self._distinct.items():
            parameter.copy_(self._kept[key])


def _parameters_by_block(policy: Policy) -> dict[str, dict[str, Tensor]]:
    """Parameters by block and checkpoint name; tied ones are together in the first block."""
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
    """Mean |difference| in nats a token."""
    return float((a.double() - b.double()).abs().mean())
