"""Tables of W&B."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from vlm_rl.show.plain import visible_in
from vlm_rl.trackers.tracker import TableRows


def wandb_table(columns: Sequence[str], rows: TableRows) -> Any:
    """Return a table of W&B, which UTF-8 and its pages can show. Images stay images."""
    import wandb

    shown = [[_cell(value) for value in row] for row in rows]
    return wandb.Table(columns=visible_in(list(columns)), data=visible_in(shown))


def _cell(value: Any) -> Any:
    import wandb

    return wandb.Image(value) if isinstance(value, Image.Image) else value
