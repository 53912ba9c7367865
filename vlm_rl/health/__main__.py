"""Say what was wrong with runs, from their metrics.csv:

    python -m vlm_rl.health runs/quickstart [RUN ...]

The detectors are those of docs/health.md, with the thresholds that `--health` changes as in
`vlm_rl.fit`. The status is 0 whatever they find.
"""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from vlm_rl.config import instantiate, one_line_errors, parse
from vlm_rl.disk.files import Damaged
from vlm_rl.health.monitor import Health
from vlm_rl.run.endings import one_line_endings
from vlm_rl.run.metrics_csv import METRICS, read_metrics
from vlm_rl.show.help.parser import new_parser
from vlm_rl.show.screen import say


def build_parser() -> ArgumentParser:
    """Every key of the command."""
    parser = new_parser("health", __doc__, "RUN ... [--KEY VALUE ...]")
    parser.add_argument("runs", type=str, nargs="+", help="folders of runs")
    parser.add_class_arguments(Health, "health")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the findings of each run, or that there are none."""
    with one_line_endings("vlm_rl.health"), one_line_errors("vlm_rl.health"):
        parser = build_parser()
        config = parse(parser, argv)
        for run in config.runs:
            file = Path(run) / METRICS
            if not file.is_file():
                raise ValueError(f"{run} is not the folder of a run: there is no {METRICS} in it")
            try:
                rows = read_metrics(file)
            except Damaged as damage:
                raise ValueError(str(damage)) from damage
            findings = instantiate(parser, config).health.observe_all(rows)
            for finding in findings:
                say(f"{run}: {finding.line}")
            if not findings:
                say(f"{run}: nothing found in {len(rows)} rows of metrics")


if __name__ == "__main__":
    main()
