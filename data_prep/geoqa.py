"""GEOQA-8K: geometry questions translated from Chinese, with drawings; about 8,000 train problems.

    python -m data_prep.geoqa --output data/geoqa
    python -m data_prep.geoqa --output data/geoqa --source leonardPKU/GEOQA_8K_R1V

Schema (R1-V's training script): `image`, `problem`, `solution` with the answer in `<answer>`; the
EasyR1-style variant has `images`, `problem`, `answer` (EasyR1's example scripts). Licence: none
shown on the card.

Flaws handled: unicode degrees and roots (`140°`, `2√3`), no image mark in the question. Not
handled: machine-translated wording, and no public account of how the 8,000 were chosen.
"""

from data_prep.convert import main
from data_prep.r1v import R1VConverter


class GeoQA(R1VConverter):
    """Both published forms."""

    name = "geoqa"
    hub_id = "leonardPKU/GEOQA_R1V_Train_8K"
    task = "geometry"


if __name__ == "__main__":
    main(GeoQA())
