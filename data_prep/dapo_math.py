"""DAPO-Math-17k: competition mathematics, text only; about 17,400 different problems.

    python -m data_prep.dapo_math --output data/dapo_math

Schema (verl's, as in the parquet files of the DAPO repository): `data_source`, `prompt` (a chat),
`ability`, `reward_model` {`ground_truth`, `style`}, `extra_info` {`index`}. Licence: Apache-2.0
(from memory, not confirmed).

Flaws handled: every problem is repeated about a hundred times (one of each `index` and of each
question is kept); a question that comes with different answers is left out; the instruction about
an `Answer:` line is cut from the prompt, because a run has its own.
"""

import re
from collections.abc import Mapping
from typing import Any

from data_prep.convert import main
from data_prep.converter import Converter, Draft, Drop, items, struct, text
from data_prep.golds import plain_answer

_INSTRUCTION = re.compile(
    r"Solve the following math problem step by step\. The last line of your response should be of "
    r"the form Answer: .*? is the answer to the problem\.\s*(.*?)\s*"
    r"Remember to put your answer on its own line after \"Answer:\"\.",
    re.DOTALL,
)


class DapoMath(Converter):
    """The published form."""

    name = "dapo_math"
    hub_id = "BytedTsinghua-SIA/DAPO-Math-17k"
    layouts = (("data_source", "prompt", "ability", "reward_model", "extra_info"),)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        turns = [struct(turn) for turn in items(row["prompt"])]
        asked = [text(turn.get("content")) for turn in turns if turn.get("role") == "user"]
        if len(asked) != 1:
            raise Drop("not one user turn")
        wrapped = _INSTRUCTION.fullmatch(asked[0])
        return Draft(
            question=wrapped[1] if wrapped else asked[0],
            answer=plain_answer(text(struct(row["reward_model"]).get("ground_truth"))),
            id=text(struct(row["extra_info"]).get("index")) or None,
            answer_type="number",
            task=text(row["ability"]).lower(),
        )


if __name__ == "__main__":
    main(DapoMath())
