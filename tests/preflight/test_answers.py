"""Which completions look right and are judged otherwise.

Mutations tried: completions that are judged right are looked at too; those cut off as well; the
last line is read beside an answer in its slot; its part before the colon is kept. Each is red.
"""

from collections.abc import Iterator

import pytest
import torch

from tests.support.places import TINY_POLICY
from tests.support.tiny import completion_of, picture, png
from vlm_rl.data.prompts import PromptEncoder
from vlm_rl.preflight.answers import looking_right
from vlm_rl.records import Completion, Problem, Rollout
from vlm_rl.rewards import Accuracy, Reward


@pytest.fixture(scope="module")
def accuracy() -> Iterator[Accuracy]:
    accuracy = Accuracy()
    yield accuracy
    accuracy.close()


def rollout(accuracy: Accuracy, text: str, *, cut: bool = False) -> Rollout:
    """Return one completion of a problem whose answer is 12, judged by what is in a box."""
    problem = Problem("p", "How many?", "12", images=(png(picture(32, 32)),))
    prompt = PromptEncoder(str(TINY_POLICY)).encode(problem)
    ids = completion_of([5, 6, 7])
    completion = Completion(ids.token_ids, torch.zeros(3), "length" if cut else "stop", text)
    groups = [[completion]]
    return Rollout([prompt], groups, Reward({"accuracy": accuracy})([prompt.problem], groups))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (r"\boxed{12}", None),
        ("\\boxed{12}\nAnswer: 12", None),  # judged right already
        (r"\boxed{13}", None),
        ("I do not know", None),
        ("Answer: 12", "answer_line"),
        ("<answer>12</answer>", "tag"),
        ("5 + 7 = 12.", "the last line"),
        ("The number of blue cells is: 12", "the last line"),
        ("First 5,\nthen 7:\n**12**", "the last line"),
        ("12 is not what I say, but 13", None),
        ("<think>it is\nAnswer: 12", None),  # no answer before the thinking ends
    ],
)
def test_answer_elsewhere_is_seen(accuracy: Accuracy, text: str, place: str | None) -> None:
    found = looking_right(accuracy, rollout(accuracy, text))
    assert [one.place for one in found] == ([] if place is None else [place])


def test_answer_that_is_cut_off_is_not_looked_at(accuracy: Accuracy) -> None:
    assert not looking_right(accuracy, rollout(accuracy, "Answer: 12", cut=True))
