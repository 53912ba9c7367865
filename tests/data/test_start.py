"""The start over many rows, by counts: what is opened, decoded, tokenised and called for each row.

Seconds are in `measurements.start`. Broken on purpose, one at a time, each seen red: a second
opening in `unfit`; `verify` replaced by `load`; every prompt tokenised; a bound of one byte for
text that is not ASCII; the bound used for a tokenizer of words; columns known looked up per row
again; no spill; the folder of the spill left behind.
"""

import gc
import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image, ImageFile
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from measurements import start
from tests.support.places import TINY_POLICY
from tests.support.problem_data import JPEG, data
from vlm_rl.data.images import ImageStore
from vlm_rl.data.prompts import BadProblem, PromptEncoder, _most_in_text
from vlm_rl.data.rows import read_problems
from vlm_rl.records import Problem

CALLS_PER_ROW = 250
"""Calls of Python functions; 212 were measured, and 449 before lengths were bounded unread."""


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return PromptEncoder(str(TINY_POLICY), max_prompt_tokens=400)


class Counted:
    """Replaces a function by itself and a count of its calls."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.calls = 0
        function = getattr(owner, name)

        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            return function(*args, **kwargs)

        patch.setattr(owner, name, counting)


@pytest.mark.parametrize("form", ["paths", "bytes"])
def test_each_image_is_opened_once_and_none_is_decoded(
    form: str, tmp_path: Path, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = start.write(tmp_path, 40, form, side=64)
    opened = Counted(monkeypatch, Image, "open")
    decoded = Counted(monkeypatch, ImageFile.ImageFile, "load")
    tokenised = Counted(monkeypatch, encoder, "_ids")
    module = data(encoder, str(path))
    assert len(module.train_set) == opened.calls == 40
    assert decoded.calls == tokenised.calls == 0
    next(iter(module.train_dataloader()))
    assert decoded.calls > 0


def test_calls_per_row_are_bounded(tmp_path: Path, encoder: PromptEncoder) -> None:
    calls = {}
    for rows in (50, 150):
        folder = tmp_path / str(rows)
        folder.mkdir()
        path = str(start.write(folder, rows, "paths", side=64))
        with calls_counted() as count:
            data(encoder, path)
        calls[rows] = count()
    assert (calls[150] - calls[50]) / 100 < CALLS_PER_ROW


@contextmanager
def calls_counted() -> Iterator[Callable[[], int]]:
    total = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal total
        total += event == "call"

    sys.setprofile(count)
    try:
        yield lambda: total
    finally:
        sys.setprofile(None)


TEXTS = (
    "a" * 300,
    "<|im_start|><|image_pad|>" * 20,
    "\u0958" * 60,  # two characters once normalised
    "\U0001d160" * 60,  # three
    "Wie groß ist \u03b1? \u8fd9\u4e2a\u56fe\u5f62\u7684\u9762\u79ef\u662f\u591a\u5c11\uff1f" * 8,
    "?" + " \n\t" * 100,
)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("system", [None, "Be brief, \u0958."])
def test_unfit_is_what_count_tokens_says_at_every_limit(text: str, system: str | None) -> None:
    encoder = PromptEncoder(str(TINY_POLICY), system=system)
    images = ImageStore()
    image, _ = images.add(JPEG, Path())
    problems = [Problem("text", text, "1"), Problem("image", text, "1", (image,))]
    for problem in problems:
        tokens = encoder.count_tokens(problem)
        for limit in (1, tokens - 1, tokens, tokens + 1, 10**6):
            encoder.max_prompt_tokens = limit
            unfit = [what for _, what in encoder.unfit([problem], images.size_of)]
            assert unfit == ([tokens] if tokens > limit else [])


def test_unfit_names_what_count_tokens_refuses(encoder: PromptEncoder) -> None:
    problem = Problem("p", "<image><image>?", "1", (JPEG,))
    ((_, marks),) = encoder.unfit([problem], lambda _: (56, 56))
    with pytest.raises(BadProblem) as refused:
        encoder.count_tokens(problem)
    assert str(marks) == str(refused.value)
    ((_, thin),) = encoder.unfit([Problem("p", "?", "1", (JPEG,))], lambda _: (5, 8920))
    assert "problem p: image of 5 x 8920 pixels: absolute aspect ratio" in str(thin)


def test_bound_is_never_below_the_tokens(encoder: PromptEncoder) -> None:
    most = _most_in_text(encoder.tokenizer)
    draw = random.Random(0)
    for _ in range(2000):
        top = draw.choice([0x7F, 0x2FF, 0xD7FF, 0x1FFFF])
        text = "".join(chr(draw.randrange(1, top)) for _ in range(draw.randrange(1, 20)))
        text = text.encode("utf-8", "ignore").decode()
        assert len(encoder._ids(text)) <= most(text)


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("model", "cut", "normalizer"),
    [
        (models.WordLevel({"a": 0}, unk_token="a"), BYTES, None),
        (models.BPE(), pre_tokenizers.Whitespace(), None),
        (models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=True), None),
        (models.BPE(), BYTES, normalizers.NFKC()),
    ],
)
def test_other_tokenizers_have_no_bound(model: Any, cut: Any, normalizer: Any) -> None:
    foreign = Tokenizer(model)
    foreign.pre_tokenizer = cut
    if normalizer is not None:
        foreign.normalizer = normalizer
    assert _most_in_text(SimpleNamespace(backend_tokenizer=foreign))("a") == float("inf")


def test_images_beyond_the_memory_lie_in_a_folder_that_goes_with_the_store(
    tmp_path: Path,
) -> None:
    contents = [JPEG + bytes([number]) for number in range(4)]
    rows = [{"problem": "?", "answer": "1", "images": [{"bytes": one}]} for one in contents * 2]
    rows = [row | {"uid": str(number)} for number, row in enumerate(rows)]
    path = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    store = ImageStore(most_bytes=2 * len(contents[0]))
    problems = read_problems(str(path), store, owners={}).problems
    images = [problem.images[0] for problem in problems]
    assert [isinstance(image, Path) for image in images] == [False, False, True, True] * 2
    assert images[:4] == images[4:]
    kept = [image.read_bytes() if isinstance(image, Path) else image for image in images[:4]]
    assert kept == contents
    assert len({store.digest_of(image) for image in images}) == 4
    folder = images[2].parent
    assert len([*folder.iterdir()]) == 2
    del store
    gc.collect()
    assert not folder.exists()


def test_lines_of_a_file_are_read_one_at_a_time(tmp_path: Path) -> None:
    """The file is left at the row that reaches the limit."""
    path = tmp_path / "t.jsonl"
    lines = [json.dumps({"problem": "?", "answer": str(number)}) for number in range(9)]
    path.write_text("\n".join(lines))
    rows = read_problems(str(path), ImageStore(), owners={}, limit=3)
    assert [problem.answer for problem in rows.problems] == ["0", "1", "2"]
