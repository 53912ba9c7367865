"""Rows that come twice: the same id, or the same question with the same images.

Questions are compared without white space; case, signs and punctuation carry meaning.
"""

from collections.abc import Sequence

from data_prep.converter import Draft, Drop
from vlm_rl.verification.notation import normalise
from vlm_rl.verification.reading import plain_number


class Repeats:
    """The rows so far. With `keep` only an id may not come twice."""

    def __init__(self, *, keep: bool = False) -> None:
        self.contradicted: set[str] = set()
        """Uids of rows that were let through and that a later row contradicts."""
        self._keep = keep
        self._uids: set[str] = set()
        self._first: dict[tuple[str, ...], tuple[str, object]] = {}

    def check(self, uid: str, question: str, draft: Draft, images: Sequence[str]) -> None:
        """Let a row through once; `images` are digests. Raises Drop."""
        key = ("".join(question.split()), *images, *(draft.choices or ()))
        value = _value(draft.answer)
        if not self._keep and key in self._first:
            first_uid, first_value = self._first[key]
            if value != first_value:
                self.contradicted.add(first_uid)
            if first_uid in self.contradicted:
                raise Drop("contradictory answers")
            raise Drop("duplicate question")
        if uid in self._uids:
            raise Drop("duplicate id")
        self._uids.add(uid)
        self._first[key] = (uid, value)


def _value(answer: str) -> object:
    number = plain_number(answer)
    return normalise(answer) if number is None else number
