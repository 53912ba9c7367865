"""What a step cost: seconds, memory and the device's use, measured by the run itself."""

from collections.abc import Sequence

from vlm_rl.metrics.devices import forget_peak, peak_memory_gb, peak_tflops_here
from vlm_rl.metrics.flops import ModelFlops, Work
from vlm_rl.metrics.speed import speed_statistics, use_statistics
from vlm_rl.metrics.statistic import Statistics
from vlm_rl.model.policy import Policy
from vlm_rl.records import Rollout
from vlm_rl.training.clock import Clock
from vlm_rl.training.step import Metrics, StepBatch
from vlm_rl.training.tower_time import TowerTime


class Meter:
    """Measures the steps of a run, whose activities `clock` times. Make it before weights are
    sharded."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self._clock = clock
        self._flops = ModelFlops(policy)
        self._tower = TowerTime(policy.part("vision_tower"))

    def begin_step(self) -> None:
        """Measure from now on."""
        self._clock.begin_lap()
        self._tower.take()
        forget_peak()

    def statistics(
        self, rollouts: Sequence[Rollout], batch: StepBatch, *, sampled_here: bool
    ) -> Statistics:
        """Return speed and use of a step that trained on `batch`; `rollouts` are all that this rank
        sampled, `sampled_here` says whether on the devices that train."""
        forwards = [forward for part in batch.minibatches for forward in part.forwards]
        updates = [Work.of_rows(part.rows) for part in batch.minibatches]
        passes = batch.has_old + (batch.rows.ref_logprobs is not None)
        in_updates = sum(map(self._flops.training, updates))
        flops = in_updates + passes * sum(map(self._flops.scoring, updates))
        if sampled_here:
            flops += self._flops.forward(Work.of_rollouts(rollouts))
        seconds = self._clock.lap
        return speed_statistics(rollouts, forwards, seconds) | use_statistics(
            flops, in_updates, seconds, peak_tflops_here()
        )

    def metrics(self) -> Metrics:
        """Return seconds by activity and those of the vision tower, of this rank, and the peaks of
        memory of all. Every rank calls it."""
        memory = {f"time/peak_{name}_gb": peak for name, peak in peak_memory_gb().items()}
        vision = {"time/vision/forward_s": self._tower.take()}
        return self._clock.lap_metrics() | vision | memory
