"""The warm start of the tiny policy: supervised learning that is stopped early.

First all completions have their steps in full, which teaches a policy of this size most about where
to look. Then each is in a random style (full, abbreviated, or no steps), so that the policy can
choose its length. In the last part most have no steps. Training ends while more than half of the
sampled answers are still wrong, so that reinforcement learning has something to improve.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

from data_prep.scenes import DIFFICULTIES, STYLES, Scene, completion
from data_prep.synthetic import SyntheticProblem, generate

BATCH = 64
BOX = "\\boxed{"

Writer = Callable[[Scene], str]
"""Writes the completion of a scene in one style."""


@dataclass(frozen=True)
class Lesson:
    """A part of the training with an optimizer of its own.

    Updates before number `full_steps` see the first style only, the others each style as often as
    `style_weights` say. The learning rate rises to `peak_lr` within `rising_steps`, and falls as a
    cosine to `final_lr` over the mixed updates. Problems of `difficulty` are drawn with `seed`. The
    box of a style is right in a share `right_shares` of its completions, and else has the answer of
    another problem. A `sentence` ends each question, with a number of tokens in place of
    `{tokens}` that its completion does not exceed, up to `most_tokens`.
    """

    full_steps: int
    mixed_steps: int
    style_weights: tuple[int, ...]
    peak_lr: float
    final_lr: float
    rising_steps: int
    seed: int
    difficulty: tuple[int, ...] = tuple(DIFFICULTIES)
    styles: tuple[Writer, ...] = tuple(partial(completion, style=style) for style in STYLES)
    right_shares: tuple[float, ...] | None = None
    sentence: str | None = None
    most_tokens: int = 0

    @property
    def num_steps(self) -> int:
        return self.full_steps + self.mixed_steps

    def lr(self, step: int) -> float:
        """Return the learning rate of update `step`, counted from 1."""
        if step < self.full_steps or self.final_lr == self.peak_lr:
            return self.peak_lr * min(1.0, step / self.rising_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * (step - self.full_steps) / self.mixed_steps))
        return self.final_lr + (self.peak_lr - self.final_lr) * cosine


WARM_START = (
    Lesson(270, 350, (5, 3, 2), peak_lr=2e-3, final_lr=2e-4, rising_steps=50, seed=0),
    Lesson(0, 40, (5, 4, 11), peak_lr=3e-4, final_lr=3e-4, rising_steps=10, seed=1),
)
"""The policy first learns to work step by step, then mostly to answer at once: the better style is
left for reinforcement learning to find."""


def warm_start(
    policy: PreTrainedModel, processor: ProcessorMixin, lessons: Sequence[Lesson] = WARM_START
) -> Iterator[float]:
    """Train `policy` in place, 64 problems an update.

    Yields the loss of each update, the mean cross entropy of the completion tokens.
    """
    policy.train()
    for lesson in lessons:
        yield from _train(policy, processor, lesson)
    policy.eval()


def _train(policy: PreTrainedModel, processor: ProcessorMixin, lesson: Lesson) -> Iterator[float]:
    rng = random.Random(lesson.seed)
    problems = generate(
        "train", lesson.num_steps * BATCH, seed=lesson.seed, difficulty=lesson.difficulty
    )
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(1, lesson.num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lesson.lr(step)
        batch = list(islice(problems, BATCH))
        texts = _texts(rng, lesson, batch, mixed=step >= lesson.full_steps)
        if lesson.sentence is not None:
            lengths = [len(ids) + 1 for ids in processor.tokenizer(texts).input_ids]
            batch = _with_target(rng, lesson.sentence, lesson.most_tokens, batch, lengths)
        loss = completion_loss(policy, processor, batch, texts)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        yield loss.item()


def _texts(
    rng: random.Random, lesson: Lesson, problems: Sequence[SyntheticProblem], *, mixed: bool
) -> list[str]:
    """Write a completion of each problem."""
    numbers = range(len(lesson.styles))
    chosen = [rng.choices(numbers, lesson.style_weights)[0] if mixed else 0 for _ in problems]
    texts = [lesson.styles[n](p.scene) for n, p in zip(chosen, problems, strict=True)]
    if lesson.right_shares is None:
        return texts
    wrong = [rng.random() >= lesson.right_shares[number] for number in chosen]
    answers = [problem.scene.answer for problem in problems]
    return [
        _with_another_answer(rng, text, answer, answers) if spoilt else text
        for text, answer, spoilt in zip(texts, answers, wrong, strict=True)
    ]


def _with_target(
    rng: random.Random,
    sentence: str,
    most: int,
    problems: Sequence[SyntheticProblem],
    lengths: Sequence[int],
) -> list[SyntheticProblem]:
    """End each question with a target between its completion's length and `most`, or that length
    if it is larger. Lengths count the end of turn."""
    targets = [rng.randint(length, max(length, most)) for length in lengths]
    return [
        replace(problem, question=f"{problem.question} {sentence.format(tokens=target)}")
        for problem, target in zip(problems, targets, strict=True)
    ]


def _with_another_answer(rng: random.Random, text: str, answer: int, answers: Sequence[int]) -> str:
    """Put one of the other `answers` into the box."""
    others = [other for other in answers if other != answer] or [answer + 1]
    return f"{text[: text.rindex(BOX)]}{BOX}{rng.choice(others)}}}"


def completion_loss(
    policy: PreTrainedModel,
    processor: ProcessorMixin,
    problems: Sequence[SyntheticProblem],
    completions: Sequence[str],
) -> Tensor:
    """Return the mean cross entropy of the completions' tokens and their end of turn."""
    tokenizer = processor.tokenizer
    turns = [text + tokenizer.eos_token for text in completions]
    inputs = encode(processor, problems, turns, padding_side="right")
    length = inputs["attention_mask"].sum(-1, keepdim=True)
    trained = torch.tensor([[len(ids)] for ids in tokenizer(turns).input_ids])
    position = torch.arange(inputs["input_ids"].shape[1])
    mask = ((position < length) & (position >= length - trained))[:, 1:]
    logits = policy(**inputs, use_cache=False).logits[:, :-1]
    return functional.cross_entropy(logits[mask], inputs["input_ids"][:, 1:][mask])


def encode(
    processor: ProcessorMixin,
    problems: Sequence[SyntheticProblem],
    completions: Sequence[str],
    *,
    padding_side: Literal["left", "right"],
) -> BatchFeature:
    """Return model inputs of each prompt followed by its completion, padded to one length."""
    texts = [
        _prompt_text(processor, problem) + completion
        for problem, completion in zip(problems, completions, strict=True)
    ]
    return processor(
        text=texts,
        images=[problem.image for problem in problems],
        padding=True,
        padding_side=padding_side,
        return_tensors="pt",
    )


def _prompt_text(processor: ProcessorMixin, problem: SyntheticProblem) -> str:
    content = [{"type": "image"}, {"type": "text", "text": problem.question}]
    text: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text
