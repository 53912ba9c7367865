"""A view of a W&B project: the charts that are looked at together, in order, over the steps.

    pip install wandb-workspaces
    python -m vlm_rl.trackers.wandb_view --project vlm_rl --entity ME

W&B itself sorts its sections by name. The view is saved beside the project's own and changes
nothing else; a new call makes another.
"""

import argparse
from collections.abc import Sequence
from typing import Any

from vlm_rl.metrics.panels import SECTIONS
from vlm_rl.show.screen import say
from vlm_rl.trackers.steady_wandb import AXIS

NAME = "vlm_rl"


def build_view(entity: str, project: str) -> Any:
    """Return the view as a workspace of `wandb_workspaces`, which is not saved yet."""
    from wandb_workspaces import workspaces
    from wandb_workspaces.reports.v2 import LinePlot

    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        auto_generate_panels=False,
        sections=[
            workspaces.Section(
                name=name,
                is_open=True,
                panels=[LinePlot(title=p.title, x=AXIS, y=[*p.curves]) for p in panels],
            )
            for name, panels in SECTIONS.items()
        ],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Save the view and print its address."""
    parser = argparse.ArgumentParser(
        prog="vlm_rl.trackers.wandb_view",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--project", default="vlm_rl", help="as logging.project of the runs")
    parser.add_argument("--entity", required=True, help="your name or your team's in W&B")
    arguments = parser.parse_args(argv)
    view = build_view(arguments.entity, arguments.project)
    view.save()
    say(f"view: {view.url}")


if __name__ == "__main__":
    main()
