"""What the routers of a mixture of experts choose, and the choices of an engine in their place.

A router gives each token its K likeliest experts of E, at their softmax probabilities renormalised
to 1. A forward may be handed the experts that another one chose ("rollout routing replay",
arXiv:2510.11370): the router's own probabilities of these are renormalised, so that its gradient
stays. There are L routers, one in each layer with experts, counted from the first.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Output = tuple[Tensor, Tensor, Tensor]
"""Of a router for S tokens: logits [S, E], weights [S, K] and the experts that have them [S, K]."""


class RouterStats(NamedTuple):
    """Of the N tokens that predict another one.

    `counts` [L, E] int64: for how many each expert was computed. `entropy` [N] float32: of the
    distribution over experts, in nats, the mean over routers. `known` [N] bool: tokens whose
    experts an engine has given; `differing` [N] int64: at how many routers the likeliest experts
    are others than those. Only if asked for: `probs` [N, E], the mean over routers with its
    graph, and `loads` [N, E], how often an expert was computed for a token, the mean over routers.
    """

    counts: Tensor
    entropy: Tensor
    known: Tensor
    differing: Tensor
    probs: Tensor | None
    loads: Tensor | None


class RouterListener(Protocol):
    """What a router's output is shown to; `number` counts routers from 0."""

    def route(self, number: int, output: Output) -> Output: ...


class Recorder:
    """Keeps the experts of every token of a forward."""

    def __init__(self) -> None:
        self._chosen: list[Tensor] = []

    def route(self, number: int, output: Output) -> Output:
        logits, _, chosen = output
        self._chosen.append(chosen.to(torch.uint8 if logits.shape[-1] <= 256 else torch.int16))
        return output

    def experts(self) -> Tensor:
        """Return [S, L, K], bytes if there are at most 256 experts, else int16."""
        return torch.stack(self._chosen, 1)


class Routing:
    """Measures the routers of a packed row of S tokens at its `predictors` [N].

    `given` [S, L, K]: the experts that an engine chose, -1 where that is unknown; None if it says
    nothing. They are taken if `replays`. `with_balance` asks for all of `RouterStats`.
    """

    def __init__(
        self, predictors: Tensor, given: Tensor | None, *, replays: bool, with_balance: bool
    ) -> None:
        self._predictors = predictors
        self._given = given
        self._replays = replays
        self._with_balance = with_balance
        self._measured: dict[int, tuple[Tensor, ...]] = {}
        self._probs: list[Tensor] = []

    def route(self, number: int, output: Output) -> Output:
        """Return the output to use. The forward of a checkpointed layer, and its repetition in the
        backward, use the same; only the first is measured."""
        logits, _, own = output
        if self._replays and self._given is not None:
            output = _with_experts(output, self._given[:, number])
        # in the repetition too: it has to save for the backward what the forward has saved
        probs = (
            logits[self._predictors].softmax(-1, dtype=torch.float32)
            if self._with_balance
            else None
        )
        if number not in self._measured:
            if probs is not None:
                self._probs.append(probs)
            with torch.no_grad():
                self._measured[number] = self._measure(number, logits, own, output[2])
        return output

    def _measure(
        self, number: int, logits: Tensor, own: Tensor, used: Tensor
    ) -> tuple[Tensor, ...]:
        """Return this router's share of what `stats` sums."""
        own, used = own[self._predictors], used[self._predictors]
        log_probs = logits[self._predictors].log_softmax(-1, dtype=torch.float32)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        loads = torch.zeros_like(log_probs).scatter_(1, used, 1.0)
        known = differing = torch.zeros(len(own), dtype=torch.bool, device=own.device)
        if self._given is not None:
            given = self._given[self._predictors, number].to(own.dtype)
            known = (given >= 0).all(-1)
            differing = known & (given.sort(-1).values != own.sort(-1).values).any(-1)
        return loads.sum(0).long(), entropy, known, differing, loads

    def stats(self) -> RouterStats:
        """Return what was measured, once all routers have been heard."""
        counts, entropy, known, differing, loads = zip(*self._measured.values(), strict=True)
        with_balance = self._with_balance
        return RouterStats(
            torch.stack(counts),
            torch.stack(entropy).mean(0),
            known[0],
            torch.stack(differing).sum(0),
            torch.stack(self._probs).mean(0) if with_balance else None,
            torch.stack(loads).mean(0) if with_balance else None,
        )


def _with_experts(output: Output, given: Tensor) -> Output:
    """Give tokens the experts `given` [S, K] in place of the likeliest, but for those of -1."""
    logits, _, own = output
    given = given.to(own.dtype)
    used = torch.where(given < 0, own, given)
    probs = logits.softmax(-1, dtype=torch.float32).gather(1, used)
    return logits, (probs / probs.sum(-1, keepdim=True)).to(logits.dtype), used


def listen(language_model: Any, routers: str) -> int:
    """Let each layer take a `routing`, which its router is to be heard by; return L.

    `routers` is a regular expression on the path of a router below its layer.
    """
    number = 0
    for layer in language_model.layers:
        for path, router in layer.named_modules():
            if re.fullmatch(routers, path):
                layer.register_forward_pre_hook(partial(_hand_on, path=path), with_kwargs=True)
                router.register_forward_hook(partial(_heard, number=number))
                router.listener = None
                number += 1
    return number


def _hand_on(layer: nn.Module, _: Any, kwargs: Mapping[str, Any], *, path: str) -> None:
    """Hand `routing` to the router: from layer to router nothing but hidden states are passed on.
    A checkpointed layer is called again with the same, so each backward finds its own."""
    layer.get_submodule(path).listener = kwargs.get("routing")  # type: ignore[assignment]


def _heard(router: Any, _: Any, output: Output, *, number: int) -> Output:
    listener, router.listener = router.listener, None
    return output if listener is None else listener.route(number, output)
