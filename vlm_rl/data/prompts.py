"""Problem -> Prompt: chat template, tokenisation and image processing, once per problem.

Rollout and training read the same result. No batch is ever given to a processor again, so no
padding side, second tokenisation or second resizing can disagree.

What a user writes stays text. The chat template is rendered with stand-ins for the text parts and
cut at the tokenizer's special tokens. Only then are the parts filled in and tokenised, with special
tokens switched off. The result is the ordinary tokenisation, except that `<|image_pad|>` in a
question can never become a placeholder.
"""

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tokenizers import models, normalizers
from torch import Tensor
from transformers import AutoProcessor

from vlm_rl.data.image_files import BadImage, Size
from vlm_rl.data.images import Resizer
from vlm_rl.data.template import STAND_IN, ChatTemplate, stand_in
from vlm_rl.model.families import IMAGE_TOKEN, rope_positions
from vlm_rl.records import IMAGE_MARK, THINK, ImageSizes, Problem, Prompt

Read = TypeVar("Read")

TemplateArg = bool | int | float | str
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
"""The instruction that each style appends to a question."""

ANSWER_STYLE_OF: dict[Style, str] = {
    "boxed_think": "box",
    "think_answer": "tag",
    "answer_line": "answer_line",
}
"""The answer style that the instruction of a style asks for."""


class BadProblem(ValueError):
    """A problem that cannot become a prompt. The message says which and why."""


class PromptTooLong(ValueError):
    """A prompt above the limit. Prompts are never cut, because that would cut images."""

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
    question; `instruction` replaces it by your own words. `system` is the system message of
    problems that have none of their own. `template_args` are values for variables of the chat
    template, such as {enable_thinking: false}.
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
        template_args: dict[str, TemplateArg] | None = None,
    ) -> None:
        """Load tokenizer and image processor from a checkpoint folder or hub id.

        Raises ValueError if one of them or the chat template is missing or broken, if the limits
        cross, for an instruction beside a style that has one, and for a template argument that the
        template does not read.
        """
        if instruction is not None and INSTRUCTIONS[style]:
            raise ValueError(
                f"instruction={instruction!r:.40} and style={style} both say how to answer; "
                "keep the instruction with style=plain"
            )
        self.processor: Any = _load_processor(path)
        self.tokenizer: Any = self.processor.tokenizer
        image_processor = self.processor.image_processor
        size = image_processor.size
        self.resizer = Resizer(
            patch_size=image_processor.patch_size,
            merge_size=image_processor.merge_size,
            min_pixels=size["shortest_edge"] if min_pixels is None else min_pixels,
            max_pixels=size["longest_edge"] if max_pixels is None else max_pixels,
        )
        # an engine that is given this processor, and a checkpoint saved with it, read these limits
        image_processor.size = {
            "shortest_edge": self.resizer.min_pixels,
            "longest_edge": self.resizer.max_pixels,
        }
        self.max_prompt_tokens = max_prompt_tokens
        self.style: Style = style
        self.instruction = INSTRUCTIONS[style] if instruction is None else instruction
        self.system = system
        self._most_in_text = _most_in_text(self.tokenizer)
        self._fixed: dict[str, list[int]] = {}
        self.image_token_id: int = self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        specials = [t.content for t in self.tokenizer.added_tokens_decoder.values() if t.special]
        longest_first = sorted(map(re.escape, specials), key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(longest_first)})")
        self.path = path
        self.template_args = template_args or {}
        self._templates: dict[bool, ChatTemplate] = {}
        self._template(system)

    def with_instruction(self, instruction: str) -> "PromptEncoder":
        """Return the same encoder with another instruction."""
        other = copy.copy(self)
        other.instruction = instruction
        return other

    def encode(self, problem: Problem) -> Prompt:
        """Render, tokenise and process the images of `problem`.

        Raises BadProblem for an image that cannot be read or marks that do not fit the images,
        PromptTooLong above `max_prompt_tokens`.
        """
        resized = _of_each_image(problem, self.resizer.resized_from)
        images = tuple(image for image, _ in resized)
        pixel_values, grid = self._pixels(images)
        texts, rendered = self._rendered(problem)
        unexpanded = self._token_ids(rendered, texts)
        token_ids = self._expand(unexpanded, self._visual_tokens(grid))
        if len(token_ids) > self.max_prompt_tokens:
            raise PromptTooLong(problem.uid, len(token_ids), self.max_prompt_tokens)
        sizes = tuple(ImageSizes(original, image.size) for image, original in resized)
        return Prompt(
            problem=replace(problem, sizes=sizes),
            token_ids=torch.tensor(token_ids),
            unexpanded_ids=torch.tensor(unexpanded),
            positions=rope_positions(token_ids, grid, self.image_token_id, self.resizer.merge_size),
            pixel_values=pixel_values,
            grid_thw=grid,
            images=images,
            # read before the texts are filled in, so that only the template can open the thinking
            opening=THINK if rendered.rstrip().endswith(THINK) else "",
        )

    def count_tokens(self, problem: Problem) -> int:
        """Return the length of the prompt, from image headers alone: no pixel is decoded.

        Raises BadProblem like `encode`, but never PromptTooLong.
        """
        visual_tokens = _of_each_image(problem, self.resizer.num_tokens)
        texts, rendered = self._rendered(problem)
        text_ids = self._token_ids(rendered, texts)
        return len(text_ids) + sum(visual_tokens) - len(visual_tokens)

    def unfit(
        self, problems: Iterable[Problem], size_of: Callable[[bytes | Path], Size]
    ) -> Iterator[tuple[Problem, int | BadProblem]]:
        """Yield the problems that cannot be prompts, each with its tokens above the limit or why.

        As `count_tokens` would say of each, but nothing is opened: `size_of` gives the size of an
        image. Only a prompt that may be too long is tokenised; a token is never less than a byte.
        """
        for problem in problems:
            try:
                visual = sum(self.resizer.num_tokens_at(size_of(one)) for one in problem.images)
                texts, rendered = self._rendered(problem)
            except BadImage as error:
                yield problem, _of_problem(problem, error)
                continue
            except BadProblem as error:
                yield problem, error
                continue
            around = self._special.sub(" ", rendered)  # a special token is one token
            if visual + sum(map(self._most_in_text, (around, *texts))) <= self.max_prompt_tokens:
                continue
            tokens = visual + len(self._token_ids(rendered, texts)) - len(problem.images)
            if tokens > self.max_prompt_tokens:
                yield problem, tokens

    def _pixels(self, images: Sequence[Image.Image]) -> tuple[Tensor | None, Tensor | None]:
        if not images:
            return None, None
        out = self.processor.image_processor(
            images=list(images), do_resize=False, return_tensors="pt"
        )
        return out["pixel_values"].float(), out["image_grid_thw"]

    def _visual_tokens(self, grid: Tensor | None) -> list[int]:
        return [] if grid is None else [int(n) // self.resizer.merge_size**2 for n in grid.prod(-1)]

    def _rendered(self, problem: Problem) -> tuple[list[str], str]:
        """Return the texts of a chat, those of the question and then the system message, and the
        chat with stand-ins for them. Raises BadProblem."""
        texts = text_parts(problem, self.instruction)
        system = self.system if problem.system is None else problem.system
        rendered = self._template(system).rendered(len(texts))
        return texts if system is None else [*texts, system], rendered

    def turns(self) -> tuple[str, str, str] | None:
        """Return what the template writes behind a question: as the policy sees it, in a chat that
        goes on with an answer, and behind that answer. None if it renders no answer."""
        template = self._template(self.system)
        around = template.around_answer()
        if around is None:
            return None
        return template.rendered(1).partition(stand_in(0))[2], *around

    def special_tokens(self, text: str) -> list[str]:
        """Return the special tokens in `text`, in their order."""
        return self._special.findall(text)

    def _template(self, system: str | None) -> ChatTemplate:
        """Return the template for chats with or without a system message, checked on first use."""
        has_system = system is not None
        if has_system not in self._templates:
            self._templates[has_system] = ChatTemplate(
                self.path,
                self.processor.chat_template,
                self.tokenizer.special_tokens_map,
                has_system=has_system,
                args=self.template_args,
            )
        return self._templates[has_system]

    def _token_ids(self, rendered: str, texts: Sequence[str]) -> list[int]:
        """Return the ids of a rendered chat and its texts, with one placeholder per image."""
        ids: list[int] = []
        for piece in self._special.split(rendered):
            if self._special.fullmatch(piece):
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                text = STAND_IN.sub(lambda match: texts[int(match[1])], piece)
                ids += self._fixed_ids(text) if text == piece else self._ids(text)
        return ids

    def _fixed_ids(self, text: str) -> list[int]:
        """Return the ids of what the template itself says, tokenised once."""
        if text not in self._fixed:
            self._fixed[text] = self._ids(text)
        return self._fixed[text]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return ids

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
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        StrictDataclassError,
    ) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise ValueError(f"{path}: tokenizer or image processor is broken: {reason}") from error
    if not hasattr(processor, "image_processor"):
        raise ValueError(f"{path} has no image processor; a Qwen-VL checkpoint is needed")
    # `split_special_tokens` is a state of the tokenizer: set here, and by no thread later
    # without its files, transformers builds a tokenizer that reads every text as nothing
    if not processor.tokenizer.encode("a", add_special_tokens=False, split_special_tokens=True):
        raise ValueError(f"{path}: its tokenizer has no vocabulary; is tokenizer.json missing?")
    return processor


def text_parts(problem: Problem, instruction: str) -> list[str]:
    """Return the text around the images, one part more than images.

    It is the question, its choices and the instruction. Without images the mark is ordinary text;
    without marks the images come first. Raises BadProblem if marks and images differ in number.
    """
    parts = _around_images(problem)
    parts[-1] += choices_text(problem.choices)
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


def choices_text(choices: Sequence[str] | None) -> str:
    """Return how options are shown behind a question, "" without any."""
    if choices is None:
        return ""
    lines = [f"({chr(ord('A') + i)}) {choice}" for i, choice in enumerate(choices)]
    return "\nChoices:\n" + "\n".join(lines)


def _of_each_image(problem: Problem, read: Callable[[bytes | Path], Read]) -> tuple[Read, ...]:
    try:
        return tuple(read(source) for source in problem.images)
    except BadImage as error:
        raise _of_problem(problem, error) from error


def _of_problem(problem: Problem, error: BadImage) -> BadProblem:
    return BadProblem(f"problem {problem.uid}: {error}")


def _most_in_text(tokenizer: Any) -> Callable[[str], float]:
    """Return what bounds the tokens of a text from above at no cost.

    Byte-level BPE, that of all Qwen, begins with a token a byte and then only merges. Of others
    nothing is known. Its normalisation, NFC, leaves ASCII alone and makes a text at most three
    times as long (Unicode Standard Annex 15).
    """
    backend = tokenizer.backend_tokenizer
    by_bytes = (
        isinstance(backend.model, models.BPE)
        and "ByteLevel(add_prefix_space=False" in str(backend.pre_tokenizer)
        and (backend.normalizer is None or isinstance(backend.normalizer, normalizers.NFC))
    )
    return _most_of_bytes if by_bytes else _unbounded


def _most_of_bytes(text: str) -> float:
    return len(text) if text.isascii() else 3 * len(text.encode(errors="replace"))


def _unbounded(_: str) -> float:
    return math.inf
