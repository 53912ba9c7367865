"""Keep the experts of a mixture in use."""

from torch import Tensor

from vlm_rl.model.logprobs import TokenStats
from vlm_rl.objectives.aggregations import Aggregation, TokenMean
from vlm_rl.objectives.regularizers import Regularizer
from vlm_rl.objectives.token_weights import AllSum, Scalars
from vlm_rl.records import Batch


class LoadBalance(Regularizer):
    """E sum_e f_e p_e (Switch Transformer, arXiv:2101.03961), for E experts of which each token
    takes K: K where the load is even, and up to E.

    As `load_balancing_loss_func` of transformers has it, f_e is the number of times that expert e
    is chosen by a token at a router, and p_e the probability that it is given, both means over
    tokens and routers. Only p_e has a gradient. f_e is of the completion tokens of the whole
    update, on all ranks, as the policy routed them before the first update of the step: a forward
    that has not been computed yet cannot say, and taken from each micro-batch by itself, as it is
    published, the loss would depend on how rows are cut. So it is exact in the first update of a
    step. `coef` is 0.001 in the configurations of Qwen's models and off in their training here.
    """

    name = "load_balance"
    needs_reference = False
    needs_routing = True

    def __init__(self, coef: float, aggregation: Aggregation | None = None) -> None:
        if not coef > 0:
            raise ValueError(
                f"LoadBalance.coef must be > 0, got {coef}; to train without it, leave the term out"
            )
        self.coef = coef
        self.aggregation = TokenMean() if aggregation is None else aggregation

    def prepare(self, batch: Batch, all_sum: AllSum) -> Scalars:
        assert batch.expert_loads is not None, "routed before the first update"
        tokens = all_sum(batch.completion_mask.sum()).clamp(min=1)
        return {"load": all_sum(batch.expert_loads.sum(0)) / tokens}

    def __call__(self, stats: TokenStats, batch: Batch, scalars: Scalars) -> Tensor:
        assert stats.routing is not None, "a policy with experts"
        assert stats.routing.probs is not None, "a forward with_balance"
        load = scalars["load"].to(stats.routing.probs.dtype)
        per_token = len(load) * (stats.routing.probs @ load)
        mask = batch.completion_mask
        return per_token.new_zeros(mask.shape).masked_scatter(mask, per_token)
