"""Whether the head is the embeddings: the outer `tie_word_embeddings` decides, for every reader.

transformers 5.19 reads the outer one, vLLM that of the text; and where the file has both matrices
transformers goes on untied whatever either says.
"""

from collections.abc import Sequence
from typing import Any

_HEAD = "lm_head.weight"


def check_head(path: str, missing: Sequence[str]) -> None:
    """Raise ValueError if the head is all that a file lacks."""
    if list(missing) == [_HEAD]:
        raise ValueError(
            f"{path} has no {_HEAD}, and tie_word_embeddings of its config.json, outside "
            "text_config, is false; set it to true if the head is the embeddings"
        )


def check_tie(path: str, model: Any) -> None:
    """Tie as the outer configuration says. Raises ValueError if the file has a head of its own,
    with which transformers would go on untied and other readers tied."""
    tie = model.config.tie_word_embeddings
    if tie and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise ValueError(
            f"{path} has a {_HEAD} that is not the embeddings, and tie_word_embeddings of its "
            "config.json is true; set it to false to train with that head, or take it out of the "
            "file"
        )
    model.config.get_text_config().tie_word_embeddings = tie
