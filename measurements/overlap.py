"""What a step saves when a vLLM server samples the next one's completions meanwhile.

    OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=1 python -m measurements.overlap --pairs 2

Runs the quickstart with a server on the same machine, which therefore needs two free cores (the
variable keeps the server to the second), with staleness 0 and 1 in turns. Prints the median seconds
of a step by stage, and the ratio. Left out are the first step, which waits for its rollout either
way, and the last.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from vlm_rl.run.metrics_csv import read_metrics

CONFIG = {
    "config": "configs/quickstart.yaml",
    "engine": "vlm_rl.rollout.VLLMServer",
    "engine.init_args.kv_cache_gib": 0.25,
    "objective.init_args.token_weights": "[{class_path: vlm_rl.objectives.TokenTIS}]",
    "validation.every_n_steps": 1000,
    "logging.wandb": "off",
}
STAGES = ("rollout", "logprobs", "update", "weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=2)
    options = parser.parse_args()
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for pair in range(options.pairs):
        for staleness, kept in seconds.items():
            rows = steps_of(staleness, options.steps, seed=pair)
            kept.extend(map(duration, rows))
            said = [f"{name} {median(rows, f'time/{name}_s'):.2f}" for name in STAGES]
            print(f"staleness {staleness}: {', '.join(said)}, in all {statistics.median(kept):.2f}")
    apart, together = (statistics.median(kept) for kept in seconds.values())
    print(f"one after the other {apart:.2f} s, overlapped {together:.2f} s: {apart / together:.2f}")


def steps_of(staleness: int, steps: int, seed: int) -> list[dict[str, float]]:
    """Return the metrics of the steps of a run, without the first and the last."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        own = {"overlap.staleness": staleness, "steps": steps, "seed": seed, "run_dir": run_dir}
        words = [f"--{key}={value}" for key, value in (CONFIG | own).items()]
        subprocess.run([sys.executable, "-m", "vlm_rl.fit", *words], check=True)
        rows = read_metrics(run_dir / "metrics.csv")
    return [row for row in rows if "drift/abs_max" in row][1:-1]


def median(rows: list[dict[str, float]], name: str) -> float:
    return statistics.median(row.get(name, 0.0) for row in rows)


def duration(row: dict[str, float]) -> float:
    """Return the seconds of a step, the sum over its stages."""
    return sum(value for name, value in row.items() if re.fullmatch(r"time/\w+_s", name))


if __name__ == "__main__":
    main()
