"""Ask a checkpoint one question about one image:

    python -m vlm_rl.ask --model runs/quickstart/checkpoints/best/hf --image chart.png \\
        --question "What is the total of the bars?"
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from vlm_rl.config import one_line_errors, parse
from vlm_rl.data.prompts import PromptEncoder, Style
from vlm_rl.model.policy import Policy, check_checkpoint
from vlm_rl.records import Completion, Problem
from vlm_rl.rollout import Sampling, TransformersEngine
from vlm_rl.run.endings import one_line_endings
from vlm_rl.show.help.parser import explain_arguments, new_parser
from vlm_rl.show.screen import say, say_all


def ask(
    model: str,
    question: str,
    image: Sequence[Path] = (),
    temperature: float = 0.0,
    max_completion_tokens: int = 1024,
    style: Style = "plain",
    seed: int = 0,
) -> Completion:
    """Answer `question` about the images with a checkpoint folder or hub id.

    Greedy unless `temperature` is above 0. Raises ValueError for a checkpoint or image that cannot
    be read.
    """
    sampling = Sampling(temperature, max_completion_tokens)
    check_checkpoint(model)
    encoder = PromptEncoder(model, style=style, max_prompt_tokens=32768)
    problem = Problem(uid="ask", question=question, answer="?", images=tuple(image))
    prompt = encoder.encode(problem)
    engine = TransformersEngine()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    engine.start(Policy.from_pretrained(model).to(device), encoder, sampling)
    return engine.generate([prompt], group_size=1, sampling=sampling, seed=seed)[0][0]


def main(argv: Sequence[str] | None = None) -> None:
    """Print the answer and its log-probability."""
    with one_line_endings("vlm_rl.ask"):
        _ask(argv)


def _ask(argv: Sequence[str] | None) -> None:
    with one_line_errors("vlm_rl.ask"):
        parser = new_parser("ask", __doc__, "--model MODEL --question QUESTION [--image FILE ...]")
        parser.add_argument("--image", type=Path, nargs="*", default=[], help="any number of files")
        parser.add_function_arguments(ask, skip={"image"})
        explain_arguments(parser, ask)
        config = parse(parser, argv)
        completion = ask(**vars(config))
    say_all(completion.text)
    total = float(completion.sampling_logprobs.sum())
    mean = total / max(len(completion), 1)
    ended = "ended by itself" if not completion.truncated else "cut at max_completion_tokens"
    say(f"log-probability {total:.4f} over {len(completion)} tokens ({mean:.4f} a token), {ended}")


if __name__ == "__main__":
    main()
