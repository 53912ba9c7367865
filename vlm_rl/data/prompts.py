"""Problem -> Prompt: chat template, tokenisation and image processing, once per problem.

Both sides of the loop read the result; no batch is ever given to a processor again, so there is no
padding side, no second tokenisation and no second resizing that could disagree.

What a user writes stays text. The template is rendered with stand-ins for the text parts, cut at
the tokenizer's special tokens, and only then are the parts filled in and tokenised with special
tokens switched off: the result is the ordinary tokenisation, except that `<|image_pad|>` in a
question can never become a placeholder.
"""

import copy
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from PIL import Image, UnidentifiedImageError
from qwen_vl_utils import fetch_image
from qwen_vl_utils.vision_process import smart_resize
from torch import Tensor
from transformers import AutoProcessor

from vlm_rl.records import IMAGE_MARK, Problem, Prompt

Style = Literal["plain", "boxed_think", "think_answer", "answer_line"]

INSTRUCTIONS: dict[Style, str] = {
    "plain": "",
    "boxed_think": (
        "First reason step by step inside <think> </think> tags, "
        "then give the final answer inside \\boxed{}."
    ),
    "think_answer": (
        "First reason step by step inside <think> </think> tags, "
        "then give the final answer inside <answer> </answer> tags."
    ),
    "answer_line": (
        "Reason step by step. The last line must be `Answer: ` followed by the final answer."
    ),
}
"""What each style adds to a question."""

ANSWER_STYLE_OF: dict[Style, str] = {
    "boxed_think": "box",
    "think_answer": "tag",
    "answer_line": "answer_line",
}
"""Where the instruction of a style puts the answer."""


class BadProblem(ValueError):
    """A problem that can not become a prompt: its message says which and why."""


class PromptTooLong(ValueError):
    """A prompt above the limit. Prompts are never cut, since that would cut images."""

    def __init__(self, uid: str, tokens: int, limit: int) -> None:
        super().__init__(
            f"problem {uid}: its prompt has {tokens} tokens, above max_prompt_tokens={limit}; "
            "raise that, or lower max_pixels"
        )
        self.tokens = tokens
        self.limit = limit


class PromptEncoder:
    """Turns problems into prompts for one checkpoint.

    `min_pixels` and `max_pixels` bound the area of each image after resizing (default: what the
    checkpoint's image processor says). `style` names the instruction that is appended to each
    question; `instruction` is one in your own words, instead. `system` is an own system message.
    """

    def __init__(
        self,
        path: str,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_prompt_tokens: int = 2048,
        style: Style = "plain",
        instruction: str | None = None,
        system: str | None = None,
    ) -> None:
        """Load tokenizer and image processor from a checkpoint folder or hub id.

        Raises ValueError where one of them or the chat template is missing or broken, where the
        limits cross, and for an instruction beside a style that has one.
        """
        if instruction is not None and INSTRUCTIONS[style]:
            raise ValueError(
                f"instruction={instruction!r:.40} and style={style} both say how to answer; "
                "keep the instruction with style=plain"
            )
        self.processor: Any = _load_processor(path)
        self.tokenizer: Any = self.processor.tokenizer
        image_processor = self.processor.image_processor
        self.patch_size: int = image_processor.patch_size
        self.merge_size: int = image_processor.merge_size
        size = image_processor.size
        self.min_pixels: int = size["shortest_edge"] if min_pixels is None else min_pixels
        self.max_pixels: int = size["longest_edge"] if max_pixels is None else max_pixels
        self._check_pixels()
        # the one place that says how large images are: also for an engine that is given this
        # processor, and for a checkpoint that is saved with it
        image_processor.size = {"shortest_edge": self.min_pixels, "longest_edge": self.max_pixels}
        self.max_prompt_tokens = max_prompt_tokens
        self.style: Style = style
        self.instruction = INSTRUCTIONS[style] if instruction is None else instruction
        self.system = system
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        specials = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        longest_first = sorted(map(re.escape, specials), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})")
        try:
            self._render(1)
        except (ValueError, TemplateError) as error:
            raise ValueError(f"{path}: its chat template can not be used: {error}") from error

    def with_instruction(self, instruction: str) -> "PromptEncoder":
        """The same encoder with another instruction."""
        other = copy.copy(self)
        other.instruction = instruction
        return other

    def encode(self, problem: Problem) -> Prompt:
        """Render, tokenise and process the images of `problem`.

        Raises BadProblem for an image that can not be read or marks that do not fit the images,
        PromptTooLong above `max_prompt_tokens`.
        """
        images = tuple(self._resized(problem, source) for source in problem.images)
        pixel_values, grid = self._pixels(images)
        unexpanded = self._token_ids(problem)
        token_ids = self._expand(unexpanded, self._visual_tokens(grid))
        self._check_length(problem, len(token_ids))
        return Prompt(
            problem=problem,
            token_ids=torch.tensor(token_ids),
            unexpanded_ids=torch.tensor(unexpanded),
            positions=rope_positions(token_ids, grid, self.image_token_id, self.merge_size),
            pixel_values=pixel_values,
            grid_thw=grid,
            images=images,
        )

    def count_tokens(self, problem: Problem) -> int:
        """Length of the prompt, from image headers alone: no pixel is decoded.

        Raises BadProblem like `encode`, but never PromptTooLong.
        """
        factor = self.patch_size * self.merge_size
        visual = 0
        for source in problem.images:
            with _opened(problem, source) as image:
                height, width = self._target_size(problem, image)
            visual += (height // factor) * (width // factor) - 1
        return len(self._token_ids(problem)) + visual

    def _check_length(self, problem: Problem, tokens: int) -> None:
        if tokens > self.max_prompt_tokens:
            raise PromptTooLong(problem.uid, tokens, self.max_prompt_tokens)

    def _target_size(self, problem: Problem, image: Image.Image) -> tuple[int, int]:
        factor = self.patch_size * self.merge_size
        try:
            height, width = smart_resize(
                image.height, image.width, factor, self.min_pixels, self.max_pixels
            )
        except ValueError as error:
            raise BadProblem(
                f"problem {problem.uid}: image of {image.width} x {image.height} pixels: {error}"
            ) from error
        if not height or not width:
            raise BadProblem(
                f"problem {problem.uid}: image of {image.width} x {image.height} pixels is too "
                f"narrow: less than one visual token high or wide at max_pixels={self.max_pixels}"
            )
        return int(height), int(width)

    def _check_pixels(self) -> None:
        given = f"min_pixels={self.min_pixels} and max_pixels={self.max_pixels}"
        if min(self.min_pixels, self.max_pixels) < 1:
            raise ValueError(
                f"{given} must be above 0, in pixels of area; leave them out for the checkpoint's "
                "own"
            )
        if self.min_pixels > self.max_pixels:
            raise ValueError(
                f"min_pixels={self.min_pixels} is above max_pixels={self.max_pixels}; "
                "give both, in pixels of area"
            )

    def _resized(self, problem: Problem, source: bytes | Path) -> Image.Image:
        with _opened(problem, source) as image:
            self._target_size(problem, image)
            try:
                rgb = _eight_bit(image)
            except _IMAGE_ERRORS as error:
                raise BadProblem(
                    f"problem {problem.uid}: image {_name(source)} is broken: {error}"
                ) from error
            limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
            resized = fetch_image({"image": rgb, **limits}, image_patch_size=self.patch_size)
        assert isinstance(resized, Image.Image)
        return resized

    def _pixels(self, images: Sequence[Image.Image]) -> tuple[Tensor | None, Tensor | None]:
        if not images:
            return None, None
        out = self.processor.image_processor(
            images=list(images), do_resize=False, return_tensors="pt"
        )
        return out["pixel_values"].float(), out["image_grid_thw"]

    def _visual_tokens(self, grid: Tensor | None) -> list[int]:
        return [] if grid is None else [int(n) // self.merge_size**2 for n in grid.prod(-1)]

    def _token_ids(self, problem: Problem) -> list[int]:
        """Ids with one placeholder per image."""
        texts = text_parts(problem, self.instruction)
        rendered = self._render(len(texts))
        ids: list[int] = []
        for piece in self._special.split(rendered):
            if self._special.fullmatch(piece):
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                text = _STAND_IN.sub(lambda match: texts[int(match[1])], piece)
                ids += self.tokenizer.encode(
                    text, add_special_tokens=False, split_special_tokens=True
                )
        return ids

    def _render(self, num_parts: int) -> str:
        """The chat with stand-ins: part 0, image, part 1, image, ..., last part."""
        content: list[dict[str, str]] = []
        for index in range(num_parts):
            if index:
                content.append({"type": "image"})
            content.append({"type": "text", "text": _stand_in(index)})
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if self.system is not None:
            messages.insert(0, {"role": "system", "content": self.system})
        rendered = self.processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return str(rendered)

    def _expand(self, ids: list[int], visual_tokens: list[int]) -> list[int]:
        counts = iter(visual_tokens)
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * (next(counts) if token == self.image_token_id else 1)
        return expanded


def _load_processor(path: str) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(path)
    except (
        OSError, ValueError, TypeError, LookupError, AttributeError, StrictDataclassError
    ) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"{path}: tokenizer or image processor is broken: {reason}") from error
    if not hasattr(processor, "image_processor"):
        raise ValueError(f"{path} has no image processor; a Qwen-VL checkpoint is needed")
    # without its files, transformers builds a tokenizer that reads every text as nothing
    if not processor.tokenizer.encode("a", add_special_tokens=False):
        raise ValueError(f"{path}: its tokenizer has no vocabulary; is tokenizer.json missing?")
    return processor


_STAND_IN = re.compile("\ue000(\\d+)\ue001")


def _stand_in(index: int) -> str:
    """Private-use characters, so that no template and no tokenizer treats them as anything."""
    return f"\ue000{index}\ue001"


def text_parts(problem: Problem, instruction: str) -> list[str]:
    """What the user says around the images, one part more than images: the question, its choices,
    the instruction.

    Without images the mark is ordinary text; without marks the images come first. Raises BadProblem
    for another number of marks than images.
    """
    parts = _around_images(problem)
    parts[-1] += _choices_text(problem)
    if instruction:
        parts[-1] += "\n" + instruction
    return parts


def _around_images(problem: Problem) -> list[str]:
    if not problem.images:
        return [problem.question]
    parts = problem.question.split(IMAGE_MARK)
    if len(parts) == 1:
        return [""] * len(problem.images) + parts
    if len(parts) - 1 != len(problem.images):
        raise BadProblem(
            f"problem {problem.uid}: {len(parts) - 1} {IMAGE_MARK} marks for "
            f"{len(problem.images)} images; write one mark per image, or none"
        )
    return parts


def _choices_text(problem: Problem) -> str:
    if problem.choices is None:
        return ""
    lines = [f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(problem.choices)]
    return "\nChoices:\n" + "\n".join(lines)


def _name(source: bytes | Path) -> str:
    return f"of {len(source)} bytes" if isinstance(source, bytes) else str(source)


_IMAGE_ERRORS = (OSError, SyntaxError, ValueError, RuntimeError, Image.DecompressionBombError)
"""What Pillow's decoders raise on malformed files, besides warnings."""


def _opened(problem: Problem, source: bytes | Path) -> Image.Image:
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except _IMAGE_ERRORS as error:
        # Pillow's own words for this one hold the address of a buffer
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "it is no image in a format that Pillow knows" if unknown else error
        raise BadProblem(
            f"problem {problem.uid}: image {_name(source)} can not be read: {reason}"
        ) from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """Decode to a mode whose conversion to RGB loses nothing that can be seen.

    Greys of 16 bits and floats are scaled to 8 bits, since converting clips them. Transparency of
    any kind becomes RGBA, which qwen-vl-utils lays on white; it drops the others' and so would
    show the black that usually hides there.
    """
    image.load()
    if image.mode.startswith(("I", "F")):
        scale = 255.0 / _white(image)
        image = image.point(lambda value: value * scale).convert("L")
    return image.convert("RGBA") if image.has_transparency_data else image


def _white(image: Image.Image) -> float:
    """The value that means white: by the mode where it says so, else by the brightest pixel."""
    brightest: Any = image.getextrema()[1]
    if image.mode.startswith("I;16") or brightest > 255:
        return 65535.0
    return 1.0 if image.mode == "F" and brightest <= 1 else 255.0


def rope_positions(
    token_ids: Sequence[int], grid_thw: Tensor | None, image_token_id: int, merge_size: int
) -> Tensor:
    """Time, height and width rotary positions of one prompt, [3, S] int64.

    Text counts up on all three axes. The visual tokens of an image lie on its merged grid, offset
    by the position p where it starts; text goes on at p + max(height, width). Still images, as in
    Qwen2-VL, Qwen2.5-VL and Qwen3-VL.
    """
    grids = iter([] if grid_thw is None else grid_thw.tolist())
    columns: list[Tensor] = []
    position = index = 0
    while index < len(token_ids):
        if token_ids[index] == image_token_id:
            time, height, width = next(grids)
            height, width = height // merge_size, width // merge_size
            axes = torch.meshgrid(
                torch.arange(time), torch.arange(height), torch.arange(width), indexing="ij"
            )
            columns.append(position + torch.stack(axes).reshape(3, -1))
            index += time * height * width
            position += max(height, width)
        else:
            columns.append(torch.full((3, 1), position))
            index += 1
            position += 1
    return torch.cat(columns, dim=1)
