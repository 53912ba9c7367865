"""Accuracy and length of a policy on held-out synthetic problems, by style, family and depth.

    python -m data_prep.measure --policy data_prep/warm_start --count 576

prints Markdown tables: sampled at temperature 1, greedy, blind (a grey image), and with each style
of completion forced by banning the tokens of the other styles.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2Tokenizer,
)

from data_prep.scenes import DIFFICULTIES, FAMILIES, STYLES, Scene, Style
from data_prep.supervise import encode
from data_prep.synthetic import DEFAULT_DIFFICULTY, SyntheticProblem, generate
from vlm_rl.show.screen import say_all, track

MAX_COMPLETION_TOKENS = 64
BATCH = 64


@dataclass(frozen=True)
class Outcome:
    """One completion: style, number of tokens with the end of turn, and whether it is right."""

    scene: Scene
    style: Style
    length: int
    right: bool


def measure(
    policy: PreTrainedModel,
    processor: ProcessorMixin,
    problems: Sequence[SyntheticProblem],
    *,
    greedy: bool = False,
    forced: Style | None = None,
) -> list[Outcome]:
    """Answer each problem once, at temperature 1 or greedily; `forced` allows one style only.

    A completion is right if it ends in the boxed answer. Draws from torch's global generator.
    """
    tokenizer = processor.tokenizer
    banned = _placeholder_ids(tokenizer) + (_other_style_ids(tokenizer, forced) if forced else [])
    sampling = {"do_sample": False} if greedy else {"do_sample": True, "top_k": 0, "top_p": 1.0}
    outcomes = []
    for start in track(
        range(0, len(problems), BATCH), forced or ("greedy" if greedy else "sampled")
    ):
        batch = problems[start : start + BATCH]
        inputs = encode(processor, batch, [""] * len(batch), padding_side="left")
        with torch.no_grad():
            tokens = policy.generate(
                **inputs, **sampling, max_new_tokens=MAX_COMPLETION_TOKENS, suppress_tokens=banned
            )
        completions = tokens[:, inputs["input_ids"].shape[1] :]
        lengths = (completions != tokenizer.pad_token_id).sum(-1).tolist()
        texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
        for problem, text, length in zip(batch, texts, lengths, strict=True):
            right = text.endswith(f"\\boxed{{{problem.scene.answer}}}")
            outcomes.append(Outcome(problem.scene, style_of(text), length, right))
    return outcomes


def style_of(text: str) -> Style:
    """Return the style: full working starts a new line after its first part, abbreviated working
    after its second."""
    if text.startswith("\\boxed"):
        return "direct"
    return "full" if ";b" in text else "abbreviated"


def blinded(problem: SyntheticProblem) -> SyntheticProblem:
    """Return the same problem with a grey image of the same size."""
    return replace(problem, image=Image.new("RGB", problem.image.size, (128, 128, 128)))


def report(
    policy: PreTrainedModel, processor: ProcessorMixin, problems: Sequence[SyntheticProblem]
) -> str:
    """Return all measurements as two Markdown tables."""
    sampled = measure(policy, processor, problems)
    greedy = measure(policy, processor, problems, greedy=True)
    blind = measure(policy, processor, [blinded(problem) for problem in problems])
    by_style = {style: measure(policy, processor, problems, forced=style) for style in STYLES}
    ranked = sorted(sampled, key=lambda outcome: outcome.length)
    third = len(ranked) // 3
    columns = {
        "sampled": sampled,
        "greedy": greedy,
        "blind": blind,
        **{f"forced {style}": outcomes for style, outcomes in by_style.items()},
    }
    spread = {
        **{f"chose {s}": [o for o in sampled if o.style == s] for s in STYLES},
        "shortest third": ranked[:third],
        "middle third": ranked[third : 2 * third],
        "longest third": ranked[2 * third :],
    }
    return f"{_breakdown(columns)}\n\n{_breakdown(spread)}"


def _breakdown(columns: dict[str, list[Outcome]]) -> str:
    """Return the accuracy in % of each column, over all problems and by family and difficulty."""
    lines = [
        f"| accuracy, % | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}",
        _line("all", columns.values()),
    ]
    for family in FAMILIES:
        own = [[o for o in column if o.scene.family == family] for column in columns.values()]
        lines.append(_line(family, own))
        for level in DIFFICULTIES:
            cells = [[o for o in column if o.scene.difficulty == level] for column in own]
            if any(cells):
                lines.append(_line(f"{family}, difficulty {level}", cells))
    lengths = [_mean([o.length for o in column]) for column in columns.values()]
    counts = [str(len(column)) for column in columns.values()]
    lines += [f"| mean tokens | {' | '.join(lengths)} |", f"| completions | {' | '.join(counts)} |"]
    return "\n".join(lines)


def _line(name: str, columns: Iterable[Sequence[Outcome]]) -> str:
    cells = [_mean([100 * outcome.right for outcome in column]) for column in columns]
    return f"| {name} | {' | '.join(cells)} |"


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.1f}" if values else "-"


def _placeholder_ids(tokenizer: Qwen2Tokenizer) -> list[int]:
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    ids: list[int] = tokenizer.convert_tokens_to_ids(names)
    return ids


def _other_style_ids(tokenizer: Qwen2Tokenizer, style: Style) -> list[int]:
    """Return the tokens that only the other styles have.

    Three kinds of token show a style: a box at the very start, a letter within a line, a letter at
    the start of a line. Full working never has the second. Abbreviated working never has the third
    for every other letter.
    """
    letters = "bcdefgh"
    banned = {
        "full": ["\\boxed", *letters],
        "abbreviated": ["\\boxed", "*", *(f";{letter}" for letter in letters[::2])],
        "direct": ["a"],
    }
    ids: list[int] = tokenizer.convert_tokens_to_ids(banned[style])
    return ids


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a policy on the synthetic set.")
    parser.add_argument("--policy", type=Path, required=True, help="checkpoint folder")
    parser.add_argument("--count", type=int, default=576, help="held-out problems")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)  # more threads than free cores are much slower
    policy = AutoModelForImageTextToText.from_pretrained(arguments.policy)
    processor = AutoProcessor.from_pretrained(arguments.policy)
    problems = list(
        generate("val", arguments.count, seed=arguments.seed, difficulty=DEFAULT_DIFFICULTY)
    )
    say_all(report(policy, processor, problems))


if __name__ == "__main__":
    main()
