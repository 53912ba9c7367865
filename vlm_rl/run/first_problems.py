"""What a run shows before it trains: the first problem of each source as the model will see it."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vlm_rl.data.datamodule import ProblemData
from vlm_rl.data.prompts import BadProblem, PromptEncoder, PromptTooLong
from vlm_rl.disk.files import written_whole
from vlm_rl.records import Prompt
from vlm_rl.show.screen import say, say_all

FOLDER = "first_problems"
"""In the run's folder: the images of the first problem of each source, as they are resized."""
_SIDE = 512
_GAP = 8
_MOST_CHARS = 1200


def show_first_problems(data: ProblemData, run_dir: Path) -> None:
    """Print the prompt of the first problem of each source and its tokens; write its images."""
    for number, (name, problems) in enumerate(data.looked_at.items(), 1):
        try:
            prompt = data.encoder.encode(problems[0])
            counts = [data.encoder.count_tokens(problem) for problem in problems]
        except (BadProblem, PromptTooLong) as error:
            say(f"{name}: {error}")
            continue
        file = ""
        if prompt.images:
            target = Path(run_dir, FOLDER, f"{number}_{name.partition(' ')[0]}.png")
            _write(prompt.images, target)
            file = f", its images are in {target}"
        visual = len(prompt) - len(prompt.unexpanded_ids) + len(prompt.images)
        say(
            f"{name}: {min(counts)} to {max(counts)} tokens in the prompts of {len(counts)} "
            f"problems; the first has {len(prompt)}, {visual} of them of images{file}:"
        )
        say_all(shown_prompt(data.encoder, prompt))


def shown_prompt(encoder: PromptEncoder, prompt: Prompt) -> str:
    """Return the text that the model reads, with one placeholder per image, cut in the middle."""
    text: str = encoder.tokenizer.decode(prompt.unexpanded_ids, skip_special_tokens=False)
    if len(text) <= _MOST_CHARS:
        return text
    half = _MOST_CHARS // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters ... {text[-half:]}"


def _write(images: Sequence[Image.Image], target: Path) -> None:
    """Write the images side by side, the largest side small."""
    scale = min(1.0, _SIDE / max(max(image.size) for image in images))
    small = [image.resize([max(1, round(side * scale)) for side in image.size]) for image in images]
    width = sum(image.width for image in small) + _GAP * (len(small) - 1)
    page = Image.new("RGB", (width, max(image.height for image in small)), "white")
    left = 0
    for image in small:
        page.paste(image, (left, 0))
        left += image.width + _GAP
    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as partial:
        page.save(partial, "PNG")
