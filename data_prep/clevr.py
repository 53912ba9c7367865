"""CLEVR counting: how many objects are in a rendered scene; 70,000 train problems.

    python -m data_prep.clevr --output data/clevr
    python -m data_prep.clevr --output data/clevr --source BUAADreamer/clevr_count_70k

Schema (R1-V's training script): `image`, `problem`, `solution` = `<answer> 3 </answer>`; the
variant BUAADreamer/clevr_count_70k has `images`, `problem`, `answer` (EasyR1's example scripts).
Licence: CC-BY 4.0 (CLEVR).

Flaws handled: no image mark in the question. Not handled: one fixed question, so training on it
alone saturates early; `--exclude-benchmarks` would remove all of it for one benchmark problem with
the same question.
"""

from data_prep.convert import main
from data_prep.r1v import R1VConverter


class Clevr(R1VConverter):
    """Both published forms."""

    name = "clevr"
    hub_id = "leonardPKU/clevr_cogen_a_train"
    task = "counting"
    answer_type = "number"


if __name__ == "__main__":
    main(Clevr())
