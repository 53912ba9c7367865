"""What the methods of the literature share: arguments become a composition."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from vlm_rl.objectives.aggregations import Aggregation
from vlm_rl.objectives.objective import Objective
from vlm_rl.objectives.ratios import Ratio
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.surrogates import Surrogate
from vlm_rl.objectives.token_weights import TokenWeight

Parts = tuple[Ratio, Surrogate, Aggregation]


@dataclass(eq=False)
class Preset(Objective, ABC):
    """A method as a dataclass: its fields are its arguments, `parts` is its composition.

    A field without a default is a constant that is not published.
    """

    _: KW_ONLY
    regularizers: Sequence[Regularizer] = ()
    token_weights: Sequence[TokenWeight] = ()

    def __post_init__(self) -> None:
        super().__init__(*self.parts(), self.regularizers, self.token_weights)

    @abstractmethod
    def parts(self) -> Parts:
        """Return ratio, surrogate and aggregation, built from the fields."""
