"""The chat template of a checkpoint: a program by others, rendered in a process with limits.

What it makes of a chat depends on the number of its parts only, because the texts of a user are
stand-ins while it runs. So each number is rendered once.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import vlm_rl
from vlm_rl.errors import joined
from vlm_rl.model.families import IMAGE_TOKEN
from vlm_rl.verification.limits import CLOCK_FACTOR, TIMED_OUT

CPU_S = 2.0
MEMORY_MB = 512
MAX_CHARS = 200_000
"""Characters of a template, and of what it makes of a chat without its texts; real ones have 10,000
and 500."""

STAND_IN = re.compile("\ue000(\\d+)\ue001")
_OF_EVERY_CHAT = ("messages", "tools", "documents", "add_generation_prompt")
_TOGETHER = 8
_MOST_SHOWN = 300
_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


class ChatTemplate:
    """The template of a checkpoint at `path`, which was read as `source`.

    `variables` are the special tokens by their names, `args` values of the user's own for variables
    of the template. Raises ValueError with the template's file: on construction for an arg that it
    does not read, and if a chat without or with one image cannot be rendered; later for other
    chats.
    """

    def __init__(
        self,
        path: str,
        source: object,
        variables: Mapping[str, str],
        *,
        has_system: bool,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        self._file = _file_of(path)
        self._has_system = has_system
        self._source = self._checked(source)
        self._check_args(args or {}, variables)
        self._variables = json.dumps(dict(variables) | dict(args or {}), default=str)
        self._known: dict[int, str] = {}
        for num_parts in (1, 2):
            self.rendered(num_parts)

    def rendered(self, num_parts: int) -> str:
        """Return the chat with stand-ins: part 0, image, part 1, image, ..., last part.

        The stand-in of the system message, if there is one, has the number `num_parts`.
        """
        if num_parts not in self._known:
            self._known[num_parts] = self._render(num_parts)
        return self._known[num_parts]

    def around_answer(self) -> tuple[str, str] | None:
        """Return what stands between a question and its answer in a whole chat, and what follows
        the answer; None if the template does not render an answer once."""
        chat = [*_chat(1, self._has_system), {"role": "assistant", "content": stand_in(2)}]
        try:
            rendered = _rendered(self._source, self._variables, json.dumps([chat]), opens=False)
        except _Stopped:
            return None
        text = rendered[0].get("text", "")
        if text.count(stand_in(0)) != 1 or text.count(stand_in(2)) != 1:
            return None
        between, after = text.split(stand_in(2))
        return between.partition(stand_in(0))[2], after

    def _render(self, num_parts: int) -> str:
        block, place = divmod(num_parts - 1, _TOGETHER)
        chats = [_chat(block * _TOGETHER + n, self._has_system) for n in range(1, _TOGETHER + 1)]
        try:
            result = _rendered(self._source, self._variables, json.dumps(chats))[place]
        except _Stopped as error:
            raise self._refusal(str(error)) from None
        fault = result.get("fault") or _fault(result["text"], num_parts, self._has_system)
        if fault:
            raise self._refusal(fault)
        return result["text"]

    def _checked(self, source: object) -> str:
        if isinstance(source, dict):
            source = source.get("default")
        if source is None:
            raise self._refusal("there is none, or none of several is named default")
        if not isinstance(source, str):
            raise self._refusal(f"it is of type {type(source).__name__}, not text")
        if len(source) > MAX_CHARS:
            raise self._refusal(f"it has {len(source)} characters, above the limit of {MAX_CHARS}")
        return source

    def _check_args(self, args: Mapping[str, Any], variables: Mapping[str, str]) -> None:
        for name in args:
            own = f"prompt.template_args: {name}"
            if name in _OF_EVERY_CHAT or name in variables:
                raise ValueError(f"{own} is set for every chat; leave it out")
            if not re.search(rf"\b{re.escape(name)}\b", self._source):
                raise ValueError(
                    f"{own} is nothing that the chat template in {self._file} reads; leave it out, "
                    "or take the name that stands in the template"
                )

    def _refusal(self, reason: str) -> ValueError:
        shown = joined(reason)[:_MOST_SHOWN].rstrip(".")
        return ValueError(
            f"{self._file}: its chat template cannot be used: {shown}; take the one of the model's "
            "authors"
        )


def stand_in(index: int) -> str:
    """Return private-use characters, which mean nothing to templates and tokenizers."""
    return f"\ue000{index}\ue001"


class _Stopped(Exception):
    """The process ended before it answered."""


@lru_cache(maxsize=64)
def _rendered(
    source: str, variables: str, chats: str, *, opens: bool = True
) -> list[dict[str, str]]:
    """Render all chats in one process, which `opens` the turn of the answer. Raises _Stopped."""
    asked = {
        "template": source,
        "variables": json.loads(variables),
        "chats": json.loads(chats),
        "opens": opens,
    }
    limits = (str(CPU_S), str(MEMORY_MB), str(MAX_CHARS))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vlm_rl.data.template_process", *limits],
            input=json.dumps(asked).encode(),
            capture_output=True,
            cwd=Path(vlm_rl.__file__).parents[1],
            timeout=CPU_S * CLOCK_FACTOR,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _Stopped(f"it did not end within {CPU_S * CLOCK_FACTOR:.0f} s") from None
    if done.returncode == -TIMED_OUT:
        raise _Stopped(f"rendering a short chat took more than {CPU_S:g} s of CPU time")
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise _Stopped(f"its process, which may use {MEMORY_MB} MB, ended with {said or done}")
    results: list[dict[str, str]] = json.loads(done.stdout)
    return results


def _chat(num_parts: int, has_system: bool) -> list[dict[str, Any]]:
    content: list[dict[str, str]] = []
    for index in range(num_parts):
        if index:
            content.append({"type": "image"})
        content.append({"type": "text", "text": stand_in(index)})
    user = {"role": "user", "content": content}
    system = {"role": "system", "content": stand_in(num_parts)}
    return [system, user] if has_system else [user]


def _fault(text: str, num_parts: int, has_system: bool) -> str | None:
    """Say what of the chat is not in `text`, None if all is there once and in order."""
    found = [int(number) for number in STAND_IN.findall(text)]
    if has_system and found.count(num_parts) != 1:
        return f"it writes the system message (prompt.system) {found.count(num_parts)} times"
    parts = [number for number in found if number != num_parts]
    if parts != list(range(num_parts)):
        return f"of the {num_parts} texts of a question it writes {_listed(parts)}"
    images = text.count(IMAGE_TOKEN)
    if images != num_parts - 1:
        return f"it writes {images} image placeholders {IMAGE_TOKEN} for {num_parts - 1} images"
    return None


def _listed(parts: Sequence[int]) -> str:
    return f"number {', '.join(str(part + 1) for part in parts[:10])}" if parts else "none"


def _file_of(path: str) -> str:
    """Return the file of a checkpoint folder that holds the template; for a hub id, the id."""
    return next((str(Path(path, name)) for name in _FILES if Path(path, name).exists()), path)
