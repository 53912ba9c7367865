"""FLOPs by arithmetic are those that torch counts of a real policy, within 1 %.

The policy's attention, recurrences and head are replaced by their formulas, which compute nothing
twice and of which torch counts every product.

Broken on purpose, each seen red: gradients of inputs that nothing trained comes before, and of
frozen weights; completions that do not see their prompt; a backward of attention as dear as its
forward; windows cut off at the border of an image; a merger that reads every patch; prompts without
completions; a frozen tower that is trained; recurrences or
their convolutions left out.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.support.oracles import dense_mask
from tests.support.tiny import FAMILIES, completion_of, problem, prompts_of
from tests.support.wide_delta import MODULES as RECURRENT
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.metrics.flops import ModelFlops, Work, visible_pairs
from vlm_rl.model import attention, experts
from vlm_rl.model import policy as policy_module
from vlm_rl.model.attention import segments
from vlm_rl.model.attention.plain import plain_attention
from vlm_rl.model.logprobs import TokenStats
from vlm_rl.model.lora import LoraSettings
from vlm_rl.model.packing import pack
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rows


def plain_head(hidden: Tensor, weight: Tensor, targets: Tensor, **_: Any) -> TokenStats:
    logprobs = (hidden @ weight.T).log_softmax(-1)
    return TokenStats(logprobs.gather(1, targets[:, None])[:, 0], None)


def plain_rule(
    query: Tensor, key: Tensor, value: Tensor, g: Tensor, beta: Tensor, **given: Any
) -> tuple[Tensor, Tensor]:
    """Compute the gated delta rule token by token, by products alone."""
    query, key, value = (x.transpose(1, 2).float() for x in (query, key, value))
    g, beta = g.transpose(1, 2)[..., None, None].exp(), beta.transpose(1, 2)[..., None]
    state = given["initial_state"]
    if state is None:
        state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
    out = []
    for step in range(query.shape[2]):
        q, k, v = (x[:, :, step, None] for x in (query, key, value))
        state = state * g[:, :, step]
        state = state + k.transpose(-1, -2) @ ((v - k @ state) * beta[:, :, step, None])
        out.append(q @ state)
    return torch.cat(out, 2).transpose(1, 2), state


def plain_convolution(hidden: Tensor, weight: Tensor, *_: Any, **__: Any) -> Tensor:
    """Compute the causal convolution by products; torch miscounts the backward of a grouped one."""
    windows = F.pad(hidden, (weight.shape[-1] - 1, 0)).unfold(-1, weight.shape[-1], 1)
    return F.silu((windows @ weight[:, :, None])[..., 0])


@pytest.fixture(autouse=True)
def counted_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attention, "attention_for", lambda *_: plain_attention)
    monkeypatch.setattr(policy_module, "linear_logprobs", plain_head)
    monkeypatch.setattr(experts, "_GROUPED", ())  # torch does not count a product of groups
    monkeypatch.setattr(segments, "MOST_PADDING", 0)
    for module in RECURRENT:
        monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", plain_rule)
        monkeypatch.setattr(module, "causal_conv1d_fn", plain_convolution)
    with sdpa_kernel(SDPBackend.MATH):
        yield


def rows_of(folder: Path, name: str = "mixed") -> Rows:
    encoder = PromptEncoder(str(folder))
    prompts = prompts_of(encoder, name)
    # windows of a tower that are cut at the border too
    prompts.append(encoder.encode(problem("<image>?", (144, 80), uid="windows")))
    groups = [[completion_of(range(5, 5 + n)) for n in (31, 18)] for _ in prompts]
    return Rows.build(prompts, groups, torch.ones(len(prompts), 2, dtype=torch.bool))


def counted(policy: Policy, rows: Rows, *, backward: bool) -> int:
    """Return what torch counts of a forward, and of its backward."""
    with torch.set_grad_enabled(backward), FlopCounterMode(display=False) as counter:
        stats = policy.logprobs(rows, temperature=1.0)
        if backward:
            stats.logprobs.sum().backward()
    return counter.get_total_flops()


def hidden_flops(policy: Policy, rows: Rows) -> int:
    """Return the FLOPs of a forward on pairs that do not see each other, which plain attention
    computes and masks."""
    computed = sum(
        group.prompt**2 + sum(n * (group.prompt + n) for n in group.completions)
        for group in pack(rows).groups
    )
    text = policy.model.config.get_text_config()
    width = text.num_attention_heads * text.head_dim
    layers = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    hidden = computed - visible_pairs(Work.of_rows(rows).groups)
    return 4 * layers.count("full_attention") * width * hidden


def check(policy: Policy, rows: Rows) -> None:
    flops, work = ModelFlops(policy), Work.of_rows(rows)
    hidden = hidden_flops(policy, rows)
    forward = counted(policy, rows, backward=False) - hidden
    assert forward == pytest.approx(flops.forward(work), rel=0.01)
    # the features of a frozen tower are there before an update
    tower = 0 if flops.tower_is_trained else flops.forward(work) - flops.scoring(work)
    both = counted(policy, rows, backward=True) - 3 * hidden - tower
    assert both == pytest.approx(flops.training(work), rel=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_flops_are_those_that_torch_counts(family: str, checkpoints: dict[str, Path]) -> None:
    check(Policy.from_pretrained(str(checkpoints[family])), rows_of(checkpoints[family]))


@pytest.mark.parametrize("part", ["vision_tower", "language_model"])
def test_frozen_parts_have_no_gradients_of_weights(part: str, checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["qwen2_5_vl"]
    check(Policy.from_pretrained(str(folder), freeze=[part]), rows_of(folder))


@pytest.mark.parametrize("parts", [["language_model"], ["language_model", "vision_tower"]])
def test_adapters_have_gradients_and_their_base_has_none(
    parts: list[str], checkpoints: dict[str, Path]
) -> None:
    pytest.importorskip("peft")
    folder = checkpoints["qwen2_5_vl"]
    lora = LoraSettings(rank=8, parts=parts)
    check(Policy.from_pretrained(str(folder), lora=lora), rows_of(folder))


def test_pairs_are_those_of_the_mask(checkpoints: dict[str, Path]) -> None:
    packed = pack(rows_of(checkpoints["qwen2_5_vl"]))
    assert visible_pairs(packed.groups) == int(dense_mask(packed.groups).sum())


def test_work_is_each_image_once_and_no_prompt_without_completions(
    checkpoints: dict[str, Path],
) -> None:
    encoder = PromptEncoder(str(checkpoints["qwen2_5_vl"]))
    one, other, text, alone = (
        encoder.encode(problem(question, *sizes, uid=question))
        for question, sizes in (
            ("<image>", ((32, 64),)),
            ("The same: <image>", ((32, 64),)),
            ("None", ()),
            ("<image> <image>", ((48, 48), (64, 64))),
        )
    )
    work = Work.of([(one, [3, 0]), (other, [1]), (text, [2, 2]), (alone, [0, 0])])
    assert [group.completions for group in work.groups] == [(3,), (1,), (2, 2)]
    assert work.grids == ((4, 8),)
    assert work.targets == 8
    assert work.tokens == len(one) + len(other) + len(text) + 8
